"""The operand values for checks of operations: difficult values, as far as the operation is defined on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Y_KINDS = ("any", "nonzero", "shift", "power", "close")
_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0, 2.5, -2.5, 3.0, -3.0, 7.0, 0.1, -0.1, 0.7, -0.9, 0.999,
    1e-3, -1e-3, 3.14159, -6.28318, 10.25, -10.25, 19.9, 20.1, 44.5, -44.5, 88.5, -88.5, 100.75, -100.75,
    1234.5, 3e4, -3e4, 1e6, 1e-6, -1e-6, 1e-20, -1e20, 1e30, math.inf, -math.inf, math.nan,
)  # fmt: skip


def operand_values(dtype: str, kind: str = "any") -> Tensor:
    """The operand values: negatives, zeros, halves, infinities, NaN, the ends of the range, as far as `kind` allows."""
    torch_dtype = getattr(torch, dtype)
    if dtype == "bool":
        return torch.tensor([True, False, False, True] * 4)
    if torch_dtype.is_floating_point:
        info = torch.finfo(torch_dtype)
        if kind == "close":
            chosen = [v for v in _FLOATS if 0 < abs(v) < 50]
        elif kind == "any":
            chosen = [*_FLOATS, info.max, info.min, info.tiny, info.eps]
        else:
            chosen = [1.0]
        return torch.tensor(chosen, dtype=torch.float64).to(torch_dtype)
    limits = torch.iinfo(torch_dtype)
    if kind == "shift":
        # PyTorch also defines shifts by the width of the dtype and by more.
        amounts = {0, 1, 2, 3, 5, 7, 31, 33, 63, 100, limits.bits - 1, limits.bits, limits.bits + 1}
        return torch.tensor(sorted(amounts)).to(torch_dtype)
    if kind == "power":
        return torch.tensor([0, 1, 2, 3, 4, 5, 7, 11, limits.max // 2 + 1, limits.max], dtype=torch_dtype)
    small = [0, 1, 2, 3, 5, 7, 8, 31, 100, 127]
    if limits.min < 0:
        small += [-1, -2, -3, -5, -7, -8, -31, -100, -127]
    if kind == "nonzero":
        # Every x meets every y, and the quotient of the lowest value by -1 overflows. So -1 is left out.
        return torch.tensor([v for v in small if v not in (0, -1)], dtype=torch_dtype)
    if kind == "close":
        return torch.tensor([1, 2, 3], dtype=torch_dtype)
    return torch.tensor([*small, limits.max, limits.max - 1, limits.min, limits.min + 1], dtype=torch_dtype)


def ulp_of(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of `dtype` at `value`, in float64. It is 1 if the value is not finite."""
    info = torch.finfo(dtype)
    size = value.double().abs().clamp(min=info.tiny)
    exponent = torch.frexp(size).exponent - 1
    spacing = torch.ldexp(torch.full_like(size, info.eps), exponent)
    return torch.where(value.isfinite(), spacing, 1.0)
