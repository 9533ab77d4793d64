"""Run cases on a subject in isolated workers, and sum up."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexconf import worker
from flexconf.case import Case
from flexconf.errors import InputError
from flexconf.outcome import Outcome, Stage, Symptom, missing
from flexconf.worker import Lost, Report

SUBJECTS = ("reference.host",)
TIMED = ("inputs", "trace", "eligibility", "render", "compile", "launch", "oracle", "output")


@dataclass(frozen=True)
class CaseTask:
    """One case on one subject, as it travels to a worker."""

    case: Case
    subject: str
    vector_width: int | None


@dataclass(frozen=True)
class Result:
    """An outcome held against what its case expects; `passed` is the verdict and `why` explains a failure."""

    case: Case
    outcome: Outcome
    passed: bool
    why: str


@dataclass(frozen=True)
class Summary:
    """All of a run.

    `elements` were compared and `excluded` were not, with their `excluded_rows`. `worst` is the largest ratio of error
    to bound and `worst_at` where; `median` the median over cases of their largest ratios. `failures` counts
    "stage/symptom". `seconds` is wall time; `stage_medians` the median seconds of each stage, and `case_median` of
    whole cases, in one worker.
    """

    subject: str
    cases: int
    passed: int
    refused_as_expected: int
    failures: dict[str, int]
    elements: int
    excluded: int
    excluded_rows: int
    worst: float
    worst_at: str
    median: float
    seconds: float
    workers: int
    stage_medians: dict[str, float]
    case_median: float

    @property
    def ok(self) -> bool:
        """Whether every case passed. That a case compared something is its own verdict's business."""
        return self.passed == self.cases > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null for a figure that no case gave."""
        plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        return {**plain, "ok": self.ok}


def run(
    cases: Sequence[Case],
    *,
    subject: str = "reference.host",
    workers: int | None = None,
    vector_width: int | None = None,
    time_limit: float = worker.DEFAULT_TIME_LIMIT,
    results: Path | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Summary:
    """Run `cases` and return the summary; `on_result` sees each result as it comes.

    `results` names a file that receives one JSON line a case as it ends. Raises InputError for no cases, an unknown
    subject, two cases of one name, or a results file that exists or cannot be made.
    """
    if not cases:
        raise InputError("no cases to run; `flexconf cases` lists what there is")
    if subject not in SUBJECTS:
        raise InputError(f"unknown subject {subject!r}; there are {', '.join(SUBJECTS)}")
    twice = [name for name, n in Counter(c.name for c in cases).items() if n > 1]
    if twice:
        raise InputError(f"two cases are named {twice[0]!r}")
    stream = _Stream(results) if results is not None else None
    workers = workers or worker.default_workers()
    tasks = [CaseTask(case, subject, vector_width) for case in cases]
    collected: dict[str, Result] = {}
    started = time.perf_counter()

    def take(task: CaseTask, ended: Outcome | Lost) -> None:
        outcome = of_lost(task, ended) if isinstance(ended, Lost) else ended
        result = judge(task.case, outcome)
        collected[task.case.name] = result
        if stream is not None:
            stream.write(outcome)
        on_result(result)

    try:
        worker.run_many(tasks, run_task, workers=workers, time_limit=time_limit, on_result=take, prepare=prepare_worker)
    finally:
        if stream is not None:
            stream.close()
    for case in cases:
        if case.name not in collected:
            lost = missing(case.name, case.digest(), subject, "the case was never run")
            collected[case.name] = judge(case, lost)
    return summarize([collected[c.name] for c in cases], subject, workers, time.perf_counter() - started)


class _Stream:
    """A new file of JSON lines, whole after every write, so that a run that is killed leaves what it has."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError:
            raise InputError(f"{path} exists; name a new file, so that two runs are never mixed") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, outcome: Outcome) -> None:
        """Append one outcome, in one system call."""
        os.write(self._file, json.dumps(outcome.to_json(), sort_keys=True).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def prepare_worker() -> None:
    """Import what every case needs, once a worker; one thread each, since workers share the cores."""
    from flexconf.subjects import reference

    reference.single_threaded()


def run_task(task: CaseTask, report: Report) -> Outcome:
    """In the worker: one case."""
    from flexconf.subjects import reference

    return reference.run_case(task.case, task.subject, task.vector_width, report)


def of_lost(task: CaseTask, lost: Lost) -> Outcome:
    """The outcome of a case whose worker gave no result."""
    symptom = Symptom.TIMEOUT if lost.kind == "timeout" else Symptom.CRASH
    if worker.is_illegal_access(lost):
        symptom = Symptom.ILLEGAL_ACCESS
    if isinstance(lost.error, InputError):
        symptom = Symptom.MISSING
    # Making inputs comes before the first stage, the oracle after the launch.
    stages = {**{str(s): s for s in Stage}, "oracle": Stage.OUTPUT}
    stage = stages.get(lost.stage, Stage.TRACE)
    message = worker.describe(lost)
    return Outcome(task.case.name, task.case.digest(), task.subject, stage, symptom, message)


def judge(case: Case, outcome: Outcome) -> Result:
    """Hold an outcome against `case.expect`."""
    at = f"{outcome.stage}: {outcome.symptom}"
    if case.expect == "ok":
        why = "" if outcome.ok else f"{at}: {outcome.message}"
        return Result(case, outcome, outcome.ok, why)
    stage = case.expect.removeprefix("refused:")
    if outcome.symptom is not Symptom.REFUSED or outcome.stage != stage:
        return Result(case, outcome, False, f"expected {case.expect}, but {at}: {outcome.message}")
    if case.reason_contains and case.reason_contains not in outcome.message:
        wanted = f"expected a refusal that says {case.reason_contains!r}, but it says: {outcome.message}"
        return Result(case, outcome, False, wanted)
    return Result(case, outcome, True, "")


def summarize(results: Sequence[Result], subject: str, workers: int, seconds: float) -> Summary:
    """The figures of a run."""
    comparisons = [(r.case.name, r.outcome.comparison) for r in results if r.outcome.comparison]
    ratios = [(float(c["max_ratio"]), name, c.get("worst")) for name, c in comparisons if c["elements"]]
    worst, worst_at = 0.0, "nothing compared"
    if ratios:
        worst, name, where = max(ratios, key=lambda r: -math.inf if math.isnan(r[0]) else r[0])
        worst_at = f"{name} {where['tensor']}{list(where['index'])}" if where else name
    timed = [r.outcome.timings for r in results if r.outcome.comparison]
    # A stage that a case does not have (a mod that renders as None compiles nothing) took no time.
    medians = {s: statistics.median(t.get(s, 0.0) for t in timed) for s in TIMED} if timed else {}
    return Summary(
        subject=subject,
        cases=len(results),
        passed=sum(r.passed for r in results),
        refused_as_expected=sum(r.passed and r.case.expect != "ok" for r in results),
        failures=dict(
            sorted(Counter(f"{r.outcome.stage}/{r.outcome.symptom}" for r in results if not r.passed).items())
        ),
        elements=sum(int(c["elements"]) for _, c in comparisons),
        excluded=sum(int(c["excluded_elements"]) for _, c in comparisons),
        excluded_rows=sum(int(c["excluded_rows"]) for _, c in comparisons),
        worst=worst,
        worst_at=worst_at,
        median=statistics.median(r[0] for r in ratios) if ratios else math.nan,
        seconds=seconds,
        workers=workers,
        stage_medians=medians,
        case_median=statistics.median(sum(t.values()) for t in timed) if timed else math.nan,
    )
