"""What a fuzzing run is asked to do."""

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
"""Of one round. After its first ten, Hypothesis makes five variations of each example, which rarely reach anything new:
rounds of 11 give three times as many distinct graphs an hour as rounds of 250."""


@dataclass(frozen=True)
class Plan:
    """A fuzzing run.

    `seconds` of generation, `workers` drivers; `time_limit` seconds an example, None for the subject's own.
    `shrink_seconds`: what making one failure smaller may take. `examples` a round. `stop_after`: end when the drivers
    together have so many new findings, None for never. `drawn`: strategies of cases and of vector widths, as
    "module:function", which tests put in the place of the subject's. `task` is what a worker runs. `check_repro`: run
    a finding's repro.py before it is kept. `refusals`: whether what is refused, other than by the eligibility rules, is
    a failure; None for "on the reference, which has to take all of L7".
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

    def counts_refusal(self, stage: Stage) -> bool:
        """Whether a refusal at `stage` counts as a failure.

        It does for the reference, except at compile or launch where the backend rejects some kernels, as flash-attn-4.
        """
        if self.refusals is not None:
            return self.refusals
        subject = subjects.get(self.subject)
        return subject.is_reference and not (subject.backend_refuses and stage in (Stage.COMPILE, Stage.LAUNCH))


def round_seed(seed: int, driver: int, turn: int) -> int:
    """The seed of a round, of (seed, driver, round)."""
    return random.Random(f"flexconf {seed}/{driver}/{turn}").getrandbits(64) ^ zlib.crc32(b"round")


class Runs(Protocol):
    """Where an example is run: an `Isolated`, or a stand-in in tests."""

    def run(self, case: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome: ...
