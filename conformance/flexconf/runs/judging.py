"""Compares an outcome with what its case expects, and with the known defects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexconf.cases.case import Case
from flexconf.verdict.outcome import Outcome, Symptom

if TYPE_CHECKING:
    from flexconf.runs.expectations import Expectation


@dataclass(frozen=True)
class Result:
    """The verdict on an outcome: `passed`, and `why`, which explains a failure and is "" otherwise.

    `expectation` is the known defect that explains the outcome, or None. With a known defect, the case passes because
    it fails as described.
    """

    case: Case
    outcome: Outcome
    passed: bool
    why: str
    expectation: Expectation | None = None


def judge(case: Case, outcome: Outcome, expectations: Sequence[Expectation] = ()) -> Result:
    """Compares an outcome with `case.expect`, and a failure with those known defects that claim the case."""
    failed = _why(case, outcome)
    known = [e for e in expectations if e.explains(case.name, outcome)] if failed else []
    return Result(case, outcome, True, "", known[0]) if known else Result(case, outcome, not failed, failed)


def _why(case: Case, outcome: Outcome) -> str:
    """The reason why the outcome is not what the case expects. Returns "" if it is."""
    at = f"{outcome.stage}: {outcome.symptom}"
    if case.expect == "ok":
        return "" if outcome.ok else f"{at}: {outcome.message}"
    stage = case.expect.removeprefix("refused:")
    if outcome.symptom is not Symptom.REFUSED or outcome.stage != stage:
        return f"expected {case.expect}, but {at}: {outcome.message}"
    if case.reason_contains and case.reason_contains not in outcome.message:
        return f"expected a refusal that says {case.reason_contains!r}, but it says: {outcome.message}"
    return ""
