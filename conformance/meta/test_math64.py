"""The oracle: its centre is attention, its bounds hold for float32 implementations, are tight, and catch
faults."""

from __future__ import annotations

import math

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
from attentions import INF, Mod, attended, causal, in_float32, problem
from attentions import one_thread as one_thread
from torch import Tensor

from flexconf.oracles import math64
from flexconf.oracles.evaluation import IndexingByTensors, over_indices
from flexconf.verdict.compare import compare

HALVES = [torch.bfloat16, torch.float16]


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
