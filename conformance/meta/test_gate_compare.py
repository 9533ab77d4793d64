"""The gate's verdict: what becomes of it for every way in which two bundles can differ."""

from __future__ import annotations

import dataclasses
import datetime
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bundles import (
    CASES,
    COMPARED,
    FA4,
    HOST,
    STEADY,
    TRITON,
    Made,
    environment,
    kept,
    other_bits,
    outcome,
    planned,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flexconf import tampering
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.gate import components, pace
from flexconf.gate.bundle import Bundle, BundleRecord, Planned
from flexconf.gate.compare import decide
from flexconf.gate.drift import ulps
from flexconf.gate.model import Change, Decision, Effect, Evidence, Row, Side, Verdict
from flexconf.gate.waivers import Waiver
from flexconf.golden import folder as goldens
from flexconf.runs import expectations
from flexconf.runs.expectations import Expectation
from flexconf.subjects import trial
from flexconf.verdict.outcome import Outcome

TODAY = datetime.date(2030, 1, 15)
PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
Maker = Callable[[], Made]


def waiver(**changes: Any) -> Waiver:
    given: dict[str, Any] = {
        "name": "w",
        "cases": ("alibi",),
        "subjects": (FA4,),
        "changes": ("out of bound",),
        "reason": "We ship it.",
        "link": "https://example.com/1",
        "expires": TODAY,
    }
    return Waiver(**{**given, **changes})


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


def refusing(at: str = "eligibility/refused", **changes: Any) -> Made:
    made = Made(cases=[planned("alibi", "refused:eligibility"), planned("causal")])
    return made.attempts("alibi", outcome("alibi", FA4, at, **changes))


def more_cases(**extra: str) -> Made:
    return Made(cases=[*map(planned, CASES), *(planned(c, digest=d) for c, d in extra.items())])


WRONG, CRASH, HANG = "output/wrong", "launch/crash", "launch/timeout"

TABLE: list[tuple[str, Maker, Maker, Verdict, Change, Effect, str]] = [
    # what happens        baseline, candidate, verdict, what the row of alibi on reference.fa4 is, what a reason says
    ("the same", Made, Made, PASS, Change.IDENTICAL, Effect.FINE, "3 cases on 2 subjects, 6,000 elements: 6 identical"),
    ("other bits", Made, lambda: Made().attempts("alibi", other_bits(outcome("alibi"))), PASS, Change.DRIFT,
     Effect.FINE, "5 identical, 1 drifted"),
    ("wrong", Made, lambda: Made().at("alibi", WRONG), FAIL, Change.WRONG, Effect.FAILS,
     "1 case newly out of bound on reference.fa4: alibi"),
    ("wrong LSE", Made, lambda: Made().at("alibi", "lse/wrong-base"), FAIL, Change.WRONG, Effect.FAILS, "out of bound"),
    ("NaN", Made, lambda: Made().at("alibi", "output/nonfinite"), FAIL, Change.WRONG, Effect.FAILS, "out of bound"),
    ("no LSE", Made, lambda: Made().at("alibi", "output/missing"), FAIL, Change.WRONG, Effect.FAILS, "out of bound"),
    ("crash", Made, lambda: Made().at("alibi", CRASH), FAIL, Change.CRASHED, Effect.FAILS, "newly crashing"),
    ("illegal access", Made, lambda: Made().at("alibi", "launch/illegal-access"), FAIL, Change.CRASHED, Effect.FAILS,
     "newly crashing"),
    ("out of memory", Made, lambda: Made().at("alibi", "launch/out-of-memory"), FAIL, Change.CRASHED, Effect.FAILS,
     "newly crashing"),
    ("hang", Made, lambda: Made().at("alibi", HANG, HANG, HANG), FAIL, Change.CRASHED, Effect.FAILS, "newly crashing"),
    ("refusal", Made, lambda: Made().at("alibi", "compile/refused"), FAIL, Change.REFUSED, Effect.FAILS,
     "newly refused"),
    ("fixed", lambda: Made().at("alibi", WRONG), Made, PASS, Change.FIXED, Effect.FINE, "1 fixed"),
    ("wrong in both", lambda: Made().at("alibi", WRONG), lambda: Made().at("alibi", WRONG), FAIL, Change.STILL,
     Effect.FAILS, "not this upgrade's doing"),
    ("a crash became wrong", lambda: Made().at("alibi", CRASH), lambda: Made().at("alibi", WRONG), FAIL, Change.WRONG,
     Effect.FAILS, "out of bound"),
    ("wrong became a crash", lambda: Made().at("alibi", WRONG), lambda: Made().at("alibi", CRASH), FAIL, Change.STILL,
     Effect.FAILS, "failing as in the baseline"),
    # flakes
    ("flake", Made, lambda: Made().at("alibi", WRONG, "output/ok"), FAIL, Change.FLAKY, Effect.FAILS, "newly flaky"),
    ("a launch differs", Made, lambda: Made().at("alibi", "output/nondeterministic"), FAIL, Change.FLAKY, Effect.FAILS,
     "newly flaky"),
    ("right with other bits each time", Made,
     lambda: Made().attempts("alibi", outcome("alibi"), other_bits(outcome("alibi"))), FAIL, Change.FLAKY,
     Effect.FAILS, "newly flaky"),
    ("flaky before", lambda: Made().at("alibi", WRONG, "output/ok"), Made, OPEN, Change.FLAKY, Effect.OPEN, "flaky"),
    ("flaky in both", lambda: Made().at("alibi", WRONG, "output/ok"), lambda: Made().at("alibi", WRONG, "output/ok"),
     OPEN, Change.FLAKY, Effect.OPEN, "flaky"),
    ("wrong, then a crash", Made, lambda: Made().at("alibi", WRONG, CRASH), FAIL, Change.WRONG, Effect.FAILS,
     "out of bound"),
    ("wrong with other bits each time, in both", lambda: Made().at("alibi", WRONG),
     lambda: Made().attempts("alibi", outcome("alibi", at=WRONG), other_bits(outcome("alibi", at=WRONG))), FAIL,
     Change.STILL, Effect.FAILS, "failing as in the baseline"),
    # what is not there
    ("missing", Made, lambda: Made().without("alibi"), OPEN, Change.MISSING, Effect.OPEN, "without a result"),
    ("missing in the baseline", lambda: Made().without("alibi"), Made, OPEN, Change.MISSING, Effect.OPEN,
     "it has no baseline"),
    ("never run", Made, lambda: Made().at("alibi", "launch/missing"), OPEN, Change.MISSING, Effect.OPEN,
     "there is no result"),
    ("compared nothing", Made, lambda: Made().attempts("alibi", outcome("alibi", comparison={"elements": 0})), OPEN,
     Change.MISSING, Effect.OPEN, "nothing was compared"),
    ("wrong without a baseline", lambda: Made().without("alibi"), lambda: Made().at("alibi", WRONG), FAIL, Change.WRONG,
     Effect.FAILS, "out of bound on reference.fa4, without a baseline"),
    ("another case's result", Made, lambda: Made().attempts("alibi", outcome("alibi", case_digest="?")), OPEN,
     Change.MISSING, Effect.OPEN, "another version of the case"),
    ("attempts of two cases", Made, lambda: Made().attempts("alibi", outcome("alibi"), outcome("causal")), OPEN,
     Change.MISSING, Effect.OPEN, "do not belong together"),
    ("skipped", Made, lambda: Made(skips={FA4: "flash-attn-4 is not installed"}), OPEN, Change.SKIPPED, Effect.OPEN,
     "an unexplained difference"),
    ("skipped in the baseline", lambda: Made(skips={FA4: "no GPU"}), Made, OPEN, Change.SKIPPED, Effect.OPEN,
     "it has no baseline"),
    ("skipped in both", lambda: Made(skips={FA4: "no GPU"}), lambda: Made(skips={FA4: "no GPU"}), PASS, Change.SKIPPED,
     Effect.FINE, "reference.fa4 was skipped in both: no GPU"),
    ("skipped for another reason", lambda: Made(skips={FA4: "no GPU"}), lambda: Made(skips={FA4: "not installed"}),
     OPEN, Change.SKIPPED, Effect.OPEN, "for different reasons"),
    ("a subject less", Made, lambda: Made(subjects=(HOST,)), OPEN, Change.MISSING, Effect.OPEN, "was not recorded"),
    ("a case less", Made, lambda: Made(cases=[planned("causal"), planned("softcap")]), OPEN, Change.MISSING,
     Effect.OPEN, "its list does not have the case"),
    ("a case more", lambda: Made(cases=[planned("causal")]), Made, OPEN, Change.MISSING, Effect.OPEN,
     "it has no baseline"),
    ("other inputs", Made, lambda: Made().attempts(
        "alibi", outcome("alibi", digests={**outcome("alibi").digests, "q": "?"})), OPEN, Change.MISSING, Effect.OPEN,
     "its inputs differ (q)"),
    ("no inputs stated", Made, lambda: Made().attempts("alibi", outcome("alibi", digests={"out": "o", "lse": "l"})),
     OPEN, Change.MISSING, Effect.OPEN, "its inputs differ (k, q, v)"),
    # bundles as a whole
    ("half-written", Made, lambda: Made(problems=("unfinished",)), OPEN, Change.IDENTICAL, Effect.FINE,
     "the candidate's bundle cannot be trusted: unfinished"),
    ("edited", Made, lambda: Made(problems=("results.jsonl: changed",)).at("alibi", WRONG), OPEN, Change.WRONG,
     Effect.FAILS, "newly out of bound"),
    ("dirty baseline", lambda: Made(problems=("uncommitted changes",)), Made, OPEN, Change.IDENTICAL, Effect.FINE,
     "the baseline's bundle cannot be trusted"),
    ("wrong, with a baseline that was edited", lambda: Made(problems=("edited",)), lambda: Made().at("alibi", WRONG),
     FAIL, Change.WRONG, Effect.FAILS, "newly out of bound"),
    ("flaky, with a baseline that was edited", lambda: Made(problems=("edited",)),
     lambda: Made().at("alibi", WRONG, "output/ok"), OPEN, Change.FLAKY, Effect.OPEN, "flaky"),
    ("slower than a baseline that was edited",
     lambda: dataclasses.replace(timed(), problems=("edited",)), lambda: timed(2.0), OPEN, Change.IDENTICAL,
     Effect.OPEN, "slower than an untrusted baseline"),
    ("a fault was planted, and nothing shows it", Made, lambda: Made(environment=environment(planted="some_fault")),
     OPEN, Change.IDENTICAL, Effect.FINE, "planted fault some_fault"),
    # what must be refused
    ("refused in both", refusing, refusing, PASS, Change.IDENTICAL, Effect.FINE, "4 identical"),
    ("accepted", refusing, lambda: refusing("output/ok"), FAIL, Change.ACCEPTED, Effect.FAILS, "must be refused"),
    ("accepted, and wrong", refusing, lambda: refusing(WRONG), FAIL, Change.ACCEPTED, Effect.FAILS, "must be refused"),
    ("refused too late", refusing, lambda: refusing("compile/refused"), FAIL, Change.REFUSED, Effect.FAILS, "refused"),
    ("a crash in place of a refusal", refusing, lambda: refusing(CRASH), FAIL, Change.CRASHED, Effect.FAILS,
     "newly crashing"),
    ("accepted before", lambda: refusing("output/ok"), refusing, PASS, Change.FIXED, Effect.FINE, "1 fixed"),
    # pace
    ("twice the time", timed, lambda: timed(2.0), FAIL, Change.IDENTICAL, Effect.FAILS, "1 case slower on"),
    ("half the time", timed, lambda: timed(0.5), PASS, Change.IDENTICAL, Effect.FINE, "pace of reference.fa4: 0.50"),
    ("10 % more time", timed, lambda: timed(1.1), PASS, Change.IDENTICAL, Effect.FINE, "pace of reference.fa4: 1.10"),
    ("timed in one bundle only", timed, Made, OPEN, Change.IDENTICAL, Effect.FINE, "timed in the baseline only"),
    ("another GPU", timed, lambda: dataclasses.replace(timed(2.0), environment=environment(gpu="B200")), PASS,
     Change.IDENTICAL, Effect.FINE, "not judged, since the GPU is another"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "verdict", "change", "effect", "says"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE]
)
def test_the_verdict(before: Maker, after: Maker, verdict: Verdict, change: Change, effect: Effect, says: str) -> None:
    found = decided(before(), after())
    seen = row(found)
    assert (found.verdict, seen.change, seen.effect) == (verdict, change, effect), found.reasons
    assert any(says in reason for reason in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("made", "verdict"), [(lambda: Made(cases=[]), OPEN), (lambda: Made(skips={FA4: "x", HOST: "x"}), OPEN)]
)
def test_comparing_nothing_is_inconclusive(made: Maker, verdict: Verdict) -> None:
    found = decided(made(), made())
    assert found.verdict is verdict and found.elements == 0
    assert "not one element was compared: that says nothing" in found.reasons
    assert "nothing was compared" in found.reasons


def test_a_list_of_refusals_compares_nothing() -> None:
    made = Made(cases=[planned("alibi", "refused:trace")])
    assert decided(made, made).verdict is OPEN


def test_production_is_not_asked_for_refusals() -> None:
    cases = [planned("alibi", "refused:trace"), planned("causal")]
    found = decided(Made(cases=cases, subjects=(TRITON,)), Made(cases=cases, subjects=(TRITON,)))
    assert found.verdict is PASS and [(r.case, r.subject) for r in found.rows] == [("causal", TRITON)]


def test_another_version_of_a_case_is_not_compared_and_still_fails_where_it_is_wrong() -> None:
    changed = Made(cases=[planned("alibi", digest="new"), planned("causal"), planned("softcap")])
    found = decided(Made(), changed)
    assert (found.verdict, row(found).change, row(found).effect) == (OPEN, Change.MISSING, Effect.OPEN)
    assert "different versions of the case" in row(found).why
    changed.attempts("alibi", outcome("alibi", at=WRONG, case_digest="new"))
    found = decided(Made(), changed)
    assert (found.verdict, row(found).effect) == (FAIL, Effect.FAILS) and "different versions" in row(found).why


def test_results_that_nobody_asked_for_leave_it_open() -> None:
    bundle = Made().done()
    more = dataclasses.replace(bundle, records={**bundle.records, ("ghost", FA4): BundleRecord((outcome("ghost"),))})
    found = decide(bundle, more, today=TODAY)
    assert found.verdict is OPEN and any("such as ghost on reference.fa4" in r for r in found.reasons)
    twice = dataclasses.replace(bundle, cases=(*bundle.cases, bundle.cases[0]))
    assert decide(bundle, twice, today=TODAY).verdict is OPEN


def test_grave_reasons_come_first_and_are_grouped() -> None:
    after = Made(environment=environment("590.12.01"))
    after.at("alibi", WRONG).at("softcap", WRONG).at("causal", HANG).at("alibi", WRONG, subject=HOST)
    found = decided(Made(), after)
    assert found.reasons[:3] == (
        "2 cases newly out of bound on reference.fa4: alibi, softcap; suspect driver 580.95.05 -> 590.12.01",
        "1 case newly out of bound on reference.host: alibi; "
        "what differs (driver) has no part in it: suspect the hardware or a flake",
        "1 case newly crashing on reference.fa4: causal; suspect driver 580.95.05 -> 590.12.01",
    )
    assert found.reasons[-1] == "what changed: driver 580.95.05 -> 590.12.01"
    assert (
        decided(Made(), Made().at("alibi", WRONG))
        .reasons[0]
        .endswith("nothing that is recorded differs: suspect the hardware or a flake")
    )


# ------------------------------------------------------------------------------------------------------- known defects


def defect(subject: str = FA4, **changes: Any) -> Expectation:
    given: dict[str, Any] = {
        "subject": subject,
        "cases": ("alibi",),
        "outcomes": (WRONG,),
        "reason": "It is known.",
        "repro": Case("r", score_mod="score"),
        "versions": {"flash-attn-4": "==4.0.0b37"},
    }
    return Expectation(**{**given, **changes})


B37 = environment(flash_attn_4="4.0.0b37")


@pytest.mark.parametrize(
    ("what", "before", "after", "change", "effect"),
    [
        (defect(), Made(environment=B37).at("alibi", WRONG), Made(environment=B37).at("alibi", WRONG),
         Change.KNOWN, Effect.FINE),
        (defect(outcomes=(CRASH,)), Made().at("alibi", WRONG), Made(environment=B37).at("alibi", CRASH), Change.KNOWN,
         Effect.FINE),
        # A regression that is documented is a regression; silently wrong is worse than refused or crashing.
        (defect(), Made().at("alibi", CRASH), Made(environment=B37).at("alibi", WRONG), Change.KNOWN, Effect.FAILS),
        (defect(), Made().at("alibi", "compile/refused"), Made(environment=B37).at("alibi", WRONG), Change.KNOWN,
         Effect.FAILS),
        (defect(), Made().at("alibi", WRONG, "output/ok"), Made(environment=B37).at("alibi", WRONG), Change.KNOWN,
         Effect.FAILS),
        (defect(), Made(), Made(environment=B37).at("alibi", WRONG), Change.KNOWN, Effect.FAILS),
        (defect(), Made().without("alibi"), Made(environment=B37).at("alibi", WRONG), Change.KNOWN, Effect.OPEN),
        # It is the candidate's environment that counts, not the baseline's and not this machine's.
        (defect(), Made(environment=B37).at("alibi", WRONG), Made().at("alibi", WRONG), Change.STILL, Effect.FAILS),
        (defect(), Made().at("alibi", CRASH), Made(environment=B37).at("alibi", CRASH), Change.STILL, Effect.FAILS),
        (defect(), Made().at("causal", WRONG), Made(environment=B37).at("causal", WRONG), Change.STILL, Effect.FAILS),
        (defect(device="10.*"), Made().at("alibi", WRONG), Made(environment=B37).at("alibi", WRONG), Change.STILL,
         Effect.FAILS),
        # A flaky one need not have shown.
        (defect(flaky=True), Made(environment=B37), Made(environment=B37).at("alibi", WRONG), Change.KNOWN,
         Effect.FINE),
        (defect(flaky=True), Made(environment=B37), Made(environment=B37).at("alibi", WRONG, "output/ok"),
         Change.KNOWN, Effect.FINE),
        (defect(flaky=True), Made(), Made(environment=B37).at("alibi", WRONG), Change.KNOWN, Effect.FAILS),
        (defect(), Made(environment=B37).at("alibi", WRONG), Made(environment=B37).at("alibi", WRONG, "output/ok"),
         Change.FLAKY, Effect.FAILS),
        # Nobody's expectation is about a fault that is planted.
        (defect(), Made().at("alibi", WRONG), Made(environment={**B37, "planted": "f"}).at("alibi", WRONG),
         Change.STILL, Effect.FAILS),
    ],
)  # fmt: skip
def test_a_known_defect(
    monkeypatch: pytest.MonkeyPatch, what: Expectation, before: Made, after: Made, change: Change, effect: Effect
) -> None:
    monkeypatch.setattr(expectations, "load", lambda subject: (what,) if subject == what.subject else ())
    found = decided(before, after)
    case = "causal" if before.changed.keys() & {("causal", FA4)} else "alibi"
    assert (row(found, case).change, row(found, case).effect) == (change, effect)
    assert effect is not Effect.FAILS or found.verdict is FAIL


def test_the_catalogue_s_own_known_defects_are_in_force_by_the_bundle_s_environment() -> None:
    # lists_reversed is a defect of flash-attn-4 4.0.0b36 on an H200, wherever this test runs.
    made = Made(cases=[planned("lists_reversed"), planned("causal")]).at("lists_reversed", WRONG)
    found = decided(made, made)
    assert found.verdict is PASS and row(found, "lists_reversed").change is Change.KNOWN
    assert "1 known to fail" in found.reasons[0]
    assert decided(made, dataclasses.replace(made, environment=B37)).verdict is FAIL


# ------------------------------------------------------------------------------------------------------------- waivers


@pytest.mark.parametrize(
    ("waivers", "after", "verdict", "state"),
    [
        ([waiver()], Made().at("alibi", WRONG), PASS, "used"),
        ([waiver(changes=("new crash",))], Made().at("alibi", WRONG), FAIL, "stale"),
        ([waiver(cases=("al*",), subjects=("reference.*",))], Made().at("alibi", WRONG), PASS, "used"),
        ([waiver(cases=("causal",))], Made().at("alibi", WRONG), FAIL, "stale"),
        ([waiver()], Made(), FAIL, "stale"),
        ([waiver(expires=TODAY - datetime.timedelta(1))], Made().at("alibi", WRONG), FAIL, "expired"),
        ([waiver(expires=TODAY - datetime.timedelta(1))], Made(), FAIL, "expired"),
        ([waiver(expires=TODAY - datetime.timedelta(1), device="10.*")], Made(), FAIL, "expired"),
        ([waiver(device="10.*")], Made(), PASS, "not in scope"),
        ([waiver(device="10.*")], Made().at("alibi", WRONG), FAIL, "not in scope"),
        ([waiver(device="9.*", driver=">=580", versions={"torch": "==2.13.*"})], Made().at("alibi", WRONG), PASS,
         "used"),
        ([waiver(driver=">=590")], Made().at("alibi", WRONG), FAIL, "not in scope"),
        ([waiver(versions={"torch": ">=2.14"})], Made().at("alibi", WRONG), FAIL, "not in scope"),
        ([waiver(subjects=(TRITON,))], Made(), PASS, "not in scope"),
        # A part of the list says nothing about the rest of it; a name that nothing has is a mistake.
        ([waiver(cases=("sliding_window",))], Made(), PASS, "not in scope"),
        ([waiver(cases=("slidding_window",))], Made(), FAIL, "stale"),
        # What is not known is not out of date, and a flake need not show.
        ([waiver()], Made().without("alibi"), OPEN, "not in scope"),
        ([waiver()], Made(problems=("edited",)), OPEN, "not in scope"),
        ([waiver(changes=("flaky",))], Made(), PASS, "not in scope"),
        ([waiver(changes=("flaky",))], Made().at("alibi", WRONG, "output/ok"), PASS, "used"),
        ([waiver(changes=("slower",))], timed(), OPEN, "not in scope"),
        ([waiver(subjects=(FA4, HOST), cases=("*",), changes=("skipped",))], Made(skips={FA4: "no GPU"}), PASS, "used"),
    ],
)  # fmt: skip
def test_a_waiver(waivers: list[Waiver], after: Made, verdict: Verdict, state: str) -> None:
    found = decided(Made(), after, *waivers)
    (use,) = found.waivers
    assert (found.verdict, use.state) == (verdict, state), found.reasons
    waived = [r for r in found.rows if r.waiver]
    assert bool(waived) is (state == "used")
    assert all(r.effect is Effect.FINE and r.waiver == "We ship it." for r in waived)
    assert state not in ("stale", "expired") or any("the waiver 'w'" in r for r in found.reasons)


def test_slower_can_be_waived_for_a_case_and_for_a_subject() -> None:
    found = decided(timed(), timed(2.0), waiver(changes=("slower",)))
    assert found.verdict is PASS and row(found).pace is not None and found.waivers[0].cases == ("alibi",)
    before, after = many(1.0), many(1.4)
    assert decided(before, after, waiver(cases=("c0",), changes=("slower",))).verdict is FAIL
    assert decided(before, after, waiver(cases=("c*",), changes=("slower",))).verdict is PASS


# ---------------------------------------------------------------------------------------------------------------- pace


def many(times: float, subject: str = FA4, n: int = 12) -> Made:
    made = Made(cases=[planned(f"c{i}") for i in range(n)], subjects=(subject,))
    for i in range(n):
        made.attempts(f"c{i}", outcome(f"c{i}", subject, launches=tuple(s * times for s in STEADY)))
    return made


def noisy(rng: random.Random, n: int, median: float = 1e-3, noise: float = 0.1) -> list[float]:
    return [median * math.exp(rng.gauss(0, noise)) for _ in range(n)]


@pytest.mark.parametrize(("n", "median"), [(7, 1e-3), (7, 5e-6), (5, 1e-3), (3, 1e-3)])
def test_noise_of_10_percent_is_no_alarm(n: int, median: float) -> None:
    rng = random.Random(n)
    draws = [pace.of(noisy(rng, n, median), noisy(rng, n, median)) for _ in range(1000)]
    assert not any(p.slower for p in draws if p is not None) and all(draws)


def test_twice_the_time_is_found_in_noise() -> None:
    rng = random.Random(0)
    draws = [pace.of(noisy(rng, 7), noisy(rng, 7, 2e-3)) for _ in range(1000)]
    assert sum(p is not None and p.slower for p in draws) >= 980


def test_noise_of_10_percent_is_no_alarm_of_whole_gates() -> None:
    rng = random.Random(1)
    for _ in range(20):
        sides = []
        for _ in range(2):
            made = Made(cases=[planned(f"c{i}") for i in range(50)], subjects=(FA4,))
            for i in range(50):
                made.attempts(f"c{i}", outcome(f"c{i}", launches=tuple(noisy(rng, 7))))
            sides.append(made)
        assert decided(*sides).verdict is PASS


@pytest.mark.parametrize(
    ("before", "after", "slower"),
    [
        (STEADY, [2 * s for s in STEADY], True),
        (STEADY, [1.3 * s for s in STEADY], True),
        (STEADY, [1.2 * s for s in STEADY], False),
        # An interruption is no noise, on either side.
        ([*STEADY[:6], 9e-3], [2 * s for s in STEADY], True),
        (STEADY, [*STEADY[:6], 9e-3], False),
        # They overlap.
        ([1e-3, 1e-3, 1e-3, 2e-3, 2e-3, 1e-3, 1e-3], [1.5e-3] * 7, False),
        ([1e-3] * 7, [5e-3] * 6 + [1e-3], False),
        # Below 10 microseconds a launch counts as one of 10.
        ([2e-6] * 7, [8e-6] * 7, False),
        ([2e-6] * 7, [12e-6] * 7, False),
        ([15e-6] * 7, [30e-6] * 7, True),
        ([1e-3] * 3, [2e-3] * 3, True),
    ],
)
def test_the_pace_of_a_case(before: list[float], after: list[float], slower: bool) -> None:
    found = pace.of(before, after)
    assert found is not None and found.slower is slower


def test_without_enough_samples_there_is_no_pace() -> None:
    assert pace.of(STEADY[:2], STEADY) is None and pace.of(STEADY, ()) is None
    assert pace.of(STEADY, [0.0] * 7) is None and pace.of(STEADY, [math.nan] * 7) is None


@pytest.mark.parametrize(
    ("times", "subject", "verdict", "cases"),
    [(1.15, FA4, FAIL, 12), (1.15, FA4, PASS, 7), (1.08, FA4, PASS, 12), (1.15, HOST, PASS, 12), (1.5, HOST, FAIL, 12)],
)
def test_a_subject_as_a_whole(times: float, subject: str, verdict: Verdict, cases: int) -> None:
    found = decided(many(1.0, subject, cases), many(times, subject, cases))
    assert found.verdict is verdict and found.pace is not None
    assert found.pace.ratio == pytest.approx(times) and found.pace.slower is (verdict is FAIL)
    assert any("slower as a whole" in r for r in found.reasons) is (verdict is FAIL)


def test_a_subject_is_not_slower_than_a_baseline_that_was_edited() -> None:
    found = decided(dataclasses.replace(many(1.0), problems=("edited",)), many(1.15))
    assert found.verdict is OPEN and not any("slower as a whole" in r for r in found.reasons)


def test_slower_is_the_user_s_to_choose() -> None:
    assert decided(timed(), timed(2.0), slower=3.0).verdict is PASS
    assert decided(timed(), timed(1.2), slower=1.1).verdict is FAIL
    for bad in (1.0, 0.5, math.nan, math.inf):
        with pytest.raises(InputError, match="must be a factor above 1"):
            decided(Made(), Made(), slower=bad)


def test_slower_names_its_suspects() -> None:
    found = decided(timed(), dataclasses.replace(timed(2.0), environment=environment("590.12.01")))
    assert row(found).suspects == ("driver",) and "2.00 times slower (1 ms -> 2 ms)" in row(found).why
    assert found.reasons[0] == (
        "1 case slower on reference.fa4 (up to 2.00 times the baseline): alibi; suspect driver 580.95.05 -> 590.12.01"
    )


# --------------------------------------------------------------------------------------------------------------- drift


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_units_in_the_last_place(dtype: torch.dtype) -> None:
    one = torch.tensor([1.0, -1.0, 0.0, math.inf, math.nan, 1.0, math.inf, 1.0], dtype=dtype)
    other = one.clone()
    other[0] = torch.nextafter(one[0], torch.tensor(2.0, dtype=dtype))
    other[1] = torch.nextafter(one[1], torch.tensor(0.0, dtype=dtype))
    other[2] = -0.0
    other[5:] = torch.tensor([math.nan, -math.inf, 1.0], dtype=dtype)
    assert ulps(one, other).tolist() == [1, 1, 0, 0, 0, math.inf, math.inf, 0]
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    ends = torch.tensor([tiny, -tiny], dtype=dtype)
    assert ulps(ends, ends.flip(0)).tolist() == [2, 2]


def test_drift_says_how_far_and_where() -> None:
    before, after = (
        Made(),
        Made().attempts("alibi", other_bits(outcome("alibi", comparison={**COMPARED, "max_ratio": 0.75}))),
    )
    before.rows["alibi", FA4] = kept([[1.0, 2.0], [3.0, 4.0]])
    after.rows["alibi", FA4] = kept([[1.0, 2.0], [3.0, 4.03125]])
    found = decided(before, after)
    drift = row(found).drift
    assert drift is not None
    assert (drift.elements, drift.differing, drift.max_ulp, drift.at) == (4, 1, 1.0, (0, 0, 1, 1))
    assert drift.max_ratio == (0.5, 0.75)
    assert found.verdict is PASS and "1 drifted by at most 1 ulp" in found.reasons[0]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (None, None, "no rows of it are kept"),
        (kept([[1.0]]), None, "no rows of it are kept in one bundle"),
        (kept([[1.0]]), kept([[1.0], [2.0]]), "the bundles keep different rows"),
        (kept([[1.0]]), kept([[1.0]], torch.float16), "no distance from torch.bfloat16"),
        (
            kept([[1.0]]),
            {**kept([[1.0]]), "lse": torch.tensor([1e-45])},
            "of the output differs; the LSE by at most 1 ulp",
        ),
        (kept([[0.0]]), kept([[-0.0]]), "1 of 1 kept elements differ, by at most 0 ulp at out[0, 0, 0, 0]"),
        (kept([]), kept([]), "none of the 0 kept elements"),
    ],
)
def test_drift_that_is_hard_to_measure(old: Any, new: Any, says: str) -> None:
    before, after = Made(), Made().attempts("alibi", other_bits(outcome("alibi")))
    for made, rows in ((before, old), (after, new)):
        if rows is not None:
            made.rows["alibi", FA4] = rows
    found = decided(before, after)
    assert found.verdict is PASS and says in row(found).why


