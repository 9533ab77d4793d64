"""Known bounds and signs of values. With them, fewer instructions are enough (L7.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch

from .values import Argument, Value, constant_of

EXACT: Final = 2**24  # float32 represents every integer up to here


def at_least(argument: Argument, bound: float) -> bool:
    """Whether the argument is certainly not below `bound`.

    It is a number of at least `bound`, or `bound` is at most 0 and it is a value known to be nonnegative.
    """
    if isinstance(argument, Value) and argument.constant is not None:
        argument = argument.constant
    if isinstance(argument, Value):
        return bound <= 0 and argument.nonnegative
    return isinstance(argument, (bool, int, float)) and argument >= bound


def is_nonnegative(argument: Argument) -> bool:
    """Whether the argument is certainly not below zero."""
    return at_least(argument, 0)


def limit_of(argument: Argument) -> int | None:
    """The largest magnitude that an integer can have.

    Returns None for floats, and for 32- and 64-bit integers if only their dtype is known.
    """
    number = constant_of(argument)
    if number is not None:
        return None if isinstance(number, float) else abs(int(number))
    if not isinstance(argument, Value):
        return None
    if argument.limit is not None or argument.dtype.is_floating_point:
        return argument.limit
    if argument.dtype is torch.bool:
        return 1
    if argument.dtype in (torch.int32, torch.int64):
        return None
    info = torch.iinfo(argument.dtype)
    return max(info.max, -info.min)


def with_limit(value: Value, limit: Callable[..., int], *arguments: Argument) -> Value:
    """`value` with the limit `limit(...)` of the arguments' limits, if its dtype holds that limit.

    If it does not, or a limit is not known, the integer may wrap around. Then it has no limit, and a signed integer is
    not known to be `nonnegative`.
    """
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    limits = [limit_of(a) for a in arguments]
    most = None if None in limits else limit(*limits)
    fits = most is not None and most <= torch.iinfo(value.dtype).max
    nonnegative = is_unsigned(value.dtype) or (value.nonnegative and fits)
    return replace(value, limit=most if fits else None, nonnegative=nonnegative)


def within(value: Value, *limits: int | None) -> Value:
    """`value` with the largest of the `limits` as its limit, if all of them are known and its dtype holds it.

    For integers that cannot wrap around.
    """
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    known = [limit for limit in limits if limit is not None]
    fits = len(known) == len(limits) and max(known) <= torch.iinfo(value.dtype).max
    return replace(value, limit=max(known) if fits else None)


def keeps_sign(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether every nonnegative integer of `source` is nonnegative after a cast to `target`, a signed integer."""
    return not source.is_floating_point and (source is target or bits_of(source) < bits_of(target))


def is_unsigned(dtype: torch.dtype) -> bool:
    """Whether the dtype is uint8 or bool."""
    return dtype in (torch.uint8, torch.bool)


def is_power_of_two(number: int) -> bool:
    """Whether the number is 1, 2, 4, ..."""
    return number > 0 and number & (number - 1) == 0


def bits_of(dtype: torch.dtype) -> int:
    """The number of bits of an integer or bool dtype."""
    return 1 if dtype is torch.bool else torch.iinfo(dtype).bits
