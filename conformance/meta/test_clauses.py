"""The clauses of `docs/lowering.md` as the program reads them, and what the tests say of each."""

from __future__ import annotations

import re

import pytest

from flexconf.errors import InputError
from flexconf.testing import clauses
from flexconf.testing.clauses import Citation, Clause
from planted import corrections

IN_SECTION = {"L1": 3, "L2": 8, "L3": 3, "L4": 5, "L5": 5, "L6": 5, "L7": 8, "L8": 5, "L9": 4}
CORRECTED = ["L2.5", "L3.3", "L4.3", "L4.4"]


def test_every_clause_is_read_once_and_in_order() -> None:
    expected = [f"{section}.{i}" for section, n in IN_SECTION.items() for i in range(1, n + 1)]
    assert [c.number for c in clauses.load()] == expected
    assert len(expected) == 46


def test_kinds_titles_and_texts() -> None:
    by_number = {c.number: c for c in clauses.load()}
    for clause in by_number.values():
        assert {*clause.kinds} <= {"S", "C", "X", "GPU"}
        assert {*clause.kinds} - {"GPU"}, "a clause says where it comes from"
        assert 0 < len(clause.title) <= 60
        assert clause.text.startswith(f"{clause.title}."), clause.number
        assert "\n" not in clause.text
        assert "  " not in clause.text
    assert [n for n, c in by_number.items() if "C" in c.kinds] == CORRECTED
    assert [n for n, c in by_number.items() if c.gpu_only] == ["L9.2"]
    assert by_number["L2.4"].title == "CuTe agrees"
    assert by_number["L2.4"].text.endswith("Checked against CuTe itself."), "lines that continue belong to it"


def test_the_corrections_name_every_switch_and_no_other() -> None:
    corrected = [c for c in clauses.load() if "C" in c.kinds]
    named = [re.findall(r"(?<!\w)[Ss]witch(?:es)? `([\w-]+)`", c.text) for c in corrected]
    assert all(named), "each clause of kind C names its switches"
    assert sorted(name for names in named for name in names) == sorted(corrections.DESCRIPTIONS)


def test_citations_are_sorted_by_what_became_of_the_test() -> None:
    cited = clauses.cite(
        {"L1.1": {"b": "passed", "a": "passed", "c": "failed", "d": "skipped"}, "L1.2": {"a": "passed"}}
    )
    assert [c.clause.number for c in cited] == [c.number for c in clauses.load()]
    first, second, third = cited[:3]
    assert (first.passed, first.failed, first.skipped) == (("a", "b"), ("c",), ("d",))
    assert [c.verdict for c in (first, second, third)] == ["failed", "passed", "not cited"]


@pytest.mark.parametrize(
    ("outcomes", "kinds", "verdict"),
    [
        ({}, ("S",), "not cited"),
        ({}, ("X", "GPU"), "GPU-only"),
        ({"skipped": ("a",)}, ("S",), "not cited"),
        ({"skipped": ("a",)}, ("GPU",), "GPU-only"),
        ({"passed": ("a",)}, ("S",), "passed"),
        ({"passed": ("a",), "skipped": ("b",)}, ("GPU",), "passed"),
        ({"passed": ("a",), "failed": ("b",)}, ("S",), "failed"),
        ({"failed": ("a",)}, ("GPU",), "failed"),
    ],
)
def test_verdicts(outcomes: dict[str, tuple[str, ...]], kinds: tuple[str, ...], verdict: str) -> None:
    """A skipped test is no evidence."""
    assert Citation(Clause("L1.1", kinds, "Text."), **outcomes).verdict == verdict


def test_a_clause_that_does_not_exist_cannot_be_cited() -> None:
    with pytest.raises(InputError, match=r"cites L7\.99, which docs/lowering\.md does not have"):
        clauses.cite({"L1.1": {"a": "passed"}, "L7.99": {"a": "passed"}})


def test_a_suite_that_pytest_cannot_run_is_said_and_is_no_result() -> None:
    with pytest.raises(InputError, match="pytest could not run the suite"):
        clauses.run_suite(["--no-such-option"])