@pytest.mark.parametrize("name", ["out", "lse"])
def test_each_digest_of_a_result_counts(name: str) -> None:
    """Bits that differ in the LSE alone, or in the output alone, are a drift; between repeats, a flake."""
    right = outcome("alibi")
    other = dataclasses.replace(right, digests={**right.digests, name: "other"})
    unknown = dataclasses.replace(right, digests={k: v for k, v in right.digests.items() if k != name})
    for before, after in ((right, other), (other, right), (right, unknown), (unknown, right), (unknown, unknown)):
        found = decided(Made().attempts("alibi", before), Made().attempts("alibi", after))
        assert (found.verdict, row(found).change) == (PASS, Change.DRIFT)
        said = "is not recorded" if unknown in (before, after) else "with other bits"
        assert said in row(found).why
    found = decided(Made(), Made().attempts("alibi", right, other))
    assert (found.verdict, row(found).change) == (FAIL, Change.FLAKY)
    assert row(decided(Made().attempts("alibi", other), Made().attempts("alibi", other))).change is Change.IDENTICAL


# ------------------------------------------------------------------------------------------- components and suspects


def test_every_recorded_fact_is_a_component() -> None:
    before = environment()
    after = {**environment("590.12.01", torch="2.14.0", triton=None), "cuda": None, "firmware": {"vbios": "96"}}
    after["git"] = {"commit": "fedcba9876543210", "changes": "5eed"}
    found = {c.name: (c.before, c.after) for c in components.compare(before, after) if c.differs}
    assert found == {
        "driver": ("580.95.05", "590.12.01"),
        "CUDA": ("12.8", ""),
        "torch": ("2.13.0", "2.14.0"),
        "triton": ("3.6.0", ""),
        "suite commit": ("0123456789ab", "fedcba987654 and changes 5eed"),
        "firmware.vbios": ("", "96"),
    }
    assert components.compare({}, {}) == ()
    names = [c.name for c in components.compare(before, before)]
    assert {"GPU", "driver", "CUDA", "python", "platform", "cpu", "torch", "suite commit"} <= {*names}


