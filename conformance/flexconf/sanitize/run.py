"""Run cases under compute-sanitizer in several processes, and assign every report to a case.

A case without reports is clean only if the tool printed its summary, and the case ended and passed. If reports cannot
be assigned to cases, or a process died, the cases in question run again, each in its own process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import caches, devices, files
from flexconf.runs import expectations
from flexconf.runs.judging import judge
from flexconf.sanitize import log as reading
from flexconf.sanitize.log import Log, SanitizerReport
from flexconf.verdict.outcome import Outcome, Symptom

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CLEAN, FINDINGS, FAILED, REFUSED, MISSING = "clean", "findings", "failed", "refused", "missing"

_ERROR_EXIT = 86  # the tool's exit code if the target exited with 0 and there are reports
_FIRST_PORT, _PORTS = 49152, 32
_START = 120.0  # seconds that a process may take in addition to those of its cases
_TAIL = 300
_REPORTS = 3  # reports kept of a case


@dataclass(frozen=True)
class Sanitized:
    """The result of one case, with `why` as a sentence.

    `status` is clean, findings, failed (no report, but the outcome is not the expected one), refused (nothing was
    launched) or missing (the case or the tool did not end). `count` counts the reports, `reports` holds the lines of
    the first ones.
    """

    case: str
    status: str
    count: int = 0
    reports: tuple[tuple[str, ...], ...] = ()
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the case is clean or was refused."""
        return self.status in (CLEAN, REFUSED)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "case": self.case,
            "status": self.status,
            "count": self.count,
            "reports": [list(lines) for lines in self.reports],
            "why": self.why,
        }


@dataclass(frozen=True)
class Ended:
    """One finished process: its cases, the tool's log, and how it ended.

    `begun` maps a case to the size of the log when it began, `ended` to the size when it ended and its outcome.
    """

    cases: tuple[Case, ...]
    begun: Mapping[str, int]
    ended: Mapping[str, tuple[int, Outcome]]
    log: Log
    how: str


@dataclass
class SanitizerVerdict:
    """The consequences of one process: final results, and groups of cases to run again."""

    results: list[Sanitized] = field(default_factory=list)
    again: list[tuple[Case, ...]] = field(default_factory=list)


def run(
    cases: Sequence[Case],
    *,
    tool: str = "memcheck",
    subject: str = "reference.fa4",
    sanitizer: str,
    workers: int = 4,
    vector_width: int | None = None,
    time_limit: float = 180.0,
    on_result: Callable[[Sanitized], None] = lambda result: None,
) -> list[Sanitized]:
    """Run `cases` under `tool`. Returns the results in the order of the cases; `on_result` gets each when it is final.

    `sanitizer` is the path of compute-sanitizer, `time_limit` the seconds that a case may take. Raises InputError for
    an unknown tool or subject, or if there are no cases.
    """
    if tool not in TOOLS:
        raise InputError(f"unknown tool {tool!r}; compute-sanitizer has {', '.join(TOOLS)}")
    subjects.get(subject)
    if not cases:
        raise InputError("no cases to run; `flexconf cases` lists what there is")
    results: dict[str, Sanitized] = {}
    workers = min(workers, len(cases))
    waiting = [tuple(cases[n::workers]) for n in range(workers)]
    free = set(range(workers))
    with (
        tempfile.TemporaryDirectory(prefix="flexconf-sanitize-", ignore_cleanup_errors=True) as folder,
        caches.fresh() as variables,
        ThreadPoolExecutor(workers) as pool,
        _Processes() as processes,
    ):
        session = _Session(tool, subject, sanitizer, vector_width, time_limit, Path(folder), variables, processes)
        running: dict[Future[Ended], int] = {}
        while waiting or running:
            while waiting and free:
                place = free.pop()
                running[pool.submit(session.run, waiting.pop(0), place)] = place
            done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                free.add(running.pop(future))
                decision = decide(future.result())
                waiting.extend(decision.again)
                for result in decision.results:
                    results[result.case] = result
                    on_result(result)
    return [results.get(c.name) or Sanitized(c.name, MISSING, why="it was never run") for c in cases]


