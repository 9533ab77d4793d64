"""One table: ATen overload -> how it is written in CuTe (L7.2, L7.3, L7.6).

An entry receives a `Writer` and the node's arguments as `Value`s and returns the `Value` of the result. Arithmetic in
float16 and bfloat16 is carried out in Float32 (L7.2); an explicit cast to them rounds. Everything holds at any vector
width, because a `Value` is either a Python constant or a vector with one element a lane.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import torch

from .numbers import Scalar, Unwritable, compute_dtype, operand_number, rounded_number

CUTE_NAMES: Final[dict[torch.dtype, str]] = {
    torch.float16: "Float16",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float32",
    torch.float64: "Float64",
    torch.int8: "Int8",
    torch.int16: "Int16",
    torch.int32: "Int32",
    torch.int64: "Int64",
    torch.uint8: "Uint8",
    torch.bool: "Boolean",
}

_FLT_MIN: Final = 2.0**-126
_EXACT: Final = 2**24  # float32 has every integer up to here
_WIDE: Final = 32  # bits of the integers of which the dtype alone tells nothing


def cute_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> `cutlass.Float32`. Raises KeyError for a dtype that L7.5 does not name."""
    return f"cutlass.{CUTE_NAMES[dtype]}"


@dataclass(frozen=True)
class Value:
    """What a node is worth in the text: a Python `constant`, or the vector that `text` names.

    `dtype` is PyTorch's nominal dtype; a vector holds `compute_dtype(dtype)`. `uniform`: the same in every lane, since
    it depends on nothing but b, h and q. `nonnegative`: certainly not below zero, so that an index needs no wrapping.
    `limit`: an integer's largest magnitude, where more is known of it than its dtype says. `difference`: the two
    integers that this is the difference of, one of them uniform, where all three are at most 2^24.
    """

    text: str
    dtype: torch.dtype
    constant: Scalar | None = None
    uniform: bool = False
    nonnegative: bool = False
    limit: int | None = None
    difference: tuple[Value, Value] | None = None


Argument: TypeAlias = "Value | Scalar | str | torch.dtype | None"


class Writer(Protocol):
    """What an entry may ask of the code generator.

    `smooth`: nothing that this operation's result reaches can jump, so that its last bit does not matter. `fast_math`:
    the kernel option of that name.
    """

    smooth: bool
    fast_math: bool

    def vector(self, value: Argument, dtype: torch.dtype) -> str:
        """`value`, cast to `compute_dtype(dtype)`, as the name of a vector (a constant is spread over the lanes)."""

    def operand(self, value: Argument, dtype: torch.dtype) -> str:
        """Like `vector`, but a constant stays a literal: for the operators, which take one on either side."""

    def assign(self, expression: str, hint: str) -> str:
        """The name of a variable that holds `expression`; an equal expression is computed once."""

    def use(self, helper: str) -> str:
        """The name of a prelude function, which the module then carries."""


Emitter: TypeAlias = Callable[[Writer, Sequence[Argument], dict[str, Argument], torch.dtype], Value]


_TABLE: dict[Any, tuple[str, Emitter]] = {}


def lookup(target: Any) -> tuple[str, Emitter] | None:
    """(name hint, emitter) for an ATen overload, or None when it has no spelling."""
    return _TABLE.get(target)


_BITS = frozenset("bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift".split())
_REALS = frozenset("silu gelu softplus log_sigmoid_forward leaky_relu elu hypot lerp".split())


def check_dtype(target: Any, dtype: torch.dtype) -> None:
    """Raise Unwritable where PyTorch, which infers a result's `dtype` all the same, has no such operation on it."""
    name = target.overloadpacket.__name__
    if dtype.is_floating_point and name in _BITS:
        raise Unwritable("floating-point numbers, as in PyTorch; cast to an integer first")
    if not dtype.is_floating_point and name in _REALS:
        raise Unwritable("whole numbers, as in PyTorch; cast to float32 first")


def supported() -> tuple[str, ...]:
    """The overloads that have a spelling, as `aten.add.Tensor`, sorted."""
    return tuple(sorted(str(target) for target in _TABLE))


def _overloads(names: str) -> list[Any]:
    found = []
    for name in names.split():
        packet, _, overload = name.partition(".")
        found.append(getattr(getattr(torch.ops.aten, packet), overload or "default"))
    return found


def _spell(names: str, hint: str | None = None) -> Callable[[Emitter], Emitter]:
    def register(emitter: Emitter) -> Emitter:
        for target in _overloads(names):
            _TABLE[target] = (hint or target._schema.name.removeprefix("aten::").strip("_"), emitter)
        return emitter

    return register