EVERYTHING = environment(
    "590.12.01", gpu="B200", cuda="13.0", planted="f", git={"commit": "other", "changes": ""}, cpu="other",
    **dict.fromkeys(("torch", "nvidia_cutlass_dsl", "flash_attn_4", "quack_kernels", "triton", "sympy"), "9"),
)  # fmt: skip
DEVICE = {"driver", "CUDA", "GPU"}


@pytest.mark.parametrize(
    ("subject", "layer", "with_", "without"),
    [
        (HOST, "", {"torch", "nvidia-cutlass-dsl", "cpu"}, {*DEVICE, "flash-attn-4", "triton"}),
        (HOST, "codegen", {"torch", "suite commit", "sympy"}, {*DEVICE, "flash-attn-4", "triton"}),
        (FA4, "", {*DEVICE, "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl"}, {"triton"}),
        (FA4, "flash-attn-4", {"flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels"}, {"triton", "torch", "sympy"}),
        (FA4, "GPU compiler", {"nvidia-cutlass-dsl", "CUDA", "driver"}, {"torch", "flash-attn-4", "triton"}),
        (FA4, "lowering", {"suite commit", "torch"}, {*DEVICE, "flash-attn-4", "triton"}),
        (TRITON, "", {"torch", "triton", "driver"}, {"flash-attn-4", "nvidia-cutlass-dsl"}),
        (TRITON, "torch-triton", {"torch", "triton", "driver"}, {"flash-attn-4", "nvidia-cutlass-dsl"}),
        ("torch-flash", "torch-flash", {"torch", "flash-attn-4", "driver"}, {"triton"}),
        ("torch-codegen", "torch-codegen", {"torch", "sympy"}, {*DEVICE, "flash-attn-4", "triton"}),
        ("torch-codegen", "CuTe", {"nvidia-cutlass-dsl"}, {*DEVICE, "torch", "flash-attn-4", "triton"}),
        ("a new subject", "", {"torch", "triton", "driver"}, set()),
    ],
)
def test_suspects(subject: str, layer: str, with_: set[str], without: set[str]) -> None:
    parts = components.compare(environment(), EVERYTHING)
    gpu = components.on_gpu(subject, EVERYTHING)
    found = components.suspects(parts, subject, layer, gpu=gpu)
    assert found[0] == "planted fault"
    assert with_ <= {*found} and not without & {*found}
    assert components.suspects(components.compare(environment(), environment()), subject, layer, gpu=gpu) == ()


