"""The verdict on an example, and the exceptions that end the Hypothesis test that ran it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from flexconf.cases.case import Case
from flexconf.verdict.outcome import Outcome, Stage, Symptom


@dataclass(frozen=True)
class Judged:
    """The verdict on an example: "ok", "failed", "duplicate", "discarded" or "stale" (left out, not run).

    `why` gives the message of a failure, the id of the finding that explains a duplicate, or the reason to discard.
    `family` and `traits` describe a failure or a duplicate; they are empty otherwise.
    """

    outcome: Outcome
    verdict: str
    why: str
    family: str = ""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A failing example. `record` is its record; `examples` and `seconds` say how much its driver had run by then."""

    case: Case
    width: int
    outcome: Outcome
    family: str
    record: str
    examples: int
    seconds: float


def discarded(outcome: Outcome) -> str:
    """Why the outcome of an example proves nothing. Returns "" if it proves something, as every wrong result does."""
    if outcome.open:
        return outcome.open
    if outcome.symptom is Symptom.REFUSED and outcome.stage is Stage.ELIGIBILITY:
        return "refused by the eligibility rules"
    return f"not a case: {outcome.bad_input[:120]}" if outcome.bad_input else ""


class Defect(AssertionError):
    """The exception that the Hypothesis test raises for a failure. Every family of failures has a subclass."""


@functools.cache
def defect_type(family: str) -> type[Defect]:
    """The exception class of a family of failures."""
    name = "".join(word.capitalize() for word in "".join(c if c.isalnum() else " " for c in family).split())
    return type(f"{name}Defect", (Defect,), {})


class OutOfTime(BaseException):
    """Generation or shrinking is to end. As a BaseException, Hypothesis does not take it for a failure of the test."""


class Broken(BaseException):
    """The harness failed; the message says why. Hypothesis does not take it for a failure of the test either."""
