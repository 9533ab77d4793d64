"""One case on one subject as a task of a worker: preparing the worker, running the case, the outcome of a lost task."""

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
"""Seconds for a case on a GPU. It is long, since several processes may compile kernels at once."""


@dataclass(frozen=True)
class CaseTask:
    """One case on one subject, as it is sent to a worker.

    If `options` is None, the defaults apply. `keep` is as in `run_case`.
    """

    case: Case
    subject: str
    options: Options | None = None
    keep: Path | None = None


def limit_for(subject: str) -> float:
    """The default time limit of a case on `subject`, in seconds. Raises InputError if the subject is unknown."""
    return pool.DEFAULT_TIME_LIMIT if subjects.get(subject).device == "cpu" else GPU_TIME_LIMIT


def environments(subject: str, workers: int, variables: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment variables that each worker starts with.

    They are `variables` (the run's compile caches), and one GPU, chosen round robin. A subject that runs on a CPU only
    gets no GPU; the list then has one entry, which all workers share.
    """
    if subjects.get(subject).device == "cpu":
        return [dict(variables)]
    return [{**variables, **devices.assign(place)} for place in range(workers)]


def prepare_worker(subject: str = "reference.host") -> None:
    """Prepares a new worker: imports the modules that every case on `subject` needs, and limits torch to one thread.

    Switches on the planted fault that FLEXCONF_PLANT names, and puts back the defects that FLEXFLASH_REVERT names, for
    the life of the worker. Raises InputError if the subject, the fault or a defect is unknown.
    """
    from flexconf.subjects import trial

    trial.single_threaded()
    subjects.get(subject).load()
    tampering.from_environment()
    tampering.revert_from_environment()


def run_task(task: CaseTask, report: Report) -> Outcome | Last[Outcome]:
    """Runs one case, in the worker. Returns a Last if the CUDA context is broken, so that the process ends."""
    from flexconf.subjects import trial

    outcome = subjects.get(task.subject).run(task.case, task.options, report, task.keep)
    return Last(outcome) if trial.is_broken() else outcome


def of_lost(task: CaseTask, lost: Lost) -> Outcome:
    """The outcome of a case whose task ended without a result."""
    symptom = Symptom.TIMEOUT if lost.kind == "timeout" else Symptom.CRASH
    if pool.is_illegal_access(lost):
        symptom = Symptom.ILLEGAL_ACCESS
    if isinstance(lost.error, InputError):
        symptom = Symptom.MISSING
    # Inputs are made, and a bad input is found, before the first stage.
    stages = {**{str(s): s for s in Stage}, "oracle": Stage.OUTPUT}
    stage = Stage.TRACE if symptom is Symptom.MISSING else stages.get(lost.stage, Stage.TRACE)
    message = pool.describe(replace(lost, how="InputError") if isinstance(lost.error, InputError) else lost)
    subject = tampering.labelled(task.subject)
    return Outcome(task.case.name, task.case.digest(), subject, stage, symptom, message)
