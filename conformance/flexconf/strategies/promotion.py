"""Draws operations on two operands of any two dtypes: one is a 0-dim capture, a Python number, or a divisor.

PyTorch promotes a Python number by its category only, and a tensor by its dtype. In a mod every tensor is a scalar: a
0-dim capture is promoted like an element of a table. The values are chosen so that a wrong promotion gives a wrong
result: integers that the narrower dtype does not hold, and floats of 25 bits.
"""

from __future__ import annotations

import functools

from hypothesis import strategies as st

from flexconf.strategies import expressions, tables
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import FLOATS, INTEGER_RANGES, LARGEST, Term, result_dtype

Range = tuple[float, float]

_OFFSET = 2**24  # float32 holds every integer up to here, float64 many more
_SYMBOLS = ("+", "-", "*", "//", "%", "/", "<", "==", ">=", "&", "|", "^")
_CALLS = ("torch.minimum({}, {})", "torch.maximum({}, {})", "torch.clamp_max({}, {})", "torch.clamp({}, min={})")
_NUMBERS: tuple[int | float, ...] = (5, -3, 2, 100, 0.5, 2.5, -1.5, True, 70_000, 5_000_000_000)


def promoted(draw: Draw, scope: Scope) -> Term | None:
    """An operation on two operands, at least one of them a 0-dim capture or a Python number.

    Returns None if the draw fails.
    """
    among = expressions.dtypes(scope)
    dtype, other = one(draw, among), one(draw, among)
    against = draw(st.integers(0, 3))  # 0: one is a Python number; 1: y, 2: both, 3: x is surely 0-dim
    form: str = one(draw, _forms())
    turned = draw(st.booleans())
    if against == 0 or not scope.features.captures:
        return _with_number(draw, scope, form, dtype, turned)
    if other == "bool" and ("//" in form or "%" in form):
        form = "({} * {})"  # no division by False
    divides = "//" in form or "%" in form
    x = _operand(draw, scope, dtype, zero=against > 1)
    y = _operand(draw, scope, other, zero=against < 3, divisor=divides)
    if x is None or y is None:
        return None
    if turned and not divides:
        x, y = y, x
    return _joined(form, x, y)


@functools.cache
def _forms() -> tuple[str, ...]:
    return (*(f"({{}} {symbol} {{}})" for symbol in _SYMBOLS), *_CALLS, "torch.where(q >= kv, {}, {})")


def _with_number(draw: Draw, scope: Scope, form: str, dtype: str, turned: bool) -> Term | None:
    number = one(draw, _NUMBERS)
    if not isinstance(number, float) and dtype in INTEGER_RANGES:
        least, most = INTEGER_RANGES[dtype]
        if not least <= number <= most:
            number = 7  # a number outside the dtype has no unique meaning
    if form.startswith(("torch.minimum", "torch.maximum")):
        form = "({} * {})"  # these functions take no Python number
    if form.startswith("torch.clamp") or (form == "({} ** {})" and dtype == "bool"):
        turned = False
    divides = "//" in form or "%" in form
    if dtype == "bool" and (divides or form.startswith("torch.clamp") or form in ("({} - {})",)):
        form = "({} * {})"
    zero = draw(st.booleans()) and scope.features.captures
    x = _operand(draw, scope, dtype, zero=zero, divisor=turned and divides)
    if x is None:
        return None
    constant = Term(repr(number), type(number).__name__, number, number)
    return _joined(form, constant, x) if turned else _joined(form, x, constant)


def _joined(form: str, x: Term, y: Term) -> Term | None:
    names = ["x" if t.dtype in _TENSORS else t.text for t in (x, y)]
    if names == ["x", "x"]:
        names[1] = "y"
    text = form.format(*names)
    tensors = [t.dtype for t in (x, y) if t.dtype in _TENSORS]
    dtype = result_dtype(text, tensors[0], tensors[1] if len(tensors) > 1 else None)
    if not dtype:
        return None
    found = form.format(x.text, y.text)
    special = (x.special or y.special) and dtype != "bool"
    if dtype == "bool":
        return Term(found, dtype, 0, 1)
    if dtype == "float16" and max(x.size, y.size) > LARGEST[dtype]:
        return None  # it may overflow to infinity, which has no bound
    if dtype in INTEGER_RANGES:
        return None if special else Term(found, dtype, *INTEGER_RANGES[dtype])  # it may wrap around
    large = [t for t in (x, y) if _OFFSET < t.size < 2 * _OFFSET and dtype == "float64"]
    if len(large) == 1 and min(x.size, y.size) < 1e4 and form in ("({} + {})", "({} - {})"):
        # Subtracting most of the large operand leaves the digits that float32 would lose. Beside a score they show.
        turned = form == "({} - {})" and large[0] is y
        symbol = "+" if (large[0].lo > 0) == turned else "-"
        return Term(f"({found} {symbol} {_OFFSET}.0)", dtype, -2e4, 2e4, special)
    return Term(found, dtype, -float("inf"), float("inf"), special)


