"""The data of the release gate's answer: one row for each case and subject, and a verdict over all of them.

`compare.py` makes a Decision from two bundles, `flexconf.gate.report` shows it. Neither imports the other.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from flexconf.verdict.outcome import Outcome


class Verdict(enum.StrEnum):
    """Whether the candidate is fit to ship. INCONCLUSIVE if the bundles do not suffice to decide."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Change(enum.StrEnum):
    """How one case on one subject changed from baseline to candidate."""

    IDENTICAL = "identical"  # right in both, with the same bits; or refused in both, as expected
    DRIFT = "drift"  # right in both, with other bits
    FIXED = "fixed"  # failed in the baseline, right in the candidate
    KNOWN = "known defect"  # fails as cases/expectations states for the candidate's versions
    WRONG = "out of bound"  # newly wrong: an element beyond its bound, NaN, a wrong LSE
    REFUSED = "new refusal"
    CRASHED = "new crash"  # a crash, an illegal access, a hang, out of memory
    STILL = "still failing"  # failed in both, and no known defect explains it
    FLAKY = "flaky"  # the repeats in one bundle do not agree
    ACCEPTED = "wrongly accepted"  # the reference must refuse the case, and the candidate ran it
    MISSING = "missing"  # no result in one of the bundles
    SKIPPED = "skipped"  # the subject could not run in that environment, and the bundle states why


class Effect(enum.StrEnum):
    """The effect of a row on the verdict."""

    FINE = "fine"
    FAILS = "fails"
    OPEN = "open"  # makes the verdict INCONCLUSIVE, unless something fails


@dataclass(frozen=True)
class Drift:
    """The distance between two right results, over the rows that both bundles keep.

    `elements` counts the compared elements of the output, `differing` those with other bits. `max_ulp` is the largest
    distance in ulp of the output's dtype, `at` the index of that element. `max_ratio` holds the largest ratio of error
    to bound over all elements, in the baseline and in the candidate.
    """

    elements: int
    differing: int
    max_ulp: float
    at: tuple[int, ...]
    max_ratio: tuple[float, float]


@dataclass(frozen=True)
class Pace:
    """Seconds of a launch: medians over the samples of each bundle. `ratio` is candidate / baseline.

    `noise` is the relative spread of the samples, the larger of the two bundles'. `slower` says that the ratio exceeds
    both what the gate allows and the noise.
    """

    baseline: float
    candidate: float
    ratio: float
    noise: float
    samples: int
    slower: bool


@dataclass(frozen=True)
class Evidence:
    """The evidence of a failure in a bundle. A field is "", None or () if the bundle has nothing for it.

    `layer` and `sentence` are the attribution, `kernel` is the rendered text, `repro` a standalone script. `map` shows
    where a result is wrong: {tensor: {"beyond": n, "compared": n, "heads": [{"b", "h", "rows", "columns", "cells"}]}}.
    A head has `rows` x `columns` elements; `cells` is a list of lists, each number the count of elements beyond their
    bound in one cell. `worst` are the worst elements, as in `Mismatch`. `log` is the end of the output of a worker that
    died.
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

    `group` is the clause group of the case, such as "L7". `why` is one sentence. `suspects` are the changed components
    of the environment that can have caused the change. `waiver` is the reason of the waiver that excuses the row, "" if
    there is none. A waived row is fine, whatever its change.
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
    """A part of the environment, such as "driver", before and after. "" means that it is absent."""

    name: str
    before: str
    after: str

    @property
    def differs(self) -> bool:
        """Whether it changed."""
        return self.before != self.after


@dataclass(frozen=True)
class Side:
    """One of the two bundles. `recorded` is when its recording began (UTC, ISO 8601), `results` counts its attempts."""

    path: str
    label: str
    recorded: str
    digest: str
    environment: Mapping[str, object]
    results: int


@dataclass(frozen=True)
class WaiverUse:
    """A waiver and its effect on this decision. `state` is "used", "stale", "expired" or "not in scope"."""

    name: str
    reason: str
    link: str
    expires: str
    state: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The gate's answer. `reasons` are sentences, the gravest first; there is at least one."""

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
        """The number of rows by change, in the order of `Change`."""
        seen = Counter(row.change for row in self.rows)
        return {str(change): seen[change] for change in Change if seen[change]}