def test_the_attribution_narrows_the_suspects_and_the_same_text_clears_the_lowering() -> None:
    after = Made(environment=environment("590.12.01", torch="2.14.0")).at("alibi", WRONG)
    after.evidence["alibi", FA4] = Evidence(layer="GPU compiler", sentence="It is the compiler.")
    found = decided(Made(), after)
    assert row(found).suspects == ("driver",) and row(found).evidence.layer == "GPU compiler"
    assert "the same text was rendered in both" in row(found).why
    after.evidence.clear()
    assert row(decided(Made(), after)).suspects == ("driver",)
    after.attempts("alibi", outcome("alibi", at=WRONG, digests={**outcome("alibi", at=WRONG).digests, "kernel": "new"}))
    seen = row(decided(Made(), after))
    assert seen.suspects == ("driver", "torch")
    assert seen.why.endswith("its rendered text changed, though the suite is the same")


@pytest.mark.parametrize(
    ("kernel", "code", "says", "order"),
    [
        ("text", "a", "the same PTX ran in both", ("driver", "nvidia-cutlass-dsl", "flash-attn-4")),
        ("text", "b", "the same text was compiled to other PTX", ("nvidia-cutlass-dsl", "flash-attn-4", "driver")),
        ("new", "b", "its PTX changed", ("nvidia-cutlass-dsl", "flash-attn-4", "torch", "driver")),
        ("text", "", "the same text was rendered in both", ("driver", "flash-attn-4", "nvidia-cutlass-dsl")),
    ],
)
def test_the_ptx_says_which_side_of_it_to_suspect(kernel: str, code: str, says: str, order: tuple[str, ...]) -> None:
    def with_code(o: Outcome, kernel: str, code: str) -> Outcome:
        return dataclasses.replace(o, digests={**o.digests, "kernel": kernel, **({"ptx": code} if code else {})})

    before = Made().attempts("alibi", with_code(outcome("alibi"), "text", "a"))
    newer = environment("590.12.01", torch="2.14.0", nvidia_cutlass_dsl="4.9", flash_attn_4="4.0.0b37")
    after = Made(environment=newer).attempts("alibi", with_code(outcome("alibi", at=WRONG), kernel, code))
    seen = row(decided(before, after))
    assert seen.change is Change.WRONG and says in seen.why
    assert {*seen.suspects} == {*order} and (not code or seen.suspects[0] in order[:2])
    assert not code or (seen.suspects.index("driver") == len(order) - 1) is (code == "b")
    drifted = row(decided(before, Made().attempts("alibi", with_code(other_bits(outcome("alibi")), kernel, code))))
    assert (drifted.change, drifted.effect) == (Change.DRIFT, Effect.FINE) and says in drifted.why


