"""The oracle: its centre is attention, its bounds hold for float32 implementations, are tight, and catch
faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.oracles import math64
from flexconf.oracles.evaluation import IndexingByTensors, over_indices
from flexconf.verdict.compare import compare

Mod = Callable[..., Tensor]
INF = math.inf
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(
    B: int = 1,
    H: int = 2,
    Hkv: int = 1,
    M: int = 70,
    N: int = 90,
    D: int = 32,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B + 10 * H + 100 * M + N)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return draw(B, H, M, D), draw(B, Hkv, N, D), draw(B, Hkv, N, D)


def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return q >= kv


def attended(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in float32 and the keys' mask applied; and V, heads repeated."""
    groups = q.shape[1] // k.shape[1]
    score = (q.float() @ k.repeat_interleave(groups, 1).float().transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]))
    if score_mod is not None:
        indices = [torch.arange(n, dtype=torch.int32) for n in score.shape]
        with IndexingByTensors():
            score = over_indices(score_mod, "score")(score, *indices).float()
    if mask is not None:
        score = torch.where(mask, score, -INF)
    return score, v.repeat_interleave(groups, 1).float()


def in_float32(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Mod | None = None,
    mask: Tensor | None = None,
    spoil: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What a plain kernel does: float32 scores, probabilities rounded to the dtype of V, natural LSE."""
    score, values = attended(q, k, v, score_mod, mask)
    top = score.amax(-1, keepdim=True)
    empty = top == -INF
    p = torch.exp(score - torch.where(empty, 0.0, top))
    total = p.sum(-1, keepdim=True)
    rounded = p.to(v.dtype)
    if spoil is not None:
        rounded = spoil(rounded)
    out = rounded.float() @ values / torch.where(empty, 1.0, total)
    return out.to(q.dtype), torch.where(empty, -INF, top + torch.log(total)).squeeze(-1)


def dense(mask_mod: Mod, B: int, H: int, M: int, N: int) -> Tensor:
    indices = [torch.arange(n, dtype=torch.int32) for n in (B, H, M, N)]
    with IndexingByTensors():
        return over_indices(mask_mod, "mask")(*indices)


def mods() -> dict[str, Mod | None]:
    generator = torch.Generator().manual_seed(5)
    bias = torch.randn(2, 200, generator=generator)
    half = torch.randn(2, 90, generator=generator).to(torch.bfloat16)
    table = torch.randint(0, 90, (90,), generator=generator)
    buckets = torch.randn(2, 32, generator=generator)

    def t5(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        distance = torch.clamp(q - kv, min=0)
        far = 16 + (torch.log(torch.clamp(distance, min=1) / 16.0) / math.log(8.0) * 16).to(torch.int32)
        return score + buckets[h, torch.where(distance < 16, distance, torch.clamp(far, max=31))]

    return {
        "identity": None,
        "bias": lambda s, b, h, q, kv: s + bias[h, q - kv],
        "chained": lambda s, b, h, q, kv: s + bias[h][kv] * 0.1,
        "through": lambda s, b, h, q, kv: s + bias[h, table[kv]],
        "alibi": lambda s, b, h, q, kv: s - torch.exp2(-(h + 1) * 4.0) * (q - kv).abs(),
        "softcap": lambda s, b, h, q, kv: torch.tanh(s / 5.0) * 5.0,
        "half": lambda s, b, h, q, kv: s + half[h, kv] * 2,
        "float64": lambda s, b, h, q, kv: s * bias.double()[h, kv],
        "integers": lambda s, b, h, q, kv: s + ((q * 7 - kv * 3) % 11) // 2 - (kv >> 3),
        "gelu": lambda s, b, h, q, kv: torch.nn.functional.gelu(s) * 1.5 + torch.sin(s * 3),
        "rational": lambda s, b, h, q, kv: (s * s + 1) / (2 + torch.abs(s)) - torch.log1p(torch.exp(s)),
        "t5": t5,
    }


MODS = mods()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODS)
def test_a_float32_kernel_is_within_the_bounds(name: str, masked: bool, dtype: torch.dtype) -> None:
    q, k, v = problem(dtype=dtype)
    mask_mod = causal if masked else None
    certified = math64.attention(q, k, v, score_mod=MODS[name], mask_mod=mask_mod)
    mask = dense(causal, 1, 2, 70, 90) if masked else None
    out, lse = in_float32(q, k, v, MODS[name], mask)
    result = compare(out, lse, certified)
    assert result.passed, result.reason
    assert result.max_ratio > 0.05, "the bound is so wide that it would hide a fault"
    # No order of summation comes near the LSE's bound, which covers all; four times as wide, this fails.
    share = (lse.double() - certified.lse).abs() / certified.lse_bound
    assert share[share.isfinite()].max() > 0.008, "the bound of the LSE is so wide that it would hide a fault"
    assert result.excluded_rows <= 0.01 * result.rows


def test_the_centre_is_attention_in_forty_digits() -> None:
    q, k, v = problem(H=1, M=2, N=5, D=8)
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: s * 1.5 - kv, scale=0.3)
    with mpmath.workdps(40):
        for row in range(2):
            scores = []
            for j in range(5):
                dot = mpmath.fsum(
                    mpmath.mpf(float(a)) * mpmath.mpf(float(b)) for a, b in zip(q[0, 0, row], k[0, 0, j], strict=True)
                )
                scores.append(dot * mpmath.mpf(0.3) * mpmath.mpf(1.5) - j)
            weights = [mpmath.exp(s) for s in scores]
            total = mpmath.fsum(weights)
            assert abs(mpmath.log(total) - float(certified.lse[0, 0, row])) < 1e-13
            for d in range(8):
                exact = mpmath.fsum(w * float(v[0, 0, j, d]) for j, w in enumerate(weights)) / total
                assert abs(exact - float(certified.out[0, 0, row, d])) < 1e-13


def test_the_softmax_bound_holds_for_any_errors_of_the_scores() -> None:
    """Scores moved by up to their errors, in the directions that hurt most, in exact arithmetic."""
    generator = torch.Generator().manual_seed(3)
    closest = {"out": 0.0, "lse": 0.0}
    for n in range(1, 40, 3):
        s = torch.randn(1, 1, 8, n, generator=generator).double() * 10.0 ** (n % 3)
        e = torch.rand(1, 1, 8, n, generator=generator).double() * 3 * 10.0 ** -(n % 5)
        v = torch.randn(1, 1, n, 8, generator=generator)
        nobody = torch.zeros(1, 1, 8, dtype=torch.bool)
        certified = math64._softmax(s, e.clone(), v, torch.float32, None, nobody, 0, 1)
        for d in range(8):
            towards = torch.sign(v[0, 0, :, d].double() - certified.out[..., d : d + 1])
            for direction in (towards, -towards, torch.ones_like(s), -torch.ones_like(s)):
                moved = s + direction * e
                out, lse = torch.softmax(moved, -1) @ v.double(), torch.logsumexp(moved, -1)
                shares = {
                    "out": (out - certified.out).abs() / certified.out_bound,
                    "lse": (lse - certified.lse).abs() / certified.lse_bound,
                }
                closest = {part: max(closest[part], float(share.max())) for part, share in shares.items()}
    assert all(0.9 < share <= 1 for share in closest.values()), closest


# --- planted faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_one_ulp_in_one_percent_of_the_probabilities_is_caught(seed: int) -> None:
    q, k, v = problem(H=4, M=200 + seed, N=200 + seed)
    generator = torch.Generator().manual_seed(seed)

    def spoil(p: Tensor) -> Tensor:
        chosen = (torch.rand(p.shape, generator=generator) < 0.01) & (p > 0)
        return torch.where(chosen, (p.view(torch.int16) + 1).view(p.dtype), p)

    q = q * 3
    certified = math64.attention(q, k, v, mask_mod=causal)
    mask = dense(causal, 1, 4, 200 + seed, 200 + seed)
    assert compare(*in_float32(q, k, v, None, mask), certified).passed
    result = compare(*in_float32(q, k, v, None, mask, spoil), certified)
    assert result.symptom == "wrong", result.reason


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_row_off_by_one_key_is_caught(dtype: torch.dtype) -> None:
    q, k, v = problem(dtype=dtype)
    certified = math64.attention(q, k, v, mask_mod=causal)
    mask = dense(causal, 1, 2, 70, 90).clone()
    mask[0, 1, 40, 41] = True
    result = compare(*in_float32(q, k, v, None, mask), certified)
    assert result.symptom == "wrong"
    assert result.worst is not None and result.worst["index"][:3] == [0, 1, 40]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_one_wrong_table_element_is_caught(dtype: torch.dtype) -> None:
    q, k, v = problem(dtype=dtype)
    table = torch.randn(2, 90, generator=torch.Generator().manual_seed(1))
    wrong = table.clone()
    wrong[1, 30] += 0.05
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: s + table[h, kv])
    result = compare(*in_float32(q, k, v, lambda s, b, h, q, kv: s + wrong[h, kv]), certified)
    assert result.symptom == "wrong"


# --- discontinuities (accuracy point 3) ---------------------------------------------------------------------


def test_either_outcome_of_a_close_comparison_is_legal() -> None:
    """The bound covers both sides of a jump; away from it, only one."""
    scores = torch.tensor([0.4, 0.5, 0.5 + 1e-8, 0.6]).double().reshape(1, 1, 1, 4)
    error = torch.full_like(scores, 1e-6)
    result = math64.evaluate(
        lambda s, b, h, q, kv: torch.where(s > 0.5, 3.0, 1.0), "score", (scores, error), 1, 1, 1, 4
    )
    assert result.error.flatten().tolist() == [0.0, 2.0, 2.0, 0.0]


def test_uncertain_truth_is_three_valued() -> None:
    scores = torch.tensor([0.0, 1.0]).double().reshape(1, 1, 1, 2)
    error = torch.tensor([1e-6, 1e-6]).double().reshape(1, 1, 1, 2)

    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        open_ = s > 0.0  # uncertain for the first, true for the second
        closed = (open_ & (kv < 0)) | (open_ | (kv >= 0)) & ~(open_ & (kv < 0))
        return torch.where(closed, 1.0, 2.0)

    result = math64.evaluate(mod, "score", (scores, error), 1, 1, 1, 2)
    assert result.error.abs().max() == 0


def test_an_uncertain_bucket_becomes_certain_again() -> None:
    scores = torch.tensor([2.0, 7.0, 40.0]).double().reshape(1, 1, 1, 3)
    error = torch.full_like(scores, 1e-3)
    table = torch.tensor([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0])
    result = math64.evaluate(
        lambda s, b, h, q, kv: table[torch.clamp(s.to(torch.int32), max=5)],
        "score",
        (scores, error),
        1,
        1,
        1,
        3,
    )
    # 2 may have become 1; 7 and 40 are cut to 5, certainly.
    assert result.error.flatten().tolist() == pytest.approx([10.0, 0.0, 0.0], rel=1e-5)


def test_a_row_that_hangs_on_a_close_comparison_is_excluded() -> None:
    q, k, v = problem(H=1, M=3, N=4)
    threshold = torch.full((3, 4), -100.0)
    threshold[1] = attended(q, k, v, None, None)[0][0, 0, 1]
    certified = math64.attention(q, k, v, score_mod=lambda s, b, h, q, kv: torch.where(s >= threshold[q, kv], s, -INF))
    assert certified.excluded.flatten().tolist() == [False, True, False]
    assert certified.indeterminate == 4


def test_an_open_element_that_cannot_matter_does_not_exclude() -> None:
    q, k, v = problem(H=1, M=2, N=4)
    flag = torch.tensor([0.1, 0.2, 0.3, 0.7]).double()

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (flag.float()[kv] * 3 / 3 < 0.7) | (kv < 3)

    def far(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.where(kv == 3, -500.0, s)

    assert math64.attention(q, k, v, mask_mod=mask_mod).excluded.all()
    certified = math64.attention(q, k, v, mask_mod=mask_mod, score_mod=far)
    assert not certified.excluded.any()
    assert certified.indeterminate == 2


# --- special values (L8.2, L8.5, accuracy point 5) ----------------------------------------------------------


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


# --- heads and block lists (L8.3, L8.4) ---------------------------------------------------------------------


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
