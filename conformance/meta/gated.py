"""What the tests of recording run: attempts that are made up, at once. Importable by workers."""

from __future__ import annotations

import hashlib
import time

import torch

from flexconf.gate.attempt import Attempt, Attempted, save_rows
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers.pool import Report


def nothing(subject: str) -> None:
    """Nothing to prepare."""


def right(what: Attempt, report: Report) -> Attempted:
    """Right, always with the same bits."""
    time.sleep(0.03)
    return _made(what, what.task.case.name)


def flaky(what: Attempt, report: Report) -> Attempted:
    """Right, with bits of its own in every attempt at `alibi`."""
    return _made(what, f"{what.task.case.name}{what.number if what.task.case.name == 'alibi' else ''}")


def once_wrong(what: Attempt, report: Report) -> Attempted:
    """Wrong in the first attempt at `causal` alone."""
    return _made(what, what.task.case.name, wrong=what.task.case.name == "causal" and what.number == 1)


def _made(what: Attempt, bits: str, wrong: bool = False) -> Attempted:
    case = what.task.case
    digest = hashlib.sha256(bits.encode()).hexdigest()
    value = float(int(digest[:4], 16))
    if what.rows is not None:
        save_rows(what.rows, {"out": torch.full((1, 2, 3, 4), value), "lse": torch.full((1, 2, 3), value)})
    timed = what.task.options.timed if what.task.options is not None else 0
    outcome = Outcome(
        case.name,
        case.digest(),
        what.task.subject.name,
        Stage.OUTPUT,
        Symptom.WRONG if wrong else Symptom.OK,
        "made up",
        {"elements": 24, "max_ratio": 0.5},
        digests={"out": digest, "lse": digest},
        launches=(0.001,) * timed,
    )
    return Attempted(outcome, {"out": {"beyond": 1, "compared": 24, "heads": []}} if wrong else None)
