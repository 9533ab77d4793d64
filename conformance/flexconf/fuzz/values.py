"""The facts that the walk over a mod's text (`outline`) tracks for an expression: dtype, range, dependences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class DrawnValue:
    """An expression: a tensor of `dtype`, or the Python number `number` (dtype None).

    Its values lie in [low, high]; the ends are infinite if unknown. `rank` counts the dimensions still to be indexed.
    `capture` names the capture that is read, `places` are its indices as text, and `kinds` are their kinds.
    `variable`: it is b, h, q or kv itself. `loaded`: it depends on a capture. `lane`: it differs within a vector,
    because it depends on kv or the score. `zero`: it is a 0-dim capture.
    """

    dtype: str | None
    low: float = -math.inf
    high: float = math.inf
    number: bool | int | float | None = None
    rank: int = 0
    variable: bool = False
    loaded: bool = False
    capture: str = ""
    kinds: tuple[str, ...] = ()
    lane: bool = False
    zero: bool = False
    places: tuple[str, ...] = ()


def constant(number: bool | int | float) -> DrawnValue:
    bound = float(number) if math.isfinite(number) else 0.0
    return DrawnValue(None, bound, bound, number=number)


def operand(arguments: Sequence[DrawnValue]) -> str:
    tensors = [(a.dtype, "") for a in arguments if a.dtype is not None]
    return promoted(tensors) if tensors else "number"


def interval(name: str, arguments: Sequence[DrawnValue]) -> tuple[float, float]:
    """Bounds of the integer result of an operation, where they are easy to know. Otherwise they are infinite."""
    a = arguments[0]
    b = arguments[1] if len(arguments) > 1 else a
    match name:
        case "add" if len(arguments) == 2:
            return a.low + b.low, a.high + b.high
        case "sub" if len(arguments) == 2:
            return a.low - b.high, a.high - b.low
        case "neg":
            return -a.high, -a.low
        case "abs" | "square":
            return 0.0, math.inf
        case "mul":
            ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high) if not (math.isnan(x * y))]
            return (min(ends), max(ends)) if len(ends) == 4 else _EVERYTHING
        case "remainder" if b.low > 0:
            return 0.0, b.high - 1
        case "remainder" if b.high < 0:
            return b.low + 1, 0.0
        case "floor_divide" | "div_floor" | "bitwise_right_shift" if b.low >= 0 and a.low >= 0:
            return 0.0, a.high
        case "bitwise_left_shift" if a.low >= 0:
            return 0.0, math.inf
        case "bitwise_and" if min(a.low, b.low) >= 0 or max(a.low, b.low) >= 0:
            return 0.0, max(a.high, b.high)
        case "bitwise_or" | "bitwise_xor" if min(a.low, b.low) >= 0:
            return 0.0, math.inf
        case "minimum" | "clamp_max":
            return min(a.low, b.low), min(a.high, b.high)
        case "maximum" | "clamp_min":
            return max(a.low, b.low), max(a.high, b.high)
        case "clamp" if len(arguments) == 3:
            low, high = arguments[1], arguments[2]
            return max(a.low, low.low), min(max(a.high, low.high), high.high)
        case "relu":
            return max(a.low, 0.0), max(a.high, 0.0)
        case "where":
            return min(x.low for x in arguments[1:]), max(x.high for x in arguments[1:])
    return _EVERYTHING


def folded(name: str, numbers: Sequence[bool | int | float | None]) -> DrawnValue:
    """The result of an operation on Python numbers, which Python computes.

    The value is right for the usual operators only. Otherwise it is the first operand.
    """
    a, b = (number if number is not None else 0 for number in (*numbers, 0)[:2])
    value: bool | int | float = a
    try:
        match name:
            case "neg":
                value = -a
            case "add":
                value = a + b
            case "sub":
                value = a - b
            case "mul":
                value = a * b
            case "div":
                value = a / b
            case "floor_divide":
                value = a // b
            case "remainder":
                value = a % b
    except ArithmeticError:
        pass
    return constant(value)


_CATEGORY = {"bool": 0, "int": 1, "float": 2}


def promoted(operands: Sequence[tuple[str | None, str]]) -> str:
    return _promote(tuple(operands))


@functools.lru_cache(maxsize=4096)
def _promote(operands: tuple[tuple[str | None, str], ...]) -> str:
    """PyTorch's type promotion of scalar tensors (dtype, "") and Python numbers (None, name of their type)."""
    result: torch.dtype | None = None
    for dtype, _ in operands:
        if dtype is not None:
            given = getattr(torch, dtype)
            result = given if result is None else torch.promote_types(result, given)
    kinds = [kind for dtype, kind in operands if dtype is None]
    highest = max((_CATEGORY.get(kind, 2) for kind in kinds), default=-1)
    if result is None:
        return ("bool", "int64", "float32")[max(highest, 0)]
    own = 2 if result.is_floating_point else 0 if result is torch.bool else 1
    if highest > own:
        return ("bool", "int64", "float32")[highest]
    return str(result).removeprefix("torch.")


def kinds(index: DrawnValue) -> tuple[str, ...]:
    """The kinds of an index. A loaded or computed index that may be negative has two: its own, and "negative"."""
    if index.number is not None:
        return ("negative",) if index.low < 0 else ("constant",)
    if index.variable:
        return ("variable",)
    kind = "loaded" if index.loaded else "computed"
    # The range of a loaded index is unknown, and so infinite. That alone does not make it negative.
    return (kind, "negative") if index.low < 0 and math.isfinite(index.low) else (kind,)
