"""A bundle: all that one environment made of the gate's list, as a folder. `flexconf gate record` writes it.

    plan.json       written first: format, label, begun (UTC), options, the environment, the cases with their digests,
                    the subjects, and why a subject is not asked here (`skips`)
    results.jsonl   one line an attempt, appended in one write as it ends: {"attempt": n, "outcome": {...}}
    outputs/        CASE.SUBJECT.safetensors: `rows` (n, 3) int32 of (b, h, m), `out` (n, Dv) and `lse` (n,) as computed
    evidence/       CASE.SUBJECT.json: what `Evidence` holds of a failure
    kernels.json    {SHA-256 of a rendered text: the text}
    logs/           what workers wrote before they died
    bundle.json     written last, atomically: {"format", "complete": true, "files": {path: sha256}}; its own SHA-256 is
                    the bundle's digest. In a small form (`flexconf gate shrink`), which has no outputs and no logs and
                    of the kernels only those of failures, "shrunk" is the digest of the bundle that it was

Until `bundle.json` is there the bundle is unfinished, and `record` with the same folder goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from flexconf.gate.model import Evidence, Side
from flexconf.verdict.outcome import Outcome

FORMAT = 1


@dataclass(frozen=True)
class Planned:
    """One case of the gate's list, as the plan has it. `group` is its clause group, such as "L7"."""

    case: str
    digest: str
    group: str
    about: str
    clauses: tuple[str, ...]
    expect: str


@dataclass(frozen=True)
class Record:
    """One case on one subject: every attempt's outcome, in order, never empty."""

    attempts: tuple[Outcome, ...]
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class Bundle:
    """A bundle, read. `problems` say what is wrong with it as a whole: unfinished, truncated, edited, dirty.

    `skips` maps a subject to why it could not be asked. `records` are by (case, subject). `rows` gives the kept
    `rows`, `out` and `lse` of a case on a subject, None where nothing is kept. `options` are those of the recording.
    """

    side: Side
    cases: tuple[Planned, ...]
    subjects: tuple[str, ...]
    skips: Mapping[str, str]
    records: Mapping[tuple[str, str], Record]
    problems: tuple[str, ...] = ()
    rows: Callable[[str, str], Mapping[str, Tensor] | None] = lambda case, subject: None
    options: Mapping[str, Any] = field(default_factory=dict)
