"""Expressions that many operations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from ..numbers import compute_dtype
from .ranges import is_nonnegative, limit_of, within
from .values import Argument, Value, Writer, is_uniform


def approximates(w: Writer, dtype: torch.dtype) -> bool:
    """Whether to write an approximate instruction: fast_math is set and the dtype is computed in float32."""
    return w.fast_math and compute_dtype(dtype) is torch.float32


APPROXIMATE: Final[dict[str, str]] = {
    "tanh": "tanh_approx",
    "exp2": "exp2_approx",
    "log": "log_approx",
    "log2": "log2_approx",
    "log10": "log10_approx",
    "sqrt": "sqrt_approx",
}
"""Functions of one float -> the prelude functions that replace them with fast_math."""


def function_name(w: Writer, name: str, dtype: torch.dtype) -> str:
    """The name by which a function of one float is called: the approximate one with fast_math."""
    return w.use(APPROXIMATE[name]) if approximates(w, dtype) else f"cute.math.{name}"


def computed(
    w: Writer,
    text: str,
    dtype: torch.dtype,
    hint: str,
    inputs: Sequence[Argument],
    nonnegative: bool = False,
) -> Value:
    """The value of an expression. `hint` names its variable. The value is uniform if all `inputs` are."""
    return Value(w.assign(text, hint), dtype, None, is_uniform(*inputs), nonnegative)


def unchanged(w: Writer, argument: Argument, dtype: torch.dtype) -> Value:
    """The argument itself as a value of `dtype`."""
    nonnegative = is_nonnegative(argument)
    limit = None if dtype.is_floating_point else limit_of(argument)
    return Value(w.vector(argument, dtype), dtype, None, is_uniform(argument), nonnegative, limit)


def infix(
    w: Writer, template: str, x: Argument, y: Argument, dtype: torch.dtype, hint: str, nonnegative: bool = False
) -> Value:
    """The value of an operator between two operands. `template` is a format such as "{x} + {y}"."""
    text = template.format(x=w.operand(x, dtype), y=w.operand(y, dtype))
    return computed(w, text, dtype, hint, (x, y), nonnegative)


def combined(w: Writer, symbol: str, x: Argument, y: Argument, dtype: torch.dtype) -> Value:
    """x & y, x | y or x ^ y, with its sign and limit if they are known."""
    spread = w.vector if dtype is torch.bool else w.operand
    text = f"{spread(x, dtype)} {symbol} {spread(y, dtype)}"
    positive = [a for a in (x, y) if is_nonnegative(a)]
    needed, limit_from = _COMBINED[symbol]
    if len(positive) < needed:
        return computed(w, text, dtype, "", (x, y))
    limits = [limit for limit in map(limit_of, positive) if limit is not None]
    result = computed(w, text, dtype, "", (x, y), True)
    return within(result, limit_from(limits))


def _of_either(limits: Sequence[int]) -> int | None:
    """The limit of x & y: it has only bits that the nonnegative operand has."""
    return min(limits, default=None)


def _of_both(limits: Sequence[int]) -> int | None:
    """The limit of x | y and x ^ y, with all bits up to the highest of both operands."""
    return (1 << max(limits).bit_length()) - 1 if len(limits) == 2 else None


_COMBINED: Final[dict[str, tuple[int, Callable[[Sequence[int]], int | None]]]] = {
    "&": (1, _of_either),
    "|": (2, _of_both),
    "^": (2, _of_both),
}
"""A symbol -> how many operands have to be nonnegative for a nonnegative result, and its limit from theirs."""
