"""The gate's verdict: what becomes of it for every way in which two bundles can differ."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

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
from deciding import CRASH, FAIL, HANG, OPEN, PASS, TODAY, WRONG, decided, many, row, timed

from flexconf.cases.case import Case
from flexconf.gate.bundle import BundleRecord
from flexconf.gate.compare import decide
from flexconf.gate.model import Change, Effect, Verdict
from flexconf.gate.waivers import Waiver
from flexconf.runs import expectations
from flexconf.runs.expectations import Expectation

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


def refusing(at: str = "eligibility/refused", **changes: Any) -> Made:
    made = Made(cases=[planned("alibi", "refused:eligibility"), planned("causal")])
    return made.attempts("alibi", outcome("alibi", FA4, at, **changes))


def more_cases(**extra: str) -> Made:
    return Made(cases=[*map(planned, CASES), *(planned(c, digest=d) for c, d in extra.items())])


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
