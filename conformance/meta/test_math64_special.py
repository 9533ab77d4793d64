"""The float64 oracle on infinities, NaN, overflow and empty problems."""

from __future__ import annotations

import math

import pytest
import torch
from attentions import INF, in_float32, problem
from attentions import one_thread as one_thread
from torch import Tensor

from flexconf.oracles import math64
from flexconf.verdict.compare import compare


def test_special_scores_propagate_as_in_eager() -> None:
    q, k, v = problem(H=1, M=5, N=6)
    table = torch.zeros(5, 6)
    table[0, 2] = INF
    table[1, 3] = math.nan
    table[2] = -INF
    table[3, :5] = -INF
    table[4, 0] = INF
    table[4, 1] = math.nan
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: s + table[q, kv])
    assert certified.lse[0, 0, 0] == INF
    assert certified.lse[0, 0, [1, 4]].isnan().all()
    assert certified.out[0, 0, [0, 1, 4]].isnan().all()
    assert certified.lse[0, 0, 2] == -INF and certified.lse_bound[0, 0, 2] == 0
    assert (certified.out[0, 0, 2] == 0).all() and (certified.out_bound[0, 0, 2] == 0).all()
    assert torch.equal(certified.out[0, 0, 3], v[0, 0, 5].double())
    assert not certified.excluded.any()


def test_infinite_queries_and_values() -> None:
    q, k, v = problem(H=1, M=3, N=4)
    q, k, v = q.abs() + 0.1, k.abs() + 0.1, v.clone()
    q[0, 0, 0, 0] = INF
    v[0, 0, 1, 3] = INF
    v[0, 0, 2, 4] = math.nan
    certified = math64.attention(q, k, v)
    assert certified.lse[0, 0, 0] == INF and certified.out[0, 0, 0].isnan().all()
    assert (certified.out[0, 0, 1:, 3] == INF).all() and certified.out[0, 0, 1:, 4].isnan().all()
    assert certified.out[0, 0, 1:, :3].isfinite().all()


@pytest.mark.parametrize(("dtype", "compared"), [(torch.bfloat16, True), (torch.float16, False)])
def test_an_infinity_that_a_probability_below_the_dtype_of_v_multiplies(dtype: torch.dtype, compared: bool) -> None:
    """exp(-20) is 2e-9: 0 in float16, and 0 times infinity is NaN in an implementation that rounds P to it."""
    q, k, v = (t.to(dtype) for t in problem(H=1, M=2, N=4))
    v[0, 0, 1, 3] = -INF
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: torch.where(kv == 1, -20.0, 0.0) + 0 * s)
    assert certified.out_bound[0, 0, :, 3].isinf().all() == (not compared)
    assert not compared or (certified.out[0, 0, :, 3] == -INF).all()
    assert certified.out_bound[0, 0, :, :3].isfinite().all()


@pytest.mark.parametrize("open_", [True, False])
def test_an_infinity_whose_probability_others_may_push_out_of_sight(open_: bool) -> None:
    """exp(-16) of 1.4 is visible in float16, of 2.7, which it may be where another score is off by 1, it is not."""

    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        step = torch.floor(torch.exp(torch.log(s * 0 + 3.0))) - 3.0 if open_ else s * 0  # 0 or -1
        return torch.where(kv == 0, step, torch.where(kv == 2, -1.0 - step, torch.where(kv == 1, -16.0, -20.0)))

    q, k, v = (t.half() for t in problem(H=1, M=2, N=4))
    v[0, 0, 1, 3] = -INF
    certified = math64.attention(q, k, v, score_mod=mod)
    assert certified.out_bound[0, 0, :, 3].isinf().all() == open_
    assert open_ or (certified.out[0, 0, :, 3] == -INF).all()
    assert certified.out_bound[0, 0, :, :3].isfinite().all()


def test_scores_beyond_float32_overflow() -> None:
    scores = torch.tensor([1e20, -1e20, 1.0]).double().reshape(1, 1, 1, 3)
    result = math64.evaluate(lambda s, b, h, q, kv: s * 1e20, "score", (scores, scores.abs() * 1e-7), 1, 1, 1, 3)
    assert result.value.flatten().tolist()[:2] == [INF, -INF]
    assert result.error.flatten().tolist()[:2] == [0.0, 0.0]
    near = torch.tensor([3.4028235e18]).double().reshape(1, 1, 1, 1)
    result = math64.evaluate(lambda s, b, h, q, kv: s * 1e20, "score", (near, near * 1e-6), 1, 1, 1, 1)
    assert result.error.item() == INF


def test_huge_scores_with_one_winner_are_still_certified() -> None:
    q, k, v = problem(H=1, M=8, N=16)
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: s * 1e8)
    assert not certified.excluded.any()
    assert certified.out_bound.max() < 0.05
    assert compare(*in_float32(q, k, v, lambda s, b, h, q, kv: s * 1e8), certified).passed


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
def test_empty_problems(shape: tuple[int, int, int, int]) -> None:
    B, H, M, N = shape
    certified = math64.attention(torch.zeros(B, H, M, 8), torch.zeros(B, H, N, 8), torch.zeros(B, H, N, 8))
    assert certified.out.shape == (B, H, M, 8) and (certified.out == 0).all()
    assert (certified.lse == -INF).all() and (certified.lse_bound == 0).all()