def operand_dtype(*arguments: Argument) -> torch.dtype:
    """PyTorch's promotion of tensors and Python scalars, as for zero-dimensional tensors (L7.2)."""
    result: torch.dtype | None = None
    scalars: list[Scalar] = []
    for a in arguments:
        if isinstance(a, Value):
            result = a.dtype if result is None else torch.promote_types(result, a.dtype)
        elif isinstance(a, (bool, int, float)):
            scalars.append(a)
    probe = torch.empty((), dtype=result, device="meta") if result is not None else None
    for s in scalars:
        probe = torch.empty((), dtype=torch.result_type(probe, s) if probe is not None else None, device="meta")
    assert probe is not None
    return probe.dtype


def _uniform(*arguments: Argument) -> bool:
    return all(a.uniform or a.constant is not None for a in arguments if isinstance(a, Value))


def _at_least(argument: Argument, bound: float) -> bool:
    if isinstance(argument, Value) and argument.constant is not None:
        argument = argument.constant
    if isinstance(argument, Value):
        return bound <= 0 and argument.nonnegative
    return isinstance(argument, (bool, int, float)) and argument >= bound


def _nonnegative(argument: Argument) -> bool:
    return _at_least(argument, 0)


def _limit(argument: Argument) -> int | None:
    """An integer's largest magnitude; None where its dtype alone would bound it, and for floats."""
    number = constant_of(argument)
    if number is not None:
        return None if isinstance(number, float) else abs(int(number))
    if not isinstance(argument, Value):
        return None
    if argument.limit is not None or argument.dtype.is_floating_point:
        return argument.limit
    if argument.dtype is torch.bool:
        return 1
    info = torch.iinfo(argument.dtype)
    return max(info.max, -info.min) if info.bits < _WIDE else None


def _limited(value: Value, limit: Callable[..., int], *arguments: Argument) -> Value:
    """`value` with `limit` of the arguments' limits as its own, if its dtype holds that.

    Where it may not, the integer may wrap around, and then a signed one is not known to be `nonnegative`.
    """
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    limits = [_limit(a) for a in arguments]
    most = None if None in limits else limit(*limits)
    fits = most is not None and most <= torch.iinfo(value.dtype).max
    nonnegative = _is_unsigned(value.dtype) or (value.nonnegative and fits)
    return replace(value, limit=most if fits else None, nonnegative=nonnegative)


def _within(value: Value, *limits: int | None) -> Value:
    """`value`, which cannot wrap around, with the largest of the `limits` as its own, if all of them are known."""
    if value.dtype.is_floating_point or value.dtype is torch.bool:
        return value
    known = [limit for limit in limits if limit is not None]
    fits = len(known) == len(limits) and max(known) <= torch.iinfo(value.dtype).max
    return replace(value, limit=max(known) if fits else None)


def constant_of(argument: Argument) -> Scalar | None:
    """The Python number behind an argument, if it is one."""
    if isinstance(argument, Value):
        return argument.constant
    return argument if isinstance(argument, (bool, int, float)) else None


_COMPARISONS = frozenset("eq ne lt le gt ge".split())
_ROUNDED = _COMPARISONS | frozenset("clamp clamp_min clamp_max hardtanh masked_fill".split())


def converted(
    target: Any, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype
) -> tuple[list[Argument], dict[str, Argument]]:
    """The arguments with their Python numbers as the operation, whose result has `dtype`, reads them."""
    name = target.overloadpacket.__name__
    common = operand_dtype(*args) if name in _COMPARISONS else dtype
    number = rounded_number if name in _ROUNDED else operand_number

    def convert(argument: Argument) -> Argument:
        if name == "masked_fill" and argument is args[2] and isinstance(argument, Value):
            known = argument.constant
            return argument if known is None else replace(argument, constant=rounded_number(known, common))
        return number(argument, common) if type(argument) in (int, float) else argument  # type: ignore[arg-type]

    return [convert(a) for a in args], {k: convert(v) for k, v in kw.items()}


# --- arithmetic -----------------------------------------------------------------------------------------------------


@_spell("add.Tensor add.Scalar")
def _add(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], _scaled(w, args, kw, dtype)
    if dtype is torch.bool:
        return _combine(w, "|", x, y, dtype)
    nonnegative = _nonnegative(x) and _nonnegative(y)
    return _limited(_binary(w, "{x} + {y}", x, y, dtype, nonnegative, "add"), operator.add, x, y)


@_spell("sub.Tensor sub.Scalar")
def _sub(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], _scaled(w, args, kw, dtype)
    # PyTorch adds y * -alpha, and the integer 0 has no sign to turn.
    sign = "+" if constant_of(args[2] if len(args) > 2 else kw.get("alpha", 1)) == 0 else "-"
    result = _binary(w, f"{{x}} {sign} {{y}}", x, y, dtype, False, "sub")
    if dtype.is_floating_point or _is_unsigned(dtype):
        return result
    result = _limited(result, operator.add, x, y)
    if dtype not in (torch.int32, torch.int64) or not (isinstance(x, Value) and isinstance(y, Value)):
        return result
    exact = result.limit is not None and result.limit <= _EXACT and x.dtype is y.dtype is dtype
    return replace(result, difference=(x, y) if exact and x.uniform != y.uniform else None)


