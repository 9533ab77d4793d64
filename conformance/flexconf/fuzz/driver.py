"""One driver: rounds of a Hypothesis test whose examples run on a worker process of the driver's own.

The test fails for a failure that no finding explains. Its exception's type is made for the family of the failure, so
Hypothesis keeps families apart, and it shrinks one failure a round. Another failure that turns up meanwhile stays on
record and is found again.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flexconf import findings, planted, subjects
from flexconf.case import Case
from flexconf.errors import InputError
from flexconf.findings import Finding
from flexconf.fuzz import coverage, cuts, outline
from flexconf.fuzz.stream import Reader, Record, Writer, next_rounds
from flexconf.outcome import Outcome, Stage, Symptom, merge
from flexconf.run import run_task

if TYPE_CHECKING:
    from flexconf.isolated import Task

SHRINK_SECONDS = 60.0
EXAMPLES = 11
"""Of one round. After its first ten, Hypothesis makes five variations of each example, which rarely reach anything new:
rounds of 11 give three times as many distinct graphs an hour as rounds of 250."""
_HYPOTHESIS = 0.5
"""The part of the time for shrinking that Hypothesis may take. The rest is for cuts, of which few make much."""
_LEFT_OVER = 5  # failures that nothing explained, kept as they are at the end
_LIFE = 2000  # examples of one worker process: compilers do not give back all their memory
_REMEMBERED = 20_000  # examples whose outcome is remembered


@dataclass(frozen=True)
class Plan:
    """A fuzzing run.

    `seconds` of generation, `workers` drivers; `time_limit` seconds an example, None for the subject's own.
    `shrink_seconds`: what making one failure smaller may take. `examples` a round. `stop_after`: end when the drivers
    together have so many new findings, None for never. `cases` and `widths` are "module:function" of strategies, None
    for the subject's, `task` what a worker runs. `check_repro`: run a finding's repro.py before it is kept. `refusals`:
    whether what is refused, other than by the eligibility rules, is a failure; None for "on the reference, which has to
    take all of L7".
    """

    subject: str
    folder: Path
    seconds: float
    workers: int = 1
    seed: int = 0
    time_limit: float | None = None
    shrink_seconds: float = SHRINK_SECONDS
    examples: int = EXAMPLES
    stop_after: int | None = None
    cases: str | None = None
    widths: str | None = None
    task: Task = run_task
    check_repro: bool = True
    refusals: bool | None = None

    def counts_refusal(self, stage: Stage) -> bool:
        """Whether a refusal in `stage` is a failure: of the reference, but for what runs its text having limits."""
        if self.refusals is not None:
            return self.refusals
        subject = subjects.get(self.subject)
        return subject.is_reference and not (subject.limited and stage in (Stage.COMPILE, Stage.LAUNCH))


class Runs(Protocol):
    """Where an example is run: an `Isolated`, or a stand-in in tests."""

    def run(self, case: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome: ...


class Defect(AssertionError):
    """What the test raises for a failure; every family of failures has a subclass."""


@functools.cache
def defect_type(family: str) -> type[Defect]:
    """The exception of a family of failures."""
    name = "".join(word.capitalize() for word in "".join(c if c.isalnum() else " " for c in family).split())
    return type(f"{name}Defect", (Defect,), {})


_CLOSE = 0.9  # an example whose error comes this near to its bound is kept in words, for somebody to look at


class OutOfTime(BaseException):
    """The run is over. No Exception, so that Hypothesis does not take it for a failure of the test."""


class Broken(BaseException):
    """The harness failed, and says why; no failure of the test either."""


@dataclass(frozen=True)
class Judged:
    """What an example came to; `family` and `traits` of a failure."""

    outcome: Outcome
    verdict: str
    why: str
    family: str = ""
    traits: tuple[str, ...] = ()


_STALE = Judged(Outcome("", "", "", Stage.OUTPUT, Symptom.MISSING), "stale", "")


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


@dataclass
class Driver:
    """The state of one driver. `until` is the time (of `time.monotonic`) at which generation ends."""

    plan: Plan
    number: int
    runs: Runs
    until: float
    fresh: Callable[[], None] = lambda: None
    parent_alive: Callable[[], bool] = lambda: True
    known: list[Finding] = field(default_factory=list)
    seen: dict[tuple[str, int], Judged] = field(default_factory=dict)
    graphs: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    aside: dict[str, Failure] = field(default_factory=dict)
    before: frozenset[str] = frozenset()
    round: int = 0
    index: int = 0
    examples: int = 0
    began: float = field(default_factory=time.monotonic)

    def drive(self) -> None:
        """Rounds until the time is over."""
        earlier = [r for r in Reader(self.plan.folder).new() if r.place[0] == self.number]
        self.round = next_rounds(iter(earlier)).get(self.number, 0)
        self._take_up(earlier)
        self.before = frozenset(f.ident for f in self.known)
        self.writer = Writer(self.plan.folder, self.number)
        renewed = 0
        try:
            while not self._over():
                self._one_round()
                self.round += 1
                if self.examples - renewed >= _LIFE:
                    self.fresh()
                    renewed = self.examples
            self._keep_left_overs()
        finally:
            self.writer.close()

    def _over(self) -> bool:
        if time.monotonic() >= self.until:
            return True
        if self.plan.stop_after is None:
            return False
        there = findings.load_all(self.plan.folder)  # of every driver
        return sum(f.is_open and f.ident not in self.before for f in there) >= self.plan.stop_after

    def _take_up(self, records: Iterable[Record]) -> None:
        """The failures that a run which was killed has left on record."""
        from flexconf import catalogue

        self.known = findings.load_all(self.plan.folder)
        for record in records:
            if record.verdict != "failed" or not record.toml:
                continue
            (case,) = catalogue.load_text(record.toml, record.ident)
            outcome = Outcome(
                case.name,
                case.digest(),
                planted.labelled(self.plan.subject),
                Stage(record.stage),
                Symptom(record.symptom),
                record.why,
            )
            self._set_aside(Failure(case, record.width, outcome, findings.family(outcome), record.ident, 0, 0.0))

    # ------------------------------------------------------------------------------------------------- one round

    def _one_round(self) -> None:
        """One run of the test. What it finds is kept when it ends, however it ends."""
        import hypothesis
        from hypothesis.database import DirectoryBasedExampleDatabase

        self.index = 0
        if len(self.seen) > _REMEMBERED:
            self.seen.clear()
        turn = _Round(self)
        database = DirectoryBasedExampleDatabase(self.plan.folder / "examples" / str(self.number))
        settings = hypothesis.settings(
            max_examples=self.plan.examples,
            database=database,
            deadline=None,
            derandomize=False,
            phases=(hypothesis.Phase.reuse, hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
        )

        def example(case: Case, width: int, mark: tuple[bool, ...]) -> None:
            turn.example(case, width)

        # Hypothesis takes what is in its database for shrunk, unless the test draws something else than when it was
        # saved. A killed run leaves what is not shrunk, so every second round draws one thing more.
        marks = hypothesis.strategies.tuples(*[hypothesis.strategies.booleans()] * (self.round % 2))
        subject = subjects.get(self.plan.subject)
        drawn = (self.plan.cases or subject.cases, self.plan.widths or subject.widths)
        given = hypothesis.given(*map(_strategy, drawn), marks)(example)
        test = settings(hypothesis.seed(round_seed(self.plan.seed, self.number, self.round))(given))
        try:
            test()
        except (Defect, hypothesis.errors.Flaky):
            # Outcomes are remembered, so that the test is not flaky; if Hypothesis thinks so, the failure stands.
            pass
        except OutOfTime:
            pass
        if turn.best is not None:
            turn.cut()
            self._keep(turn.best, minimised=turn.finished)

    def judge(self, case: Case, width: int, shrinking: bool, cutting: str = "") -> Judged:
        """Run an example, unless it has been, and put it on record.

        `cutting`: the family of failures that the case has been cut for. A failure of any other is one that cutting has
        brought about, and no finding.
        """
        key = (case.digest(), width)
        found = self.seen.get(key)
        if found is not None:
            return found
        if not self.parent_alive():
            os._exit(1)
        sketch = outline.of_case(case)
        reached = coverage.keys(case, width, sketch)
        if not shrinking and self._stale(key, sketch.graph, reached):
            return _STALE
        started = time.monotonic()
        outcome = self._run(case, width)
        seconds = time.monotonic() - started
        found = self._judged(case, width, outcome, sketch)
        if cutting and found.verdict == "failed" and found.family != cutting:
            found = Judged(outcome, "discarded", f"brought about by cutting: {found.family}")
        else:
            self.seen[key] = found  # drawn, what cutting brought about would be a finding
        compared = outcome.comparison
        failed = found.verdict in ("failed", "duplicate")
        ratio = _ratio(compared["max_ratio"]) if compared is not None and compared["elements"] else None
        close = isinstance(ratio, float) and ratio > _CLOSE
        record = Record(
            ident=f"{self.number}/{self.round}/{self.index}",
            case=key[0],
            width=width,
            graph=sketch.graph,
            stage=str(outcome.stage),
            symptom=str(outcome.symptom),
            verdict=found.verdict,  # type: ignore[arg-type]
            ratio=ratio,
            keys=tuple(reached) if found.verdict != "discarded" else (),
            seconds=round(seconds, 4),
            why=found.why,
            shrinking=shrinking,
            toml=case.to_toml() if failed or close else "",
            mute=compared is not None and not compared["telling"],
        )
        try:
            self.writer.write(record)
        except InputError as error:  # within a test of Hypothesis, which would take it for the test's failure
            raise Broken(str(error)) from error
        self.index += 1
        self.examples += 1
        if found.verdict == "failed":
            self._set_aside(self.failure(case, width, found, record.ident))
        return found

    def _stale(self, key: tuple[str, int], graph: str, reached: list[str]) -> bool:
        """Whether an example is left out: three of four are, of those that reach nothing new with a graph that has run.

        Running one costs a hundred times what generating it does. Which ones is a matter of their digest alone.
        """
        fresh = graph not in self.graphs or not self.reached.issuperset(reached)
        self.graphs.add(graph)
        self.reached.update(reached)
        return not fresh and int(key[0][:8], 16) % 4 > 0

    def failure(self, case: Case, width: int, found: Judged, ident: str = "") -> Failure:
        """A failing example with what is known of it."""
        ident = ident or f"{self.number}/{self.round}/{max(self.index - 1, 0)}"
        since = time.monotonic() - self.began
        return Failure(case, width, found.outcome, found.family, ident, self.examples, since)

    def _run(self, case: Case, width: int, keep: Path | None = None) -> Outcome:
        from flexconf.subjects.trial import Options

        try:
            return self.runs.run(case, self.plan.subject, Options(vector_width=width), keep)
        except (InputError, OSError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error

    def _judged(self, case: Case, width: int, outcome: Outcome, sketch: outline.Outline) -> Judged:
        if outcome.ok:
            return Judged(outcome, "ok", "")
        why = discarded(outcome)
        family = findings.family(outcome)
        if not why and outcome.symptom is Symptom.REFUSED and not self.plan.counts_refusal(outcome.stage):
            why = f"not supported: {family}"
        if why:
            return Judged(outcome, "discarded", why)
        having = findings.traits(case, width, sketch)
        known = findings.explaining(self.known, family, having)
        if known is not None:
            return Judged(outcome, "duplicate", known.ident, family, having)
        return Judged(outcome, "failed", " ".join(outcome.message.split())[:300], family, having)

    def explained(self, found: Judged) -> bool:
        """Whether a finding, by now, explains a failure."""
        return findings.explaining(self.known, found.family, found.traits) is not None

    # ------------------------------------------------------------------------------------------------- findings

    def _set_aside(self, failure: Failure) -> None:
        """Remember the smallest failure of each family, in case that it is never found again."""
        there = self.aside.get(failure.family)
        smaller = there is None or findings.size(failure.case, failure.width) < findings.size(there.case, there.width)
        if smaller and not self._explains(failure):
            self.aside[failure.family] = failure

    def _explains(self, failure: Failure) -> bool:
        having = findings.traits(failure.case, failure.width, outline.of_case(failure.case))
        return findings.explaining(self.known, failure.family, having) is not None

    def _keep_left_overs(self) -> None:
        for failure in list(self.aside.values())[:_LEFT_OVER]:
            self.known = findings.load_all(self.plan.folder)
            if not self._explains(failure):
                self._keep(failure, minimised=False)

    def _keep(self, failure: Failure, *, minimised: bool) -> None:
        """Confirm a failure in a fresh process and write its folder."""
        from flexconf.fuzz import keeping

        self.known = findings.load_all(self.plan.folder)
        self.fresh()
        again, files = keeping.examine(failure.case, failure.width, self._run)
        confirmed = (again.stage, again.symptom) == (failure.outcome.stage, failure.outcome.symptom)
        outcome = failure.outcome
        if not confirmed and not discarded(again):
            outcome = merge([failure.outcome, dataclasses.replace(again, case=outcome.case)]) or outcome
        finding = dataclasses.replace(
            findings.of(failure.case, failure.width, outcome, failure.family),
            minimised=minimised,
            confirmed=confirmed,
            found_at=failure.record,
            examples=failure.examples,
            seconds=round(failure.seconds, 2),
        )
        text, said = keeping.repro(failure.case, failure.width, again if confirmed else outcome, self.plan.check_repro)
        finding = dataclasses.replace(finding, repro=said)
        findings.save(self.plan.folder, finding, failure.case, {**files, "repro.py": text})
        self.known = findings.load_all(self.plan.folder)
        self.aside = {k: f for k, f in self.aside.items() if not self._explains(f)}


class _Round:
    """The body of one run of the test: which failure it is after, and the smallest example of it."""

    def __init__(self, driver: Driver) -> None:
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
        if not after and driver._over():
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


def round_seed(seed: int, driver: int, turn: int) -> int:
    """The seed of a round, of (seed, driver, round)."""
    return random.Random(f"flexconf {seed}/{driver}/{turn}").getrandbits(64) ^ zlib.crc32(b"round")


@functools.cache
def _strategy(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def _ratio(value: object) -> float | None:
    """A ratio as a finite number: what is infinite or no number says nothing more than the symptom does."""
    number = float(value) if isinstance(value, int | float | str) else float("nan")
    return round(number, 6) if abs(number) < float("inf") else None


def parent_is_alive() -> bool:
    """Whether the process that started this one lives."""
    parent = parent_process()
    return parent is None or parent.is_alive()
