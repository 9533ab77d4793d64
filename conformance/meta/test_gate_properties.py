"""The gate's verdict on planted faults, and on random pairs of bundles."""

from __future__ import annotations

import dataclasses

import pytest
from bundles import (
    CASES,
    FA4,
    HOST,
    TRITON,
    Made,
    environment,
    other_bits,
    outcome,
    planned,
)
from deciding import CRASH, FAIL, HANG, PASS, TODAY, WRONG, decided
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flexconf import tampering
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.gate.bundle import Bundle, BundleRecord, Planned
from flexconf.gate.compare import decide
from flexconf.gate.model import Change, Effect, Side
from flexconf.subjects import trial
from flexconf.verdict.outcome import Outcome

# -------------------------------------------------------------------------------------------------------- real outcomes


def recorded(case: Case, outcome: Outcome, fault: str = "") -> Bundle:
    group = Planned(case.name, case.digest(), "L7", case.about, case.clauses, case.expect)
    one = dataclasses.replace(outcome, subject=tampering.split(outcome.subject)[0])
    side = Side("folder", "", "", "", {**environment(), "gpus": [], "planted": fault}, 1)
    return Bundle(side, (group,), (HOST,), {}, {(case.name, HOST): BundleRecord((one,))})


@pytest.mark.parametrize(
    ("name", "fault"),
    [("relative_bias_negative", "negative-index-not-wrapped"), ("causal", "query-and-key-swapped-in-masks")],
)
def test_a_planted_fault_fails_the_gate(name: str, fault: str) -> None:
    (case,) = [c for c in catalogue.load() if c.name == name]
    right = recorded(case, trial.run_case(case))
    again = decide(right, recorded(case, trial.run_case(case)), today=TODAY)
    assert again.verdict is PASS and again.rows[0].change is Change.IDENTICAL
    with tampering.plant(fault):
        wrong = recorded(case, trial.run_case(case), fault)
    found = decide(right, wrong, today=TODAY)
    assert (found.verdict, found.rows[0].change) == (FAIL, Change.WRONG)
    assert found.rows[0].suspects == ("planted fault",)
    assert "its rendered text changed" in found.rows[0].why and f"planted fault none -> {fault}" in found.reasons[0]


# ---------------------------------------------------------------------------------------------------------- properties


ENDS = st.sampled_from(
    ["output/ok", WRONG, "lse/wrong", "output/nonfinite", CRASH, HANG, "compile/refused", "launch/missing",
     "output/nondeterministic", "launch/out-of-memory"]
)  # fmt: skip
BITS = st.sampled_from(["a", "b"])
EXPECTS = st.sampled_from(["ok", "ok", "ok", "refused:trace"])
FAILURES = {Change.WRONG, Change.CRASHED, Change.REFUSED, Change.ACCEPTED}
FAST = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def sides(draw: st.DrawFn, count: int = 2) -> list[Made]:
    """Bundles of the same cases with whatever results."""
    cases = [planned(c, draw(EXPECTS)) for c in CASES]
    made = []
    for _ in range(count):
        one = Made(cases=cases, subjects=(FA4, TRITON))
        for case in CASES:
            for subject in one.subjects:
                ends = draw(st.lists(st.tuples(ENDS, BITS), max_size=2))
                one.changed[case, subject] = tuple(other_bits(outcome(case, subject, at), out) for at, out in ends)
        made.append(one)
    return made


@FAST
@given(sides(1))
def test_a_bundle_against_itself(made: list[Made]) -> None:
    found = decided(made[0], made[0])
    assert {r.change for r in found.rows} <= {
        Change.IDENTICAL,
        Change.STILL,
        Change.FLAKY,
        Change.MISSING,
        Change.KNOWN,
    }
    fine = all(r.change is Change.IDENTICAL for r in found.rows)
    assert (found.verdict is PASS) is (fine and found.elements > 0)


@FAST
@given(sides())
def test_swapping_the_bundles(made: list[Made]) -> None:
    there, back = decided(*made), decided(*reversed(made))
    for one, other in zip(there.rows, back.rows, strict=True):
        if one.change is Change.FIXED:
            assert other.change in FAILURES and other.effect is Effect.FAILS
        if one.change in (Change.IDENTICAL, Change.DRIFT):
            assert other.change is one.change
        if one.change is Change.STILL:
            assert other.change is Change.STILL or other.change in FAILURES


@FAST
@given(sides())
def test_nothing_that_is_not_right_passes(made: list[Made]) -> None:
    found = decided(*made)
    expect = {p.case: p.expect for p in made[0].cases}
    bad = [
        r for r in found.rows
        if r.candidate is None or r.baseline is None or r.candidate.symptom.value not in ("ok", "refused")
        or (r.candidate.symptom.value == "ok") is not (expect[r.case] == "ok")
    ]  # fmt: skip
    assert all(r.effect is not Effect.FINE for r in bad)
    assert not bad or found.verdict is not PASS
    assert (found.verdict is PASS) is (all(r.effect is Effect.FINE for r in found.rows) and found.elements > 0)


def test_a_bundle_of_an_earlier_release_of_the_suite_compares_and_the_versions_are_named() -> None:
    found = decided(Made(), Made(environment=environment(flexflash_conformance="0.2.0")))
    assert (found.verdict, found.counts()) == (PASS, {"identical": 6})
    assert "what changed: flexflash-conformance 0.1.0 -> 0.2.0" in found.reasons


@FAST
@given(sides(), st.sampled_from(CASES), st.sampled_from([WRONG, CRASH, HANG, "compile/refused"]))
def test_a_further_failure_never_helps(made: list[Made], case: str, at: str) -> None:
    before, after = made
    assume(after.cases[CASES.index(case)].expect == "ok")
    worse = dataclasses.replace(after, changed={**after.changed, (case, FA4): (outcome(case, FA4, at),)})
    assert decided(before, worse).verdict is FAIL
