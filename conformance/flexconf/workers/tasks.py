"""One case on one subject as a task of a worker: how the worker is prepared, and which outcome a lost one comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexconf import subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import devices
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Last, Lost, Report

if TYPE_CHECKING:
    from flexconf.subjects.trial import Options

GPU_TIME_LIMIT = 180.0
"""Seconds for a case on a GPU, whose kernel several processes may be compiling at once."""


@dataclass(frozen=True)
class CaseTask:
    """One case on one subject, as it travels to a worker; `options` None for the defaults, `keep` as in `run_case`."""

    case: Case
    subject: str
    options: Options | None = None
    keep: Path | None = None


def limit_for(subject: str) -> float:
    """Seconds that a case may take on `subject`, unless the user says otherwise."""
    return pool.DEFAULT_TIME_LIMIT if subjects.get(subject).device == "cpu" else GPU_TIME_LIMIT


def environments(subject: str, workers: int, variables: Mapping[str, str]) -> list[dict[str, str]]:
    """What each worker is started with: the run's compile caches, and one GPU, chosen round robin."""
    if subjects.get(subject).device == "cpu":
        return [dict(variables)]
    return [{**variables, **devices.assign(place)} for place in range(workers)]


def prepare_worker(subject: str = "reference.host") -> None:
    """Import what every case needs, once a worker; one thread each, since workers share the cores.

    The planted fault that FLEXCONF_PLANT names is switched on for the worker's life.
    """
    from flexconf.subjects import trial

    trial.single_threaded()
    subjects.get(subject).load()
    tampering.from_environment()
    tampering.revert_from_environment()


def run_task(task: CaseTask, report: Report) -> Outcome | Last[Outcome]:
    """In the worker: one case. A process whose CUDA context is broken is not used again."""
    from flexconf.subjects import trial

    outcome = subjects.get(task.subject).run(task.case, task.options, report, task.keep)
    return Last(outcome) if trial.is_broken() else outcome


def of_lost(task: CaseTask, lost: Lost) -> Outcome:
    """The outcome of a case whose worker gave no result."""
    symptom = Symptom.TIMEOUT if lost.kind == "timeout" else Symptom.CRASH
    if pool.is_illegal_access(lost):
        symptom = Symptom.ILLEGAL_ACCESS
    if isinstance(lost.error, InputError):
        symptom = Symptom.MISSING
    # Making inputs and a bad input come before the first stage.
    stages = {**{str(s): s for s in Stage}, "oracle": Stage.OUTPUT}
    stage = Stage.TRACE if symptom is Symptom.MISSING else stages.get(lost.stage, Stage.TRACE)
    message = pool.describe(replace(lost, how="InputError") if isinstance(lost.error, InputError) else lost)
    subject = tampering.labelled(task.subject)
    return Outcome(task.case.name, task.case.digest(), subject, stage, symptom, message)
