"""One round: a run of the test of Hypothesis, which failure it is after, and the smallest example of that."""

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
"""The part of the time for shrinking that Hypothesis may take. The rest is for cuts, of which few make much."""


class Judging(Protocol):
    """What a round asks of its driver."""

    plan: Plan
    known: list[Finding]
    examples: int
    began: float

    @property
    def seen(self) -> Mapping[tuple[str, int], Judged]:
        """The examples that have run, by case digest and width."""
        ...

    def over(self) -> bool:
        """Whether nothing more is to be generated."""
        ...

    def judge(self, case: Case, width: int, shrinking: bool, cutting: str = "") -> Judged:
        """Run an example, unless it has been, and put it on record."""
        ...

    def failure(self, case: Case, width: int, found: Judged) -> Failure:
        """A failing example with what is known of it."""
        ...

    def explained(self, found: Judged) -> bool:
        """Whether a finding explains a failure."""
        ...


class Round:
    """The body of one run of the test: which failure it is after, and the smallest example of it."""

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
        """One example. Raises a Defect for the failure that this round is after."""
        driver = self.driver
        after = self.best is not None
        if not after and driver.over():
            raise OutOfTime
        if after and (case.digest(), width) not in driver.seen and self._out_of_time():
            raise OutOfTime  # without it, Hypothesis would go on drawing for as long again
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
        """Whether the part of the time for shrinking that is now spent is over."""
        return time.monotonic() > self.began + self.part * self.driver.plan.shrink_seconds

    def cut(self) -> None:
        """Cut out of the smallest example what it fails without, until there is nothing more, or no more time."""
        self.part, self.cutting, cut = 1.0, True, True
        while cut and self.finished:
            cut = False
            for cuts_of in cuts.PASSES:
                while self._cut(cuts_of):
                    cut = True

    def _cut(self, cuts_of: Callable[[Case], Iterable[Case]]) -> bool:
        """Whether one of the cuts leaves a smaller case that fails."""
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