def decide(process: Ended) -> SanitizerVerdict:
    """Derive results from the events and the log of one process.

    A case's result is final if its reports are certainly its own. Otherwise the case runs again alone, since in a
    process with one case every report belongs to it. Each round leaves fewer cases or smaller groups, so the run ends.
    """
    decision = SanitizerVerdict()
    log, alone = process.log, len(process.cases) == 1
    if alone:
        (case,) = process.cases
        decision.results.append(_alone(case, process))
        return decision
    unbegun = tuple(c for c in process.cases if c.name not in process.begun)
    if not process.begun:
        why = _trouble(process)
        decision.results.extend(Sanitized(c.name, MISSING, why=why) for c in process.cases)
        return decision
    if unbegun:
        decision.again.append(unbegun)
    own = {name: _between(log, process.begun[name], at) for name, (at, _) in process.ended.items()}
    trusted = log.complete and sum(map(len, own.values())) == len(log.reports)
    for case in process.cases:
        if case.name not in process.begun:
            continue
        if own.get(case.name):
            decision.results.append(_result(case, process.ended[case.name][1], own[case.name]))
        elif case.name in own and trusted:
            decision.results.append(_result(case, process.ended[case.name][1], []))
        else:
            decision.again.append((case,))
    return decision


def _alone(case: Case, process: Ended) -> Sanitized:
    log = process.log
    if log.reports or log.errors:
        return _result(case, process.ended[case.name][1] if case.name in process.ended else None, log.reports, log)
    if case.name not in process.ended or log.errors is None or log.trouble:
        return Sanitized(case.name, MISSING, why=_trouble(process))
    return _result(case, process.ended[case.name][1], [])


def _result(
    case: Case, outcome: Outcome | None, reports: Sequence[SanitizerReport], log: Log | None = None
) -> Sanitized:
    why, known = "the process did not end well", False
    if outcome is not None:
        judged = judge(case, outcome, expectations.in_force(outcome.subject))
        why, known = judged.why, judged.expectation is not None
        if judged.expectation is not None:
            why = f"no report; a known defect: {judged.expectation.reason}"
    count = max(len(reports), log.errors or 0 if log is not None else 0)
    if count:
        shown = tuple(r.lines for r in reports[:_REPORTS])
        return Sanitized(case.name, FINDINGS, count, shown, why)
    assert outcome is not None
    if outcome.symptom is Symptom.REFUSED:
        return Sanitized(case.name, REFUSED, why=f"{outcome.stage}: {outcome.message}")
    return Sanitized(case.name, FAILED if why and not known else CLEAN, why=why)


def _between(log: Log, first: int, last: int) -> list[SanitizerReport]:
    return [r for r in log.reports if first <= r.offset < last]


def _trouble(process: Ended) -> str:
    if process.log.trouble:
        return f"compute-sanitizer: {process.log.trouble[0]}"
    summary = "" if process.log.errors is not None else "compute-sanitizer printed no summary; "
    return f"{summary}{process.how}"


