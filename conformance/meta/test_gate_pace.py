"""The gate's verdict on times and on bits: slower, and drift."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch
from bundles import (
    COMPARED,
    FA4,
    HOST,
    STEADY,
    Made,
    environment,
    kept,
    other_bits,
    outcome,
    planned,
)
from deciding import FAIL, OPEN, PASS, decided, many, row, timed

from flexconf.errors import InputError
from flexconf.gate import pace
from flexconf.gate.drift import ulps
from flexconf.gate.model import Change, Verdict

# ---------------------------------------------------------------------------------------------------------------- pace


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
