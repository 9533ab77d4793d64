"""What is known of the range of integers and of signs, so that fewer instructions are right (L7.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch

from .values import Argument, Value, constant_of

EXACT: Final = 2**24  # float32 has every integer up to here
_WIDE: Final = 32  # bits of the integers of which the dtype alone tells nothing


def at_least(argument: Argument, bound: float) -> bool:
    """Whether the argument is certainly not below `bound`: a number, or a value known not to be negative."""
    if isinstance(argument, Value) and argument.constant is not None:
        argument = argument.constant
    if isinstance(argument, Value):
        return bound <= 0 and argument.nonnegative
    return isinstance(argument, (bool, int, float)) and argument >= bound


def is_nonnegative(argument: Argument) -> bool:
    """Whether the argument is certainly not below zero."""
    return at_least(argument, 0)


def limit_of(argument: Argument) -> int | None:
    """An integer's largest magnitude; None where its dtype alone would bound it, and for floats."""
    number = constant_of(argument)
    if number is not None:
        return None if isinstance(number, float) else abs(int(number))
    if not isinstance(argument, Value):
        return None
    if argument.limit is not None or argument.dtype.is_floating_point:
        return argument.limit
    if argument.dtype is torch.bool:
        return 1
    info = torch.iinfo(argument.dtype)
    return max(info.max, -info.min) if info.bits < _WIDE else None


def with_limit(value: Value, limit: Callable[..., int], *arguments: Argument) -> Value:
    """`value` with `limit` of the arguments' limits as its own, if its dtype holds that.

    Where it may not, the integer may wrap around, and then a signed one is not known to be `nonnegative`.
    """
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    limits = [limit_of(a) for a in arguments]
    most = None if None in limits else limit(*limits)
    fits = most is not None and most <= torch.iinfo(value.dtype).max
    nonnegative = is_unsigned(value.dtype) or (value.nonnegative and fits)
    return replace(value, limit=most if fits else None, nonnegative=nonnegative)


def within(value: Value, *limits: int | None) -> Value:
    """`value`, which cannot wrap around, with the largest of the `limits` as its own, if all of them are known."""
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    known = [limit for limit in limits if limit is not None]
    fits = len(known) == len(limits) and max(known) <= torch.iinfo(value.dtype).max
    return replace(value, limit=max(known) if fits else None)


def keeps_sign(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether a non-negative value stays so under the cast (a narrower integer may wrap)."""
    if target.is_floating_point or target in (torch.bool, torch.uint8):
        return True
    return not source.is_floating_point and (bits_of(source) < bits_of(target) or source is target)


def is_unsigned(dtype: torch.dtype) -> bool:
    """Whether the dtype is uint8 or bool."""
    return dtype in (torch.uint8, torch.bool)


def is_power_of_two(number: int) -> bool:
    """Whether the number is 1, 2, 4, ..."""
    return number > 0 and number & (number - 1) == 0


def bits_of(dtype: torch.dtype) -> int:
    """The bits of an integer's or bool's dtype."""
    return 1 if dtype is torch.bool else torch.iinfo(dtype).bits
