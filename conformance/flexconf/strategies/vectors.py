"""Draws short vectors: a capture that is indexed with fewer indices than it has dimensions, and reduced (L7.8)."""

from __future__ import annotations

from hypothesis import strategies as st

from flexconf.strategies import tables
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import FLOATS, Term

_LENGTHS = (3, 2, 4, 1, 7, 5, 6)  # PyTorch unrolls reductions of fewer than eight elements
_DTYPES = ("float32", "int32", "float16", "bfloat16", "int64", "bool", "int16", "int8", "uint8")
_MOST = 1e4


def vector(draw: Draw, scope: Scope) -> Term | None:
    """A reduction of a short vector, by itself or beside another vector. None if no more captures are allowed."""
    name, p = scope.free_name(), scope.problem
    if name is None:
        return None
    length = one(draw, _LENGTHS)
    by_head = p.H > 1 and draw(st.booleans())
    dtype = one(draw, _DTYPES if scope.features.dtypes else _DTYPES[:2])
    size = min(max(p.M, p.N, 1), tables.SQUARE)
    sizes = (*([scope.symbol(p.H)] if by_head else []), scope.symbol(size), length)
    x, y = tables.rows(draw, scope, name, sizes, dtype, ["h"] if by_head else [], size)
    element = _beside(draw, x, y)
    kind = one(draw, _reductions(element.dtype))
    found = _reduced(draw, element, kind, length)
    return found if found is not None else _reduced(draw, element, "amax" if element.dtype != "bool" else "any", length)


def _reductions(dtype: str) -> tuple[str, ...]:
    if dtype == "bool":
        return ("any", "all", "any", "all", "sum")
    return ("sum", "mean", "amax", "amin", "prod", "mean") if dtype in FLOATS else ("sum", "amax", "amin", "prod")


def _beside(draw: Draw, x: Term, y: Term) -> Term:
    """The elements of one row, or of two rows side by side."""
    if x.dtype == "bool":
        return Term(f"({x.text} {one(draw, ('&', '|', '^'))} {y.text})", "bool", 0, 1) if draw(st.booleans()) else x
    symbol = one(draw, ("", "-", "*", "<", "=="))
    if symbol in ("<", "=="):
        return Term(f"({x.text} {symbol} {y.text})", "bool", 0, 1)
    if x.special or not symbol:
        return x
    ends = (x.lo - y.hi, x.hi - y.lo) if symbol == "-" else _products(x, y)
    both = Term(f"({x.text} {symbol} {y.text})", x.dtype, *ends)
    return both if both.fits() else x


def _products(x: Term, y: Term) -> tuple[float, float]:
    ends = [a * b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
    return min(ends), max(ends)


def _reduced(draw: Draw, x: Term, kind: str, length: int) -> Term | None:
    """The reduction `kind` of `length` elements like `x`, as a method or a function. None if it may be too large."""
    lo, hi, dtype = x.lo, x.hi, x.dtype
    if kind in ("sum", "prod"):
        if dtype not in FLOATS:
            dtype = "int64"
        most = max(abs(lo), abs(hi))
        lo, hi = (length * lo, length * hi) if kind == "sum" else (-(most**length), most**length)
        if x.special or max(abs(lo), abs(hi)) > _MOST:
            return None
    text = f"torch.{kind}({x.text}, -1)" if draw(st.booleans()) else f"{x.text}.{kind}(-1)"
    found = Term(text, dtype, lo, hi, x.special)
    return found if found.fits() else None