def test_other_ptx_is_no_other_input_and_the_same_bits_are_identical() -> None:
    before, after = (
        Made().attempts("alibi", dataclasses.replace(o, digests={**o.digests, **code}))
        for o, code in ((outcome("alibi"), {"ptx": "a"}), (outcome("alibi"), {"ptx": "b"}))
    )
    for one, other in ((before, after), (before, Made()), (Made(), before)):
        assert decided(one, other).verdict is PASS and row(decided(one, other)).change is Change.IDENTICAL


def test_a_fact_that_is_new_to_this_version_is_a_suspect() -> None:
    after = Made(environment={**environment(), "firmware": "97"}).at("alibi", WRONG)
    assert row(decided(Made(), after)).suspects == ("firmware",)


# ------------------------------------------------------------------------------------- passes that would be none


def opened(before: Made, after: Made, says: str) -> None:
    """Both orders leave the verdict open, and say why."""
    for one, other in ((before, after), (after, before)):
        found = decided(one, other)
        assert found.verdict is OPEN and any(says in reason for reason in found.reasons), found.reasons


OPTIONS = {"repeats": 5, "timings": True, "timed": 5, "time_limit": None, "allow_dirty": False}


@pytest.mark.parametrize(("name", "value"), [("repeats", 1), ("timings", False), ("timed", 3), ("time_limit", 900.0)])
def test_options_that_make_one_bundle_laxer_than_the_other(name: str, value: object) -> None:
    lax = Made(options={**OPTIONS, name: value})
    opened(Made(options=OPTIONS), lax, f"different options ({name} ")
    assert decided(lax, lax).verdict is PASS
    assert decided(Made(options=OPTIONS), Made(options={**OPTIONS, "allow_dirty": True})).verdict is PASS


