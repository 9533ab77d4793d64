"""The Python numbers in forms, and the operands beside which they may stand."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Final

import torch

from flexconf.checks.three_ways.values import INTEGERS

Number = bool | int | float
BOOLS: Final = (True, False)
INTS: Final = (
    0, 1, -1, 2, 3, -7, 8, 100, -128, 255, 256, -129, 65536, 2**24 + 1, 2**31 - 1, 2**31, -(2**31), 2**32 + 3,
    2**53 + 1,
)  # fmt: skip
WRITTEN_FLOATS: Final = (
    0.0, -0.0, 0.5, -2.5, 0.1, 3.0, -1.0, 1e-3, 7.3, 65519.0, 65536.0, 2147483648.0, 3e38, 1e39, 1e-46,
    math.inf, -math.inf, math.nan,
)  # fmt: skip
_DIVISORS: Final = {"//", "%", "torch.floor_divide", "torch.remainder", "torch.fmod", "torch.div"}
_SHIFTS: Final = {"<<", ">>", "torch.bitwise_left_shift", "torch.bitwise_right_shift"}
_POWERS: Final = {"**", "torch.pow"}
_AMOUNTS: Final = (0, 1, 3, 7, 8, 31, 32, 63)
_EXPONENTS: Final = (
    0, 1, 2, 3, -1, -2, 7, 31, 64, 200, True, 0.5, -0.5, 1.0, 2.0, 3.0, -1.0, 2.5, -0.0, 1e-3, math.inf,
)  # fmt: skip
_BASES: Final = (2, 2.0, 0, 1, -1, 3, True, 0.5, -2.0, 10.0, 0.0, math.inf)


@functools.cache
def takes(name: str, place: int) -> bool:
    """Whether PyTorch takes a Python number as the first (`place` 0) or second (1) argument of this operation."""
    if not name.startswith("torch.") or name in ("torch.where", "torch.clamp"):
        return True
    call = operator.attrgetter(name.removeprefix("torch."))(torch)
    arguments: list[object] = [torch.ones((), dtype=torch.int32)] * 2
    arguments[place] = 1
    try:
        call(*arguments)
    except TypeError:
        return False
    return True


def numbers(name: str, dtype: str) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
    """(the numbers that may stand on the right, those that may stand on the left) of an operand of `dtype`."""
    general = (*BOOLS, *INTS, *WRITTEN_FLOATS)
    if name in _SHIFTS:
        return (*_AMOUNTS, True), (1, 3, -1, 255, True, 2**40)
    if name in _POWERS:
        return _EXPONENTS, _BASES
    if name in _DIVISORS:
        return tuple(n for n in general if _divides(n, dtype)), general
    return general, general


def _divides(number: Number, dtype: str) -> bool:
    """Whether an operand of `dtype` may be divided by `number`.

    The integers 0 and -1 are left out, and the integers that wrap around to them in an integer dtype. The float 0.0 is
    left out if the dtype is an integer dtype.
    """
    if isinstance(number, float):
        return dtype not in INTEGERS or number != 0
    if dtype in INTEGERS:
        number = int(torch.tensor(number, dtype=torch.int64).to(getattr(torch, dtype)))
    return number not in (0, -1)


def some(numbers: Sequence[Number], n: int, full: bool) -> list[Number]:
    """Some numbers of each type, selected by `n`, so that all dtypes together cover all numbers. With `full`, all."""
    if full:
        return list(numbers)
    chosen: list[Number] = []
    for kind, count in ((bool, n % 2), (int, 1 + n % 2), (float, 1)):
        alike = [x for x in numbers if type(x) is kind]
        chosen += [alike[(n * count + i) % len(alike)] for i in range(min(count, len(alike)))]
    return chosen


def kind_of(name: str) -> str:
    """The kind of the second operand's values, one of `values.KINDS`."""
    if name in _SHIFTS:
        return "shift"
    if name in _POWERS:
        return "exponent"
    return "divisor" if name in _DIVISORS else "any"


def written(number: Number) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return {"inf": "inf", "-inf": "(-inf)", "nan": "nan"}[str(number)]
    return f"({number!r})" if str(number).startswith("-") else repr(number)
