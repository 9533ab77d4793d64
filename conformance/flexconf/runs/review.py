"""Known defects held against a run, the catalogue and their own repros: which of them no longer hold."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.runs import expectations as known
from flexconf.runs import run
from flexconf.runs.expectations import Expectation
from flexconf.runs.judging import Result
from flexconf.verdict.outcome import Outcome


@dataclass(frozen=True)
class Review:
    """What a run says of the expectations that were in force.

    `passed` are pairs (expectation, case) of what should have failed and did not; `stale` are expectations that no case
    of the catalogue matches any more, with the pattern that matches nothing.
    """

    passed: tuple[tuple[Expectation, str], ...] = ()
    stale: tuple[tuple[Expectation, str], ...] = ()

    @property
    def lines(self) -> list[str]:
        """A sentence each."""
        found = [
            f"unexpected pass: {case} no longer shows a known defect of {e.subject} ({e.reason}); "
            f"take it out of cases/expectations/{e.subject}.toml, or narrow its versions"
            for e, case in self.passed
        ]
        found += [
            f"stale: {pattern!r} in cases/expectations/{e.subject}.toml matches no case ({e.reason})"
            for e, pattern in self.stale
        ]
        return found


@dataclass(frozen=True)
class State:
    """An expectation as it stands here: how many cases it claims, and a few words on whether it holds.

    `failed` means that it was put to the test and does not.
    """

    expectation: Expectation
    cases: int
    in_force: bool
    text: str
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        e = self.expectation
        return {
            "subject": e.subject,
            "cases": list(e.cases),
            "except": list(e.but),
            "outcomes": list(e.outcomes),
            "reason": e.reason,
            "link": e.link,
            "versions": dict(e.versions),
            "device": e.device,
            "flaky": e.flaky,
            "repro": e.repro.to_toml(),
            "in_force": self.in_force,
            "state": self.text,
            "failed": self.failed,
        }


def review(expectations: Sequence[Expectation], results: Sequence[Result], names: Sequence[str]) -> Review:
    """Hold `expectations` in force against the results of a run; `names` are those of the whole catalogue."""
    passed = [
        (e, r.case.name)
        for e in expectations
        if not e.flaky
        for r in results
        if r.case.expect == "ok" and r.outcome.ok and e.claims(r.case.name)
    ]
    stale = [(e, pattern) for e in expectations for pattern in (*e.cases, *e.but) if not fnmatch.filter(names, pattern)]
    return Review(tuple(passed), tuple(stale))


def states(expectations: Sequence[Expectation]) -> list[State]:
    """Each with how many cases of the catalogue it claims and whether it is in force here."""
    names = [case.name for case in catalogue.load()]
    packages, capability = known.here()
    found = []
    for e in expectations:
        why = e.why_not(packages, capability)
        found.append(State(e, sum(map(e.claims, names)), not why, why or "in force"))
    return found


def verify(expectations: Sequence[Expectation], workers: int | None = None) -> list[State]:
    """Run the repro of each that is in force on a subject that can run here, and see whether it does what it says."""
    found = states(expectations)
    for name in dict.fromkeys(e.subject for e in expectations):
        why = subjects.get(name).why_not()
        mine = [n for n, s in enumerate(found) if s.expectation.subject == name and s.in_force]
        if why or not mine:
            for n in mine:
                found[n] = replace(found[n], text=f"not verified: {why}")
            continue
        outcomes: dict[str, Outcome] = {}

        def take(result: Result, into: dict[str, Outcome] = outcomes) -> None:
            into[result.case.name] = result.outcome

        run.run([found[n].expectation.repro for n in mine], subject=name, workers=workers, on_result=take)
        for n in mine:
            found[n] = _verified(found[n], outcomes[found[n].expectation.repro.name])
    return found


def _verified(state: State, outcome: Outcome) -> State:
    e = state.expectation
    if e.covers(outcome):
        return replace(state, text="shown by its repro")
    if outcome.ok:
        return replace(state, text="flaky: passed this time" if e.flaky else "its repro passes", failed=not e.flaky)
    seen = f"{outcome.stage}/{outcome.symptom}"
    return replace(state, text=f"its repro ends otherwise: {seen}: {outcome.message[:200]}", failed=True)
