"""The float64 oracle on grouped heads, block lists and unusual mods."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from attentions import INF, Mod, attended, causal, problem
from attentions import one_thread as one_thread
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.oracles import math64


@pytest.mark.parametrize("Hkv", [1, 2, 4, 8])
def test_grouped_heads(Hkv: int) -> None:
    q, k, v = problem(H=8, Hkv=Hkv, M=20, N=30, D=16)
    grouped = math64.attention(q, k, v)
    repeated = math64.attention(q, k.repeat_interleave(8 // Hkv, 1), v.repeat_interleave(8 // Hkv, 1))
    torch.testing.assert_close(grouped.out, repeated.out, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(grouped.lse, repeated.lse, rtol=1e-12, atol=1e-13)


def test_block_lists_agree_with_the_dense_mask() -> None:
    q, k, v = problem(M=100, N=130)
    mask = create_block_mask(causal, None, None, 100, 130, device="cpu", BLOCK_SIZE=(32, 16))
    by_list = math64.attention(q, k, v, block_mask=mask)
    by_element = math64.attention(q, k, v, mask_mod=causal)
    assert torch.equal(by_list.out, by_element.out) and torch.equal(by_list.lse, by_element.lse)


def test_full_blocks_do_not_call_the_mask_and_absent_blocks_are_not_read() -> None:
    q, k, v = problem(H=1, M=64, N=96)
    k[0, 0, 32:64] = math.nan
    v[0, 0, 32:64] = math.nan
    nothing: Mod = lambda b, h, q, kv: kv < 0  # noqa: E731
    mask = BlockMask.from_kv_blocks(
        torch.tensor([[[1, 1]]], dtype=torch.int32),
        torch.tensor([[[[2, 0, 0], [2, 0, 0]]]], dtype=torch.int32),
        torch.tensor([[[1, 0]]], dtype=torch.int32),
        torch.tensor([[[[0, 0, 0], [0, 0, 0]]]], dtype=torch.int32),
        BLOCK_SIZE=(32, 32),
        mask_mod=nothing,
        seq_lengths=(64, 96),
    )
    certified = math64.attention(q, k, v, block_mask=mask)
    only = math64.attention(q[:, :, :32], k[:, :, :32], v[:, :, :32])
    torch.testing.assert_close(certified.out[:, :, :32], only.out, rtol=1e-12, atol=1e-13)
    assert certified.out_bound[:, :, :32].isfinite().all()
    assert (certified.out[:, :, 32:] == 0).all() and (certified.lse[:, :, 32:] == -INF).all()


def test_a_masked_nan_in_a_visited_block_is_not_compared() -> None:
    q, k, v = problem(H=1, M=4, N=4)
    v[0, 0, 3, 5] = math.nan
    certified = math64.attention(q, k, v, mask_mod=causal)
    assert (certified.out_bound[0, 0, :3, 5] == INF).all()
    assert certified.out[0, 0, 3, 5].isnan()
    assert certified.out_bound[0, 0, :, :5].isfinite().all()


def test_malformed_lists_are_refused() -> None:
    q, k, v = problem(H=1, M=64, N=64)
    twice = BlockMask.from_kv_blocks(
        torch.tensor([[[2, 1]]], dtype=torch.int32),
        torch.tensor([[[[0, 0], [1, 0]]]], dtype=torch.int32),
        BLOCK_SIZE=(32, 32),
        mask_mod=causal,
        seq_lengths=(64, 64),
    )
    with pytest.raises(math64.BlockListError, match="twice"):
        math64.attention(q, k, v, block_mask=twice)


def test_results_that_are_no_mask_or_score() -> None:
    q, k, v = problem(H=1, M=4, N=4)
    with pytest.raises(math64.ModResultError, match="boolean"):
        math64.attention(q, k, v, mask_mod=lambda b, h, q, kv: q - kv)
    with pytest.raises(math64.UnmodelledOperation, match="digamma"):
        math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: torch.digamma(s))


def test_captures_are_left_as_they_were() -> None:
    table = torch.randn(90)
    before = table.clone()
    q, k, v = problem()
    math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: s + table[kv])
    assert torch.equal(table, before) and not vars(table)


@pytest.mark.parametrize(
    "index",
    [
        lambda s: (s > 0.5).to(torch.int64),
        lambda s: (s > 0.5).to(torch.int16).to(torch.int64),
        lambda s: torch.clamp(s, -1.5, 1.9).to(torch.int32),
        lambda s: torch.floor(torch.clamp(s, -1.0, 1.0)).to(torch.int32) + 1,
    ],
)
def test_an_index_made_of_the_score_reads_one_element(index: Callable[[Tensor], Tensor]) -> None:
    """Not sure to the last bit, it is still an index, and no mask."""
    q, k, v = problem()
    bias = torch.tensor([0.5, -1.0, 2.0])

    def mod(s: Tensor, b: Tensor, h: Tensor, at: Tensor, kv: Tensor) -> Tensor:
        return s + bias[index(s)]

    certified = math64.attention(q, k, v, score_mod=mod, mask_mod=None, block_mask=None, scale=1 / math.sqrt(32))
    score, _ = attended(q, k, v, None, None)
    right = torch.logsumexp(score.double() + bias.double()[index(score)], -1)
    sure = ~certified.excluded
    assert int(sure.sum()) > 100
    assert bool(((right - certified.lse).abs() <= certified.lse_bound)[sure].all())


def test_an_exact_cast_has_the_dtype_that_it_is_a_cast_to() -> None:
    """Also where the value went through a float: as an index, and as a condition."""
    q, k, v = problem()
    table = torch.arange(90 * 2, dtype=torch.int32).reshape(90, 2)

    def mod(s: Tensor, b: Tensor, h: Tensor, at: Tensor, kv: Tensor) -> Tensor:
        over = (s > 0.1).to(torch.int64)
        small = torch.clamp(s, -3, 3).to(torch.int32).to(torch.bool)
        return torch.where(small, s, -INF) + table[kv, over] * 0.01

    certified = math64.attention(q, k, v, score_mod=mod, mask_mod=None, block_mask=None, scale=1 / math.sqrt(32))
    score, _ = attended(q, k, v, None, None)
    right = torch.where(score.to(torch.int32) != 0, score, -INF) + table[torch.arange(90), (score > 0.1).long()] * 0.01
    sure = ~certified.excluded
    assert int(sure.sum()) > 100
    assert bool(((torch.logsumexp(right.double(), -1) - certified.lse).abs() <= certified.lse_bound)[sure].all())
