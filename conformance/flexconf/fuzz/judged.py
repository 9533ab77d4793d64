"""What an example comes to, and how the test of Hypothesis that ran it ends."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from flexconf.cases.case import Case
from flexconf.verdict.outcome import Outcome, Stage, Symptom


@dataclass(frozen=True)
class Judged:
    """What an example came to; `family` and `traits` of a failure."""

    outcome: Outcome
    verdict: str
    why: str
    family: str = ""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A failing example, and where it is recorded."""

    case: Case
    width: int
    outcome: Outcome
    family: str
    record: str
    examples: int
    seconds: float


def discarded(outcome: Outcome) -> str:
    """Why an example proves nothing; "" when it does. A result that is certainly wrong always proves something."""
    if outcome.open:
        return outcome.open
    if outcome.symptom is Symptom.REFUSED and outcome.stage is Stage.ELIGIBILITY:
        return "refused by the eligibility rules"
    return f"not a case: {outcome.bad_input[:120]}" if outcome.bad_input else ""


class Defect(AssertionError):
    """What the test raises for a failure; every family of failures has a subclass."""


@functools.cache
def defect_type(family: str) -> type[Defect]:
    """The exception of a family of failures."""
    name = "".join(word.capitalize() for word in "".join(c if c.isalnum() else " " for c in family).split())
    return type(f"{name}Defect", (Defect,), {})


class OutOfTime(BaseException):
    """The run is over. No Exception, so that Hypothesis does not take it for a failure of the test."""


class Broken(BaseException):
    """The harness failed, and says why; no failure of the test either."""
