"""One round: one run of the Hypothesis test. It shrinks the first failure that no finding explains."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from flexconf.cases.case import Case
from flexconf.fuzz import cuts, findings
from flexconf.fuzz.findings import Finding
from flexconf.fuzz.judged import Defect, Failure, Judged, OutOfTime, defect_type
from flexconf.fuzz.plan import Plan

_HYPOTHESIS = 0.5
"""The share of the shrinking time that Hypothesis may take. The rest is for cuts: a few of them remove a lot."""


class Judging(Protocol):
    """The part of a driver that a round uses."""

    plan: Plan
    known: list[Finding]
    examples: int
    began: float

    @property
    def seen(self) -> Mapping[tuple[str, int], Judged]:
        """The examples that have run, by case digest and width."""
        ...

    def over(self) -> bool:
        """Whether generation is to end."""
        ...

    def judge(self, case: Case, width: int, shrinking: bool, cutting: str = "") -> Judged:
        """Run an example and write its record. An example that has run already is not run again."""
        ...

    def failure(self, case: Case, width: int, found: Judged) -> Failure:
        """The `Failure` of a failing example."""
        ...

    def explained(self, found: Judged) -> bool:
        """Whether a finding explains the failure `found`."""
        ...


class Round:
    """The body of the Hypothesis test in one round.

    `family` is the family of the failure that the round shrinks, "" before there is one. `best` is its smallest example
    and `least` the size of that.
    """

    def __init__(self, driver: Judging) -> None:
        self.driver = driver
        self.family = ""
        self.best: Failure | None = None
        self.least: tuple[int, ...] = ()
        self.first: tuple[int, float] = (0, 0.0)
        self.began = 0.0
        self.part = _HYPOTHESIS
        self.finished = True
        self.cutting = False

    def example(self, case: Case, width: int) -> None:
        """Run one example. Raises a Defect if it shows the failure that this round shrinks, OutOfTime at the end."""
        driver = self.driver
        after = self.best is not None
        if not after and driver.over():
            raise OutOfTime
        if after and (case.digest(), width) not in driver.seen and self._out_of_time():
            raise OutOfTime  # otherwise Hypothesis would go on drawing for as long again
        found = driver.judge(case, width, shrinking=after, cutting=self.family if self.cutting else "")
        if found.verdict not in ("failed", "duplicate"):
            return
        if self.best is None:
            if driver.explained(found):
                return
            driver.known = findings.load_all(driver.plan.folder)  # another driver may have found it meanwhile
            if driver.explained(found):
                return
            self.family = found.family
            self.began = time.monotonic()
            self.first = (driver.examples, time.monotonic() - driver.began)
        if found.family != self.family or driver.explained(found):
            return
        least = findings.size(case, width)
        if self.best is None or least < self.least:
            failure = driver.failure(case, width, found)
            record = self.best.record if self.best is not None else failure.record
            self.best = dataclasses.replace(failure, record=record, examples=self.first[0], seconds=self.first[1])
            self.least = least
        raise defect_type(self.family)(found.outcome.message)

    def _out_of_time(self) -> bool:
        """Whether the current share (`part`) of the shrinking time is used up."""
        return time.monotonic() > self.began + self.part * self.driver.plan.shrink_seconds

    def cut(self) -> None:
        """Cut parts out of the smallest example, until no cut leaves a failing case or the time is over."""
        self.part, self.cutting, cut = 1.0, True, True
        while cut and self.finished:
            cut = False
            for cuts_of in cuts.PASSES:
                while self._cut(cuts_of):
                    cut = True

    def _cut(self, cuts_of: Callable[[Case], Iterable[Case]]) -> bool:
        """Try the cuts of one pass. Returns True at the first smaller case that fails, False if there is none."""
        assert self.best is not None
        width = self.best.width
        for case in cuts_of(self.best.case):
            if findings.size(case, width) < self.least:
                try:
                    self.example(case, width)
                except Defect:
                    return True
                except OutOfTime:
                    self.finished = False
                    break
        return False
