"""The settings of a fuzzing run."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flexconf import subjects
from flexconf.cases.case import Case
from flexconf.verdict.outcome import Outcome, Stage
from flexconf.workers.tasks import run_task

if TYPE_CHECKING:
    from flexconf.workers.isolated import Task

SHRINK_SECONDS = 60.0
EXAMPLES = 11
"""Examples per round. After the first ten, Hypothesis makes five variations of each example, which rarely reach
anything new: rounds of 11 give three times as many distinct graphs per hour as rounds of 250."""


@dataclass(frozen=True)
class Plan:
    """The settings of a fuzzing run.

    `seconds` limits generation. `workers` is the number of drivers. `time_limit` is in seconds per example; None takes
    the subject's limit. `shrink_seconds` limits the shrinking of one failure. `examples` are per round. The run ends
    early when the drivers together have `stop_after` new findings; None means never. `drawn` names strategies of cases
    and of vector widths as "module:function"; tests use it to replace the subject's strategies. `task` is the function
    that a worker runs. With `check_repro`, a finding's repro.py is run before the finding is kept. `refusals` says
    whether a refusal counts as a failure, except one by the eligibility rules. None means: on reference subjects only
    (`counts_refusal`), because they must take everything in L7. `capability` is that of the subject's options; a run
    for another one than the subject's own choice looks for what is wrong for this one alone.
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
    drawn: tuple[str | None, str | None] = (None, None)
    task: Task = run_task
    check_repro: bool = True
    refusals: bool | None = None
    capability: str | None = None

    def counts_refusal(self, stage: Stage) -> bool:
        """Whether a refusal at `stage` counts as a failure.

        It does for reference subjects, except at compile or launch of a subject whose backend rejects some kernels,
        such as flash-attn-4. `refusals`, if set, overrides this.
        """
        if self.refusals is not None:
            return self.refusals
        subject = subjects.get(self.subject)
        return subject.is_reference and not (subject.backend_refuses and stage in (Stage.COMPILE, Stage.LAUNCH))


def round_seed(seed: int, driver: int, turn: int) -> int:
    """The seed of round `turn` of a driver."""
    return random.Random(f"flexconf {seed}/{driver}/{turn}").getrandbits(64) ^ zlib.crc32(b"round")


class Runs(Protocol):
    """Runs an example: an `Isolated`, or a stand-in in tests."""

    def run(self, case: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome: ...