_TENSORS = frozenset((*FLOATS, *INTEGER_RANGES, "bool"))


def _operand(draw: Draw, scope: Scope, dtype: str, *, zero: bool, divisor: bool = False) -> Term | None:
    """An operand of a dtype: a 0-dim capture if `zero`, else an element of a table or another term.

    A `divisor` is never 0, and an integer divisor is never -1. Returns None if the draw fails.
    """
    if not scope.features.captures or (not zero and not draw(st.booleans())):
        found = expressions.operand(draw, scope, dtype)
        if not divisor:
            return found
        found = expressions.kept(draw, found, (1 if dtype in INTEGER_RANGES else 0.25, 20))
        return found if found.lo > 0 else None
    values, lo, hi = _values(draw, dtype, divisor)
    return tables.of_values(draw, scope, dtype, values, (lo, hi), zero, expressions.index)


def _values(draw: Draw, dtype: str, divisor: bool) -> tuple[str, float, float]:
    """(distribution of the values, least, largest) of a capture.

    A divisor is small and not 0, and as an integer not -1. Other integers are near the limits of their dtype, or near
    2**40 for int64.
    """
    if dtype == "bool":
        return "bool(0.5)", 0, 1
    if divisor:
        negative = draw(st.booleans()) and dtype != "uint8"
        if dtype in FLOATS:
            return ("uniform(-9, -0.5)", -9, -0.5) if negative else ("uniform(0.5, 9)", 0.5, 9)
        return ("integers(-9, -1)", -9, -2) if negative else ("integers(1, 9)", 1, 8)
    if dtype in FLOATS:
        if dtype == "float64" and draw(st.booleans()):
            values, (lo, hi) = _large(one(draw, (1, -1)))
            return values, lo, hi
        return "normal", -3.5, 3.5
    least, most = INTEGER_RANGES[dtype]
    near = min(most, 2**40)
    if least < 0 and draw(st.booleans()):
        return f"integers({-near}, {-near + 90})", -near, -near + 90
    return f"integers({near - 90}, {near})", near - 90, near


def wide(draw: Draw, scope: Scope) -> Term | None:
    """The sum or difference of an operand of any dtype and a float64 capture that float32 does not hold exactly.

    Returns None if the draw fails.
    """
    among = expressions.dtypes(scope)
    if not scope.features.captures or "float64" not in among:
        return None
    sign, form = one(draw, (1, -1)), one(draw, ("({} + {})", "({} - {})"))
    y = expressions.operand(draw, scope, one(draw, among))
    values, ends = _large(sign)
    x = tables.of_values(draw, scope, "float64", values, ends, draw(st.integers(0, 2)) > 0, expressions.index)
    if x is None:
        return None
    return _joined(form, y, x) if draw(st.booleans()) else _joined(form, x, y)


def _large(sign: int) -> tuple[str, Range]:
    """(values, (least, largest)): integers of the given sign of which float32 holds every second one only."""
    ends = sorted((sign * (_OFFSET + 1), sign * (_OFFSET + 61)))
    return f"integers({ends[0]}, {ends[1]})", (ends[0], ends[1])


def divided(draw: Draw, scope: Scope) -> Term | None:
    """An integer divided by an integer capture, 0-dim or read: `q // size`, `kv % size[h]`, `q / size`.

    Returns None if the draw fails.
    """
    if not scope.features.captures:
        return None
    among = [d for d in expressions.dtypes(scope) if d in INTEGER_RANGES]
    form = one(draw, _DIVISIONS)
    values, lo, hi = _values(draw, dtype := one(draw, among), True)
    y = tables.of_values(draw, scope, dtype, values, (lo, hi), draw(st.booleans()), expressions.index)
    x = expressions.operand(draw, scope, one(draw, ("int32", "int32", *among)))
    return _joined(form, x, y) if y is not None else None


def compared(draw: Draw, scope: Scope) -> Term | None:
    """A comparison of a float and an integer that are close together. It shows a cast of one to the other's dtype.

    Returns None if the draw fails.
    """
    among = expressions.dtypes(scope)
    x = expressions.operand(draw, scope, one(draw, [d for d in FLOATS if d in among]), between=True)
    y = expressions.operand(draw, scope, one(draw, ("int32", *(d for d in INTEGER_RANGES if d in among))))
    form = one(draw, _COMPARISONS)
    return _joined(form, y, x) if draw(st.booleans()) else _joined(form, x, y)


_COMPARISONS = (
    *(f"({{}} {symbol} {{}})" for symbol in ("<", "<=", ">", ">=", "==", "!=")),
    "torch.minimum({}, {})",
    "torch.maximum({}, {})",
    "torch.where(q >= kv, {}, {})",
)
_DIVISIONS = (
    "({} // {})",
    "({} % {})",
    "({} / {})",
    "torch.fmod({}, {})",
    *(f"torch.div({{}}, {{}}, rounding_mode={mode})" for mode in ("'trunc'", "'floor'", "None")),
)
