"""The operations for the generator: the range in which an argument may lie, and the range of the result.

The operations, their texts and their dtypes are those that `flexconf ops` checks one by one.
"""

from __future__ import annotations

import functools
import math
import re

from flexconf.language.operations import ALL, CATALOGUE, UNKNOWN, Operation, Range, ranges, row_of, text_of
from flexconf.strategies.terms import INTEGER_RANGES, Term, result_dtype, substitute

_COMPARED: Range = (0, 1)
_LONGEST = 600


def catalogue(dtype: str) -> tuple[Operation, ...]:
    """The operations that take `dtype`."""
    return _BY_DTYPE[dtype]


_BY_DTYPE = {d: tuple(o for o in CATALOGUE if d in o.dtypes) for d in ALL}


def takes_two(operation: Operation) -> bool:
    """Whether the text of the operation reads y."""
    return _reads_y(operation.text)


@functools.cache
def _reads_y(text: str) -> bool:
    return re.search(r"(?<![\w.])y\b", text) is not None


def domain(operation: Operation, dtype: str) -> Range:
    """The range in which the argument x must lie."""
    if dtype == "bool":
        return _COMPARED
    return (text_of(operation.text).domain or row_of(operation.name).domain).of(dtype)


def partner(operation: Operation, dtype: str) -> Range:
    """The range in which the second argument y must lie."""
    if operation.y == "power":
        return (0, INTEGER_RANGES[dtype][1])  # a power outside its dtype wraps around
    return (text_of(operation.text).second or row_of(operation.name).second).domain.of(dtype)


def apply(operation: Operation, x: Term, y: Term | None) -> Term | None:
    """The operation applied to terms in its domain.

    Returns None if PyTorch refuses it, if it might overflow, if an integer result may be NaN or infinite, or if the
    text gets too long.
    """
    text = operation.text
    dtype = result_dtype(text, x.dtype, y.dtype if y is not None else None)
    if not dtype:
        return None
    lo, hi = _range(operation, x, y, dtype)
    if math.isnan(lo) or math.isnan(hi):
        lo, hi = UNKNOWN
    if dtype == "uint8" and lo < 0 and operation.name in ("neg", "sub", "rsub"):
        lo, hi = INTEGER_RANGES[dtype]  # values below 0 wrap around
    special = (x.special or (y is not None and y.special)) and dtype != "bool"
    found = Term(substitute(text, x, y), dtype, lo, hi, special)
    if special and found.is_integer:
        return None  # NaN and infinity have no integer value, and an index may be computed from it
    if len(found.text) > _LONGEST:
        return None  # a text that reads an operand twice doubles in length, and the length of a mod is limited
    return found if found.fits() or (found.is_float and math.isinf(found.size)) else None


def with_number(symbol: str, x: Term, number: float) -> Term | None:
    """`x symbol number`, such as `x % -3`. Returns None if PyTorch refuses it or it might overflow."""
    text = f"x {symbol} {number!r}"
    dtype = result_dtype(text, x.dtype)
    if not dtype:
        return None
    constant = Term(repr(number), "int64" if isinstance(number, int) else "float64", number, number)
    if dtype == "bool":
        lo, hi = _COMPARED
    elif symbol == "%" and number < 0:
        lo, hi = (number + 1 if x.is_integer and isinstance(number, int) else number), 0
    elif symbol == "//" and number < 0:
        lo, hi = (-x.hi, -x.lo)
    elif symbol in ("&", "|", "^"):
        lo, hi = ranges.bits(x, constant)
    else:
        ends = text_of(f"x {symbol} y").ends
        assert ends is not None, f"no range of the result of {symbol}"
        lo, hi = ends(x, constant)
    if dtype == "uint8" and number < 0:
        lo, hi = INTEGER_RANGES[dtype]  # the number wraps around
    if math.isnan(lo) or math.isnan(hi):
        lo, hi = UNKNOWN
    found = Term(substitute(text, x), dtype, lo, hi, x.special and dtype != "bool")
    return found if found.fits() or (found.is_float and math.isinf(found.size)) else None


def shifted(symbol: str, x: Term, number: int) -> Term | None:
    """`x << number` or `x >> number`. A shift by the width of the dtype or more leaves 0, or -1 for `>>` of x < 0."""
    least, most = INTEGER_RANGES[x.dtype]
    if 2**number <= most - least:
        return with_number(symbol, x, number)
    lo = -1 if symbol == ">>" and x.lo < 0 else 0
    return Term(f"(({x.text}) {symbol} {number})", x.dtype, lo, 0)


def _range(operation: Operation, x: Term, y: Term | None, dtype: str) -> Range:
    if dtype == "bool":
        return _COMPARED
    ends, row = text_of(operation.text).ends, row_of(operation.name)
    if ends is not None:
        return ends(x, y or x)
    if row.range is not None:
        return row.range
    if ".to(torch." in operation.text:
        return (x.lo, x.hi)
    return INTEGER_RANGES.get(dtype, UNKNOWN)