class _Processes:
    """The running processes. On leaving the context all of them are killed, so that none outlives this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *unused: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                kill(process)

    @contextlib.contextmanager
    def started(self, command: Sequence[str], environment: Mapping[str, str], output: Any) -> Any:
        """A process in its own process group, which is killed on leaving the context."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the run has ended")
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                kill(process)
                self._running.discard(process)
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in its own session, and all processes that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class _Session:
    """The facts that all processes of one run share."""

    tool: str
    subject: str
    sanitizer: str
    vector_width: int | None
    time_limit: float
    folder: Path
    variables: Mapping[str, str]
    processes: _Processes

    def run(self, cases: tuple[Case, ...], place: int) -> Ended:
        """Run one process. `place` selects its ports and its GPU."""
        own = Path(tempfile.mkdtemp(dir=self.folder))
        log, events, output = own / "log", own / "events", own / "output"
        limit = _START + self.time_limit * len(cases)
        with (
            output.open("wb") as file,
            self.processes.started(self.command(cases, place, log, events), self.environment(place), file) as process,
        ):
            try:
                code = process.wait(limit)
                how = f"the process ended by signal {-code}" if code < 0 else f"the process ended with exit code {code}"
            except subprocess.TimeoutExpired:
                how = f"the process took more than {limit:.0f} s"
        said = " ".join(output.read_bytes().decode(errors="replace")[-_TAIL:].split())
        begun, ended = _events(events)
        text = log.read_bytes() if log.exists() else b""
        return Ended(cases, begun, ended, reading.parse(text), f"{how}: {said}" if said else how)

    def command(self, cases: tuple[Case, ...], place: int, log: Path, events: Path) -> list[str]:
        """The tool's command line."""
        extra: list[str] = []
        if self.tool == "memcheck":
            # An access error ends its kernel, not the CUDA context, so later cases keep running. Failing driver API
            # calls are not reported, since the caller may handle them. Padding separates adjacent allocations, so that
            # an overread does not land in the next one.
            extra = ["--destroy-on-device-error", "kernel", "--report-api-errors", "no", "--padding", "4096"]
        target = ["--subject", self.subject, "--events", str(events), "--log", str(log)]
        if self.tool == "memcheck":
            target.append("--tight")
        if self.vector_width is not None:
            target += ["--vector-width", str(self.vector_width)]
        return [
            self.sanitizer,
            *("--tool", self.tool),
            *("--target-processes", "all"),
            *("--error-exitcode", str(_ERROR_EXIT)),
            *("--show-backtrace", "device"),
            *("--print-limit", "1000"),
            *("--launch-timeout", "300"),
            *("--port", str(_FIRST_PORT + _PORTS * place)),
            *("--log-file", str(log)),
            *extra,
            *(sys.executable, "-m", "flexconf.sanitize.target", *target, *(c.name for c in cases)),
        ]

    def environment(self, place: int) -> dict[str, str]:
        """The environment variables: one allocation for each tensor, a GPU, and the run's compile caches."""
        gpu = devices.assign(place) if subjects.get(self.subject).needs_gpu else {}
        paths = os.pathsep.join(p for p in sys.path if p)
        return {
            **os.environ, **self.variables, **gpu,
            "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
            "PYTHONPATH": paths,
        }  # fmt: skip


def _events(path: Path) -> tuple[dict[str, int], dict[str, tuple[int, Outcome]]]:
    begun: dict[str, int] = {}
    ended: dict[str, tuple[int, Outcome]] = {}
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]  # a killed process can leave an incomplete last line
    for _, event in files.records(whole, path):
        if event["event"] == "begin":
            begun[event["case"]] = event["log"]
        else:
            ended[event["case"]] = (event["log"], Outcome.from_json(event["outcome"]))
    return begun, ended


def find(given: Path | None = None) -> str:
    """The path of compute-sanitizer: `given`, or the one on the PATH or in a CUDA toolkit.

    Raises InputError if none is found, or if `given` is not executable.
    """
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise InputError(f"{given} is not a program that can be run")
        return str(given)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(home) / "bin") for home in homes if home]
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))
    if found is None:
        raise InputError(
            "compute-sanitizer was not found on the PATH, in $CUDA_HOME/bin or in /usr/local/cuda/bin; it comes with "
            "NVIDIA's CUDA toolkit (package cuda-sanitizer), and --compute-sanitizer names it elsewhere"
        )
    return found


def default_cases() -> list[str]:
    """The case names in the catalogue's sanitize.txt."""
    return catalogue.listed("sanitize.txt")
