"""Runs cases on a subject in isolated workers, and sums up the results."""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexconf import subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import caches, files
from flexconf.runs.judging import Result, judge
from flexconf.subjects import Subject
from flexconf.verdict.outcome import Outcome, missing
from flexconf.workers import pool
from flexconf.workers.pool import Lost
from flexconf.workers.tasks import CaseTask, of_lost, prepare_worker, run_task

if TYPE_CHECKING:
    from flexconf.runs.expectations import Expectation
    from flexconf.subjects.trial import Options

TIMED = ("inputs", "trace", "eligibility", "render", "compile", "launch", "oracle", "output")


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    `not_asked` is the number of cases that state what the reference must refuse, if the subject is not a reference
    subject. `elements` is the number of elements that were compared; `excluded` elements and `excluded_rows` rows were
    not. `worst` is the largest ratio of error to bound, and `worst_at` says where it is. `median` is the median over
    cases of their largest ratios. `failures` counts failures by "stage/symptom", and `known` counts the outcomes that
    an expectation explains; elements, rows and ratios leave these outcomes out. `seconds` is wall time. `stage_medians`
    has the median seconds of each stage, and `case_median` is the median of whole cases, each in one worker.
    `capability` is the compute capability that was asked for; None for the subject's own choice.
    """

    subject: str
    cases: int
    not_asked: int
    passed: int
    refused_as_expected: int
    failures: dict[str, int]
    known: dict[str, int]
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
    capability: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every case passed. The verdict of each case already requires that enough elements were compared."""
        return self.passed == self.cases > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. A figure is null if no case gave a value for it. An infinite one is the string "inf".

        The key `capability` is there only if one was asked for.
        """
        plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        plain = {k: str(v) if v in (math.inf, -math.inf) else v for k, v in plain.items()}
        if self.capability is None:
            del plain["capability"]
        return {**plain, "ok": self.ok}


def run(
    cases: Sequence[Case],
    *,
    subject: str | Subject = "reference.host",
    workers: int | None = None,
    options: Options | None = None,
    time_limit: float | None = None,
    results: Path | None = None,
    expectations: Sequence[Expectation] = (),
    on_result: Callable[[Result], None] = lambda result: None,
) -> Summary:
    """Runs `cases` and returns the summary. Calls `on_result` with each result as it comes.

    `workers` is by default the number of CPUs. `time_limit` is in seconds per case; by default it is 60 for a subject
    on the CPU, and 180 otherwise. `results` names a new file that receives one JSON line when a case ends.
    `expectations` are the known defects in force. Raises InputError if there are no cases, if none of them is for this
    subject, if two cases have the same name, if the subject is unknown, cannot run here or does not have the options,
    if the results file exists or cannot be written, or if a worker cannot start.
    """
    if not cases:
        raise InputError("no cases to run; `flexconf cases` lists what there is")
    what = subjects.require(subject)
    tampering.announce()
    what.check(options)
    twice = [name for name, n in Counter(c.name for c in cases).items() if n > 1]
    if twice:
        raise InputError(f"two cases are named {twice[0]!r}")
    asked = [case for case in cases if case.expect == "ok" or what.is_reference]
    if not asked:
        raise InputError(f"these cases state what the reference must refuse, which is not asked of {what.name}")
    stream = _Stream(results) if results is not None else None
    workers = workers or pool.default_workers()
    tasks = [CaseTask(case, what, options) for case in asked]
    collected: dict[str, Result] = {}
    started = time.perf_counter()

    def take(task: CaseTask, ended: Outcome | Lost) -> None:
        outcome = of_lost(task, ended) if isinstance(ended, Lost) else ended
        result = judge(task.case, outcome, expectations)
        collected[task.case.name] = result
        if stream is not None:
            stream.write(outcome)
        on_result(result)

    try:
        with caches.fresh() as variables:
            pool.run_many(
                tasks,
                run_task,
                workers=workers,
                time_limit=time_limit or what.time_limit,
                on_result=take,
                prepare=functools.partial(prepare_worker, what),
                environments=what.environments(workers, variables),
            )
    finally:
        if stream is not None:
            stream.close()
    for case in asked:
        if case.name not in collected:
            lost = missing(case.name, case.digest(), tampering.labelled(what.name), "the case was never run")
            collected[case.name] = judge(case, lost)
    seconds = time.perf_counter() - started
    return summarize(
        [collected[c.name] for c in asked],
        tampering.labelled(what.name),
        workers,
        seconds,
        len(cases) - len(asked),
        options.capability if options is not None else None,
    )


class _Stream:
    """A new file of JSON lines. Each write completes a line, so a run that is killed leaves all results so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except FileExistsError:
            raise InputError(f"{path} exists; name a new file, so that two runs are never mixed") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, outcome: Outcome) -> None:
        """Appends one outcome. Raises InputError if it cannot be written."""
        record = json.dumps(outcome.to_json(), sort_keys=True).encode() + b"\n"
        files.append(self._file, record, self._path, "make room, and name a new file")

    def close(self) -> None:
        os.close(self._file)


def summarize(
    results: Sequence[Result],
    subject: str,
    workers: int,
    seconds: float,
    not_asked: int = 0,
    capability: str | None = None,
) -> Summary:
    """The summary of a run with these results."""
    # The comparison of a known defect says nothing about the other cases.
    comparisons = [(r.case.name, r.outcome.comparison) for r in results if r.outcome.comparison and not r.expectation]
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
        not_asked=not_asked,
        passed=sum(r.passed for r in results),
        refused_as_expected=sum(r.passed and r.case.expect != "ok" for r in results),
        failures=_count(r.outcome for r in results if not r.passed),
        known=_count(r.outcome for r in results if r.expectation is not None),
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
        capability=capability,
    )


def _count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(sorted(Counter(f"{o.stage}/{o.symptom}" for o in outcomes).items()))
