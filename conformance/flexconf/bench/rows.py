"""Check timed results: float64 attention for a few rows, the same rows for every provider."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexconf.bench.workloads import Built

LIMIT = 4.0
"""The largest error of a right result, in units.

A unit is one ulp of the output's dtype at the magnitude of the row's sum of p |v|. Rounding P and the output costs
about one unit. A tanh with 11 bits in a score_mod, as in flash-attn-4's own softcap and in fast_math, costs about two
more. A wrong mask, scale, capture or head costs tens to thousands.
"""


@dataclass(frozen=True)
class Rows:
    """R sampled rows at the indices `b`, `h`, `q` (R,).

    In float64: `out` (R, Dv), `lse` (R,) in natural log, and `size` (R, Dv), the sum of p |v|.
    """

    b: Tensor
    h: Tensor
    q: Tensor
    out: Tensor
    lse: Tensor
    size: Tensor


@dataclass(frozen=True)
class Check:
    """The result of a comparison with the exact rows.

    `elements` counts the compared elements of the output; `ulp` is their largest error in units (see `LIMIT`). `lse` is
    the largest error of the LSE, in half ulps of 1 in the output's dtype; None if there is no LSE. `other_base` says
    that the LSE is wrong, but right if multiplied or divided by ln 2.
    """

    elements: int
    ulp: float
    lse: float | None
    other_base: bool = False

    @property
    def ok(self) -> bool:
        """Whether something was compared and all errors are within `LIMIT`. A NaN is not."""
        return self.elements > 0 and self.ulp <= LIMIT and (self.lse is None or self.lse <= LIMIT)

    def worse(self, other: Check) -> Check:
        """Both checks as one: the sum of the elements and the larger errors."""
        lse = [x for x in (self.lse, other.lse) if x is not None]
        largest = _largest(*lse) if lse else None
        base = self.other_base and other.other_base
        return Check(self.elements + other.elements, _largest(self.ulp, other.ulp), largest, base)

    def excused(self) -> Check:
        """The same check without the LSE if its base is another. For providers with that known defect."""
        return replace(self, lse=None) if self.other_base else self

    @property
    def why(self) -> str:
        """What is wrong, in a few words. Returns "" if nothing is."""
        if not self.elements:
            return "nothing was compared"
        wrong = []
        if not self.ulp <= LIMIT:
            wrong.append(f"the output is off by {self.ulp:.3g} ulp")
        if self.lse is not None and not self.lse <= LIMIT:
            base = ", as if its logarithm had another base" if self.other_base else ""
            wrong.append(f"the LSE by {self.lse:.3g} units{base}")
        return ", ".join(wrong)


def exact(built: Built, count: int, seed: int = 0) -> Rows:
    """Float64 attention for `count` rows, on the device of the tensors: the last row, the first, and random others."""
    w = built.workload
    every = w.B * w.H * w.M
    others = torch.randperm(every, generator=torch.Generator().manual_seed(seed))[: min(count, every)].tolist()
    chosen = list(dict.fromkeys([every - 1, 0, *others]))[:count]
    places = [(n // (w.H * w.M), n // w.M % w.H, n % w.M) for n in chosen]
    results = [_row(built, *place) for place in places]
    device, wide = built.q.device, built.v.shape[-1]

    def stack(which: int, *size: int) -> Tensor:
        empty = torch.empty(0, *size, dtype=torch.float64, device=device)
        return torch.stack([r[which] for r in results]) if results else empty

    index = torch.tensor(places, dtype=torch.int64, device=device).reshape(-1, 3)
    return Rows(index[:, 0], index[:, 1], index[:, 2], stack(0, wide), stack(1), stack(2, wide))


def _row(built: Built, b: int, h: int, q: int) -> tuple[Tensor, Tensor, Tensor]:
    w, device = built.workload, built.q.device
    head = h // (w.H // w.Hkv)
    keys, values = built.k[b, head].double(), built.v[b, head].double()
    scores = (keys @ built.q[b, h, q].double()) * built.scale
    at = [torch.tensor(n, device=device) for n in (b, h, q)]
    kv = torch.arange(w.N, device=device)
    if built.exact_score_mod is not None:
        scores = built.exact_score_mod(scores, at[0], at[1], at[2], kv)
    if built.mask_mod is not None:
        scores = scores.masked_fill(~built.mask_mod(at[0], at[1], at[2], kv), -math.inf)
    lse = torch.logsumexp(scores, 0)
    weights = torch.exp(scores - lse) if bool(torch.isfinite(lse)) else torch.zeros_like(scores)
    return weights @ values, lse, weights @ values.abs()


def check(rows: Rows, out: Tensor, lse: Tensor | None) -> Check:
    """Compare `out` (B, H, M, Dv), and `lse` (B, H, M) if there is one, with the exact rows."""
    where = (rows.b, rows.h, rows.q)
    if not rows.out.numel():
        return Check(0, 0.0, None)
    format_ = torch.finfo(out.dtype)
    unit = torch.exp2(torch.floor(torch.log2(rows.size.clamp_min(format_.tiny)))) * format_.eps
    ulp = ((out[where].double() - rows.out).abs() / unit).nan_to_num(math.inf, math.inf)
    if lse is None:
        return Check(rows.out.numel(), float(ulp.max()), None)
    seen = lse[where].double()
    off, *scaled = (_off(seen * factor, rows.lse, format_.eps / 2) for factor in (1.0, math.log(2), 1 / math.log(2)))
    return Check(rows.out.numel(), float(ulp.max()), off, off > LIMIT and min(scaled) <= LIMIT)


def _off(seen: Tensor, exact: Tensor, unit: float) -> float:
    error = torch.where(seen == exact, 0.0, (seen - exact).abs()) / unit
    return float(error.nan_to_num(math.inf, math.inf).max())


def _largest(*values: float) -> float:
    return math.nan if any(math.isnan(v) for v in values) else max(values)