def test_an_oracle_that_looks_at_less_hides_what_it_does_not_look_at() -> None:
    fewer = outcome("alibi", comparison={**COMPARED, "elements": 991, "excluded_elements": 9})
    found = decided(Made(), Made().attempts("alibi", fewer))
    assert (found.verdict, row(found).change) == (OPEN, Change.MISSING)
    assert "991 of its elements were compared, and 1,000 before" in row(found).why
    assert decided(Made().attempts("alibi", fewer), Made()).verdict is PASS


@pytest.mark.parametrize("symptom", ["ok", "missing"])
@pytest.mark.parametrize(
    ("excluded", "says"),
    [
        ({"elements": 10, "excluded_elements": 990}, "more than 1 % of the elements have no bound"),
        ({"elements": 0, "excluded_elements": 1000}, "no element has a bound"),
        ({"elements": 900, "excluded_elements": 100, "rows": 100, "excluded_rows": 10}, "rows are indeterminate"),
    ],
)
def test_too_little_compared_is_no_result_in_either_bundle(symptom: str, excluded: dict[str, int], says: str) -> None:
    """It is neither right nor wrong: whatever the bundle calls it, there is nothing to ship on."""
    hardly = outcome("alibi", at=f"output/{symptom}", comparison={**COMPARED, **excluded})
    found = decided(Made().attempts("alibi", hardly), Made().attempts("alibi", hardly))
    assert (found.verdict, row(found).change, row(found).effect) == (OPEN, Change.MISSING, Effect.OPEN)
    assert says in row(found).why


