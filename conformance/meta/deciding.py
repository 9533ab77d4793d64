"""Decisions of the gate about bundles made by hand, for the tests of its verdict."""

from __future__ import annotations

import datetime
from typing import Any

from bundles import (
    FA4,
    STEADY,
    Made,
    outcome,
    planned,
)

from flexconf.gate.compare import decide
from flexconf.gate.model import Decision, Row, Verdict
from flexconf.gate.waivers import Waiver

TODAY = datetime.date(2030, 1, 15)
PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def decided(before: Made, after: Made, *waivers: Waiver, **more: Any) -> Decision:
    found = decide(before.done(), after.done(), waivers, **{"today": TODAY, **more})
    assert found.reasons and all(r and "\n" not in r for r in found.reasons)
    assert all(row.why for row in found.rows)
    assert found.exit_code == {PASS: 0, FAIL: 1, OPEN: 3}[found.verdict]
    return found


def row(found: Decision, case: str = "alibi", subject: str = FA4) -> Row:
    (only,) = [r for r in found.rows if (r.case, r.subject) == (case, subject)]
    return only


def timed(times: float = 1.0, case: str = "alibi", subject: str = FA4) -> Made:
    return Made().attempts(case, outcome(case, subject, launches=tuple(s * times for s in STEADY)))


WRONG, CRASH, HANG = "output/wrong", "launch/crash", "launch/timeout"


def many(times: float, subject: str = FA4, n: int = 12) -> Made:
    made = Made(cases=[planned(f"c{i}") for i in range(n)], subjects=(subject,))
    for i in range(n):
        made.attempts(f"c{i}", outcome(f"c{i}", subject, launches=tuple(s * times for s in STEADY)))
    return made
