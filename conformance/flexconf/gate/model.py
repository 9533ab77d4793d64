"""What the release gate says: one row for each case and subject, and a verdict over all of them. Data only.

`compare.py` makes a Decision from two bundles; `flexconf.gate.report` shows one. Neither knows the other.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from flexconf.verdict.outcome import Outcome


class Verdict(enum.StrEnum):
    """Is the candidate fit to ship? INCONCLUSIVE where the bundles do not suffice to say."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Change(enum.StrEnum):
    """What became of one case on one subject between baseline and candidate."""

    IDENTICAL = "identical"  # right in both, with the same bits; or refused in both, as expected
    DRIFT = "drift"  # right in both, with other bits
    FIXED = "fixed"  # failed in the baseline, right in the candidate
    KNOWN = "known defect"  # fails as cases/expectations says of the candidate's versions
    WRONG = "out of bound"  # newly wrong: an element beyond its bound, NaN, a wrong LSE
    REFUSED = "new refusal"
    CRASHED = "new crash"  # a crash, an illegal access, a hang, out of memory
    STILL = "still failing"  # failed in both, and nothing explains it
    FLAKY = "flaky"  # repeats in one bundle do not agree
    ACCEPTED = "wrongly accepted"  # the reference must refuse the case, and the candidate ran it
    MISSING = "missing"  # no result in one of the bundles
    SKIPPED = "skipped"  # the subject could not run there, and the reason is recorded


class Effect(enum.StrEnum):
    """What a row does to the verdict."""

    FINE = "fine"
    FAILS = "fails"
    OPEN = "open"  # makes the verdict INCONCLUSIVE, unless something fails


@dataclass(frozen=True)
class Drift:
    """How far two right results lie apart, over the rows that bundles keep.

    `elements` of the output were compared, of which `differing` have other bits; `max_ulp` is the largest distance in
    units in the last place of the output's dtype, `at` its index. `max_ratio` are the largest ratios of error to bound,
    over all elements, in baseline and candidate.
    """

    elements: int
    differing: int
    max_ulp: float
    at: tuple[int, ...]
    max_ratio: tuple[float, float]


@dataclass(frozen=True)
class Pace:
    """Seconds of a launch: medians over the bundles' samples; `ratio` is candidate / baseline.

    `noise` is the relative spread of the samples (the larger of the two bundles'). `slower`: the ratio is beyond what
    the gate allows and beyond the noise.
    """

    baseline: float
    candidate: float
    ratio: float
    noise: float
    samples: int
    slower: bool


@dataclass(frozen=True)
class Evidence:
    """What a bundle holds of a failure. "" or None where it has nothing.

    `layer` and `sentence` are the attribution; `kernel` the rendered text; `repro` a standalone script. `map` shows
    where a result is wrong: {tensor: {"beyond": n, "compared": n, "heads": [{"b", "h", "rows", "columns", "cells"}]}},
    `cells` being a list of lists of the number of elements beyond their bound, for a head of `rows` x `columns`
    elements. `worst` are the worst elements, as in `Mismatch`; `log` the end of the worker's stderr.
    """

    layer: str = ""
    sentence: str = ""
    kernel: str = ""
    repro: str = ""
    map: Mapping[str, object] | None = None
    worst: tuple[Mapping[str, object], ...] = ()
    log: str = ""


@dataclass(frozen=True)
class Row:
    """One case on one subject.

    `group` is the clause group of the case, such as "L7". `why` is one sentence. `suspects` are the components that
    differ between the environments and can have caused it. `waiver` is the reason of the waiver that excuses it, "" for
    none: a waived row is fine, whatever its change.
    """

    case: str
    subject: str
    group: str
    change: Change
    effect: Effect
    why: str
    baseline: Outcome | None = None
    candidate: Outcome | None = None
    drift: Drift | None = None
    pace: Pace | None = None
    suspects: tuple[str, ...] = ()
    waiver: str = ""
    evidence: Evidence = field(default_factory=Evidence)
    about: str = ""
    clauses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Component:
    """A part of the environment, such as "driver", before and after; "" where it is absent."""

    name: str
    before: str
    after: str

    @property
    def differs(self) -> bool:
        """Whether it changed."""
        return self.before != self.after


@dataclass(frozen=True)
class Side:
    """One of the bundles: where it lay, what its maker calls it, when it was begun (UTC, ISO 8601), its digest."""

    path: str
    label: str
    recorded: str
    digest: str
    environment: Mapping[str, object]
    results: int


@dataclass(frozen=True)
class WaiverUse:
    """A waiver, and what it did here: `state` is "used", "stale", "expired" or "not in scope"."""

    name: str
    reason: str
    link: str
    expires: str
    state: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The gate's answer. `reasons` are sentences, the gravest first; never empty."""

    verdict: Verdict
    reasons: tuple[str, ...]
    baseline: Side
    candidate: Side
    components: tuple[Component, ...]
    rows: tuple[Row, ...]
    waivers: tuple[WaiverUse, ...] = ()
    elements: int = 0
    pace: Pace | None = None

    @property
    def exit_code(self) -> int:
        """0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}[self.verdict]

    def counts(self) -> dict[str, int]:
        """Rows by change, in the order of `Change`."""
        seen = Counter(row.change for row in self.rows)
        return {str(change): seen[change] for change in Change if seen[change]}
