"""Checks the known defects against a run, the catalogue and their own repros, to find those that no longer hold."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.runs import expectations as known
from flexconf.runs import run
from flexconf.runs.expectations import Expectation
from flexconf.runs.judging import Result
from flexconf.verdict.outcome import Outcome

if TYPE_CHECKING:
    from flexconf.subjects.trial import Options


@dataclass(frozen=True)
class Review:
    """The findings of a run about the expectations in force.

    `passed` are pairs (expectation, case) of cases that should have failed and did not. `stale` are pairs (expectation,
    pattern) of patterns that match no case of the catalogue.
    """

    passed: tuple[tuple[Expectation, str], ...] = ()
    stale: tuple[tuple[Expectation, str], ...] = ()

    @property
    def lines(self) -> list[str]:
        """One sentence for each finding."""
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
    """The state of an expectation on this machine.

    `cases` is the number of catalogue cases that it claims, and `text` says in a few words whether it holds. `failed`
    means that its repro ran and did not show the defect. `capability` is the one that its repro runs with; None for the
    subject's own choice.
    """

    expectation: Expectation
    cases: int
    in_force: bool
    text: str
    failed: bool = False
    capability: str | None = None

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
    """Compares the `expectations` in force with the results of a run. `names` are all case names of the catalogue."""
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
    """The state of each expectation without a run: how many catalogue cases it claims, and whether it is in force."""
    names = [case.name for case in catalogue.load()]
    packages, gpu = known.here()
    found = []
    for e in expectations:
        # For a subject that generates code for a chosen capability, each of its choices is here, by default the first.
        choices = subjects.get(e.subject).capabilities
        whys = {device: e.why_not(packages, device) for device in choices or (gpu,)}
        device = next((d for d, why in whys.items() if not why), None)
        why = "" if not all(whys.values()) else next(iter(whys.values()))
        asked = device if choices and device != choices[0] else None
        of = f" for compute capability {asked}" if asked is not None else ""
        found.append(State(e, sum(map(e.claims, names)), not why, why or f"in force{of}", capability=asked))
    return found


def verify(expectations: Sequence[Expectation], workers: int | None = None) -> list[State]:
    """Runs the repros and returns the state of each expectation: whether its repro still shows the defect.

    A repro runs only if the expectation is in force and its subject can run here. `workers` is as in `run.run`.
    """
    found = states(expectations)
    for name, capability in dict.fromkeys((s.expectation.subject, s.capability) for s in found):
        why = subjects.get(name).why_not()
        mine = [
            n for n, s in enumerate(found) if (s.expectation.subject, s.capability) == (name, capability) and s.in_force
        ]
        if why or not mine:
            for n in mine:
                found[n] = replace(found[n], text=f"not verified: {why}")
            continue
        outcomes: dict[str, Outcome] = {}

        def take(result: Result, into: dict[str, Outcome] = outcomes) -> None:
            into[result.case.name] = result.outcome

        run.run(
            [found[n].expectation.repro for n in mine],
            subject=name,
            workers=workers,
            options=_options(capability),
            on_result=take,
        )
        for n in mine:
            found[n] = _verified(found[n], outcomes[found[n].expectation.repro.name])
    return found


def _options(capability: str | None) -> Options | None:
    from flexconf.subjects.trial import Options

    return Options(capability=capability) if capability is not None else None


def _verified(state: State, outcome: Outcome) -> State:
    e = state.expectation
    if e.covers(outcome):
        return replace(state, text="shown by its repro")
    if outcome.ok:
        return replace(state, text="flaky: passed this time" if e.flaky else "its repro passes", failed=not e.flaky)
    seen = f"{outcome.stage}/{outcome.symptom}"
    return replace(state, text=f"its repro ends otherwise: {seen}: {outcome.message[:200]}", failed=True)