@_spell("rsub.Tensor rsub.Scalar")
def _rsub(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    minuend, subtrahend = args[1], _scaled(w, (args[1], args[0], *args[2:]), kw, dtype)
    return _binary(w, "{x} - {y}", minuend, subtrahend, dtype, False, "rsub")


@_spell("mul.Tensor mul.Scalar")
def _mul(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], args[1]
    if dtype is torch.bool:
        return _combine(w, "&", x, y, dtype)
    result = _binary(w, "{x} * {y}", x, y, dtype, _nonnegative(x) and _nonnegative(y), "mul")
    return _limited(result, operator.mul, x, y)


@_spell("div.Tensor div.Scalar")
def _div(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], args[1]
    divisor = constant_of(y)
    if divisor is not None and _by_reciprocal(w, float(divisor), dtype):
        return _binary(w, "{x} * (1.0 / {y})", x, rounded32(divisor), dtype, False, "div")
    if divisor is None and _approximate(w, dtype):
        text = f"{w.use('div_approx')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return _result(w, text, dtype, "div", (x, y))
    return _binary(w, "{x} / {y}", x, y, dtype, False, "div")


def rounded32(number: float) -> float:
    """`number` rounded to float32."""
    return float(torch.tensor(number, dtype=torch.float32))


def _by_reciprocal(w: Writer, divisor: float, dtype: torch.dtype) -> bool:
    """Whether x / divisor may be written x * (1 / divisor), which a GPU does in one instruction instead of nine.

    By a power of two that is the same number. By any other, the reciprocal is rounded and so is the product: at most
    1.5 ulp instead of 0.5. That is within what a quotient may be off, but not where a comparison, a floor or a pole
    waits for the exact quotient of whole numbers.
    """
    divisor = rounded32(divisor)
    if compute_dtype(dtype) is not torch.float32 or not _FLT_MIN < abs(divisor) < 1 / _FLT_MIN:
        return False
    return w.smooth or abs(math.frexp(divisor)[0]) == 0.5


def _approximate(w: Writer, dtype: torch.dtype) -> bool:
    """Whether an approximate instruction is asked for; there are none for float64."""
    return w.fast_math and compute_dtype(dtype) is torch.float32


@_spell("div.Tensor_mode div.Scalar_mode floor_divide.default floor_divide.Scalar", "div")
def _rounded_div(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    mode = kw.get("rounding_mode", "floor")
    if mode is None:
        return _div(w, args, {}, dtype)
    return _within(_quotient(w, args, mode, dtype), _limit(args[0]))


def _quotient(w: Writer, args: Sequence[Argument], mode: Argument, dtype: torch.dtype) -> Value:
    x, y = args[0], args[1]
    positive = _nonnegative(x) and _at_least(y, 1)
    if dtype.is_floating_point:
        if mode == "floor":
            text = f"{w.use('floor_divide')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        else:
            quotient = _binary(w, "{x} / {y}", x, y, dtype, False, "div")
            text = f"cute.math.trunc({quotient.text})"
        return _result(w, text, dtype, "div", (x, y), positive)
    divisor = constant_of(y)
    if mode == "floor" and isinstance(divisor, int) and _power_of_two(divisor):
        # An arithmetic shift floors; `//` takes ten instructions to.
        vector = w.vector(x, dtype)
        text = (
            f"cute.TensorSSA({vector} >> {_amount(w, divisor.bit_length() - 1, dtype)}, {vector}.shape, {vector}.dtype)"
        )
        return _result(w, text, dtype, "div", (x,), positive)
    y = _divisor(w, x, y, dtype)
    if mode == "floor" or positive:
        return _binary(w, "{x} // {y}", x, y, dtype, positive, "div")
    text = f"{w.use('truncate_divide')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
    return _result(w, text, dtype, "div", (x, y))


def _divisor(w: Writer, x: Argument, y: Argument, dtype: torch.dtype) -> Argument:
    """The divisor of an integer, 1 where there is no quotient (L7.3).

    A constant divisor is not 0, since that mod was refused.
    """
    if constant_of(y) is not None or dtype.is_floating_point:
        return y
    limit = _limit(x)
    fits = limit is not None and limit <= torch.iinfo(dtype).max
    vector = w.vector(y, dtype)
    if _is_unsigned(dtype) or fits or _nonnegative(x) or _nonnegative(y):
        return _result(w, f"{w.use('divisor')}({vector})", dtype, "divisor", (y,), _nonnegative(y))
    text = f"{w.use('divisor_of')}({w.vector(x, dtype)}, {vector})"
    return _result(w, text, dtype, "divisor", (x, y))


@_spell("remainder.Tensor remainder.Scalar remainder.Scalar_Tensor")
def _remainder(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _within(_floor_remainder(w, args[0], args[1], dtype), _limit(args[1]))


def _floor_remainder(w: Writer, x: Argument, y: Argument, dtype: torch.dtype) -> Value:
    if dtype.is_floating_point:
        text = f"{w.use('remainder')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return _result(w, text, dtype, "remainder", (x, y), _at_least(y, 0))
    if _nonnegative(x) and _at_least(y, 1):
        return _binary(w, "{x} % {y}", x, y, dtype, True, "remainder")
    divisor = constant_of(y)
    if isinstance(divisor, int) and _power_of_two(divisor):
        return _binary(w, "{x} & {y}", x, divisor - 1, dtype, True, "remainder")
    if isinstance(divisor, int) and divisor > 0:
        r = w.assign(f"{w.vector(x, dtype)} % {w.operand(divisor, dtype)}", "c_remainder")  # with the sign of x
        return _result(
            w, f"cute.where({r} < 0, {r} + {w.operand(divisor, dtype)}, {r})", dtype, "remainder", (x,), True
        )
    y = _divisor(w, x, y, dtype)
    quotient = _binary(w, "{x} // {y}", x, y, dtype, False, "floor_div")
    whole = _binary(w, "{x} * {y}", quotient, y, dtype, False, "whole")
    return _binary(w, "{x} - {y}", x, whole, dtype, _at_least(y, 1), "remainder")


@_spell("fmod.Tensor fmod.Scalar")
def _fmod(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], _divisor(w, args[0], args[1], dtype)
    return _within(_binary(w, "{x} % {y}", x, y, dtype, _nonnegative(x), "fmod"), _limit(args[1]))


@_spell("neg.default")
def _neg(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    result = _result(w, f"-{w.vector(args[0], dtype)}", dtype, "neg", args)
    return result if _is_unsigned(dtype) else _limited(result, lambda x: x, args[0])


@_spell("abs.default")
def _abs(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if _is_unsigned(dtype) or (_nonnegative(args[0]) and not dtype.is_floating_point):
        return _same(w, args[0], dtype)
    # The smallest integer of a dtype has no positive counterpart, and stays as it is.
    result = _result(w, f"cute.math.abs({w.vector(args[0], dtype)})", dtype, "abs", args, True)
    return _limited(result, lambda x: x, args[0])


@_spell("sign.default sgn.default")
def _sign(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.bool:
        return _same(w, args[0], dtype)
    return _result(w, f"{w.use('sign')}({w.vector(args[0], dtype)})", dtype, "sign", args, _nonnegative(args[0]))


@_spell("reciprocal.default")
def _reciprocal(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x = w.vector(args[0], dtype)
    text = f"{w.use('rcp_approx')}({x})" if _approximate(w, dtype) else f"1.0 / {x}"
    return _result(w, text, dtype, "reciprocal", args)


@_spell("pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar")
def _pow(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], args[1]
    exponent = constant_of(y)
    if exponent in (1, 2, 3):
        times = int(exponent)
        text = " * ".join([w.vector(x, dtype)] * times)
        result = _result(w, text, dtype, "pow", (x,), exponent == 2 or _nonnegative(x))
        return _limited(result, lambda most: most**times, x)
    if not dtype.is_floating_point:
        text = f"{w.use('integer_power')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return _result(w, text, dtype, "pow", (x, y), _is_unsigned(dtype))
    if exponent == 0.5:
        return _result(w, f"{_named(w, 'sqrt', dtype)}({w.vector(x, dtype)})", dtype, "pow", (x,), True)
    if exponent == -0.5:
        return _result(w, f"cute.math.rsqrt({w.vector(x, dtype)})", dtype, "pow", (x,), True)
    if exponent == -1:
        return _reciprocal(w, (x,), {}, dtype)
    if constant_of(x) == 2:
        return _result(w, f"cute.math.exp2({w.vector(y, dtype)})", dtype, "pow", (y,), True)
    return _result(w, f"cute.math.pow({w.vector(x, dtype)}, {w.vector(y, dtype)})", dtype, "pow", (x, y))


# --- comparison, logic, bits ----------------------------------------------------------------------------------------


def _comparison(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = _apart(w, args[0], args[1])
        inner = operand_dtype(x, y)
        text = f"{w.operand(x, inner)} {symbol} {w.operand(y, inner)}"
        return _result(w, text, torch.bool, "", (x, y), True)

    return emit


def _apart(w: Writer, x: Argument, y: Argument) -> tuple[Argument, Argument]:
    """q - kv against a number as q - number against kv: once for a row, where the difference is for every element."""
    number = constant_of(y)
    if not isinstance(x, Value) or x.difference is None or type(number) is not int or abs(number) > _EXACT:
        return x, y
    a, b = x.difference
    if a.uniform:
        return _binary(w, "{x} - {y}", a, number, x.dtype, False, "sub"), b
    return a, _binary(w, "{x} + {y}", b, number, x.dtype, False, "add")


for _name, _symbol in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    _spell(f"{_name}.Tensor {_name}.Scalar")(_comparison(_symbol))


def _logical(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return _combine(w, symbol, args[0], args[1], torch.bool)

    return emit


def _bitwise(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return _combine(w, symbol, args[0], args[1], dtype)

    return emit


for _name, _symbol in (("and", "&"), ("or", "|"), ("xor", "^")):
    _spell(f"logical_{_name}.default")(_logical(_symbol))
    _spell(f"bitwise_{_name}.Tensor bitwise_{_name}.Scalar bitwise_{_name}.Scalar_Tensor")(_bitwise(_symbol))


@_spell("logical_not.default")
def _logical_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    inner = operand_dtype(args[0])
    return _result(w, f"{w.vector(args[0], inner)} == 0", torch.bool, "logical_not", args, True)


@_spell("bitwise_not.default")
def _bitwise_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.bool:
        return _logical_not(w, args, {}, dtype)
    ones = 255 if _is_unsigned(dtype) else -1
    return _binary(w, "{x} ^ {y}", args[0], ones, dtype, False, "bitwise_not")


def _shift(helper: str, symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args[0], args[1]
        amount = constant_of(y)
        vector = w.vector(x, dtype)
        nonnegative = _nonnegative(x) and symbol == ">>"
        if isinstance(amount, int) and 0 <= amount < _width(dtype):
            text = f"cute.TensorSSA({vector} {symbol} {_amount(w, amount, dtype)}, {vector}.shape, {vector}.dtype)"
        else:
            text = f"{w.use(helper)}({vector}, {w.vector(y, dtype)})"
        result = _result(w, text, dtype, helper, (x, y), nonnegative)
        return _within(result, _limit(x)) if symbol == ">>" else result

    return emit


def _amount(w: Writer, amount: int, dtype: torch.dtype) -> str:
    # CuTe shifts a vector by a plain int or by a vector, but not by a typed scalar.
    return str(amount) if dtype is torch.int32 else w.vector(amount, dtype)


_SHIFTS = "bitwise_{0}_shift.Tensor bitwise_{0}_shift.Tensor_Scalar bitwise_{0}_shift.Scalar_Tensor"
_spell(_SHIFTS.format("left") + " __lshift__.Tensor __lshift__.Scalar")(_shift("shift_left", "<<"))
_spell(_SHIFTS.format("right") + " __rshift__.Tensor __rshift__.Scalar")(_shift("shift_right", ">>"))


# --- selection ------------------------------------------------------------------------------------------------------


@_spell("where.self")
def _where(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    condition, x, y = args
    text = f"cute.where({w.vector(condition, torch.bool)}, {w.vector(x, dtype)}, {w.vector(y, dtype)})"
    result = _result(w, text, dtype, "where", args, _nonnegative(x) and _nonnegative(y))
    return _within(result, _limit(x), _limit(y))


@_spell("masked_fill.Scalar masked_fill.Tensor")
def _masked_fill(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _where(w, (args[1], args[2], args[0]), {}, dtype)


def _extremum(name: str, symbol: str, *, drop_nan: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args[0], args[1]
        if dtype is torch.bool:
            return _combine(w, "&" if symbol == "<" else "|", x, y, dtype)
        a, b = w.vector(x, dtype), w.vector(y, dtype)
        if not dtype.is_floating_point or drop_nan:
            text = f"cute.math.{'min' if symbol == '<' else 'max'}({a}, {b})"
        else:
            text = f"{w.use(name)}({a}, {b})"
        either, both = (_nonnegative(x) or _nonnegative(y)), (_nonnegative(x) and _nonnegative(y))
        result = _result(w, text, dtype, name, (x, y), both if symbol == "<" else either)
        return _within(result, _limit(x), _limit(y))

    return emit


_MINIMUM = _extremum("minimum", "<", drop_nan=False)
_MAXIMUM = _extremum("maximum", ">", drop_nan=False)
_spell("minimum.default clamp_max.Tensor")(_MINIMUM)
_spell("maximum.default clamp_min.Tensor")(_MAXIMUM)
_spell("fmin.default")(_extremum("minimum", "<", drop_nan=True))
_spell("fmax.default")(_extremum("maximum", ">", drop_nan=True))


@_spell("hardtanh.default", "clamp")
def _hardtanh(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    # PyTorch leaves out arguments that equal their defaults.
    low = args[1] if len(args) > 1 else kw.get("min_val", -1)
    high = args[2] if len(args) > 2 else kw.get("max_val", 1)
    return _clamp(w, (args[0], low, high), {}, dtype)


@_spell("clamp.default clamp.Tensor", "clamp")
def _clamp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    low = args[1] if len(args) > 1 else kw.get("min")
    high = args[2] if len(args) > 2 else kw.get("max")
    value: Argument = args[0]
    if low is not None:
        value = _bounded(w, value, low, dtype, _MAXIMUM, "<")
    if high is not None:
        value = _bounded(w, value, high, dtype, _MINIMUM, ">")
    assert isinstance(value, Value)
    return value


@_spell("clamp_min.default")
def _clamp_min(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _bounded(w, args[0], args[1], dtype, _MAXIMUM, "<")


@_spell("clamp_max.default")
def _clamp_max(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _bounded(w, args[0], args[1], dtype, _MINIMUM, ">")


@_spell("relu.default")
def _relu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _bounded(w, args[0], 0, dtype, _MAXIMUM, "<")


def _bounded(w: Writer, value: Argument, bound: Argument, dtype: torch.dtype, extremum: Emitter, symbol: str) -> Value:
    number = constant_of(bound)
    if number is None or not dtype.is_floating_point or math.isnan(number):
        return extremum(w, (value, bound), {}, dtype)
    # A comparison with a constant lets a NaN through by itself; no second test is needed.
    x = w.vector(value, dtype)
    text = f"cute.where({x} {symbol} {w.operand(bound, dtype)}, {w.vector(bound, dtype)}, {x})"
    return _result(w, text, dtype, "clamp", (value,), symbol == "<" and number >= 0)


@_spell("leaky_relu.default")
def _leaky_relu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    slope = args[1] if len(args) > 1 else kw.get("negative_slope", 0.01)
    x = w.vector(args[0], dtype)
    text = f"cute.where({x} > 0.0, {x}, {x} * {w.operand(slope, dtype)})"
    return _result(w, text, dtype, "leaky_relu", args)


# --- functions of one float -----------------------------------------------------------------------------------------


def _function(text: str, nonnegative: bool = False) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return _result(w, text.format(x=w.vector(args[0], dtype)), dtype, "", args, nonnegative)

    return emit


for _name in ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh"]:
    _spell(f"{_name}.default")(_function(f"cute.math.{_name}({{x}})"))
_spell("rsqrt.default")(_function("cute.math.rsqrt({x})", nonnegative=True))

APPROXIMATE: Final[dict[str, str]] = {
    "tanh": "tanh_approx",
    "exp2": "exp2_approx",
    "log": "log_approx",
    "log2": "log2_approx",
    "log10": "log10_approx",
    "sqrt": "sqrt_approx",
}
"""Functions of one float -> what the option fast_math puts in their place."""


def _named(w: Writer, name: str, dtype: torch.dtype) -> str:
    return w.use(APPROXIMATE[name]) if _approximate(w, dtype) else f"cute.math.{name}"


def _approximable(name: str, nonnegative: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return _result(w, f"{_named(w, name, dtype)}({w.vector(args[0], dtype)})", dtype, "", args, nonnegative)

    return emit


for _name in APPROXIMATE:
    _spell(f"{_name}.default")(_approximable(_name, nonnegative=_name == "sqrt"))


def _exponential(w: Writer, x: str, dtype: torch.dtype) -> str:
    """exp(x). In Float32 exp2(x * log2(e)): half the instructions of CuTe's exp on a GPU, and off by |x| ulp more."""
    if compute_dtype(dtype) is torch.float64:
        return f"cute.math.exp({x})"
    return f"{_named(w, 'exp2', dtype)}({x} * {math.log2(math.e)!r})"


@_spell("exp.default")
def _exp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _result(w, _exponential(w, w.vector(args[0], dtype), dtype), dtype, "", args, True)


@_spell("sigmoid.default")
def _sigmoid(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    below = f"1.0 + {_exponential(w, f'-{w.vector(args[0], dtype)}', dtype)}"
    text = f"{w.use('rcp_approx')}({below})" if _approximate(w, dtype) else f"1.0 / ({below})"
    return _result(w, text, dtype, "", args, True)


@_spell("silu.default")
def _silu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x = w.vector(args[0], dtype)
    below = f"1.0 + {_exponential(w, f'-{x}', dtype)}"
    text = f"{w.use('div_approx')}({x}, {below})" if _approximate(w, dtype) else f"{x} / ({below})"
    return _result(w, text, dtype, "", args)


@_spell("erf.default")
def _erf(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    name = _erf_name(w, dtype)
    return _result(w, f"{name}({w.vector(args[0], dtype)})", dtype, "erf", args)


@_spell("erfc.default")
def _erfc(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.float64:
        raise Unwritable("float64; cast to float32 first")
    return _result(w, f"{w.use('erfc')}({w.vector(args[0], dtype)})", dtype, "erfc", args, True)


@_spell("gelu.default")
def _gelu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x = w.vector(args[0], dtype)
    if kw.get("approximate", "none") == "tanh":
        inner = f"{w.operand(0.044715, dtype)} * {x} * {x} * {x}"
        gate = f"{_named(w, 'tanh', dtype)}({w.operand(math.sqrt(2 / math.pi), dtype)} * ({x} + {inner}))"
    else:
        gate = f"{_erf_name(w, dtype)}({x} * {w.operand(math.sqrt(0.5), dtype)})"
    return _result(w, f"0.5 * {x} * (1.0 + {gate})", dtype, "gelu", args)


@_spell("softplus.default")
def _softplus(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    beta = constant_of(args[1] if len(args) > 1 else kw.get("beta", 1))
    threshold = args[2] if len(args) > 2 else kw.get("threshold", 20)
    x = w.vector(args[0], dtype)
    if beta == 1:
        text = f"cute.where({x} > {w.operand(threshold, dtype)}, {x}, {w.use('log1p')}(cute.math.exp({x})))"
    else:
        b = w.operand(beta, dtype)
        scaled = w.assign(f"{x} * {b}", "scaled")
        smooth = f"{w.use('log1p')}(cute.math.exp({scaled})) / {b}"
        text = f"cute.where({scaled} > {w.operand(threshold, dtype)}, {x}, {smooth})"
    return _result(w, text, dtype, "softplus", args)


@_spell("elu.default")
def _elu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    alpha, scale, input_scale = (
        constant_of(args[i]) if len(args) > i else constant_of(kw.get(name, 1))
        for i, name in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
    )
    x = w.vector(args[0], dtype)
    expm1 = w.use("expm1_f64" if dtype is torch.float64 else "expm1")
    inner = x if input_scale == 1 else w.assign(f"{x} * {w.operand(input_scale, dtype)}", "scaled")
    above = x if scale == 1 else f"{x} * {w.operand(scale, dtype)}"
    assert alpha is not None and scale is not None
    below = f"{expm1}({inner}) * {w.operand(alpha * scale, dtype)}"
    # Not `> 0.0`: with a negative alpha, 0 would become -0.
    return _result(w, f"cute.where({x} < 0.0, {below}, {above})", dtype, "elu", args)


def _helper(name: str, *, of_double: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        helper = w.use(f"{name}_f64" if of_double and dtype is torch.float64 else name)
        operands = ", ".join(w.vector(a, dtype) for a in args)
        return _result(w, f"{helper}({operands})", dtype, name, args)

    return emit


# CuTe's own expm1 and log1p lose all accuracy near 0; its inverse hyperbolics and hypot do not compile for a CPU.
_spell("expm1.default")(_helper("expm1", of_double=True))
_spell("log1p.default")(_helper("log1p", of_double=False))
_spell("asinh.default")(_helper("asinh", of_double=True))
_spell("acosh.default")(_helper("acosh", of_double=True))
_spell("atanh.default")(_helper("atanh", of_double=False))
_spell("hypot.default")(_helper("hypot", of_double=False))
# CuTe's own atan2 of two zeros that the compiler knows to be zeros is NaN.
_spell("atan2.default")(_helper("atan2", of_double=False))


@_spell("log_sigmoid_forward.default", "log_sigmoid")
def _log_sigmoid(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x = w.vector(args[0], dtype)
    zero = w.vector(0, dtype)
    text = f"cute.where({x} < 0.0, {x}, {zero}) - {w.use('log1p')}(cute.math.exp(-cute.math.abs({x})))"
    return _result(w, text, dtype, "log_sigmoid", args)


@_spell("lerp.Scalar lerp.Tensor")
def _lerp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    start, end, weight = (w.vector(a, dtype) for a in args[:3])
    span = w.assign(f"{end} - {start}", "span")
    near = f"{start} + {weight} * {span}"
    far = f"{end} - {span} * (1.0 - {weight})"
    return _result(w, f"cute.where(cute.math.abs({weight}) < 0.5, {near}, {far})", dtype, "lerp", args[:3])


@_spell("copysign.Tensor copysign.Scalar")
def _copysign(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = w.vector(args[0], dtype), w.vector(args[1], dtype)
    return _result(w, f"cute.math.copysign({x}, {y})", dtype, "copysign", args)


@_spell("signbit.default")
def _signbit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    inner = operand_dtype(args[0])
    if _is_unsigned(inner):
        return Value("False", torch.bool, False, True, True)
    x = w.vector(args[0], inner)
    if inner.is_floating_point:  # of -0 and of a NaN it is the bit
        x = f"cute.math.copysign({w.vector(1, inner)}, {x})"
    return _result(w, f"{x} < 0", torch.bool, "signbit", args, True)


def _rounding(text: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        if not dtype.is_floating_point:
            return _same(w, args[0], dtype)
        return _result(w, text.format(x=w.vector(args[0], dtype)), dtype, "", args, _nonnegative(args[0]))

    return emit


for _name, _text in (("floor", "floor"), ("ceil", "ceil"), ("round", "roundeven"), ("trunc", "trunc")):
    _spell(f"{_name}.default")(_rounding(f"cute.math.{_text}({{x}})"))


@_spell("round.decimals")
def _round_decimals(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    decimals = constant_of(kw.get("decimals", 0))
    if not dtype.is_floating_point or not isinstance(decimals, int):
        raise Unwritable("this use of decimals")
    if abs(decimals) > sys.float_info.max_10_exp:
        raise Unwritable(f"{decimals} decimals; no float has more than {sys.float_info.max_10_exp}")
    x, power = w.vector(args[0], dtype), w.operand(10.0 ** abs(decimals), dtype)
    up, down = ("*", "/") if decimals >= 0 else ("/", "*")
    return _result(w, f"cute.math.roundeven({x} {up} {power}) {down} {power}", dtype, "round", args)


_spell("frac.default")(_rounding("{x} - cute.math.trunc({x})"))


def _classification(text: str, of_integer: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        inner = operand_dtype(args[0])
        if not inner.is_floating_point:
            return Value(repr(of_integer), torch.bool, of_integer, True, True)
        return _result(w, text.format(x=w.vector(args[0], inner)), torch.bool, "", args, True)

    return emit


_spell("isnan.default")(_classification("{x} != {x}", False))
_spell("isinf.default")(_classification('cute.math.abs({x}) == float("inf")', False))
_spell("isfinite.default")(_classification('cute.math.abs({x}) < float("inf")', True))
_spell("isposinf.default")(_classification('{x} == float("inf")', False))
_spell("isneginf.default")(_classification('{x} == float("-inf")', False))


# --- casts ----------------------------------------------------------------------------------------------------------


@_spell("_to_copy.default", "cast")
def _to_copy(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    source = args[0]
    if not isinstance(source, Value):
        raise Unwritable("a Python number, which torch.vmap makes of one; a mod sees scalars and needs no vmap")
    text = w.vector(source, dtype)
    if dtype in (torch.float16, torch.bfloat16) and source.dtype is not dtype:
        text = w.assign(f"{text}.to({cute_name(dtype)}).to(cutlass.Float32)", "rounded")
    limit = _limit(source)
    integer = not dtype.is_floating_point and dtype is not torch.bool
    fits = integer and limit is not None and limit <= torch.iinfo(dtype).max
    fits = fits and (source.nonnegative or not _is_unsigned(dtype))
    nonnegative = source.nonnegative and (fits or _keeps_sign(source.dtype, dtype))
    return Value(text, dtype, None, source.uniform, nonnegative, limit if fits else None)


@_spell("clone.default")
def _clone(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _same(w, args[0], dtype)


def _keeps_sign(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether a non-negative value stays so under the cast (a narrower integer may wrap)."""
    if target.is_floating_point or target in (torch.bool, torch.uint8):
        return True
    return not source.is_floating_point and (_width(source) < _width(target) or source is target)


# --- shared pieces --------------------------------------------------------------------------------------------------


def _result(
    w: Writer,
    text: str,
    dtype: torch.dtype,
    hint: str,
    inputs: Sequence[Argument],
    nonnegative: bool = False,
) -> Value:
    return Value(w.assign(text, hint), dtype, None, _uniform(*inputs), nonnegative)


def _same(w: Writer, argument: Argument, dtype: torch.dtype) -> Value:
    nonnegative = _nonnegative(argument)
    limit = None if dtype.is_floating_point else _limit(argument)
    return Value(w.vector(argument, dtype), dtype, None, _uniform(argument), nonnegative, limit)


def _binary(
    w: Writer, template: str, x: Argument, y: Argument, dtype: torch.dtype, nonnegative: bool, hint: str
) -> Value:
    text = template.format(x=w.operand(x, dtype), y=w.operand(y, dtype))
    return _result(w, text, dtype, hint, (x, y), nonnegative)


def _combine(w: Writer, symbol: str, x: Argument, y: Argument, dtype: torch.dtype) -> Value:
    spread = w.vector if dtype is torch.bool else w.operand
    text = f"{spread(x, dtype)} {symbol} {spread(y, dtype)}"
    positive = [a for a in (x, y) if _nonnegative(a)]
    if len(positive) < (1 if symbol == "&" else 2):
        return _result(w, text, dtype, "", (x, y))
    limits = [limit for limit in map(_limit, positive) if limit is not None]
    result = _result(w, text, dtype, "", (x, y), True)
    if symbol == "&":  # has no bit that the positive one has not
        return _within(result, min(limits, default=None))
    return _within(result, (1 << max(limits).bit_length()) - 1 if len(limits) == 2 else None)


def _scaled(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Argument:
    alpha = constant_of(args[2]) if len(args) > 2 else constant_of(kw.get("alpha", 1))
    if alpha == 1:
        return args[1]
    result = _binary(w, "{x} * {y}", args[1], alpha, dtype, False, "scaled")
    return result if _is_unsigned(dtype) else _limited(result, operator.mul, args[1], alpha)


def _erf_name(w: Writer, dtype: torch.dtype) -> str:
    return w.use("erf_f64" if dtype is torch.float64 else "erf")


def _is_unsigned(dtype: torch.dtype) -> bool:
    return dtype in (torch.uint8, torch.bool)


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _width(dtype: torch.dtype) -> int:
    return 1 if dtype is torch.bool else torch.iinfo(dtype).bits
