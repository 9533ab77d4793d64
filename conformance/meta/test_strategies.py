"""What is generated is legal, varied, and shrinks to what a person would have written."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.errors import NoSuchExample

from flexconf import inputs, strategies
from flexconf.cases.case import Case
from flexconf.cases.problem import DISTRIBUTIONS, Problem
from flexconf.errors import InputError
from flexconf.fuzz import coverage, cuts, findings, marks, outline
from flexconf.language import modtext
from flexconf.language.modtext import DTYPES as DTYPES_OF_CAPTURES
from flexconf.strategies import Features, operations, terms
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term, result_dtype, substitute, written
from flexflash.eligibility import FLASH_ATTN_4

QUIET = settings(
    max_examples=150, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
ROUND = settings(max_examples=11, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def drawn(features: Features | None = None, start: int = 0) -> list[Case]:
    found: list[Case] = []

    @QUIET
    @seed(start)
    @given(strategies.cases(features))
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


def test_every_case_is_legal_and_its_tensors_can_be_made() -> None:
    for case in {c.digest(): c for c in drawn()}.values():
        given_ = inputs.materialize(case)
        for mod, kind in ((given_.score_mod, "score"), (given_.mask_mod, "mask")):
            if mod is not None:
                modtext.check_result(mod, kind)  # type: ignore[arg-type]
        assert case.name == f"fuzz-{case.replace(name='fuzz').digest()[:12]}"
        p = case.problem
        assert p.B * p.H * p.M * p.N <= 60_000


def test_what_flash_attn_4_is_asked_is_what_its_profile_supports() -> None:
    widths: list[float] = []

    @QUIET
    @seed(1)
    @given(strategies.tiled_cases())
    def collect(case: Case) -> None:
        assert case.name == f"fuzz-{case.replace(name='fuzz').digest()[:12]}"
        widths.append(case.problem.Dv / case.problem.D)

    collect()
    assert 1 < max(widths) <= min(times for _, times in FLASH_ATTN_4.widest_values)
    assert any(c.problem.Dv > 2 * c.problem.D for c in drawn()), "others are asked of everything"


@pytest.mark.parametrize("qkv", DISTRIBUTIONS)
@pytest.mark.parametrize(("dim", "scale"), [(8, None), (128, None), (128, 1.0), (16, -0.25), (64, 0.0)])
def test_scores_lie_where_the_generator_thinks(qkv: str, dim: int, scale: float | None) -> None:
    """An index made of a score is within its dimension only if they do."""
    problem = Problem(B=1, H=2, Hkv=1, M=200, N=150, D=dim, Dv=8, scale=scale, qkv=qkv)
    given_ = inputs.materialize(Case("plain", score_mod="score", problem=problem))
    scores = problem.effective_scale * (given_.q.double() @ given_.k.double().transpose(-1, -2))
    found = Scope(Features(), problem, "score").score()
    assert found.special == (qkv == "infinite") and bool(scores.isfinite().all()) != found.special
    finite = scores[scores.isfinite()]
    assert finite.numel() and found.lo <= float(finite.min()) and float(finite.max()) <= found.hi


def everything() -> list[Case]:
    """Cases with every feature on, in rounds as short as those of `flexconf fuzz`."""
    found: list[Case] = []

    def collect(case: Case) -> None:
        found.append(case)

    for turn in range(200):
        settings(QUIET, max_examples=11)(seed(turn)(given(strategies.cases(Features.every()))(collect)))()
    return found


def test_everything_on_reaches_what_the_features_name() -> None:
    """One test, since drawing the cases takes longer than all that is asked of them."""
    cases = everything()
    assert len({(c.score_mod, c.mask_mod) for c in cases}) > 400
    assert {c.block.kind for c in cases} == {"from_mask", "lists"}
    assert not never_drawn(cases) and not never_negative(cases) and not divided_by_bools(cases)
    counts: Counter[str] = Counter()
    for case in cases:
        counts.update(coverage.keys(case, 1, outline.of_case(case)))
    tables = {axis.name: axis for axis in coverage.report(counts).axes}
    whole = (
        "operations",
        "shape classes",
        "captures: rank x dtype",
        "captures: rank x index",
        "captures: strides x index",
    )
    assert {name: tables[name].missed for name in whole} == dict.fromkeys(whole, ())
    # With every feature on there is always a mask.
    assert set(tables["template branches"].missed) <= {"score only", "neither", "block none"}
    for name, of in (
        ("operations x dtypes", 0.88),
        ("captures: dtype x strides", 0.95),
        ("captures: rank x strides", 0.9),
    ):
        assert len(tables[name].reached) >= of * tables[name].total, (name, tables[name].missed)


def test_with_everything_off_there_is_one_head_and_no_capture() -> None:
    for case in drawn(Features()):
        assert (
            not case.captures
            and case.mask_mod is None
            and case.problem == dataclasses.replace(case.problem, B=1, H=1, Hkv=1, M=16, N=16, D=16, Dv=16)
        )


def smallest(says: str) -> Case:
    """What Hypothesis makes of the first case whose score_mod says that, in rounds as short as those of the driver."""
    for turn in range(100):
        with contextlib.suppress(NoSuchExample):
            return find(
                strategies.cases(), lambda c: says in (c.score_mod or ""), settings=ROUND, random=random.Random(turn)
            )
    pytest.fail(f"{says} is never generated")


def cut(case: Case, says: str) -> Case:
    """What is left of the case when everything is cut out that its score_mod need not have to say that."""
    smaller = True
    while smaller:
        smaller = False
        for left in (left for cuts_of in cuts.PASSES for left in cuts_of(case)):
            if says in (left.score_mod or "") and findings.size(left, 1) < findings.size(case, 1) and legal(left):
                case, smaller = left, True
                break
    return case


def legal(case: Case) -> bool:
    try:
        inputs.materialize(case)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("says", "tokens"),
    [
        ("%", 6),
        ("torch.where", 8),
        (".to(torch.int64", 6),
        ("bias[", 4),
        ("torch.erf(", 4),
    ],
)
def test_shrinking_leaves_little(says: str, tokens: int) -> None:
    """Counted as names, numbers and operators; cut as the driver does, since where Hypothesis ends is a chance."""
    case = cut(smallest(says), says)
    count = len(re.findall(r"[\w.]+|[^\w\s()\[\],]+", case.score_mod or ""))
    assert count <= tokens, (count, case.score_mod)
    assert case.mask_mod is None and case.problem.B == case.problem.H == 1 and len(case.captures) <= 1


def test_what_may_be_infinite_becomes_no_integer() -> None:
    score = Term("score", "float32", -3, 3, special=True)
    found = {o.text: operations.apply(o, score, score) for o in operations.catalogue("float32")}
    assert found["torch.clamp(x, 0, 100).to(torch.int64)"] is None
    made = [term for term in found.values() if term is not None]
    assert len(made) > 50 and not any(term.is_integer for term in made)
    assert all(term.special == term.is_float for term in made)


def test_terms() -> None:
    assert result_dtype("x + y", "int8", "float16") == "float16"
    assert result_dtype("torch.hypot(x, y)", "int32", "int32") == ""
    x = Term("(q - kv)", "int32", -9, 9)
    assert substitute("x % 3", x) == "(q - kv) % 3" and written("(((q)) % (3))") == "q % 3"
    assert x.fits() and not Term("x", "int8", -9, 200).fits() and not Term("x", "float16", 0, 1e9).fits()
    assert terms.FLOATS[0] == "float16"


def _mods(case: Case) -> str:
    return f"{case.score_mod or ''}\n{case.mask_mod or ''}"


_DRAWN = {
    "an integer capture as a bare divisor": lambda c: any(
        x.dtype in terms.INTEGER_RANGES and re.search(rf"(//|%|/) {x.name}(\[\w+\])?(?![\w\[])", _mods(c))
        for x in c.captures
    ),
    "a broadcast block mask of a mask that depends on the batch": lambda c: (
        c.block.broadcast and c.problem.B > 1 and re.search(r"\bb\b", c.mask_mod or "")
    ),
    "more than 12 query heads": lambda c: c.problem.H > 12,
    "a row of finite scores that times log2(e) are not": lambda c: "-2.97747" in _mods(c),
    "integers clamped by fractional bounds": lambda c: re.search(r"clamp\w*\((q|kv|kv - q|q - kv),[^()]*\.5", _mods(c)),
    "a default written out that is None": lambda c: "rounding_mode=None" in _mods(c),
    "one table at indices in two orders": lambda c: any(m.startswith("permutation:") for m in _marks(c)),
    "two slices that differ by their offset alone": lambda c: "views:offset:one mod" in _marks(c),
    "two such slices, one in each mod": lambda c: "views:offset:both mods" in _marks(c),
    "a condition that differs by lane in an index": lambda c: "lanes:where:0" in _marks(c),
    "a 0-dim capture of a wide integer beside an int32": lambda c: "promotion:zero:int64:int32" in _marks(c),
    "a Python integer beside an int8": lambda c: "promotion:number:int:int8" in _marks(c),
}  # fmt: skip


def _marks(case: Case) -> frozenset[str]:
    return outline.of_case(case).marks


def never_drawn(cases: list[Case]) -> list[str]:
    """What public bug reports hold and no earlier generator drew, and these cases do not hold either."""
    return [what for what, holds in _DRAWN.items() if not any(holds(case) for case in cases)]


def never_negative(cases: list[Case]) -> list[str]:
    """The signed dtypes of which no capture has a negative element: a sign that is lost would show in nothing."""
    return [
        dtype
        for dtype in DTYPES_OF_CAPTURES
        if dtype not in ("bool", "uint8")
        and not any(
            bool((given_.captures[c.name] < 0).any())
            for case in [case for case in cases if any(c.dtype == dtype for c in case.captures)][:40]
            for given_ in [inputs.materialize(case)]
            for c in case.captures
            if c.dtype == dtype
        )
    ]


def divided_by_bools(cases: list[Case]) -> list[str]:
    """The mods in which a bool capture divides an integer: PyTorch refuses that where it is False."""
    return [
        _mods(case)
        for case in cases
        for c in case.captures
        if c.dtype == "bool" and re.search(rf"(//|%) {c.name}\b", _mods(case))
    ]


def test_every_keyword_of_the_grammar_is_an_argument_form() -> None:
    """Each by itself, and, where PyTorch has a default for it, with that written out."""
    known: dict[str, set[str]] = {}
    for name, arguments in coverage.forms():
        known.setdefault(name, set()).add(arguments)
    missing = []
    for dotted, signature in modtext.OPERATIONS.items():
        name = dotted.rpartition(".")[2]
        for word in signature.keywords:
            written = {part for arguments in known.get(name, ()) for part in arguments.split(", ")}
            if not any(part.startswith(f"{word}=") and part != f"{word}=default" for part in written):
                missing.append(f"{name} {word}")
            if (name, word) in marks.DEFAULTS and f"{word}=default" not in written:
                missing.append(f"{name} {word}, its default")
    assert missing == []
