"""What is generated is legal, varied, and shrinks to what a person would have written."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.errors import NoSuchExample

from flexconf import inputs, modtext, strategies
from flexconf.case import Case
from flexconf.fuzz import outline
from flexconf.strategies import Features, terms
from flexconf.strategies.terms import Term, result_dtype, substitute, written

QUIET = settings(
    max_examples=150, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
SMALLEST = settings(
    max_examples=3000, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


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


def test_everything_on_reaches_what_the_features_name() -> None:
    cases = [c for start in range(6) for c in drawn(Features.every(), start)]
    assert len({(c.score_mod, c.mask_mod) for c in cases}) > 60
    dtypes = {k.dtype for c in cases for k in c.captures}
    assert len(dtypes) >= 7, dtypes
    assert {len(k.shape) for c in cases for k in c.captures} >= {0, 1, 2, 3}
    assert {c.block.kind for c in cases} == {"from_mask", "lists"}
    assert any(c.problem.Hkv != c.problem.H for c in cases) and any(c.problem.Dv != c.problem.D for c in cases)
    assert len({k.layout for c in cases for k in c.captures}) > 5
    reads = [r for c in cases for r in outline.of_case(c).reads]
    assert {"negative", "computed", "variable", "loaded", "constant"} <= {k for r in reads for k in r.kinds}


def test_with_everything_off_there_is_one_head_and_no_capture() -> None:
    for case in drawn(Features()):
        assert (
            not case.captures
            and case.mask_mod is None
            and case.problem == dataclasses.replace(case.problem, B=1, H=1, Hkv=1, M=16, N=16, D=16, Dv=16)
        )


@pytest.mark.parametrize(
    ("says", "tokens"),
    [
        ("%", 9),
        ("torch.where", 10),
        ("torch.int64", 10),
        ("bias[", 10),
        ("torch.erf(", 8),
    ],
)
def test_shrinking_leaves_little(says: str, tokens: int) -> None:
    """Counted as names, numbers and operators."""
    try:
        case = find(strategies.cases(), lambda c: says in (c.score_mod or ""), settings=SMALLEST)
    except NoSuchExample:
        pytest.fail(f"{says} is never generated")
    count = len(re.findall(r"[\w.]+|[^\w\s()\[\],]+", case.score_mod or ""))
    assert count <= tokens, (count, case.score_mod)
    assert case.mask_mod is None and case.problem.B == case.problem.H == 1 and len(case.captures) <= 1


def test_terms() -> None:
    assert result_dtype("x + y", "int8", "float16") == "float16"
    assert result_dtype("torch.hypot(x, y)", "int32", "int32") == ""
    x = Term("(q - kv)", "int32", -9, 9)
    assert substitute("x % 3", x) == "(q - kv) % 3" and written("(((q)) % (3))") == "q % 3"
    assert x.fits() and not Term("x", "int8", -9, 200).fits() and not Term("x", "float16", 0, 1e9).fits()
    assert terms.FLOATS[0] == "float16"
