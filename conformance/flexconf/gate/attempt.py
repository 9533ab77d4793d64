"""One attempt at a case in a worker: its outcome, the rows that the bundle keeps, and a map of the wrong elements."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from flexconf import inputs
from flexconf.cases.case import Case
from flexconf.golden import entry
from flexconf.machine.files import replacing
from flexconf.subjects import saved, trial
from flexconf.verdict import mismatch
from flexconf.verdict.outcome import Outcome
from flexconf.workers.pool import Last, Report
from flexconf.workers.tasks import CaseTask, run_task

ROWS = 64
"""The most rows of a case's output and LSE that a bundle keeps. They are spread evenly over (b, h, m)."""
_WORST = 20


@dataclass(frozen=True)
class Attempt:
    """One attempt, as it is sent to a worker. `rows` is the file to write its rows to, None to keep no rows."""

    task: CaseTask
    number: int
    rows: Path | None = None


@dataclass(frozen=True)
class Attempted:
    """The result of an attempt. `map` and `worst` describe a wrong result, as in `gate.model.Evidence`."""

    outcome: Outcome
    map: Mapping[str, Any] | None = None
    worst: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Rendering:
    """A request for the text that `subject` has the lowering render for `case`."""

    case: Case
    subject: str


def attempt(what: Attempt, report: Report) -> Attempted | Last[Attempted]:
    """Run a case, keep its rows, and locate its wrong elements."""
    with tempfile.TemporaryDirectory(prefix="flexconf-") as folder:
        ended = run_task(replace(what.task, keep=Path(folder)), report)
        outcome = ended.result if isinstance(ended, Last) else ended
        attempted = examined(what, outcome, Path(folder))
    return Last(attempted) if isinstance(ended, Last) else attempted


def examined(what: Attempt, outcome: Outcome, folder: Path) -> Attempted:
    """Write the rows of an outcome, and add the map and the worst elements. Its tensors, if any, are in `folder`."""
    case = what.task.case
    if not saved.path(folder, case.name, outcome.subject).is_file():
        return Attempted(outcome)
    observed = saved.load(folder, case.name, outcome.subject)
    if what.rows is not None:
        save_rows(what.rows, observed)
    if outcome.ok:
        return Attempted(outcome)
    try:
        certified = trial.certify(inputs.materialize(case), what.task.options or trial.Options())
        found = mismatch.of(observed, certified)
    except Exception:  # if the oracle fails, the outcome already says so
        return Attempted(outcome)
    shown = {
        name: {"beyond": beyond, "compared": compared, "heads": found.map[name]}
        for name, (beyond, compared) in found.counts.items()
    }
    return Attempted(outcome, shown, found.worst[:_WORST])


def save_rows(path: Path, observed: Mapping[str, Tensor]) -> None:
    """Write `rows` (n, 3) int32, and `out` (n, Dv) and `lse` (n,) if they were observed, atomically."""
    shape = next(t.shape[:3] for t in observed.values())
    rows = entry.sampled(shape, ROWS)
    b, h, m = (rows[:, n].long() for n in range(3))
    found = {"rows": rows}
    # A tensor of another (B, H, M) is a failure already, and does not have these rows.
    found |= {name: t[b, h, m].contiguous() for name, t in observed.items() if t.shape[:3] == shape}
    with replacing(path) as partial:
        save_file(found, partial)


def render(what: Rendering, report: Report) -> str:
    """The text that the reference lowering renders for one of its subjects. Nothing is compiled."""
    import flexflash
    from flexflash import eligibility

    profiles = {"reference.fa4": eligibility.FLASH_ATTN_4, "reference.simt": eligibility.SIMT}
    given = inputs.materialize(what.case)
    profile = profiles.get(what.subject, eligibility.HOST)
    kernel = flexflash.lower(
        given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, {}, profile=profile, on_stage=report
    )
    return kernel.text
