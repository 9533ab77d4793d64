"""The catalogue: that it is read, derived and selected as documented, and that it covers what it must."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.language import layouts, modtext

CASES = catalogue.load()


def refusal(text: str, origin: str = "mine.toml") -> str:
    with pytest.raises(InputError) as caught:
        catalogue.load_text(text, origin)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(origin)
    return message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[a", "not valid TOML"),
        ("x = 1", "outside a table"),
        ("[a]\nscoremod = 'score'", "[a]: unknown key 'scoremod'; did you mean 'score_mod'"),
        ("[a]\nscore_mod = 1", "score_mod must be a string"),
        ("[a]\nclauses = 'L1.1'", "list of strings"),
        ("[a]\nproblem = 1", "must be a table"),
        ("[a]\nproblem = { K = 1 }", "problem: unknown key 'K'"),
        ("[a]\nproblem = { H = 3, Hkv = 2 }", "H=3 query heads"),
        ("[a]\nblock = { size = 1 }", "block: unknown key 'size'"),
        ("[a]\nblock = { broadcast = 1 }", "true or false"),
        ("[a]\ncaptures = { x = 1 }", "must be a string"),
        ("[a]\nscore_mod = 'score + x'\ncaptures = { x = 'H:flt' }", "[a]: dtype of capture 'x'"),
        ("[a]\nscore_mod = 'score + y'", "reads 'y'"),
        ("[a]\nseed = 'x'", "seed"),
        ("a = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_wrong_files_name_file_table_and_key(text: str, hint: str) -> None:
    assert hint in refusal(text)


def test_shape_sets_derive_cases(tmp_path: Path) -> None:
    (tmp_path / "score_mods.toml").write_text("[a]\nscore_mod = 'score'\nproblem = { H = 4 }\nclauses = ['L1.1']")
    (tmp_path / "shapes.toml").write_text("[wide]\nproblem = { D = 128, Hkv = 2 }\napplies = ['a']\nclauses = ['L8.3']")
    base, derived = catalogue.load([tmp_path])
    assert derived.name == "a@wide"
    assert derived.problem == Problem(H=4, Hkv=2, D=128, Dv=128)
    assert derived.clauses == ("L1.1", "L8.3")
    assert derived.seed == base.seed
    (tmp_path / "shapes.toml").write_text("[wide]\napplies = ['b']")
    with pytest.raises(InputError, match=r"\[wide\]: applies: no case is called 'b'"):
        catalogue.load([tmp_path])


def test_names_are_unique_across_files(tmp_path: Path) -> None:
    for name in ("one.toml", "two.toml"):
        (tmp_path / name).write_text("[a]\nscore_mod = 'score'")
    with pytest.raises(InputError, match="another case of this name"):
        catalogue.load([tmp_path])
    with pytest.raises(InputError, match="no such file"):
        catalogue.load([tmp_path / "three.toml"])


def test_select() -> None:
    assert catalogue.select(CASES, []) == CASES
    assert [case.name for case in catalogue.select(CASES, ["causal", "alibi"])] == ["alibi", "causal"]
    assert {case.name.split("@")[0] for case in catalogue.select(CASES, ["alibi@*"])} == {"alibi"}
    with pytest.raises(InputError, match=r"no case is called 'alibbi'; did you mean alibi"):
        catalogue.select(CASES, ["causal", "alibbi"])
    with pytest.raises(InputError, match="lists the names"):
        catalogue.select(CASES, ["zzzzzz*"])


def base_cases() -> list[Case]:
    return [case for case in CASES if "@" not in case.name and case.expect == "ok"]


def test_there_is_enough_of_everything() -> None:
    count = Counter(case.kind for case in base_cases())
    assert count["score_mod"] >= 45
    assert count["mask_mod"] >= 30
    assert count["combination"] >= 20
    assert any(case.expect != "ok" for case in CASES)


def test_every_case_says_what_it_is_and_has_its_own_seed() -> None:
    assert all(case.about.endswith(".") for case in CASES)
    assert len({case.seed for case in base_cases()}) == len(base_cases())
    assert len({case.digest() for case in CASES}) == len(CASES)


def test_captures_cover_clause_l7_5() -> None:
    """L7.5: every rank, every dtype, every kind of stride."""
    captures = [capture for case in base_cases() for capture in case.captures]
    assert {len(capture.shape) for capture in captures} == {0, 1, 2, 3, 4}
    assert {capture.dtype for capture in captures} == set(modtext.DTYPES)
    kinds = {layouts.parse(capture.layout).kind for capture in captures}
    assert kinds == {*layouts.LAYOUTS, layouts.STRIDED, *layouts.SHARED}


def test_problems_cover_the_list() -> None:
    """L8.3, L8.4, L9.4: heads, lengths, head dims, dtypes, layouts, scales, block sizes, empty problems."""
    problems = [case.problem for case in CASES]
    lengths = {1, 63, 64, 65, 127, 128, 129, 200, 257}
    assert {p.H // p.Hkv for p in problems} >= {1, 2, 4, 8}
    assert lengths <= {p.M for p in problems} and lengths <= {p.N for p in problems}
    assert {p.D for p in problems} >= {64, 96, 128, 192, 256}
    assert any(p.M > p.N for p in problems) and any(p.M < p.N for p in problems)
    assert any(p.Dv > p.D for p in problems) and any(p.Dv < p.D for p in problems)
    assert {p.dtype for p in problems} == {"bfloat16", "float16"}
    assert len({p.layout for p in problems}) == 8
    assert any(p.scale is not None for p in problems)
    assert all(any(getattr(p, name) == 0 for p in problems) for name in "BMN")
    assert len({(case.block.q, case.block.kv) for case in CASES}) >= 4


def test_every_operation_is_used_somewhere() -> None:
    """L7.6. Functions that an operator spells, the few beyond L7.6, and those that are lowered as their pieces, which
    `flexconf ops` and the three-way check see one by one, may be missing."""
    text = "\n".join(f"{case.score_mod}\n{case.mask_mod}" for case in CASES)
    spare = {
        "true_divide",
        "mul",
        "add",
        "sub",
        "pow",
        "hypot",
        "lerp",
        "sum",
        "logsigmoid",
        "bitwise_left_shift",
    }
    spare |= {"bitwise_right_shift", "nn.functional.relu"}
    spare |= set("xlogy logaddexp logaddexp2 heaviside signbit nan_to_num addcmul addcdiv logit".split())
    spare |= set("deg2rad rad2deg sinc sgn positive".split())
    functional = "celu selu hardsigmoid hardswish mish softsign softshrink hardshrink tanhshrink threshold"
    spare |= {f"nn.functional.{name}" for name in functional.split()}
    missing = {name for name in modtext.OPERATIONS if f"{name}(" not in text}
    assert {name.removeprefix("torch.") for name in missing} <= spare | {"nn.functional.logsigmoid"}


def test_clauses_about_meaning_are_named() -> None:
    clauses = {clause for case in CASES for clause in case.clauses}
    wanted = "L4.1 L4.3 L6.2 L6.3 L7.1 L7.2 L7.3 L7.4 L7.5 L7.6 L7.7 L8.1 L8.2 L8.3 L8.4 L8.5 L9.4"
    assert set(wanted.split()) <= clauses
