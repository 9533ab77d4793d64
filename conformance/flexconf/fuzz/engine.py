"""A fuzzing run: driver processes share only a folder, and the engine follows them by reading their records."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from flexconf import subjects, tampering
from flexconf.errors import InputError
from flexconf.fuzz import coverage, findings, stream
from flexconf.fuzz.driver import Driver, parent_is_alive
from flexconf.fuzz.findings import Finding
from flexconf.fuzz.judged import Broken
from flexconf.fuzz.plan import Plan
from flexconf.fuzz.stream import Reader, Record, RunIdentity

_TEMPORARY = "tmp"  # the next run removes the files that a killed run leaves here
_LOOK = 0.25
_CONFIRM = 420.0  # seconds that confirming a finding and running its repro may take
_DEATH = 10.0


@dataclass
class Tally:
    """Sums over records: over all in a folder, or over those of a session.

    `worst` is the largest ratio of error to bound of a correct example. `mute` counts examples whose compared results
    had to be 0, NaN or infinite. `busy` is the time that the examples took, in seconds.
    """

    examples: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    graphs: set[str] = field(default_factory=set)
    worst: float = 0.0
    mute: int = 0
    busy: float = 0.0

    def add(self, record: Record) -> None:
        """Count one record."""
        self.examples += 1
        self.verdicts[record.verdict] += 1
        self.busy += record.seconds
        self.mute += record.mute
        if record.verdict == "discarded":
            self.reasons[record.why] += 1
            return
        self.graphs.add(record.graph)
        self.keys.update(record.keys)
        if record.verdict == "ok" and record.ratio is not None:
            self.worst = max(self.worst, record.ratio)
        elif record.verdict != "ok":
            self.failures[f"{record.stage}/{record.symptom}"] += 1


@dataclass(frozen=True)
class Report:
    """The result of a session, and of the folder that it worked in.

    `seconds` is the wall time of this session and `now` its tally. `fresh` counts the graphs that it was the first to
    run. `total` is the tally of all records in the folder. `new` are the open findings of this session, `open` all open
    findings, and `closed` counts the closed ones. `broken` says why drivers ended early. `plant` names the planted
    fault, "" if there is none.
    """

    plan: Plan
    seconds: float
    now: Tally
    total: Tally
    fresh: int
    new: tuple[Finding, ...]
    open: tuple[Finding, ...]
    closed: int
    coverage: coverage.Coverage
    broken: tuple[str, ...] = ()
    plant: str = ""

    @property
    def graphs_a_second(self) -> float:
        """Distinct graphs that were not in the folder before, per second of wall time."""
        return self.fresh / self.seconds if self.seconds else 0.0

    @property
    def discard_rate(self) -> float:
        """The share of this session's examples that were discarded, because they proved nothing."""
        return self.now.verdicts["discarded"] / self.now.examples if self.now.examples else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        asked = {} if self.plan.capability is None else {"capability": self.plan.capability}
        return {
            "subject": self.plan.subject,
            **asked,
            "planted": self.plant or None,
            "folder": str(self.plan.folder),
            "seed": self.plan.seed,
            "workers": self.plan.workers,
            "seconds": round(self.seconds, 2),
            "examples": self.now.examples,
            "examples_in_folder": self.total.examples,
            "verdicts": dict(self.now.verdicts),
            "distinct_graphs": self.fresh,
            "distinct_graphs_in_folder": len(self.total.graphs),
            "distinct_graphs_a_second": round(self.graphs_a_second, 3),
            "discarded": {"rate": round(self.discard_rate, 4), "reasons": dict(self.now.reasons.most_common())},
            "worst_ratio": self.now.worst,
            "nothing_but_0_or_nan": self.now.mute,
            "failures": dict(self.now.failures),
            "busy": round(self.now.busy / (self.seconds * self.plan.workers), 3) if self.seconds else 0.0,
            "new_findings": [brief(f) for f in self.new],
            "open_findings": [brief(f) for f in self.open],
            "closed_findings": self.closed,
            "coverage": self.coverage.to_json(),
            "broken": list(self.broken),
        }


def brief(finding: Finding) -> dict[str, Any]:
    """The facts of a finding that a report lists, as plain JSON values."""
    return {
        "id": finding.ident,
        "outcome": f"{finding.stage}/{finding.symptom}",
        "shape": finding.shape,
        "tokens": finding.tokens,
        "width": finding.width,
        "message": finding.message,
        "examples": finding.examples,
        "seconds": finding.seconds,
        "minimised": finding.minimised,
        "confirmed": finding.confirmed,
        "repro": finding.repro,
        "status": finding.status,
    }


@dataclass(frozen=True)
class Progress:
    """The state of a running session, to be shown on a screen."""

    seconds: float
    now: Tally
    fresh: int
    new: int


