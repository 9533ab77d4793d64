"""Outcomes: their JSON form, and the law of merging repeats."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexconf.errors import InputError
from flexconf.verdict.outcome import Outcome, Stage, Symptom, merge, missing

COMPARED = {"elements": 3, "max_ratio": 0.5}


def outcome(stage: str, symptom: str, out: str = "", message: str = "") -> Outcome:
    compared = COMPARED if symptom == "ok" else None
    digests = {"out": out} if out else {}
    return Outcome("a", "d", "s", Stage(stage), Symptom(symptom), message, compared, {"launch": 0.5}, digests)


outcomes = st.builds(
    outcome,
    st.sampled_from([*Stage]),
    st.sampled_from([*Symptom]),
    st.sampled_from(["", "1", "2"]),
    st.sampled_from(["", "x"]),
)


def join(*parts: Outcome) -> Outcome:
    merged = merge(parts)
    assert merged is not None
    return merged


@given(outcomes, outcomes, outcomes)
def test_merging_is_a_semilattice(a: Outcome, b: Outcome, c: Outcome) -> None:
    assert join(a, a) == a
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(join(a, b), b) == join(a, b)


@given(st.lists(outcomes, min_size=1, max_size=4))
def test_the_order_of_repeats_does_not_matter(repeats: list[Outcome]) -> None:
    assert len({json.dumps(join(*order).to_json()) for order in itertools.permutations(repeats)}) == 1


@given(outcomes)
def test_a_flake_is_never_a_pass(other: Outcome) -> None:
    good = outcome("output", "ok", "1")
    merged = join(good, other)
    if merged.ok:
        assert (other.stage, other.symptom) == (good.stage, good.symptom)
        assert other.digests == good.digests
    else:
        assert merged.symptom is Symptom.NONDETERMINISTIC


@given(st.lists(outcomes, min_size=1, max_size=4))
def test_a_pass_is_a_pass_of_every_repeat(repeats: list[Outcome]) -> None:
    merged = join(*repeats)
    same = len({(o.stage, o.digests.get("out")) for o in repeats}) == 1
    assert merged.ok == (same and all(o.ok for o in repeats))
    assert {*merged.observed} == {seen for o in repeats for seen in o.observed}


@pytest.mark.parametrize("other", ["wrong", "crash", "timeout", "missing", "refused"])
def test_ok_and_something_else_is_nondeterministic(other: str) -> None:
    merged = join(outcome("output", "ok", "1"), outcome("launch", other))
    assert merged.symptom is Symptom.NONDETERMINISTIC
    assert merged.stage is Stage.LAUNCH, "the earliest that was seen"
    assert merged.message == f"repeats differ: launch/{other}, output/ok"
    assert not merged.ok


def test_equal_symptoms_with_other_bits_are_nondeterministic() -> None:
    """L9.3: repeated launches are bitwise equal."""
    merged = join(outcome("output", "ok", "1"), outcome("output", "ok", "2"))
    assert merged.symptom is Symptom.NONDETERMINISTIC
    assert not merged.ok


def test_the_lse_counts_as_well() -> None:
    one, two = (Outcome("a", "d", "s", Stage.LSE, Symptom.OK, "", COMPARED, digests={"lse": x}) for x in "12")
    assert join(one, two).symptom is Symptom.NONDETERMINISTIC


def test_repeats_that_differ_in_time_only_are_one_result() -> None:
    slow, fast = (Outcome("a", "d", "s", Stage.LSE, Symptom.OK, "", COMPARED, {"launch": t}) for t in (2.0, 1.0))
    assert join(slow, fast) == join(fast, slow)
    assert join(slow, fast).ok


def test_of_nothing_comes_nothing_and_missing_is_a_failure() -> None:
    assert merge([]) is None
    assert not missing("a", "d", "s", "never run").ok
    for comparison in (None, {}, {"elements": 0}):
        assert not Outcome("a", "d", "s", Stage.OUTPUT, Symptom.OK, comparison=comparison).ok, "nothing was compared"
    assert Outcome("a", "d", "s", Stage.OUTPUT, Symptom.OK, comparison={"elements": 0, "empty": True}).ok


def test_outcomes_of_different_cases_do_not_merge() -> None:
    with pytest.raises(InputError, match="cannot merge"):
        merge([outcome("output", "ok"), missing("b", "d", "s", "")])


@given(outcomes)
def test_json_round_trip(a: Outcome) -> None:
    assert Outcome.from_json(json.loads(json.dumps(a.to_json()))) == a


WHOLE = outcome("output", "ok", "1").to_json()


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"case": "a"},
        [],
        [WHOLE],
        None,
        "ok",
        7,
        *({key: value for key, value in WHOLE.items() if key != left_out} for left_out in WHOLE),
        WHOLE | {"stage": "nowhere"},
        WHOLE | {"symptom": "fine"},
        WHOLE | {"comparison": 7},
        WHOLE | {"comparison": [1]},
        WHOLE | {"timings": 3},
        WHOLE | {"timings": {"launch": "soon"}},
        WHOLE | {"digests": ["out"]},
        WHOLE | {"observed": "output/ok"},
        WHOLE | {"observed": [7]},
        WHOLE | {"observed": ["output"]},
    ],
    ids=lambda broken: json.dumps(broken)[-40:],
)
def test_other_json_is_refused(broken: Any) -> None:
    with pytest.raises(InputError, match="not a recorded outcome"):
        Outcome.from_json(broken)
