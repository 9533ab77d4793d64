"""The operands of the three-way check: tables and scalars of difficult values, made from their names alone.

`x_<dtype>` and `y_<dtype>_<kind>` are one-dimensional tables, read at `kv` and at `q`. `z_<dtype>_<kind>_<n>` is a
0-dim tensor that holds value n. `kind` restricts the values to those for which an operation is defined.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import torch
from torch import Tensor

QUERIES: Final = 12
KEYS: Final = 20
KINDS: Final = ("any", "divisor", "shift", "exponent")
HALVES: Final = ("float16", "bfloat16")
FLOATS: Final = (*HALVES, "float32", "float64")
INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8")
DTYPES: Final = (*FLOATS, *INTEGERS, "bool")

_COMMON: Final = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 0.5, -2.5, 3.0, 0.1, -7.3)
_OF_DTYPE: Final = {
    "float16": (65504.0, -65504.0, 2.0**-24, 2.0**-14, 2049.0, 1e-3, 88.5, 300.25),
    "bfloat16": (3.3895313892515355e38, -1e38, 1e-40, 2.0**-126, 257.0, 1e-3, 88.5, 1e6),
    "float32": (3.4028234663852886e38, -1e38, 1e-40, 2.0**-126, 16777216.0, -88.5, 1e-3, 2147483648.0),
    "float64": (1.7e308, -1e39, 1e-310, 1e-45, 9007199254740991.0, -88.5, 1e-3, 4294967299.5),
}
_SMALL: Final = (0, 1, -1, 2, 3, -3, 7, -8, 31, 100, -128, 127)
_WIDE: Final = (255, 256, 32767, -32768, 65537, 16777217, 2**31 - 1, -(2**31), 2**31, 2**32 + 3, 2**53 + 1, -(2**63))


@functools.cache
def capture(name: str) -> Tensor:
    """The tensor with this name. Raises KeyError if the role is not x, y or z."""
    role, dtype, *rest = name.split("_")
    if role == "x":
        return table(dtype, "any", KEYS)
    if role == "y":
        return table(dtype, rest[0], QUERIES)
    if role == "z":
        return table(dtype, rest[0], KEYS)[int(rest[1]) % KEYS].clone()
    raise KeyError(name)


def table(dtype: str, kind: str, length: int) -> Tensor:
    """`length` values of `dtype` that `kind` allows. If there are fewer, they repeat from the start."""
    chosen = _values(dtype, kind)
    if length < len(chosen):  # spread over the whole list, so that no table holds its easy half only
        step = len(chosen) / length
        chosen = [chosen[int(i * step)] for i in range(length)]
    return torch.tensor([chosen[i % len(chosen)] for i in range(length)], dtype=getattr(torch, dtype))


def _values(dtype: str, kind: str) -> list[float] | list[int] | list[bool]:
    if dtype == "bool":
        return [True] if kind == "divisor" else [True, False, False]
    if dtype in FLOATS:
        return [*_COMMON, *_OF_DTYPE[dtype]]
    limits = torch.iinfo(getattr(torch, dtype))
    held = [v for v in (*_SMALL, *_WIDE, limits.max, limits.min, limits.max - 1) if limits.min <= v <= limits.max]
    held = list(dict.fromkeys(held))
    if kind == "divisor":
        # On a CPU, an integer division by 0, or of the lowest value by -1, ends the process.
        return [v for v in held if v not in (0, -1)]
    if kind == "shift":
        return [v for v in (0, 1, 2, 3, 7, 8, 15, 31, 32, 63, 64, 100) if v <= limits.max]
    if kind == "exponent":
        return [v for v in (0, 1, 2, 3, 5, 7, 11, 31, 63, 64, 127, 128, 255, -1, -2) if limits.min <= v <= limits.max]
    return held