def fuzz(plan: Plan, on_progress: Callable[[Progress], None] = lambda progress: None) -> Report:
    """Run a session, which adds records and findings to `plan.folder`. It continues where an earlier session ended.

    Raises InputError if the subject cannot run here, if Hypothesis is missing, if the number of workers is not 1 to
    999, if the subject does not have the options, or if the folder belongs to another run or is in use.
    """
    if plan.workers < 1 or plan.workers > 999:
        raise InputError(f"workers must be 1 to 999, not {plan.workers}")
    from flexconf.subjects.trial import Options

    subjects.require(plan.subject).check(Options(capability=plan.capability))
    tampering.announce()
    if importlib.util.find_spec("hypothesis") is None:
        raise InputError("fuzzing needs Hypothesis, which is not installed: python -m pip install hypothesis")
    stream.claim(plan.folder, RunIdentity.here(plan.subject, plan.seed, plan.capability))
    with stream.exclusively(plan.folder):
        stream.repair(plan.folder)
        shutil.rmtree(plan.folder / _TEMPORARY, ignore_errors=True)
        findings.discard_parts(plan.folder)
        reader, total = Reader(plan.folder), Tally()
        for record in reader.new():
            total.add(record)
        before = {f.ident for f in findings.load_all(plan.folder)}
        earlier = set(total.graphs)
        now = Tally()
        started = time.monotonic()

        def look() -> None:
            for record in reader.new():
                now.add(record)
                total.add(record)
            found = findings.load_all(plan.folder)
            new = sum(f.ident not in before and f.is_open for f in found)
            on_progress(Progress(time.monotonic() - started, now, len(now.graphs - earlier), new))

        with _drivers(plan, started + plan.seconds) as drivers:
            broken = _watch(plan, drivers, look, started)
        look()
        seconds = time.monotonic() - started
    found = findings.load_all(plan.folder)
    return Report(
        plan=plan,
        seconds=seconds,
        now=now,
        total=total,
        fresh=len(now.graphs - earlier),
        new=tuple(f for f in found if f.ident not in before and f.is_open),
        open=tuple(f for f in found if f.is_open),
        closed=sum(not f.is_open for f in found),
        coverage=coverage.report(total.keys),
        broken=tuple(broken),
        plant=tampering.wanted(),
    )


@dataclass
class _Process:
    number: int
    process: BaseProcess
    connection: Connection
    said: str | None = None


@contextmanager
def _drivers(plan: Plan, until: float) -> Iterator[list[_Process]]:
    """Start the driver processes. They are killed when this context ends."""
    context = multiprocessing.get_context("spawn")
    drivers: list[_Process] = []
    try:
        for number in range(plan.workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_drive, args=(plan, number, until, theirs), name=f"flexconf-fuzz-{number}")
            process.start()
            theirs.close()
            drivers.append(_Process(number, process, ours))
        yield drivers
    finally:
        for driver in drivers:
            driver.process.kill()
        for driver in drivers:
            driver.process.join(_DEATH)
            driver.connection.close()


def _watch(plan: Plan, drivers: list[_Process], look: Callable[[], None], started: float) -> list[str]:
    """Wait until all drivers have ended, or should have ended. Returns what went wrong, one message per driver."""
    limit = plan.time_limit or subjects.get(plan.subject).time_limit
    last = started + plan.seconds + plan.shrink_seconds + 2 * limit + _CONFIRM
    broken: list[str] = []
    running = list(drivers)
    while running and time.monotonic() < last:
        time.sleep(_LOOK)
        look()
        for driver in list(running):
            alive = driver.process.is_alive()  # before the poll: if it has ended, its last message is in the pipe
            if driver.connection.poll():
                try:
                    driver.said = driver.connection.recv()
                except EOFError:
                    alive = driver.process.is_alive()
            if alive:
                continue
            running.remove(driver)
            if driver.said is None:
                broken.append(f"driver {driver.number} ended with exit code {driver.process.exitcode}")
            elif driver.said:
                broken.append(f"driver {driver.number}: {driver.said}")
    broken += [f"driver {driver.number} did not end in time" for driver in running]
    return broken


def _drive(plan: Plan, number: int, until: float, connection: Connection) -> None:
    """The main function of a driver process. It sends "" if the driver ended well, otherwise the reason."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Hypothesis keeps its files in the folder of the run, not in the user's current folder.
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(plan.folder / ".hypothesis")
    temporary = plan.folder / _TEMPORARY / str(number)
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    try:
        drive(plan, number, until)
    except (Broken, InputError) as error:
        connection.send(str(error) or "the harness failed")
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    else:
        connection.send("")


def drive(plan: Plan, number: int, until: float) -> None:
    """Run a driver in this process, with a worker process of its own, until `until` (of `time.monotonic`)."""
    from flexconf.subjects import trial
    from flexconf.workers.isolated import Isolated

    trial.single_threaded()
    place = _Place(
        lambda: Isolated(number, plan.time_limit or subjects.get(plan.subject).time_limit, plan.subject, plan.task)
    )
    try:
        Driver(plan, number, place, until, fresh=place.renew, parent_alive=parent_is_alive).drive()
    finally:
        place.close()


class _Place:
    """Holds an isolated worker, and can exchange it for a new one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._isolated = make()

    def run(self, *arguments: Any, **keywords: Any) -> Any:
        return self._isolated.run(*arguments, **keywords)

    def renew(self) -> None:
        self.close()
        self._isolated = self._make()

    def close(self) -> None:
        self._isolated.__exit__(None, None, None)
