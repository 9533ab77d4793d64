"""Ranges of results from the ranges of operands, for the texts of the table."""

from __future__ import annotations

import math
from collections.abc import Callable

from flexconf.language.operations.rows import INTEGER_RANGES, UNKNOWN, Ends, Operand, Range


def constant(lo: float, hi: float) -> Ends:
    """The same range for all operands."""
    return lambda x, y: (lo, hi)


def corners(function: Callable[[float, float], float]) -> Ends:
    """The least and largest value of `function` at the ends of x and y. They are unknown if one of them is NaN."""

    def ranged(x: Operand, y: Operand) -> Range:
        values = [function(a, b) for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        return (min(values), max(values)) if not any(math.isnan(v) for v in values) else UNKNOWN

    return ranged


def times(a: float, b: float) -> float:
    """The product, 0 if one factor is 0 and the other is infinite."""
    return 0 if a == 0 or b == 0 else a * b


def power(exponent: int) -> Ends:
    """The range of x to a power of 2 or 3."""

    def ranged(x: Operand, y: Operand) -> Range:
        ends = (x.lo**exponent, x.hi**exponent)
        return (0 if x.lo <= 0 <= x.hi else min(ends), max(ends)) if exponent % 2 == 0 else ends

    return ranged


def any_power(x: Operand, y: Operand) -> Range:
    """The range of x to the power y, for operands in the domain of the row."""
    if not x.is_integer:
        return (0, 1000)
    return (-27, 27) if y.within(0, 3) and x.within(-3, 3) else INTEGER_RANGES[x.dtype]


def bits(x: Operand, y: Operand) -> Range:
    """The range of `&`, `|` and `^`: except for the sign, no bit is set above the highest bit of both operands."""
    end = 1 << max(int(max(t.hi, -t.lo - 1)).bit_length() for t in (x, y))
    return (-end if x.lo < 0 or y.lo < 0 else 0, end - 1)


def magnitude(x: Operand, y: Operand) -> Range:
    """The range of |x|."""
    return (0 if x.lo <= 0 <= x.hi else min(abs(x.lo), abs(x.hi)), x.size)


def sign(x: Operand, y: Operand) -> Range:
    """The range of the sign of x."""
    return (-1 if x.lo < 0 else 0, 1 if x.hi > 0 else 0)


def remainder(x: Operand, y: Operand) -> Range:
    """The range of `x % y` for y > 0. If both are integers, the remainder is at most y - 1."""
    return (0, y.hi - 1 if x.is_integer and y.is_integer else y.hi)


def c_remainder(x: Operand, y: Operand) -> Range:
    """The range of fmod for y > 0. The result has the sign of x."""
    most = min(x.size, y.hi - 1 if x.is_integer and y.is_integer else y.hi)
    return (-most if x.lo < 0 else 0, most if x.hi > 0 else 0)


def quotient(rounded: Callable[[float], float]) -> Ends:
    """The range of the quotient for y > 0, rounded by `math.floor` or `math.trunc`."""

    def ranged(x: Operand, y: Operand) -> Range:
        if not math.isfinite(x.size) or y.lo <= 0:
            return UNKNOWN
        if x.is_integer and y.is_integer:
            down = rounded is math.floor
            ends = [a // b if down else -(-a // b) if a < 0 else a // b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        else:
            ends = [rounded(a / b) for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        return min(ends), max(ends)

    return ranged


def same(x: Operand, y: Operand) -> Range:
    """The range of x."""
    return x.lo, x.hi


def between(x: Operand, y: Operand) -> Range:
    """The range that holds x and y."""
    return min(x.lo, y.lo), max(x.hi, y.hi)


def smaller(x: Operand, y: Operand) -> Range:
    """The range of the minimum."""
    return min(x.lo, y.lo), min(x.hi, y.hi)


def larger(x: Operand, y: Operand) -> Range:
    """The range of the maximum."""
    return max(x.lo, y.lo), max(x.hi, y.hi)


def at_least(bound: float) -> Ends:
    """The range of the maximum of x and `bound`."""
    return lambda x, y: (max(x.lo, bound), max(x.hi, bound))


def at_most(bound: float) -> Ends:
    """The range of the minimum of x and `bound`."""
    return lambda x, y: (min(x.lo, bound), min(x.hi, bound))


def rounded(x: Operand, y: Operand) -> Range:
    """The range of x rounded to an integer."""
    return (x.lo - 1, x.hi + 1) if x.is_float else (x.lo, x.hi)


def to_decimals(number: int) -> Ends:
    """The range of x rounded to a number of decimals."""
    most = 10.0**-number
    return lambda x, y: (x.lo - most, x.hi + most)


def log_of_sum(x: Operand, y: Operand) -> Range:
    """The range of logaddexp and logaddexp2."""
    return max(x.lo, y.lo), max(x.hi, y.hi) + 1


def product_added(value: float) -> Ends:
    """The range of x + value * x * y."""

    def ranged(x: Operand, y: Operand) -> Range:
        size = x.size + value * x.size * y.size
        return -size, size

    return ranged


def quotient_added(x: Operand, y: Operand) -> Range:
    """The range of x + 0.5 * x / y for y of 0.25 or more."""
    size = x.size + 2 * x.size
    return (-size, size) if y.lo >= 0.25 else UNKNOWN


def shifted_left(x: Operand, y: Operand) -> Range:
    """The range of `x << y`."""
    return (min(x.lo * 2**y.hi, x.lo), max(x.hi * 2**y.hi, x.hi)) if y.hi < 64 else UNKNOWN


def shifted_right(x: Operand, y: Operand) -> Range:
    """The range of `x >> y`."""
    return min(x.lo, -1 if x.lo < 0 else 0), max(x.hi, 0)


def inverted(x: Operand, y: Operand) -> Range:
    """The range of `~x` for integers."""
    return (0, 255) if x.dtype == "uint8" else (-x.hi - 1, -x.lo - 1)
