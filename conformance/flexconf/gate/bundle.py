"""A bundle: the results of the gate's list in one environment, as a folder. `flexconf gate record` writes it.

    plan.json       written first: format, label, begun (UTC), options, the environment, the cases with their digests,
                    the subjects, and why a subject cannot run here (`skips`)
    results.jsonl   one line for each attempt, appended in one write when it ends: {"attempt": n, "outcome": {...}}
    outputs/        CASE.SUBJECT.safetensors: `rows` (n, 3) int32 of (b, h, m), `out` (n, Dv) and `lse` (n,) as computed
    evidence/       CASE.SUBJECT.json: the `Evidence` of a failure
    kernels.json    {SHA-256 of a rendered text: the text}
    logs/           the output of workers that died
    bundle.json     written last, atomically: {"format", "complete": true, "files": {path: sha256}}. Its own SHA-256 is
                    the bundle's digest. `flexconf gate shrink` writes a small form without outputs and logs, and with
                    the kernels of failures only. There "shrunk" is the digest of the full bundle.

Without `bundle.json` the bundle is unfinished. `record` continues an unfinished bundle when it is given its folder.
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
    """One case of the gate's list, as plan.json states it. `group` is its clause group, such as "L7"."""

    case: str
    digest: str
    group: str
    about: str
    clauses: tuple[str, ...]
    expect: str


@dataclass(frozen=True)
class BundleRecord:
    """One case on one subject. `attempts` are the outcomes of its attempts in order; there is at least one."""

    attempts: tuple[Outcome, ...]
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory. `problems` say what is wrong with it as a whole: unfinished, truncated, edited, dirty.

    `skips` maps a subject to why it could not run. `records` are by (case, subject). `rows(case, subject)` returns the
    kept `rows`, `out` and `lse`, or None if nothing is kept. `options` are those of the recording.
    """

    side: Side
    cases: tuple[Planned, ...]
    subjects: tuple[str, ...]
    skips: Mapping[str, str]
    records: Mapping[tuple[str, str], BundleRecord]
    problems: tuple[str, ...] = ()
    rows: Callable[[str, str], Mapping[str, Tensor] | None] = lambda case, subject: None
    options: Mapping[str, Any] = field(default_factory=dict)
