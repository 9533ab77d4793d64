"""The value that a Python number in a mod has in a dtype, and the dtype in which values are held (L7.2)."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import torch

Scalar: TypeAlias = bool | int | float
_EXACT: Final = 2**53  # float64 represents every integer up to here


class Unwritable(Exception):
    """This use of an operation has no spelling. The message completes "cannot be written for ..."."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of nominal `dtype` are computed and held (L7.2).

    It is float32 for float16 and bfloat16, else `dtype` itself.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def filled(number: Scalar, dtype: torch.dtype) -> Scalar:
    """The value of a tensor of `dtype` that PyTorch fills with `number` (L7.2): 2.7 is 2 in int32, -1 is 255 in uint8.

    Raises Unwritable if PyTorch refuses the number, such as 300 for int8.
    """
    try:
        value: Scalar = torch.full((), number, dtype=dtype).item()
    except RuntimeError as error:
        raise Unwritable(f"{number!r}, of which PyTorch says: {str(error).splitlines()[0]}") from None
    return value


def operand_number(number: Scalar, dtype: torch.dtype) -> Scalar:
    """The value of a Python number in an operation with tensors of `dtype` (L7.2).

    PyTorch makes the number an int64 or float64 tensor and casts it: an integer wraps around, a float that is too large
    becomes infinite.
    """
    if dtype is torch.bool:
        return bool(number)
    if dtype.is_floating_point:
        whole = isinstance(number, int) and abs(number) > _EXACT
        given = torch.tensor(number, dtype=None if whole else torch.float64)
        value = float(given.to(compute_dtype(dtype)))
        return value if whole or math.isinf(value) else number
    number = int(number)
    bits, low = torch.iinfo(dtype).bits, torch.iinfo(dtype).min
    return (number - low) % (1 << bits) + low


def rounded_number(number: Scalar, dtype: torch.dtype) -> Scalar:
    """`operand_number`, but also rounded to `dtype` if that is float16 or bfloat16.

    For numbers that are compared, or that are themselves a result.
    """
    number = operand_number(number, dtype)
    if dtype not in (torch.float16, torch.bfloat16):
        return number
    rounded: Scalar = torch.tensor(number, dtype=torch.float64).to(dtype).item()
    return rounded


def is_minus_zero(number: Scalar, dtype: torch.dtype) -> bool:
    """Whether the number is -0.0 of a floating-point dtype. In Python, -0.0 == 0.0."""
    return dtype.is_floating_point and number == 0 and math.copysign(1.0, number) < 0
