"""A driver runs rounds of a Hypothesis test. The examples run in a worker process that belongs to the driver.

The test fails for a failure that no finding explains. Each family of failures has its own exception type, so Hypothesis
keeps families apart. A round shrinks one failure. Another failure that turns up during the round stays on record, and a
later round can find it again.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from flexconf import strategies, subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.fuzz import coverage, findings, outline
from flexconf.fuzz.findings import Finding
from flexconf.fuzz.judged import Broken, Defect, Failure, Judged, OutOfTime, discarded
from flexconf.fuzz.plan import Plan, Runs, round_seed
from flexconf.fuzz.round import Round
from flexconf.fuzz.stream import Reader, Record, RecordWriter, next_rounds
from flexconf.verdict.outcome import Outcome, Stage, Symptom, merge

_LEFT_OVER = 5  # at most so many unexplained failures are kept, unshrunk, when the run ends
_LIFE = 2000  # examples per worker process: compilers do not give back all their memory
_REMEMBERED = 20_000  # examples whose outcome is remembered
_CLOSE = 0.9  # above this share of the bound, the record of an example carries its case, for somebody to look at
_STALE = Judged(Outcome("", "", "", Stage.OUTPUT, Symptom.MISSING), "stale", "")


@dataclass
class Driver:
    """The state of one driver.

    `until` is the time (of `time.monotonic`) at which generation ends. `fresh` exchanges the worker for a new one.
    `known` are the findings, `seen` the judged examples by (case digest, width), and `graphs` and `reached` the graphs
    and coverage keys so far. `aside` holds the smallest unexplained failure of each family.
    """

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
        """Run rounds until `over`, starting after the last round on record. Then keep the left-over failures."""
        earlier = [r for r in Reader(self.plan.folder).new() if r.place[0] == self.number]
        self.round = next_rounds(iter(earlier)).get(self.number, 0)
        self._take_up(earlier)
        self.before = frozenset(f.ident for f in self.known)
        self.writer = RecordWriter(self.plan.folder, self.number)
        renewed = 0
        try:
            while not self.over():
                self._one_round()
                self.round += 1
                if self.examples - renewed >= _LIFE:
                    self.fresh()
                    renewed = self.examples
            self._keep_left_overs()
        finally:
            self.writer.close()

    def over(self) -> bool:
        """Whether generation is to end: the time is up, or there are `stop_after` new findings."""
        if time.monotonic() >= self.until:
            return True
        if self.plan.stop_after is None:
            return False
        there = findings.load_all(self.plan.folder)  # of every driver
        return sum(f.is_open and f.ident not in self.before for f in there) >= self.plan.stop_after

    def _take_up(self, records: Iterable[Record]) -> None:
        """Set aside the failures on record that no finding explains: a killed run leaves such failures."""
        from flexconf.cases import catalogue

        self.known = findings.load_all(self.plan.folder)
        for record in records:
            if record.verdict != "failed" or not record.toml:
                continue
            (case,) = catalogue.load_text(record.toml, record.ident)
            outcome = Outcome(
                case.name,
                case.digest(),
                tampering.labelled(self.plan.subject),
                Stage(record.stage),
                Symptom(record.symptom),
                record.why,
                capability=self.plan.capability,
            )
            self._set_aside(Failure(case, record.width, outcome, findings.family(outcome), record.ident, 0, 0.0))

    # ------------------------------------------------------------------------------------------------- one round

    def _one_round(self) -> None:
        """One run of the Hypothesis test. A failure that it finds is kept, however the run ends."""
        import hypothesis
        from hypothesis.database import DirectoryBasedExampleDatabase

        self.index = 0
        if len(self.seen) > _REMEMBERED:
            self.seen.clear()
        turn = Round(self)
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

        # Hypothesis assumes that examples in its database are shrunk, unless the test draws other things than when they
        # were saved. A killed run leaves examples that are not shrunk, so every second round draws one thing more.
        marks = hypothesis.strategies.tuples(*[hypothesis.strategies.booleans()] * (self.round % 2))
        subject = subjects.get(self.plan.subject)
        own = strategies.for_subject(subject)
        chosen = [_strategy(named) if named else drawn for named, drawn in zip(self.plan.drawn, own, strict=True)]
        given = hypothesis.given(*chosen, marks)(example)
        test = settings(hypothesis.seed(round_seed(self.plan.seed, self.number, self.round))(given))
        try:
            test()
        except (Defect, hypothesis.errors.Flaky):
            # Outcomes are remembered, so the test is not flaky. If Hypothesis reports Flaky anyway, the failure stands.
            pass
        except OutOfTime:
            pass
        if turn.best is not None:
            turn.cut()
            self._keep(turn.best, minimised=turn.finished)

    def judge(self, case: Case, width: int, shrinking: bool, cutting: str = "") -> Judged:
        """Run an example and write its record. An example that has run already is not run again.

        `cutting` is the family of failures for which the case was cut, "" if it was not. A cut case that fails with
        another family is discarded, because the cut may have caused that failure.
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
            self.seen[key] = found  # a discarded cut is not remembered: if it is drawn later, it can be a finding
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
        except InputError as error:  # inside the test, Hypothesis would take it for a failure of the test
            raise Broken(str(error)) from error
        self.index += 1
        self.examples += 1
        if found.verdict == "failed":
            self._set_aside(self.failure(case, width, found, record.ident))
        return found

    def _stale(self, key: tuple[str, int], graph: str, reached: list[str]) -> bool:
        """Whether to leave out an example. Of those with a known graph and no new coverage key, three of four are.

        Running an example costs a hundred times as much as generating it. The digest alone selects the examples.
        """
        fresh = graph not in self.graphs or not self.reached.issuperset(reached)
        self.graphs.add(graph)
        self.reached.update(reached)
        return not fresh and int(key[0][:8], 16) % 4 > 0

    def failure(self, case: Case, width: int, found: Judged, ident: str = "") -> Failure:
        """The `Failure` of a failing example. `ident` is its record, by default the last one."""
        ident = ident or f"{self.number}/{self.round}/{max(self.index - 1, 0)}"
        since = time.monotonic() - self.began
        return Failure(case, width, found.outcome, found.family, ident, self.examples, since)

    def _run(self, case: Case, width: int, keep: Path | None = None) -> Outcome:
        return self._run_for(self.plan.capability, case, width, keep)

    def _run_for(self, capability: str | None, case: Case, width: int, keep: Path | None = None) -> Outcome:
        from flexconf.subjects.trial import Options

        try:
            return self.runs.run(case, self.plan.subject, Options(vector_width=width, capability=capability), keep)
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
        default = subjects.get(self.plan.subject).capability(None)
        if self.plan.capability not in (None, default) and findings.family(self._run_for(None, case, width)) == family:
            return Judged(outcome, "discarded", f"the same in the code for {default}: {family}")
        return Judged(outcome, "failed", " ".join(outcome.message.split())[:300], family, having)

    def explained(self, found: Judged) -> bool:
        """Whether one of the findings known by now explains the failure `found`."""
        return findings.explaining(self.known, found.family, found.traits) is not None

    # ------------------------------------------------------------------------------------------------- findings

    def _set_aside(self, failure: Failure) -> None:
        """Remember the smallest unexplained failure of each family, in case no later round finds it again."""
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
        """Run a failure again in a fresh process and write the folder of its finding."""
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


@functools.cache
def _strategy(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def _ratio(value: object) -> float | None:
    """A ratio as a finite number. Returns None for infinities and NaN: the symptom already says as much."""
    number = float(value) if isinstance(value, int | float | str) else float("nan")
    return round(number, 6) if abs(number) < float("inf") else None


def parent_is_alive() -> bool:
    """Whether the process that started this one is alive."""
    parent = parent_process()
    return parent is None or parent.is_alive()
