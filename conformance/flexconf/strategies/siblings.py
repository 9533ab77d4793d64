"""Draws pairs of reads that a lowering can confuse: a table at permuted indices, or two tensors on one storage."""

from __future__ import annotations

from hypothesis import strategies as st

from flexconf.cases.case import Capture
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term

_JOINED = ("({0} - {1})", "({0} + 2 * {1})", "torch.where({0} < {1}, {0}, 0)", "torch.maximum({0}, {1})", "({0} * {1})")
_PAIRS = (("first_of", "last_of"), ("first_of", "last_of"), ("last_of", ""), ("first_of", ""), ("view_of", ""))
_DTYPES = ("float32", "int32", "float16", "int64")
_LAYOUTS = ("contiguous", "contiguous", "transposed", "padded", "offset", "permuted", "stepped")


def permuted(draw: Draw, scope: Scope) -> Term | None:
    """Two reads of a table at the same indices in another order, such as `t[q, kv] - t[kv, q]`, of rank 2 to 4.

    Returns None if no more captures are allowed.
    """
    name = scope.free_name()
    if not scope.features.captures or name is None:
        return None
    rank = one(draw, (2, 2, 3, 4))
    size = _SIDES[rank]
    terms = [_within(t, size) for t in scope.parameters()]  # kv, q, h, b
    once = draw(st.permutations(terms))[:rank] if rank < 4 else draw(st.permutations(terms))
    again = draw(st.permutations(once))
    if [t.text for t in again] == [t.text for t in once]:
        again = [*once[1:], once[0]]
    capture, ends = _capture(draw, scope, name, (size,) * rank)
    scope.captures.append(capture)
    scope.values[name] = (*ends, False)
    reads = [_read(draw, scope, name, subscripts) for subscripts in (once, again)]
    return _joined(draw, capture.dtype, ends, reads)


_SIDES = {2: 64, 3: 24, 4: 9}


def sliced(draw: Draw, scope: Scope) -> Term | None:
    """Reads of two tensors on one storage at the same indices.

    They are two slices that differ in their offset only, or a slice or view and the whole tensor. Returns None if no
    more captures are allowed.
    """
    names = scope.free_names(3)
    if not (scope.features.captures and scope.features.shared_storage) or len(names) < 3:
        return None
    rank = one(draw, (1, 2, 0, 3))
    size = {0: 1, 1: 64, 2: 64, 3: 16}[rank]
    subscripts = draw(st.permutations([_within(t, size) for t in scope.parameters()]))[:rank]
    first, second = one(draw, _PAIRS)
    sides = (size,) * rank
    base, ends = _capture(draw, scope, names[0], sides if first == "view_of" else (one(draw, (2, 3)), *sides))
    kinds = [(first, names[1]), *([(second, names[2])] if second else [])]
    views = [Capture(name, sides, base.dtype, base.values, f"{kind}({base.name})") for kind, name in kinds]
    for capture in (base, *views):
        scope.captures.append(capture)
        scope.values[capture.name] = (*ends, False)
    reads = [_read(draw, scope, view.name, subscripts) for view in views]
    if not second:
        own = [Term(one(draw, "01"), "literal", 0, 1), *subscripts]
        reads.append(_read(draw, scope, base.name, own if len(base.shape) > rank else subscripts))
    return _joined(draw, base.dtype, ends, reads)


def _capture(draw: Draw, scope: Scope, name: str, shape: tuple[int, ...]) -> tuple[Capture, tuple[float, float]]:
    dtype = one(draw, _DTYPES if scope.features.dtypes else _DTYPES[:2])
    layout = one(draw, _LAYOUTS) if scope.features.layouts else "contiguous"
    least = {"transposed": 2, "permuted": 3, "padded": 1, "stepped": 1}.get(layout, 0)
    layout = layout if len(shape) >= least else "contiguous"
    whole = "int" in dtype
    return (
        Capture(name, shape, dtype, "integers(-40, 40)" if whole else "normal", layout),
        (-40.0, 39.0) if whole else (-3.5, 3.5),
    )


def _within(x: Term, size: int) -> Term:
    """An index brought within a dimension. An index that can be 0 only becomes one computed from q or kv."""
    if x.hi == 0:
        x = Term("(q // 2)" if x.text == "h" else "(kv // 3)", "int32", 0, 1e9)
    return x if x.hi < size else Term(f"({x.text} % {size})", "int32", 0, size - 1)


def _read(draw: Draw, scope: Scope, name: str, subscripts: list[Term]) -> str:
    if not subscripts:
        return name
    if scope.features.chained and len(subscripts) > 1 and draw(st.booleans()):
        return name + "".join(f"[{s.text}]" for s in subscripts)
    return f"{name}[{', '.join(s.text for s in subscripts)}]"


def _joined(draw: Draw, dtype: str, ends: tuple[float, float], reads: list[str]) -> Term:
    most = max(abs(end) for end in ends) ** 2 + 3 * max(abs(end) for end in ends)
    return Term(one(draw, _JOINED).format(*reads), dtype, -most, most)
