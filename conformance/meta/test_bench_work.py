"""The benchmark's workloads: their useful work, and the check of sampled rows."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from benched import eager, small
from torch import Tensor

from flexconf.bench import mods, rows, workloads
from flexconf.bench.workloads import WORKLOADS, Built

# ------------------------------------------------------------------------------------------------- useful work


@pytest.mark.parametrize("size", [1, 7, 300, 1500])
def test_attended_pairs_have_a_closed_form(size: int) -> None:
    assert workloads.attended(None, size, size + 1, "cpu") == size * (size + 1)
    assert workloads.attended(mods.causal, size, size, "cpu", rows=64) == size * (size + 1) // 2
    w = min(mods.WINDOW, size - 1)
    inside = (w + 1) * size - w * (w + 1) // 2
    assert workloads.attended(mods.sliding_window, size, size, "cpu", rows=100) == inside
    ids = workloads.documents(size, "cpu")
    lengths = torch.bincount(ids).tolist()
    assert workloads.attended(mods.document(ids), size, size, "cpu") == sum(n * (n + 1) // 2 for n in lengths)


def test_documents_are_uneven_and_off_the_tiles() -> None:
    ids = workloads.documents(8192, "cpu")
    assert ids.dtype == torch.int32 and ids.shape == (8192,) and ids.unique().tolist() == list(range(8))
    lengths = torch.bincount(ids).tolist()
    assert max(lengths) > 4 * min(lengths)
    assert all(n % 128 for n in torch.tensor(lengths).cumsum(0).tolist()[:-1])


def test_useful_work_counts_both_products_of_every_head() -> None:
    w = WORKLOADS["causal"]
    pairs = 8192 * 8193 // 2
    assert w.flops(pairs) == 2 * (2 * 128 * pairs) * 64
    assert WORKLOADS["decode"].least_bytes() == 2 * (2 * 16 * 32 * 128 + 2 * 16 * 8 * 8192 * 128)
    assert WORKLOADS["none"].least_bytes() == 2 * 4 * (4 * 16 * 8192 * 128)


# ---------------------------------------------------------------------------------------------- the check of rows


@pytest.mark.parametrize("name", [n for n in WORKLOADS if n not in ("short", "simt")])
def test_eager_flex_attention_passes_on_every_workload(name: str) -> None:
    built = workloads.build(small(name), "cpu")
    found = rows.check(rows.exact(built, 12), *eager(built))
    assert found.ok and found.elements == min(12, 8 * built.workload.M) * 64, found
    assert 0 < found.ulp < 2 and found.lse is not None and found.lse < 1


def wrong_mask(built: Built) -> tuple[Tensor, Tensor]:
    def off_by_one(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return q > kv

    return eager(workloads_with(built, off_by_one))


def workloads_with(built: Built, mask: mods.MaskMod) -> Built:
    w = built.workload
    from torch.nn.attention.flex_attention import create_block_mask

    block_mask = create_block_mask(mask, None, None, w.M, w.N, device="cpu")
    return dataclasses.replace(built, mask_mod=mask, block_mask=block_mask)


def planted(kind: str, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    match kind:
        case "zeros":
            return torch.zeros_like(out), lse
        case "nan":
            return out.clone().index_fill_(3, torch.tensor([5]), math.nan), lse
        case "heads swapped":
            return out.roll(1, 1), lse.roll(1, 1)
        case "one row too far":
            return out.roll(1, 2), lse.roll(1, 2)
        case "scale":
            return out * 1.1, lse
        case "base-2 LSE":
            return out, lse / math.log(2)
        case "LSE nan":
            return out, lse * math.nan
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["zeros", "nan", "heads swapped", "one row too far", "scale", "base-2 LSE", "LSE nan"])
def test_planted_errors_are_wrong(kind: str) -> None:
    built = workloads.build(small("causal"), "cpu")
    found = rows.check(rows.exact(built, 32), *planted(kind, *eager(built)))
    assert not found.ok and found.why


def test_a_mask_off_by_one_is_wrong() -> None:
    built = workloads.build(small("causal"), "cpu")
    assert not rows.check(rows.exact(built, 16), *wrong_mask(built)).ok


def test_a_capture_of_another_head_is_wrong() -> None:
    built = workloads.build(small("alibi"), "cpu")
    slopes = torch.exp2(-8.0 * torch.arange(1, 5) / 4).roll(1)
    other = dataclasses.replace(built, score_mod=mods.alibi(slopes))
    assert not rows.check(rows.exact(built, 16), *eager(other)).ok


def test_sampled_rows_are_distinct_and_hold_the_last_and_the_first() -> None:
    built = workloads.build(small("none"), "cpu")
    found = rows.exact(built, 40)
    places = list(zip(found.b.tolist(), found.h.tolist(), found.q.tolist(), strict=True))
    assert len(set(places)) == 40 and places[:2] == [(1, 3, 199), (0, 0, 0)]
    assert all(0 <= b < 2 and 0 <= h < 4 and 0 <= q < 200 for b, h, q in places)
    assert len(rows.exact(workloads.build(small("decode"), "cpu"), 99).q) == 8


def test_rows_with_nothing_to_attend_to_are_zero_and_minus_infinity() -> None:
    def nothing(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (q >= 0) & (kv < 0)

    built = workloads_with(workloads.build(small("causal"), "cpu"), nothing)
    exact = rows.exact(built, 5)
    assert rows.check(exact, torch.zeros_like(built.q), torch.full((2, 4, 200), -math.inf)).ok
    assert not rows.check(exact, torch.zeros_like(built.q), torch.zeros(2, 4, 200)).ok


def test_checking_nothing_is_a_failure() -> None:
    built = workloads.build(small("none"), "cpu")
    found = rows.check(rows.exact(built, 0), *eager(built))
    assert not found.ok and found.why == "nothing was compared"


def test_the_worse_of_two_checks() -> None:
    both = rows.Check(3, 1.0, None).worse(rows.Check(4, 2.0, 0.5))
    assert both == rows.Check(7, 2.0, 0.5)
    assert math.isinf(rows.Check(3, math.inf, None).worse(both).ulp)


# --------------------------------------------------------------------------------------------------- command line


def test_lengths_of_documents_cover_the_sequence() -> None:
    bounds = [0.0, *workloads._DOCUMENT_ENDS]
    assert all(a < b for a, b in pairwise(bounds)) and bounds[-1] == 1.0