def test_a_wrong_repeat_is_not_excused_by_one_that_is_open() -> None:
    """Wrong outranks open: repeats of which one is wrong and none is right fail, whatever the baseline was."""
    hardly = outcome("alibi", at="output/missing", comparison={**COMPARED, "excluded_elements": 990})
    wrong = outcome("alibi", at="output/wrong", comparison=COMPARED)
    for before in (Made(), Made().without("alibi"), Made().attempts("alibi", wrong, hardly)):
        found = decided(before, Made().attempts("alibi", hardly, wrong))
        assert (found.verdict, row(found).effect) == (FAIL, Effect.FAILS), row(found).why


@pytest.mark.parametrize("changes", [{"driver": "590.12.01"}, {"flash_attn_4": "4.0.0b37"}, {"triton": "3.7.0"}])
def test_what_was_upgraded_must_have_been_in_use(changes: dict[str, str]) -> None:
    newer = environment(**changes)
    opened(
        Made(subjects=(HOST,)), Made(subjects=(HOST,), environment=newer), "nothing that was compared depends on what"
    )
    user = TRITON if "triton" in changes else FA4
    assert decided(Made(subjects=(user,)), Made(subjects=(user,), environment=newer)).verdict is PASS
    # Not asked is not in use.
    lost = {"subjects": (HOST, user), "skips": {user: "there is no GPU"}}
    opened(Made(**lost), Made(**lost, environment=newer), "nothing that was compared depends on what")


