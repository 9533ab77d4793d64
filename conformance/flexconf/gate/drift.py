"""The distance between two right results, in ulp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flexconf.gate.model import Drift
from flexconf.verdict.outcome import Outcome

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def ulps(a: Tensor, b: Tensor) -> Tensor:
    """The number of representable values from `a` to `b`, element by element, float64.

    Both have the same shape and the same dtype: bfloat16, float16 or float32. The distance is 0 for two zeros, two NaN
    or two equal infinities, and inf for any other pair with a NaN or an infinity. Raises ValueError for other shapes or
    dtypes.
    """
    if a.shape != b.shape or a.dtype != b.dtype or a.dtype not in _BITS:
        raise ValueError(f"no distance from {a.dtype} {tuple(a.shape)} to {b.dtype} {tuple(b.shape)}")
    distance = (_place(a) - _place(b)).abs().double()
    same = (a == b) | (a.isnan() & b.isnan())
    special = ~(a.isfinite() & b.isfinite())
    return torch.where(same, 0.0, torch.where(special, math.inf, distance))


def _place(tensor: Tensor) -> Tensor:
    """The position of each value in the order of all values of its dtype. Both zeros are at 0."""
    bits = tensor.contiguous().view(_BITS[tensor.dtype])
    magnitude = bits.long() & torch.iinfo(bits.dtype).max
    return torch.where(bits < 0, -magnitude, magnitude)


def measure(
    before: Mapping[str, Tensor] | None, after: Mapping[str, Tensor] | None, baseline: Outcome, candidate: Outcome
) -> tuple[Drift | None, str]:
    """(the drift over the rows that both bundles keep, a text about it). The drift is None if it cannot be measured.

    `before` and `after` hold `rows` (n, 3), `out` (n, Dv) and `lse` (n,).
    """
    if not before or not after:
        return None, "not measured: no rows of it are kept" + (" in one bundle" if before or after else "")
    old, new = before.get("out"), after.get("out")
    rows, others = before.get("rows"), after.get("rows")
    if old is None or new is None or rows is None or others is None or not torch.equal(rows, others):
        return None, "not measured: the bundles keep different rows of it"
    try:
        apart = ulps(old, new)
    except ValueError as error:
        return None, f"not measured: {error}"
    bits = _BITS[old.dtype]
    differing = old.contiguous().view(bits) != new.contiguous().view(bits)
    largest = 0.0
    at: tuple[int, ...] = ()
    if apart.numel() and bool(differing.any()):
        # +0 and -0, or two different NaN, are 0 ulp apart, but their bits differ: `at` may have to name such a place.
        flat = int(torch.where(differing, apart, -1.0).argmax())
        where = [int(i) for i in torch.unravel_index(torch.tensor(flat), apart.shape)]
        largest, at = float(apart.flatten()[flat]), (*map(int, rows[where[0]]), *where[1:])
    found = Drift(apart.numel(), int(differing.sum()), largest, at, (_ratio(baseline), _ratio(candidate)))
    return found, _said(found, before.get("lse"), after.get("lse"))


def _said(drift: Drift, old: Tensor | None, new: Tensor | None) -> str:
    if drift.differing:
        said = (
            f"{drift.differing} of {drift.elements} kept elements differ, by at most {drift.max_ulp:g} ulp "
            f"at out{list(drift.at)}"
        )
    else:
        said = f"none of the {drift.elements} kept elements of the output differs"
    if old is not None and new is not None and old.shape == new.shape and old.dtype == new.dtype and old.dtype in _BITS:
        apart = ulps(old, new)
        if apart.numel() and float(apart.max()) > 0:
            said += f"; the LSE by at most {float(apart.max()):g} ulp"
    return said


def _ratio(outcome: Outcome) -> float:
    """The largest ratio of error to bound. Returns NaN if the outcome has no such number."""
    found: Any = (outcome.comparison or {}).get("max_ratio")
    try:
        return float(found)
    except (TypeError, ValueError):
        return math.nan
