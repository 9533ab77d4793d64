"""Draws captures, of any rank, dtype, values and strides, and reads of captures that are always within bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from hypothesis import strategies as st

from flexconf.cases.case import Capture
from flexconf.language import layouts
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import FLOATS, INTEGER_RANGES, Term

Index = Callable[[Draw, Scope, int], Term]

_RANKS = (1, 2, 0, 3, 4)
_MOST = 1 << 15
SQUARE = 128
_DTYPES = ("float32", "int32", "float16", "bfloat16", "float64", "int64", "bool", "int16", "int8", "uint8")
_LAYOUTS = ("contiguous", "stepped", "padded", "expanded", "offset", "transposed", "permuted")

_SLICES = {"first_of": "last_of", "last_of": "first_of"}


def load(draw: Draw, scope: Scope, depth: int, index: Index, whole: bool = False) -> Term:
    """An element of an old or a new capture. With `whole`, its dtype is int32 or int64, so that it can be an index.

    If no capture can be read, the result is the index variable kv.
    """
    old = [c for c in scope.captures if not whole or c.dtype in ("int32", "int64")]
    if old and draw(st.booleans()):
        chosen = one(draw, old)
        again = reread(draw, scope, chosen, depth, index)
        if again is not None:
            return again
    name = scope.free_name()
    if name is None:
        if not old:
            return scope.parameters()[0]
        return reread(draw, scope, old[0], depth, index) or scope.parameters()[0]
    if draw(st.booleans()) and scope.features.shared_storage and old:
        again = shared(draw, scope, name, one(draw, old), depth, index)
        if again is not None:
            return again
    if one(draw, (False, False, True)) and scope.features.shared_storage and not whole:
        twice = _less_transposed(draw, scope, name)
        if twice is not None:
            return twice
    rank = one(draw, _RANKS)
    subscripts: list[Term] = []
    elements = 1
    for _ in range(rank):
        found = index(draw, scope, depth - 1 if scope.features.chained else 0)
        needed = _size(found)
        if elements * needed > _MOST:
            found, needed = Term("0", "literal", 0, 0), 1
        elements *= needed
        subscripts.append(found)
    # The indices may have added captures, so the name may be taken now.
    name = scope.free_name()
    if name is None:
        return scope.parameters()[0]
    sizes = tuple(scope.symbol(_size(s)) for s in subscripts)
    kinds = ("int32", "int64") if whole else _DTYPES if scope.features.dtypes else ("float32", "int32")
    capture, lo, hi, special = _new(draw, scope, name, sizes, one(draw, kinds))
    scope.captures.append(capture)
    scope.values[name] = (lo, hi, special)
    return _read(draw, scope, capture, subscripts)


def _less_transposed(draw: Draw, scope: Scope, name: str) -> Term | None:
    """An element of a square capture minus the element of its transpose at the same indices. Returns None if it fails.

    The transpose is a second capture on the same storage. The two have equal dtypes and shapes, and differ in their
    strides only.
    """
    p = scope.problem
    size = min(max(p.M, p.N), SQUARE)
    if size < 2:
        return None
    places = [_brought(t, size) for t in scope.parameters() if t.text in ("kv", "q")]
    subscripts = draw(st.permutations(places))
    dtype = one(draw, _DTYPES if scope.features.dtypes else ("float32", "int32"))
    capture, lo, hi, special = _new(draw, scope, name, (scope.symbol(size),) * 2, dtype)
    found = Term("", dtype, lo - hi, hi - lo)
    if dtype == "bool" or special or not found.fits():
        return None
    scope.captures.append(capture)
    other = scope.free_name()
    if other is None:
        scope.captures.remove(capture)
        return None
    scope.captures.append(Capture(other, capture.shape, dtype, capture.values, f"transpose_of({name})"))
    scope.values[name] = scope.values[other] = (lo, hi, special)
    once, again = (_read(draw, scope, c, subscripts).text for c in scope.captures[-2:])
    return Term(f"({once} - {again})", dtype, lo - hi, hi - lo)


def rows(
    draw: Draw, scope: Scope, name: str, sizes: tuple[int | str, ...], dtype: str, first: list[str], size: int
) -> tuple[Term, Term]:
    """Two rows of a new capture, which is added to the scope: for the query and for the key, in either order.

    `sizes` are those of the capture: one for each index in `first`, `size`, and the length of a row.
    """
    capture, lo, hi, special = _new(draw, scope, name, sizes, dtype)
    scope.captures.append(capture)
    scope.values[name] = (lo, hi, special)
    own = {t.text: t for t in scope.parameters()}
    order = draw(st.permutations([_brought(own[n], size) for n in ("kv", "q")]))
    x, y = (_read(draw, scope, capture, [*(own[n] for n in first), place]) for place in order)
    return x, y


def load_of(draw: Draw, scope: Scope, dtype: str, index: Index) -> Term | None:
    """An element of a new capture of the given dtype, of rank 1 or 2.

    Returns None if no more captures are allowed, or the capture would be too large.
    """
    subscripts = [index(draw, scope, 0) for _ in range(one(draw, (1, 2)))]
    name = scope.free_name()
    sizes = tuple(scope.symbol(_size(s)) for s in subscripts)
    if name is None or math.prod(_size(s) for s in subscripts) > _MOST:
        return None
    capture, lo, hi, special = _new(draw, scope, name, sizes, dtype)
    scope.captures.append(capture)
    scope.values[name] = (lo, hi, special)
    other = scope.free_name()
    if other is not None and scope.features.shared_storage and draw(st.booleans()):
        again = shared(draw, scope, other, capture, 1, index)
        if again is not None:
            return again
    return _read(draw, scope, capture, subscripts)


def of_values(
    draw: Draw, scope: Scope, dtype: str, values: str, ends: tuple[float, float], zero: bool, index: Index
) -> Term | None:
    """A new capture with the given values, from `ends[0]` to `ends[1]`: 0-dim if `zero`, else an element of a vector.

    Returns None if no more captures are allowed.
    """
    subscripts = [] if zero else [index(draw, scope, 0)]
    name = scope.free_name()
    if name is None:
        return None
    return made(
        scope, Capture(name, tuple(scope.symbol(_size(s)) for s in subscripts), dtype, values), ends, subscripts
    )


def made(scope: Scope, capture: Capture, ends: tuple[float, float], subscripts: list[Term]) -> Term:
    """An element of `capture`, whose values lie from `ends[0]` to `ends[1]`. The capture is added to the scope."""
    scope.captures.append(capture)
    scope.values[capture.name] = (*ends, False)
    text = f"{capture.name}[{', '.join(s.text for s in subscripts)}]" if subscripts else capture.name
    return Term(text, capture.dtype, *ends)


def _size(subscript: Term) -> int:
    """The least size of a dimension in which every value of the index is legal."""
    return max(int(subscript.hi) + 1, -int(subscript.lo), 1)


def _new(
    draw: Draw, scope: Scope, name: str, sizes: tuple[int | str, ...], dtype: str
) -> tuple[Capture, float, float, bool]:
    f = scope.features
    values, lo, hi, special = _values(draw, scope, dtype, len(sizes))
    strides, number = one(draw, _LAYOUTS), draw(st.integers(0, 23))
    layout = _layout(strides, number, len(sizes)) if f.layouts else "contiguous"
    return Capture(name, sizes, dtype, values, layout), lo, hi, special


def _layout(kind: str, number: int, rank: int) -> str:
    """A layout of the given kind, or "contiguous" if the rank does not allow it. `number` (0 to 23) selects one."""
    if (rank == 0 and kind != "offset") or (rank == 1 and kind == "transposed"):
        return "contiguous"
    match kind:
        case "expanded" if rank > 1:
            first = number % rank
            return f"expanded({first}, {(first + 1) % rank})" if number >= 16 and rank > 2 else f"expanded({first})"
        case "permuted" if rank > 2 and number:
            orders = list(itertools.permutations(range(rank)))[1:]
            return f"permuted({', '.join(map(str, orders[number % len(orders)]))})"
        case "stepped" | "padded" | "offset" if number % 3:
            return f"{kind}({(0, 3, 5)[number % 3]})"
    return kind


def _values(draw: Draw, scope: Scope, dtype: str, rank: int) -> tuple[str, float, float, bool]:
    """(distribution of the values, least, largest, whether there may be infinities)."""
    if dtype == "bool":
        return "bool(0.5)", 0, 1, False
    if dtype in INTEGER_RANGES:
        least, most = INTEGER_RANGES[dtype]
        lo = 0 if least == 0 else one(draw, (0, -3, -100, -5))
        hi = one(draw, (5, 8, 3, 100) if least else (5, 250, 200, 3))
        if scope.features.specials and draw(st.integers(0, 7)) == 7:
            return "bits", least, most, False
        return f"integers({lo}, {hi})", lo, min(hi - 1, most), False
    forms: list[tuple[str, float, float, bool]] = [
        ("normal", -3.5, 3.5, False),
        ("uniform(0.5, 2)", 0.5, 2, False),
        ("constant(0.5)", 0.5, 0.5, False),
    ]
    if rank:
        forms.append(("arange(-4, 0.25)", -4, 2100 * 0.25 - 4, False))  # steps of a quarter, on both sides of 0
    if scope.features.specials and dtype in FLOATS:
        forms.append(("sprinkle(-inf, 0.1)", -3.5, 3.5, True))
    found: tuple[str, float, float, bool] = one(draw, forms)
    return found


def shared(draw: Draw, scope: Scope, name: str, other: Capture, depth: int, index: Index) -> Term | None:
    """A read of the storage of `other` through a new capture. Returns None if no index is surely within bounds."""
    given = layouts.parse(other.layout)
    if given.of is not None and given.kind not in _SLICES:
        return None
    if given.of is not None:  # the other slice of the same tensor: the two differ in their offset only
        kind, base, shape = _SLICES[given.kind], given.of, other.shape
    else:
        kinds = {0: ("view_of",), 1: ("view_of", *_SLICES)}.get(len(other.shape), (*layouts.SHARED, "transpose_of"))
        kind, base = one(draw, kinds), other.name
        shape = {"view_of": other.shape, "transpose_of": other.shape[::-1]}.get(kind, other.shape[1:])
    capture = Capture(name, shape, other.dtype, other.values, f"{kind}({base})")
    scope.values[name] = scope.values[other.name]
    scope.captures.append(capture)  # now, since the indices may add captures, which then take other names
    found = reread(draw, scope, capture, depth, index)
    if found is None:
        scope.captures.remove(capture)
    return found


def _read(draw: Draw, scope: Scope, capture: Capture, subscripts: list[Term]) -> Term:
    lo, hi, special = scope.values[capture.name]
    text = capture.name
    if not subscripts:
        return Term(text, capture.dtype, lo, hi, special)
    if draw(st.booleans()) and scope.features.chained and len(subscripts) > 1:
        text += "".join(f"[{s.text}]" for s in subscripts)
    else:
        text += f"[{', '.join(s.text for s in subscripts)}]"
    return Term(text, capture.dtype, lo, hi, special)


def reread(draw: Draw, scope: Scope, capture: Capture, depth: int, index: Index) -> Term | None:
    """A read of an old capture at new indices, each surely within its dimension. Returns None if there is none."""
    sizes = capture.resolve_shape(scope.problem.symbols())
    subscripts = []
    for size in sizes:
        fitting = [p for p in scope.parameters() if -size <= p.lo and p.hi < size]
        fitting += [Term(str(c), "literal", c, c) for c in (0, -1) if size]
        if not fitting:
            return None
        found: Term = one(draw, fitting)
        if scope.features.indices and draw(st.booleans()):
            found = _brought(index(draw, scope, min(depth, 1)), size)
        subscripts.append(found)
    return _read(draw, scope, capture, subscripts)


def _brought(x: Term, size: int) -> Term:
    """An index brought within a dimension by a remainder. An index that may be negative counts from the end."""
    if -size <= x.lo and x.hi < size:
        return x
    if x.dtype == "literal" or size == 1:
        return Term("0", "literal", 0, 0)
    if x.lo < 0:
        return Term(f"({x.text}) % {-size}", x.dtype, 1 - size, 0)
    return Term(f"({x.text}) % {size}", x.dtype, 0, size - 1)