def test_of_two_that_changed_the_one_that_was_not_in_use_is_told() -> None:
    newer = environment(torch="2.14.0", triton="3.7.0")
    found = decided(Made(subjects=(HOST,)), Made(subjects=(HOST,), environment=newer))
    assert found.verdict is PASS and "nothing that was compared depends on triton 3.6.0 -> 3.7.0" in found.reasons


def test_a_gpu_that_is_not_named_is_none_to_compare_times_on() -> None:
    def takes(seconds: float, **changes: Any) -> Made:
        made = Made(environment={**environment(), **changes})
        return made.attempts("alibi", outcome("alibi", launches=tuple(seconds * s for s in STEADY)))

    assert decided(takes(1), takes(9)).verdict is FAIL
    opened(takes(1), takes(9, gpus=[]), "does not say on which GPU")
    assert decided(Made(subjects=(HOST,)), Made(subjects=(HOST,), environment=environment(gpus=[]))).verdict is OPEN


@pytest.mark.parametrize("launches", [(0.0,) * 7, (math.nan,) * 7, (1e-3, 1e-3), ()])
def test_times_that_are_none_are_missing_times(launches: tuple[float, ...]) -> None:
    with_times = Made().attempts("alibi", outcome("alibi", launches=STEADY))
    opened(with_times, Made().attempts("alibi", outcome("alibi", launches=launches)), "1 cases were timed in the")


def test_uncommitted_changes_that_only_one_bundle_has() -> None:
    changed, other = (environment(git={"commit": "0123456789abcdef", "changes": c}) for c in ("5eed", "f00d"))
    opened(Made(), Made(environment=changed), "is of a checkout with uncommitted changes")
    opened(Made(environment=other), Made(environment=changed), "is of a checkout with uncommitted changes")
    assert decided(Made(environment=changed), Made(environment=changed)).verdict is PASS


def test_what_a_pass_does_not_cover_is_told() -> None:
    found = decided(Made(), Made())
    assert found.verdict is PASS
    assert any(reason.startswith("a part of the gate's list: ") for reason in found.reasons)
    assert f"nothing is said of the pace of {FA4}, {HOST}: no launches were timed" in found.reasons
    assert "baseline and candidate are one recording: that says nothing of an upgrade" in found.reasons
    whole = Made(cases=[planned(case.name) for case in goldens.must_pass()])
    assert not any("a part of" in reason for reason in decided(whole, whole).reasons)


def test_noise_that_hides_what_may_be_slower_is_told() -> None:
    def takes(*milliseconds: float) -> Made:
        return Made().attempts("alibi", outcome("alibi", launches=tuple(t / 1e3 for t in milliseconds)))

    found = decided(takes(1, 1, 1, 1, 1), takes(1.9, 2, 2.1, 3.2, 3.3))
    assert found.verdict is PASS and any(
        f"more than 1.25 times the baseline's time: 1 rows, at most 2.10 times, alibi on {FA4}" in reason
        for reason in found.reasons
    )
    assert not any("too noisy" in reason for reason in decided(takes(1, 1, 1, 1, 1), takes(1, 1, 1, 1, 1)).reasons)


def test_a_label_is_a_name_and_no_more() -> None:
    before, after = Made().done(), Made().at("alibi", WRONG).done()
    relabelled = dataclasses.replace(after, side=dataclasses.replace(after.side, label=before.side.label))
    assert decide(before, relabelled, today=TODAY).verdict is FAIL


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
