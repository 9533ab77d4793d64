"""Attention in float64, with a bound on every element of its result (accuracy points 1 to 5; L8.1 to L8.5).

`evaluate` computes a mod alone, `attention` the whole attention. docs/accuracy.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.blocks import BlockListError, visits
from flexconf.oracles.evaluation import Bounded, ModResultError, evaluate
from flexconf.oracles.operation import UnmodelledOperation

__all__ = [
    "BlockListError",
    "Bounded",
    "Certified",
    "ModResultError",
    "UnmodelledOperation",
    "attention",
    "evaluate",
]

_NEGLIGIBLE_LOG = math.log(1e-30)
_VISIBLE = {torch.bfloat16: 1e-20, torch.float16: 2.0**-24}
"""An infinity in V must show in the output if its probability is above this. A smaller probability may be 0 when it is
rounded to the dtype of V."""

_FAR = -800.0  # exp of less is 0 in float64
_SHAKY = 0.02
"""If an exponent's error exceeds this, `_dominated` is computed as well, and the smaller of the two bounds counts."""


@dataclass(frozen=True)
class Certified:
    """The results that a correct implementation may return.

    out and out_bound: float64 (B, H, M, Dv). lse and lse_bound: float64 (B, H, M); the LSE is a natural logarithm. A
    bound of 0 demands equality, and inf excludes the element. excluded: bool (B, H, M), the rows in which an
    indeterminate element affects the result. indeterminate: the number of indeterminate score and mask elements.
    out_dtype: the dtype of q.
    """

    out: Tensor
    lse: Tensor
    out_bound: Tensor
    lse_bound: Tensor
    excluded: Tensor
    indeterminate: int
    out_dtype: torch.dtype


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score_mod: Callable[..., Tensor] | None = None,
    mask_mod: Callable[..., Tensor] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    fast_math: bool = False,
) -> Certified:
    """Attention in float64, with a bound on every element.

    q: (B, H, M, D), k: (B, Hkv, N, D), v: (B, Hkv, N, Dv), float16 or bfloat16 (or float32), any strides.
    block_mask: a BlockMask. Its lists say which elements are attended, and its mask_mod masks partial blocks;
    `mask_mod` takes the place of a missing one. Without a block_mask, `mask_mod` masks every element. scale: None means
    1 / sqrt(D). fast_math: the mods, and nothing else, may use the approximations of `error_model.FAST`.
    Raises UnmodelledOperation, ModResultError, BlockListError, and any exception of the mods themselves.
    """
    B, H, M, D = q.shape
    Hkv, N, Dv = k.shape[1], k.shape[2], v.shape[3]
    scale = 1 / math.sqrt(D) if scale is None else scale
    if 0 in (B, H, M, N):
        return _nothing(B, H, M, Dv, q.dtype)
    score, error = _scores(q, k, scale)
    if score_mod is not None:
        modified = evaluate(score_mod, "score", (score, error), B, H, M, N, fast_math=fast_math)
        score, error = modified.value, modified.error
    visited, attended, unsure = _masking(mask_mod, block_mask, B, H, M, N, fast_math)

    # -inf removes an element, whether the mask or the score_mod sets it (L8.5). An absent element has no error.
    s = score if attended is None else torch.where(attended, score, -math.inf)
    e = torch.where(s == -math.inf, torch.where(error.isinf(), error, 0.0), error)
    if attended is not None:
        e = torch.where(attended, e, 0.0)
    excluded, indeterminate = _excluded(s, e, unsure, score, error, M, N)
    return _softmax(s, e, v, q.dtype, visited, excluded, indeterminate, Hkv)


def _nothing(B: int, H: int, M: int, Dv: int, dtype: torch.dtype) -> Certified:
    """The result of a problem without keys or queries: output 0, LSE -inf (L8.2, L9.4)."""
    out = torch.zeros(B, H, M, Dv, dtype=torch.float64)
    lse = torch.full((B, H, M), -math.inf, dtype=torch.float64)
    excluded = torch.zeros(B, H, M, dtype=torch.bool)
    return Certified(out, lse, torch.zeros_like(out), torch.zeros_like(lse), excluded, 0, dtype)


