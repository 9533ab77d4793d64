"""Draws well-typed expressions whose values stay in the domain of every operation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from hypothesis import strategies as st

from flexconf.language.operations import Operation, Range, row_of
from flexconf.strategies import operations, tables, vectors
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.features import Features
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import FLOATS, INTEGER_RANGES, Term, result_dtype

Form = Callable[[Draw, Scope, int], Term]

_NUMBERS = (2, 3, 1, 5, 7, 16, -1, -3)
_FRACTIONS = (0.5, 2.0, 0.1, -1.0, 0.25, 1.5, -0.7)
_WIDE = 2**33 + 3  # a factor that makes a position need more than 32 bits
_MULTIPLIER = 1103515245  # from a well-known linear congruential generator
_NICE = 1e4  # the largest magnitude of a score


def term(draw: Draw, scope: Scope, depth: int) -> Term:
    """Any term: a float, an integer or a bool.

    It is drawn by a strategy of its own that starts with the same choice at every depth. So Hypothesis can replace an
    expression by a part of it when it shrinks.
    """
    found: Term = draw(_terms(scope, depth))
    return found


@st.composite
def _terms(draw: Draw, scope: Scope, depth: int) -> Term:
    f = scope.features
    forms: list[Form] = [leaf, number, number]
    forms += [condition] * f.booleans
    forms += [element] * f.captures
    forms += [choice] * f.booleans
    forms += [cast] * f.casts
    forms += [operation] * (9 if f.functions or f.integers or f.booleans else 0)
    forms += [reduction] * (3 * (f.vectors and f.captures))
    form = forms[draw(st.integers(0, len(forms) - 1))]
    return form(draw, scope, depth) if depth > 0 else leaf(draw, scope, depth)


def leaf(draw: Draw, scope: Scope, depth: int) -> Term:
    """The score, an index variable, a local variable, or an element of a capture."""
    plain = scope.leaves()
    kinds = len(plain) + (4 if scope.features.captures else 0)
    place = draw(st.integers(0, kinds - 1))
    if place < len(plain):
        return plain[place]
    return tables.load(draw, scope, depth, index)


def element(draw: Draw, scope: Scope, depth: int) -> Term:
    """An element of a capture."""
    return tables.load(draw, scope, depth, index)


def reduction(draw: Draw, scope: Scope, depth: int) -> Term:
    """A reduction of a short vector."""
    return vectors.vector(draw, scope) or leaf(draw, scope, depth)


def number(draw: Draw, scope: Scope, depth: int) -> Term:
    """A term and a number: `x + 2`, `x * 0.5`, `x % -3`."""
    x = term(draw, scope, depth - 1)
    if x.dtype == "bool":
        return x
    whole = ["*", "+", "-", "%", "//"] + ["/"] * scope.features.functions
    whole += ["hash"] * (scope.features.integers and x.dtype in ("int32", "int64"))
    symbol = one(draw, whole)
    if symbol == "hash":
        return hashed(x, one(draw, (7, 2, 8, 100)))
    fraction = x.is_float and symbol not in ("%", "//")
    constant = one(draw, _FRACTIONS if fraction else _NUMBERS)
    if symbol in ("%", "//", "/"):
        x = kept(draw, x, (-1e3, 1e3) if x.is_float else (-math.inf, math.inf))
    return operations.with_number(symbol, x, constant) or x


def hashed(x: Term, size: int) -> Term:
    """A hash of `x`, as in pseudo-random mods: a product that wraps around like PyTorch integers, then a remainder."""
    return Term(f"((({x.text}) * {_MULTIPLIER} + 12345) % {size})", x.dtype, 0, size - 1)


def operation(draw: Draw, scope: Scope, depth: int) -> Term:
    """One of the operations that `flexconf ops` checks."""
    x = term(draw, scope, depth - 1)
    wanted = [o for o in operations.catalogue(x.dtype) if _wanted(scope.features, o.name)]
    if not wanted:
        return x
    chosen = one(draw, wanted)
    x = kept(draw, x, operations.domain(chosen, x.dtype))
    if not operations.takes_two(chosen):
        return operations.apply(chosen, x, None) or x
    between, other = draw(st.booleans()), draw(st.booleans())
    if chosen.text in _DIVISIONS and not between:
        divisor = one(draw, _NUMBERS)
        return operations.with_number(_DIVISIONS[chosen.text], x, divisor) or x
    y = term(draw, scope, depth - 1) if other else x
    if y.dtype not in chosen.dtypes:
        y = x
    where = operations.partner(chosen, y.dtype)
    if chosen.y == "shift" or where[1] < math.inf:
        y = kept(draw, y, where)
        if not y.within(*where):
            return x
    return operations.apply(chosen, x, y) or operations.apply(chosen, x, x) or x


_DIVISIONS = {"x // y": "//", "x % y": "%"}


def focus(draw: Draw, scope: Scope) -> Term | None:
    """One operation on one dtype, on operands that are likely to show faults. `_weight` gives the weight of a pair.

    Random expressions are mostly sums; this draw takes every operation often. Returns None if there is no such pair, or
    no term for it.
    """
    wanted = _wanted_pairs(dtypes(scope), scope.features)
    if not wanted:
        return None
    chosen, dtype = one(draw, wanted)
    x = operand(draw, scope, dtype, between=row_of(chosen.name).rounding and dtype in FLOATS)
    x = kept(draw, x, operations.domain(chosen, dtype))
    if chosen.text in ("x << 3", "x >> 3"):
        return _shifted(draw, chosen, x)
    if not operations.takes_two(chosen):
        return operations.apply(chosen, x, None)
    if chosen.text in _DIVISIONS and not draw(st.booleans()):
        return operations.with_number(_DIVISIONS[chosen.text], x, one(draw, _NUMBERS))
    if chosen.y == "shift" and not draw(st.booleans()):
        return _shifted(draw, chosen, x)
    y = kept(draw, operand(draw, scope, dtype), operations.partner(chosen, dtype))
    return operations.apply(chosen, x, y)


def _shifted(draw: Draw, chosen: Operation, x: Term) -> Term | None:
    """A shift of `x` by 3 or another number, which may be the width of its dtype or more: then no bit of x is left."""
    return operations.shifted(chosen.text.split()[1], x, one(draw, (3, 1, 33, 32, 9, 40)))


@functools.cache
def _pairs(among: tuple[str, ...]) -> tuple[tuple[Operation, str], ...]:
    """Every pair of an operation and a dtype. Pairs with a weight occur several times."""
    return tuple((o, d) for d in among for o in operations.catalogue(d) for _ in range(_weight(o.name, d)))


@functools.lru_cache(maxsize=256)
def _wanted_pairs(among: tuple[str, ...], features: Features) -> tuple[tuple[Operation, str], ...]:
    return tuple((o, d) for o, d in _pairs(among) if _wanted(features, o.name))


def _weight(name: str, dtype: str) -> int:
    row = row_of(name)
    return 5 if row.rounding and dtype in FLOATS else row.often


def dtypes(scope: Scope) -> tuple[str, ...]:
    """The dtypes that operands can have with the features of the scope."""
    f = scope.features
    plain = ("float32", "int32", "bool") if f.booleans else ("float32", "int32")
    if not (f.dtypes and (f.casts or f.captures)):
        return plain
    return (*plain, *(d for d in (*FLOATS, *INTEGER_RANGES, "bool") if d not in plain))


_OF_NO_CAPTURE = ("float32", "int32", "bool")  # the dtypes of the score, of positions and of comparisons


def operand(draw: Draw, scope: Scope, dtype: str, between: bool = False) -> Term:
    """A term of the given dtype with various values. With `between`, floats are mostly halves between integers."""
    q, kv = scope.parameters()[1], scope.parameters()[0]
    difference = Term("(q - kv)", "int32", q.lo - kv.hi, q.hi - kv.lo)
    if scope.features.captures and not between and draw(st.integers(0, 3)) > (2 if dtype in _OF_NO_CAPTURE else 1):
        loaded = tables.load_of(draw, scope, dtype, index)
        if loaded is not None:
            return loaded
    if dtype == "bool":
        return condition(draw, scope, 0)
    if dtype == "float32":
        half = Term("(q - kv) * 0.5", "float32", difference.lo * 0.5, difference.hi * 0.5)
        own = [scope.score()] if scope.kind == "score" else []
        own += [Term("score * 0.25", "float32", x.lo * 0.25, x.hi * 0.25, x.special) for x in own]
        own += [half, Term("kv * 0.25", "float32", 0, kv.hi * 0.25), *[half] * (3 * between)]
        chosen: Term = one(draw, own)
        return chosen
    if dtype == "int32":
        turned = Term("(kv - q)", "int32", -difference.hi, -difference.lo)
        found: Term = one(draw, [difference, kv, q, turned])
        return found
    if dtype in FLOATS:
        return cast_to(draw, operand(draw, scope, "float32", between), dtype)
    found = cast_to(draw, operand(draw, scope, "int32"), dtype)
    if dtype == "int64" and draw(st.booleans()):
        return operations.with_number("*", found, _WIDE) or found
    return found


def _wanted(f: Features, name: str) -> bool:
    return bool(getattr(f, row_of(name).feature))


def choice(draw: Draw, scope: Scope, depth: int) -> Term:
    """`torch.where(condition, x, y)`."""
    when = condition(draw, scope, depth - 1)
    x = term(draw, scope, depth - 1)
    y = term(draw, scope, depth - 1)
    both = result_dtype("torch.where(x == x, x, y)", x.dtype, y.dtype)
    if not both:
        return x
    text = f"torch.where({when.text}, {x.text}, {y.text})"
    return Term(text, both, min(x.lo, y.lo), max(x.hi, y.hi), x.special or y.special)


def cast(draw: Draw, scope: Scope, depth: int) -> Term:
    """A cast such as `x.to(torch.int64)`. `x` is first kept in the range of an integer or float16 target."""
    x = term(draw, scope, depth - 1)
    targets = [*FLOATS, *INTEGER_RANGES, "bool"] if scope.features.dtypes else ["float32", "int32", "int64"]
    return cast_to(draw, x, one(draw, targets))


def cast_to(draw: Draw, x: Term, target: str) -> Term:
    """`x` cast to another dtype, kept in its range first. Returns `x` without the cast if it cannot be kept there."""
    if target == x.dtype:
        return x
    if target == "bool":
        return Term(f"({x.text}).to(torch.bool)", "bool", 0, 1)
    if target in INTEGER_RANGES:
        least, most = INTEGER_RANGES[target]
        if x.special:
            return x
        x = kept(draw, x, (max(least, -1e6), min(most, 1e6))) if x.is_float else kept(draw, x, (least, most))
        if not x.within(least, most):
            return x
        return Term(f"({x.text}).to(torch.{target})", target, math.floor(x.lo), math.ceil(x.hi))
    if target == "float16":
        x = kept(draw, x, (-3e4, 3e4))
        if not x.within(-3e4, 3e4):
            return x
    return Term(f"({x.text}).to(torch.{target})", target, x.lo, x.hi, x.special)


def condition(draw: Draw, scope: Scope, depth: int) -> Term:
    """A bool: a comparison with a number, `q` compared with `kv`, an inverted condition, or two conditions combined."""
    form = draw(st.integers(0, 5 if depth > 0 else 1))
    if form == 0:
        return compared(draw, integer(draw, scope, min(depth, 1)))
    if form == 1:
        positions = scope.parameters()
        x, y = positions[1], positions[0]
        return Term(f"({x.text} {draw(_COMPARISONS)} {y.text})", "bool", 0, 1)
    if form == 2:
        a, b = condition(draw, scope, depth - 1), condition(draw, scope, depth - 1)
        return Term(f"(({a.text}) {one(draw, '&|^')} ({b.text}))", "bool", 0, 1)
    if form == 3:
        return Term(f"~({condition(draw, scope, depth - 1).text})", "bool", 0, 1)
    found = term(draw, scope, depth - 1)
    return found if found.dtype == "bool" else compared(draw, found)


_COMPARISONS = st.sampled_from((">=", "<", "==", "!=", ">", "<="))


def compared(draw: Draw, x: Term) -> Term:
    """`x` compared with a number. A bool is returned as it is."""
    if x.dtype == "bool":
        return x
    constant = one(draw, (0.5, 0.0, -1.0) if x.is_float else (0, 1, 3, 8, -2, 0.5))
    if x.dtype == "uint8" and constant < 0:
        constant = 0  # PyTorch wraps a negative number around, and the lowering refuses it (L7.7): do not generate it
    symbols = st.sampled_from((">", "<")) if x.is_float else _COMPARISONS
    return Term(f"(({x.text}) {draw(symbols)} {constant})", "bool", 0, 1)


def integer(draw: Draw, scope: Scope, depth: int) -> Term:
    """A term of an integer dtype. If the draw gives another dtype, an index variable or `q - kv`."""
    if depth > 0 and (scope.features.integers or scope.features.captures):
        found = number(draw, scope, depth) if draw(st.booleans()) else term(draw, scope, depth)
        if found.is_integer:
            return found
    q, kv = scope.parameters()[1], scope.parameters()[0]
    difference = Term("(q - kv)", "int32", q.lo - kv.hi, q.hi - kv.lo)
    chosen: Term = one(draw, [kv, q, difference, *scope.parameters()[2:]])
    return chosen


def index(draw: Draw, scope: Scope, depth: int) -> Term:
    """An index: a literal, or an int32 or int64 term, most often an index variable."""
    kv, q, h, b = scope.parameters()
    forms = [kv, q, h, b]
    form = draw(st.integers(0, len(forms) + (4 if scope.features.indices else 0)))
    if form < len(forms):
        return forms[form]
    if form == len(forms):
        constant = one(draw, (0, 1, -1, -2))
        return Term(str(constant), "literal", constant, constant)
    if form == len(forms) + 1:
        return Term("(q - kv)", "int32", q.lo - kv.hi, q.hi - kv.lo)
    if form == len(forms) + 2 and scope.features.captures and depth > 0:
        loaded = tables.load(draw, scope, 0, index, whole=True)
        return loaded
    found = integer(draw, scope, max(depth, 1))
    if found.dtype not in ("int32", "int64"):
        wide = "int64" if draw(st.booleans()) else "int32"
        found = Term(f"({found.text}).to(torch.{wide})", wide, found.lo, found.hi)
    if found.hi - found.lo > 2000 or found.size > 2000:
        found = operations.with_number("%", found, one(draw, (8, 5, 33, -4))) or kv
    return found


def kept(draw: Draw, x: Term, where: Range) -> Term:
    """`x`, brought into the range `where` by clamp, tanh, sigmoid or a factor. A bool is returned as it is."""
    lo, hi = where
    if x.within(lo, hi) or x.dtype == "bool":
        return x
    if x.is_integer:
        return _kept_integer(x, lo, hi)
    if not x.is_float:
        return x
    if lo == -math.inf:
        return Term(f"torch.clamp({x.text}, max={hi:g})", x.dtype, min(x.lo, hi), min(x.hi, hi), x.special)
    ways = ["clamp"]
    if lo <= -1 and hi >= 1 and not x.special:
        ways.append("tanh")
    if lo <= 0.25 and hi >= 1 and lo > 0:
        ways.append("sigmoid")
    if lo < 0 < hi and math.isfinite(x.size) and x.size > 0 and not x.special:
        ways.append("scale")
    way = one(draw, ways)
    if way == "tanh":
        return Term(f"torch.tanh({x.text})", x.dtype, -1, 1)
    if way == "sigmoid":
        return Term(f"(torch.sigmoid({x.text}) + 0.25)", x.dtype, 0.25, 1.25) if hi >= 1.25 else x
    if way == "scale":
        factor = 2.0 ** math.floor(math.log2(min(-lo, hi) / x.size))
        if 1e-4 < factor < 1:
            return Term(f"(({x.text}) * {factor!r})", x.dtype, x.lo * factor, x.hi * factor)
    least, most = (min(max(end, lo), hi) for end in (x.lo, x.hi))
    return Term(f"torch.clamp({x.text}, {lo:g}, {hi:g})", x.dtype, least, most, x.special)


def _kept_integer(x: Term, lo: float, hi: float) -> Term:
    own = INTEGER_RANGES[x.dtype]
    least, most = max(math.ceil(max(lo, own[0])), own[0]), min(math.floor(min(hi, own[1])), own[1])
    first, last = (min(max(end, least), most) for end in (x.lo, x.hi))
    if x.dtype == "uint8":  # torch.clamp does not take uint8 with every bound
        found = operations.with_number("%", x, most - least + 1)
        moved = operations.with_number("+", found, least) if found is not None and least else found
        return moved if moved is not None and moved.dtype == x.dtype else x
    return Term(f"torch.clamp({x.text}, {least}, {most})", x.dtype, first, last)


def small(draw: Draw, x: Term) -> Term:
    """`x`, kept small enough that it does not hide a score to which it is added. An integer becomes a remainder.

    The limit is 100 in two of three draws, because a term of the other limit's size still hides a score.
    """
    most = one(draw, (100, 100, _NICE))
    if x.is_integer and not x.within(-most, most):
        return operations.with_number("%", x, 1000 if most > 100 and x.dtype not in ("int8", "uint8") else 100) or x
    if not x.is_float or x.within(-most, most):
        return x
    # tanh would hide the differences between numbers that are not small.
    return Term(f"torch.clamp({x.text}, {-most:g}, {most:g})", x.dtype, max(x.lo, -most), min(x.hi, most), x.special)


def moderate(draw: Draw, x: Term) -> Term:
    """`x`, kept in the range of a score if it is a float."""
    return kept(draw, x, (-_NICE, _NICE)) if x.is_float else x
