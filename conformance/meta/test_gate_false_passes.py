"""Bundles that must not pass: laxer options, too little compared, missing times."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from bundles import (
    COMPARED,
    FA4,
    HOST,
    STEADY,
    TRITON,
    Made,
    environment,
    outcome,
    planned,
)
from deciding import FAIL, OPEN, PASS, TODAY, WRONG, decided, row

from flexconf.gate.compare import decide
from flexconf.gate.model import Change, Effect
from flexconf.golden import folder as goldens


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
