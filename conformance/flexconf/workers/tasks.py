"""One case on one subject as a task of a worker: preparing the worker, running the case, the outcome of a lost task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexconf import tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.subjects import Subject
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Last, Lost, Report

if TYPE_CHECKING:
    from flexconf.subjects.trial import Options


@dataclass(frozen=True)
class CaseTask:
    """One case on one subject, as it is sent to a worker.

    If `options` is None, the defaults apply. `keep` is as in `run_case`.
    """

    case: Case
    subject: Subject
    options: Options | None = None
    keep: Path | None = None


def prepare_worker(subject: Subject) -> None:
    """Prepares a new worker: imports the modules that every case on `subject` needs, and limits torch to one thread.

    Switches on the planted fault that FLEXCONF_PLANT names, and puts back the defects that FLEXFLASH_REVERT names, for
    the life of the worker. Raises InputError if the fault or a defect is unknown.
    """
    from flexconf.subjects import trial

    trial.single_threaded()
    subject.load()
    tampering.from_environment()
    tampering.revert_from_environment()


def run_task(task: CaseTask, report: Report) -> Outcome | Last[Outcome]:
    """Runs one case, in the worker. Returns a Last if the CUDA context is broken, so that the process ends."""
    from flexconf.subjects import trial

    outcome = task.subject.run(task.case, task.options, report, task.keep)
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
    subject = tampering.labelled(task.subject.name)
    capability = task.options.capability if task.options is not None else None
    return Outcome(task.case.name, task.case.digest(), subject, stage, symptom, message, capability=capability)
