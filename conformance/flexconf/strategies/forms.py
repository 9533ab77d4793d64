"""Argument forms: all keywords, defaults written out, numbers on both sides of an operator, bounds of every sort.

The text of an operation (`flexconf.language.operations`) shows one way to call it. A lowering handles each way
separately: it has an overload for a number, a default for an omitted argument, a promotion for each sort of number.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import strategies as st

from flexconf.language.operations import ALL, FLOATS, INTEGERS, NUMBERS, SIGNED, Operation, Range
from flexconf.strategies import expressions, operations
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term, result_dtype

_NN = "torch.nn.functional."
_WHOLE = (*INTEGERS, "bool")
_NARROW = ("int8", "uint8", "int16", "int32")


def _each(name: str, dtypes: tuple[str, ...], *texts: str, y: str = "any") -> Iterator[Operation]:
    return (Operation(name, text, dtypes, y) for text in texts)


def _table() -> Iterator[Operation]:
    yield from _each(
        "add", NUMBERS, "torch.add(x, y, alpha=1)", "torch.add(x, y, alpha=-2)", "torch.add(x, 3, alpha=2)"
    )
    yield from _each("sub", NUMBERS, "torch.sub(x, y, alpha=1)", "torch.sub(x, y, alpha=2)", "torch.sub(x, 3, alpha=2)")
    yield from _each("add", FLOATS, *(f"torch.add(x, y, alpha={n})" for n in (0.5, -1.5, 2.5)))
    yield from _each("sub", FLOATS, "torch.sub(x, y, alpha=0.5)", "torch.sub(x, y, alpha=-1.5)")
    yield from _each("add", NUMBERS, "x + 5", "5 + x", "x + 0.5", "x + True")
    yield from _each("sub", NUMBERS, "x - 5", "5 - x", "0.5 - x", "x - 0.5")
    yield from _each("mul", NUMBERS, "x * 3", "3 * x", "x * 0.5", "x * True")
    yield from _each("mul", ("bool",), "x * 3", "5 * x", "x * 0.5", "x * 5000000000")
    yield from _each("add", ("bool",), "x + 3", "x + 0.5", "x + 5000000000")
    # Values outside the dtype wrap around.
    yield from _each("add", ("int8", "uint8"), "x + 300", "x * 300")
    yield from _each(
        "add",
        ("int32",),
        "x + 2147483648",
        "(x + 2147483648) % 7",
        "(3000000000 - x) % 13",
        "x % 2147483648",
        "x * 1103515245",
    )
    for mode in ("None", "'floor'", "'trunc'"):
        texts = [f"torch.div({pair}, rounding_mode={mode})" for pair in ("x, y", "x, 7", "x, 2.5")]
        yield from _each("div", SIGNED, *texts, y="nonzero")
        yield from _each("div", FLOATS, *texts, y="close")
        yield from _each("div", SIGNED, f"torch.div(x, -3, rounding_mode={mode})")
        yield from _each("div", ("uint8",), f"torch.div(x, 7, rounding_mode={mode})")
    yield from _each("div", NUMBERS, "x / 7", "x / 0.5", "7 / y", "0.5 / y", "torch.true_divide(x, y)", y="nonzero")
    yield from _each("floor_divide", SIGNED, "x // -3", "7 // y", "-7 // y", "torch.floor_divide(x, y)", y="nonzero")
    yield from _each(
        "remainder", SIGNED, "7 % y", "-7 % y", "torch.remainder(x, 3)", "torch.remainder(x, y)", y="nonzero"
    )
    yield from _each("fmod", SIGNED, "torch.fmod(x, 3)", "torch.fmod(x, -3)", "torch.fmod(x, 2.5)")
    yield from _each("remainder", NUMBERS, "x % 2.5", "x % 3")
    yield from _each("floor_divide", NUMBERS, "x // 2.5", "x // 3")
    yield from _each("remainder", FLOATS, "7 % y", "x % -2.5", y="close")
    yield from _each("floor_divide", FLOATS, "7 // y", "x // -2.5", y="close")
    yield from _each("fmod", FLOATS, "torch.fmod(x, 2.5)", "torch.fmod(x, -3)")
    yield from _each("round", FLOATS, *(f"torch.round(x, decimals={n})" for n in (0, 1, 2, 3, -1, -2)))
    both = ("(x, -2, 3)", "(x, min=-2, max=3)", "(x, -2, max=3)", "(x, 3, -2)", "(x, min=2)", "(x, max=2)", "(x, 2)")
    yield from _each("clamp", (*FLOATS, *SIGNED), *(f"torch.clamp{form}" for form in both))
    fractions = ("(x, 0.5, 2.5)", "(x, min=0.5)", "(x, max=1.5)", "(x, -0.5, 2)", "(x, -2, max=1.5)", "(x, -2.5, -0.5)")
    yield from _each("clamp", (*FLOATS, *SIGNED), *(f"torch.clamp{form}" for form in fractions))
    yield from _each("clamp_min", (*FLOATS, *SIGNED), "torch.clamp_min(x, 0.5)", "torch.clamp_min(x, -2)")
    yield from _each("clamp_max", (*FLOATS, *SIGNED), "torch.clamp_max(x, 1.5)", "torch.clamp_max(x, -2)")
    yield from _each(
        "clamp_max", SIGNED, "torch.clamp_max(x, 2.5)", "torch.clamp_max(x, -0.5)", "torch.clamp(x, max=3.5)"
    )
    # If the lower bound is above the upper bound, the result is the upper bound.
    yield from _each("clamp", (*FLOATS, *SIGNED), "torch.clamp(x, min=4, max=0)", "torch.clamp(x, 1.5, -1)")
    tensors = ("(x, y)", "(x, min=y)", "(x, max=y)", "(x, y, x)", "(x, min=y, max=x)")
    yield from _each("clamp", NUMBERS, *(f"torch.clamp{form}" for form in tensors))
    yield from _each("clamp", NUMBERS, "torch.clamp_min(x, y)", "torch.clamp_max(x, y)")
    bounds = ("min_val=-1.0, max_val=1.0", "min_val=-2", "max_val=0.5", "-0.25, max_val=2.5", "min_val=0.5, max_val=3")
    yield from _each("hardtanh", FLOATS, *(f"{_NN}hardtanh(x, {form})" for form in bounds))
    slopes = ("0.01", "negative_slope=0.01", "negative_slope=0.5", "negative_slope=-0.5", "-1.5")
    yield from _each("leaky_relu", FLOATS, *(f"{_NN}leaky_relu(x, {form})" for form in slopes))
    yield from _each(
        "elu", FLOATS, *(f"{_NN}elu(x, {form})" for form in ("alpha=1.0", "alpha=0.25", "3.0", "alpha=-0.5"))
    )
    yield from _each("celu", FLOATS, *(f"{_NN}celu(x, {form})" for form in ("alpha=1.0", "alpha=0.25", "-0.5")))
    for name in ("softshrink", "hardshrink"):
        yield from _each(name, FLOATS, *(f"{_NN}{name}(x, {form})" for form in ("lambd=0.5", "lambd=2", "1.5")))
    yield from _each("logit", FLOATS, "torch.logit(x, eps=0.25)", "torch.logit(x, 0.01)")
    betas = (
        "beta=1, threshold=20",
        "beta=2",
        "0.5",
        "threshold=3",
        "1, 2",
        "beta=2, threshold=5",
        "beta=3, threshold=1",
        "threshold=0.5",
        "beta=2, threshold=-1",
    )
    yield from _each("softplus", FLOATS, *(f"{_NN}softplus(x, {form})" for form in betas))
    # The two forms of gelu differ by 5e-4 at most, so few arguments tell them apart.
    yield from _each(
        "gelu", FLOATS, *(f"{_NN}gelu(x, approximate='{form}') * {n}" for form in ("none", "tanh") for n in (1, 9, 50))
    )
    yield from _each("lerp", FLOATS, *(f"torch.lerp(x, y, {weight})" for weight in (0.5, 1.5, -0.5, 0.0, "y", "x")))
    for dtype in ALL:
        yield from _each("like", NUMBERS, f"torch.full_like(x, 2.7, dtype=torch.{dtype})")
    for dtype in ("float32", "int64", "bool"):
        yield from _each("like", ALL, f"torch.ones_like(x, dtype=torch.{dtype})")
        yield from _each("like", NUMBERS, f"torch.zeros_like(x, dtype=torch.{dtype})")
    yield from _each("like", ALL, "torch.full_like(x, 2.7)", "torch.full_like(x, 1)", "torch.full_like(x, True)")
    yield from _each("like", SIGNED, "torch.full_like(x, -2.7)", "torch.full_like(x, -1)")
    # float16 and bfloat16 do not hold these numbers exactly. A product in float32 shows their rounding.
    for factor in ("(q - kv)", "kv", "(q + kv)"):
        filled = (f"torch.full_like(x, {n}) * {factor}.to(torch.float32)" for n in (0.1, -0.3, 1.7))
        yield from _each("like", ("float16", "bfloat16"), *filled)
    yield from _each(
        "pow", NUMBERS, *(f"x ** {n}" for n in (0, 1, 2, 4)), "torch.pow(x, 2)", "torch.pow(x, 2.0)", "x ** 3.0"
    )
    yield from _each("pow", FLOATS, "x ** 1.5", "x ** -2", "torch.pow(x, -1)", "x ** y", y="close")
    yield from _each("pow", FLOATS, "2 ** y", "0.5 ** y", "3.0 ** y", y="close")
    # Integer powers are computed by squaring, one step per bit of the dtype. Wide ones take long to compile.
    yield from _each("pow", _NARROW, "2 ** y", "x ** y", "0.5 ** y", y="power")
    yield from _each("pow", ("int8", "int16"), "(-2) ** y", y="power")
    yield from _each("pow", ("int8", "uint8"), "torch.pow(x, y)", "torch.pow(2, y)", y="exponent")
    yield from _each(
        "pow", ("uint8",), "torch.pow(2, y | 128)", "torch.pow(2, 128 | x)", "torch.pow(6, y | 128)", y="exponent"
    )
    yield from _each("bitwise", _WHOLE, *(f"x {s} y" for s in "&|^"), "~x")
    yield from _each(
        "bitwise", INTEGERS, "x & 6", "6 & x", "x | 5", "5 | x", "x ^ 3", "3 ^ x", "torch.bitwise_and(x, 6)"
    )
    yield from _each("bitwise", INTEGERS, "1 << y", "100 >> y", "torch.bitwise_left_shift(x, y)", y="shift")
    yield from _each("bitwise", INTEGERS, "torch.bitwise_right_shift(x, y)", "x >> y", y="shift")
    yield from _each("bitwise", INTEGERS, "torch.bitwise_right_shift(x, 2)", "torch.bitwise_left_shift(x, 2)")
    for symbol, name in (("<", "lt"), ("<=", "le"), (">", "gt"), (">=", "ge"), ("==", "eq"), ("!=", "ne")):
        yield from _each(name, ALL, f"x {symbol} 0.5", f"1 {symbol} x")
    yield from _each(
        "where", ALL, "torch.where(x > 0, 1, x)", "torch.where(x > 0, x, 0.5)", "torch.where(x > 0, 2, 0.5)"
    )
    yield from _each("where", NUMBERS, "torch.where(x > y, 2.5, y)", "torch.where(x.to(torch.bool), y, 3)")
    yield from _each("copysign", FLOATS, "torch.copysign(x, -2.0)", "torch.copysign(x, 0.0)", "torch.copysign(x, -0.0)")
    both_zeros = (
        "torch.copysign(x, 0.0) + 2 * torch.copysign(x, -0.0)",
        "torch.copysign(x, -0.0) - torch.copysign(x, 0.0)",
    )
    yield from _each("copysign", FLOATS, *both_zeros)


def _taken(form: Operation) -> Operation:
    """The form with only the dtypes for which PyTorch takes it."""
    both = operations.takes_two(form)
    good = tuple(d for d in form.dtypes if result_dtype(form.text, d, d if both else None))
    return replace(form, dtypes=good)


@functools.cache
def table() -> tuple[Operation, ...]:
    """All forms, each once, with the dtypes for which PyTorch takes them."""
    return tuple(form for form in map(_taken, dict.fromkeys(_table())) if form.dtypes)


@functools.cache
def _of(dtypes: tuple[str, ...]) -> tuple[tuple[Operation, tuple[str, ...]], ...]:
    """(form, those of `dtypes` that it takes) of every form that takes at least one of them."""
    found = ((form, tuple(d for d in dtypes if d in form.dtypes)) for form in table())
    return tuple((form, taken) for form, taken in found if taken)


def forms(draw: Draw, scope: Scope) -> tuple[Term, ...]:
    """Up to four argument forms of the same operands. All forms are equally likely. Returns () if the draw gives none.

    The operands are shared because a form costs a fraction of its operands, and there are hundreds of forms.
    """
    chosen, taken = one(draw, _of(expressions.dtypes(scope)))
    dtype = one(draw, taken)
    more = [one(draw, _cheap(dtype)) for _ in range(draw(st.integers(0, _MORE)))]
    operands = [expressions.operand(draw, scope, dtype)]
    found = [_applied(draw, scope, form, dtype, operands) for form in dict.fromkeys((chosen, *more))]
    return tuple(term for term in found if term is not None)


_MORE = 3


@functools.cache
def _cheap(dtype: str) -> tuple[Operation, ...]:
    """The forms that take a dtype, without powers of wide integers: each of those takes long to compile."""
    wide = dtype in INTEGERS and dtype not in ("int8", "uint8")
    return tuple(f for f in table() if dtype in f.dtypes and not (f.name == "pow" and wide))


def _applied(draw: Draw, scope: Scope, chosen: Operation, dtype: str, operands: list[Term]) -> Term | None:
    """A form applied to the operands. The second operand is drawn, and appended, when a form first needs it.

    Returns None if the operands are outside its domain, or the operation may overflow.
    """
    reads_x, reads_y = _reads(chosen.text)
    x_range, y_range = _domains(chosen, dtype, draw(st.booleans()))
    x = expressions.kept(draw, operands[0], x_range)
    if not reads_y:
        return operations.apply(chosen, x, None)
    if reads_x and len(operands) == 1:
        operands.append(expressions.operand(draw, scope, dtype))
    y = expressions.kept(draw, operands[-1] if reads_x else operands[0], y_range)
    return operations.apply(chosen, x if reads_x else y, y) if y.within(*y_range) else None


@functools.cache
def _reads(text: str) -> tuple[bool, bool]:
    found = set(re.findall(r"(?<![\w.])[xy]\b", text))
    return "x" in found, "y" in found


def _domains(chosen: Operation, dtype: str, negative: bool) -> tuple[Range, Range]:
    """The ranges in which x and y must lie. A divisor is positive or, with `negative`, negative.

    An integer divisor is never -1: the quotient of the least integer by -1 overflows.
    """
    whole = dtype in INTEGERS
    least = 0 if dtype == "uint8" else -3
    if chosen.name == "pow":
        x: Range = (least, 3) if whole else (0.1, 8)
        return x, {"power": (0, 3), "exponent": (0, 250 if dtype == "uint8" else 100)}.get(chosen.y, (-2, 3))
    unknown: Range = (-math.inf, math.inf)
    bounded: Range = (-1e3, 1e3) if not whole and chosen.name in _BOUNDED else operations.domain(chosen, dtype)
    match chosen.y:
        case "nonzero":
            return bounded, (-20, -2) if negative and dtype in SIGNED else (1 if whole else 0.25, 20)
        case "close":
            return bounded, (-20, -0.25) if negative else (0.25, 20)
        case "shift":
            return unknown, (0, 7)
    return bounded, unknown


_BOUNDED = frozenset("div floor_divide remainder fmod round leaky_relu".split())