def _grouped(x: Tensor, Hkv: int) -> Tensor:
    """(B, H, M, n) -> (B, Hkv, H / Hkv * M, n): puts the query heads that share a key/value head together (L8.3)."""
    B, H, M, n = x.shape
    return x.reshape(B, Hkv, H // Hkv * M, n)


def _scores(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """scale * Q K^T and its bound: D products, summed in float32 in any order, then multiplied by the scale.

    The products of float16 and bfloat16 inputs are exact in float32.
    """
    B, H, M, D = q.shape
    Hkv, N = k.shape[1], k.shape[2]
    q64, k64 = _grouped(q.double(), Hkv), k.double()
    score = (q64 @ k64.transpose(-1, -2)).reshape(B, H, M, N)
    absolute = (q64.abs() @ k64.abs().transpose(-1, -2)).reshape(B, H, M, N)
    score.mul_(scale)
    sums_overflow = float(absolute.max()) * max(1.0, abs(scale)) >= em.FLT_MAX
    # With float32 inputs each product is rounded too.
    roundings = D + (1 if q.dtype == torch.float32 else 0)
    gamma = em.gamma(roundings) * em.ORACLE_SLACK
    # The scale is rounded to float32, and so is the product with it: 2 u of the computed score.
    relative = (gamma + 2 * em.U32 * (1 + gamma)) * abs(scale)
    if not sums_overflow and not bool(score.isnan().any()):
        tiny = (absolute > 0).double().mul_(2 * em.FLT_MIN) if float(absolute.min()) == 0 else 2 * em.FLT_MIN
        return score, absolute.mul_(relative).add_(tiny)
    error = absolute * relative + 2 * em.FLT_MIN
    finite = score.isfinite()
    overflow = finite & (absolute * max(1.0, abs(scale)) >= em.FLT_MAX)
    error = torch.where(finite, torch.where(overflow, math.inf, error), 0.0)
    return score, error


def _masking(
    mask_mod: Callable[..., Tensor] | None, block_mask: Any, B: int, H: int, M: int, N: int, fast_math: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(visited, attended, unsure), each bool and broadcastable to (B, H, M, N).

    None means every element in `visited` and `attended`, and no element in `unsure`. Unsure elements do not count as
    attended.
    """
    if block_mask is None:
        if mask_mod is None:
            return None, None, None
        mask = evaluate(mask_mod, "mask", None, B, H, M, N, fast_math=fast_math)
        unsure = mask.error > 0
        if not bool(unsure.any()):
            return None, mask.value, None
        return None, mask.value & ~unsure, unsure
    which = visits(block_mask, B, H, M, N)
    visited = which.full | which.partial
    mod = block_mask.mask_mod if block_mask.mask_mod is not None else mask_mod
    if mod is None or not bool(which.partial.any()):
        return visited, visited, None
    mask = evaluate(mod, "mask", None, B, H, M, N, fast_math=fast_math)
    unsure = (mask.error > 0) & which.partial
    if not bool(unsure.any()):
        return visited, which.full | (which.partial & mask.value), None
    return visited, which.full | (which.partial & mask.value & ~unsure), unsure


def _excluded(
    s: Tensor, e: Tensor, unsure: Tensor | None, score: Tensor, error: Tensor, M: int, N: int
) -> tuple[Tensor, int]:
    """The rows that are excluded, bool (B, H, M), and the number of indeterminate elements.

    An attended element with an infinite error excludes its row, since its probability could be anything. An element
    that may or may not be masked excludes its row, unless its probability is certainly below 1e-30.
    """
    infinite = e == math.inf
    excluded = infinite.any(-1)
    count = int(infinite.sum())
    if unsure is not None:
        highest = torch.where(unsure, torch.where(error.isinf(), math.inf, score + error), -math.inf)
        highest = highest.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        lowest = torch.where(infinite, -math.inf, s - e).amax(-1)
        matters = ~(highest.amax(-1) < lowest + _NEGLIGIBLE_LOG - math.log(N)) & (highest.amax(-1) > -math.inf)
        excluded = excluded | matters
        count += int(unsure.expand_as(s).sum())
    return excluded, count


def _softmax(
    s: Tensor,
    e: Tensor,
    v: Tensor,
    out_dtype: torch.dtype,
    visited: Tensor | None,
    excluded: Tensor,
    indeterminate: int,
    Hkv: int,
) -> Certified:
    B, H, M, _ = s.shape
    Dv = v.shape[3]
    u = em.U32
    top = s.amax(-1)  # NaN if any score is
    empty = top == -math.inf
    open_ended = ~top.isfinite() & ~empty  # a +inf or NaN score
    anchor = torch.where(top.isfinite(), top, 0.0)
    x = s - anchor.unsqueeze(-1)
    if bool(open_ended.any()):
        x = torch.where(open_ended.unsqueeze(-1), 0.0, x)
    p = torch.exp(x)
    total = p.sum(-1)
    safe_total = torch.where(empty, 1.0, total)
    p.div_(safe_total.unsqueeze(-1))

    v64 = v.double()
    special_v = not bool(v64.isfinite().all())
    finite_v = torch.where(v64.isfinite(), v64, 0.0) if special_v else v64
    out = (_grouped(p, Hkv) @ finite_v).reshape(B, H, M, Dv)
    lse = torch.where(empty, -math.inf, anchor + torch.log(safe_total))

    # Error of the exponent: the error of the score, and the error of computing exp2((s - max) * log2(e)) in float32,
    # possibly as a fused product. |s| and |max| are rounded once each, their difference twice (|s| <= |max| + |x|),
    # and exp2 has 2 ulp.
    keys = (s > -math.inf).sum(-1).double()
    et = e if not bool(excluded.any()) else torch.where(excluded.unsqueeze(-1), 0.0, e)
    et = torch.add(et, x.clamp_(min=_FAR), alpha=-3 * u)
    et.add_((2 * u * anchor.abs() + 5 * u).unsqueeze(-1))
    steady = float(et.max()) < 600
    grown = torch.expm1(et if steady else et.clamp(max=600.0)).mul_(p)
    weight = grown.sum(-1)  # sum p (exp(e) - 1)

    # Sums of `keys` terms in float32, and an online softmax's rescaling of its accumulators.
    rescales = torch.ceil(keys / em.KEYS_PER_RESCALE)
    steps = keys + 3 * rescales + 2
    gamma = steps * u / (1 - steps * u)
    p_rounding = em.UNIT_ROUNDOFF[v.dtype]
    relative = p_rounding + 2 * gamma + 4 * u
    inflate = 1 + weight  # 1 / sum p exp(-e) <= sum p exp(e)
    mixed = grown.mul_(inflate.unsqueeze(-1)).add_(p * relative.unsqueeze(-1))
    absolute_v = finite_v.abs()
    bound = (_grouped(mixed, Hkv) @ absolute_v).reshape(B, H, M, Dv)
    bound.add_(out.abs() * (weight * inflate).unsqueeze(-1))
    if not steady:
        far = (et > 599).any(-1)
        bound = torch.where(far.unsqueeze(-1), math.inf, bound)
    if float(et.max()) > _SHAKY:
        rest = _dominated(s, et, absolute_v, Hkv) + (_grouped(p * relative.unsqueeze(-1), Hkv) @ absolute_v).reshape(
            B, H, M, Dv
        )
        bound = torch.minimum(bound, rest)
    largest_v = absolute_v.amax(-2, keepdim=True).repeat_interleave(H // Hkv, 1)
    if v.dtype == torch.float16:
        # Small probabilities are float16 subnormals, 2**-24 apart.
        bound = bound + largest_v * (keys * 2.0**-25 / safe_total).unsqueeze(-1)
    bound = (bound + 2 * em.FLT_MIN).mul_(em.ORACLE_SLACK)
    bound = bound + _output_rounding(out.abs() + bound, out_dtype)
    bound = torch.where(
        out.abs() + bound > em.LARGEST[out_dtype] * (1 + em.UNIT_ROUNDOFF[out_dtype] / 2), math.inf, bound
    )

    log_total = torch.log(safe_total).abs()
    lse_bound = torch.log1p(weight)
    if not steady:
        lse_bound = torch.minimum(lse_bound, torch.where(s > -math.inf, et, 0.0).amax(-1))
        lse_bound = torch.where(far, torch.where(s > -math.inf, et, 0.0).amax(-1), lse_bound)
    lse_bound = lse_bound + gamma + u * (6 * log_total + 4 * anchor.abs() + 2 * lse.abs()) + em.FLT_MIN
    lse_bound = lse_bound * em.ORACLE_SLACK

    if special_v:
        least = p * torch.exp(-et) / inflate.unsqueeze(-1)
        out, bound = _special_values(out, bound, least, et, v64, visited, Hkv, _VISIBLE.get(v.dtype, 1e-20))
    row = open_ended.unsqueeze(-1)
    out = torch.where(row, math.nan, out)
    bound = torch.where(row, 0.0, bound)
    lse = torch.where(open_ended, top, lse)
    lse_bound = torch.where(open_ended | empty, 0.0, lse_bound)
    out = torch.where(empty.unsqueeze(-1), 0.0, out)
    bound = torch.where(empty.unsqueeze(-1), 0.0, bound)
    return Certified(out, lse, bound, lse_bound, excluded, indeterminate, out_dtype)


def _dominated(s: Tensor, et: Tensor, absolute_v: Tensor, Hkv: int) -> Tensor:
    """A bound on the effect of the score errors that is tight for rows that one key dominates.

    It holds however large the score errors are. With j0 the key of the largest score and c = v[j0],
    |delta o| <= sum over j != j0 of |p'_j - p_j| (|v_j| + |c|). Both probabilities of j are at most
    exp((s_j + e_j) - (s_j0 - e_j0)) and at most 1.
    """
    B, H, M, _ = s.shape
    first = s.argmax(-1, keepdim=True)
    floor = s.gather(-1, first) - et.gather(-1, first)
    reach = torch.exp((s + et - floor).nan_to_num(nan=0.0).clamp(max=0.0))
    reach = torch.where(s == -math.inf, 0.0, reach).scatter(-1, first, 0.0)
    own = absolute_v.repeat_interleave(H // Hkv, 1).gather(2, first.expand(B, H, M, absolute_v.shape[3]))
    others = (_grouped(reach, Hkv) @ absolute_v).reshape(B, H, M, -1)
    return others + own * reach.sum(-1, keepdim=True)


def _output_rounding(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Half an ulp of `dtype` at `magnitude`, at least half the spacing of its subnormals."""
    exponent = torch.frexp(magnitude).exponent.to(torch.float64) - 1
    smallest = math.log2(float(torch.finfo(dtype).tiny))
    return torch.exp2(exponent.clamp_(min=smallest)).mul_(em.UNIT_ROUNDOFF[dtype])


def _special_values(
    out: Tensor,
    bound: Tensor,
    least: Tensor,
    et: Tensor,
    v: Tensor,
    visited: Tensor | None,
    Hkv: int,
    visible: float,
) -> tuple[Tensor, Tensor]:
    """`out` and `bound` with the effects of infinities and NaNs in V (L8.4).

    If a visible probability multiplies such a value, the value must show in the output. If the probability is 0 or
    vanishing and the block is visited, some implementations compute 0 * inf, so the output element is not compared. If
    the block is not visited, the value has no effect. `least` is a lower bound on each probability. It allows for the
    error `et` of the element's own score, and for what the errors of the other scores may add to the sum.
    """
    B, H, M, Dv = out.shape
    seen = (least > visible) & (et < 10)
    present = torch.ones_like(seen) if visited is None else visited.expand_as(seen)
    vague = present & ~seen

    def touched(where: Tensor, what: Tensor) -> Tensor:
        return (_grouped(where.double(), Hkv) @ what.double()).reshape(B, H, M, Dv) > 0

    nan, up, down = v.isnan(), v == math.inf, v == -math.inf
    is_nan = touched(seen, nan) | (touched(seen, up) & touched(seen, down))
    is_up, is_down = touched(seen, up) & ~is_nan, touched(seen, down) & ~is_nan
    out = torch.where(is_nan, math.nan, torch.where(is_up, math.inf, torch.where(is_down, -math.inf, out)))
    bound = torch.where(is_nan | is_up | is_down, 0.0, bound)
    certain_nan = touched(seen, nan)
    bound = torch.where(touched(vague, ~v.isfinite()) & ~certain_nan, math.inf, bound)
    return out, bound
