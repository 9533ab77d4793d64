"""Comparison, logic, bits, shifts, selection and classification (L7.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .arithmetic import shift_amount
from .pieces import combined, computed, infix
from .ranges import EXACT, bits_of, is_nonnegative, is_unsigned, limit_of, within
from .table import spell
from .values import Argument, Emitter, Value, Writer, constant, constant_of, operand_dtype


def _comparison(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        left, right = args
        x, y = _apart(w, left, right)
        inner = operand_dtype(x, y)
        text = f"{w.operand(x, inner)} {symbol} {w.operand(y, inner)}"
        return computed(w, text, torch.bool, "", (x, y), True)

    return emit


def _apart(w: Writer, x: Argument, y: Argument) -> tuple[Argument, Argument]:
    """Rewrites the operands of a comparison: (q - kv) < n becomes (q - n) < kv.

    q - n is the same for a whole row, while q - kv differs for every element. The rewriting is exact: all magnitudes
    are at most 2^24, so that nothing overflows. Other operands are returned unchanged.
    """
    number = constant_of(y)
    if not isinstance(x, Value) or x.difference is None or type(number) is not int or abs(number) > EXACT:
        return x, y
    a, b = x.difference
    if a.uniform:
        return infix(w, "{x} - {y}", a, number, x.dtype, "sub"), b
    return a, infix(w, "{x} + {y}", b, number, x.dtype, "add")


for _name, _symbol in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    spell(f"{_name}.Tensor {_name}.Scalar")(_comparison(_symbol))


def _logical(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args
        return combined(w, symbol, x, y, torch.bool)

    return emit


def _bitwise(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args
        return combined(w, symbol, x, y, dtype)

    return emit


for _name, _symbol in (("and", "&"), ("or", "|"), ("xor", "^")):
    spell(f"logical_{_name}.default")(_logical(_symbol))
    spell(f"bitwise_{_name}.Tensor bitwise_{_name}.Scalar bitwise_{_name}.Scalar_Tensor", only="integers")(
        _bitwise(_symbol)
    )


@spell("logical_not.default")
def _logical_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    return computed(w, f"{w.vector(x, operand_dtype(x))} == 0", torch.bool, "logical_not", args, True)


@spell("bitwise_not.default", only="integers")
def _bitwise_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.bool:
        return _logical_not(w, args, {}, dtype)
    (x,) = args
    ones = 255 if is_unsigned(dtype) else -1
    return infix(w, "{x} ^ {y}", x, ones, dtype, "bitwise_not")


def _shift(helper: str, symbol: str, *, shrinks: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args
        amount = constant_of(y)
        vector = w.vector(x, dtype)
        if isinstance(amount, int) and 0 <= amount < bits_of(dtype):
            text = f"cute.TensorSSA({vector} {symbol} {shift_amount(w, amount, dtype)}, {vector}.shape, {vector}.dtype)"
        else:
            text = f"{w.use(helper)}({vector}, {w.vector(y, dtype)})"
        result = computed(w, text, dtype, helper, args, shrinks and is_nonnegative(x))
        return within(result, limit_of(x)) if shrinks else result

    return emit


for _name, _shifted in (
    ("left", _shift("shift_left", "<<", shrinks=False)),
    ("right", _shift("shift_right", ">>", shrinks=True)),
):
    _names = f"bitwise_{_name}_shift.Tensor bitwise_{_name}_shift.Tensor_Scalar bitwise_{_name}_shift.Scalar_Tensor"
    spell(_names, only="integers")(_shifted)
    spell(f"__{_name[0]}shift__.Tensor __{_name[0]}shift__.Scalar")(_shifted)


@spell("where.self")
def _where(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    condition, x, y = args
    text = f"cute.where({w.vector(condition, torch.bool)}, {w.vector(x, dtype)}, {w.vector(y, dtype)})"
    result = computed(w, text, dtype, "where", args, is_nonnegative(x) and is_nonnegative(y))
    return within(result, limit_of(x), limit_of(y))


@spell("masked_fill.Scalar masked_fill.Tensor")
def _masked_fill(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, condition, filling = args
    return _where(w, (condition, filling, x), {}, dtype)


@spell("signbit.default")
def _signbit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (argument,) = args
    inner = operand_dtype(argument)
    if is_unsigned(inner):
        return constant(False, torch.bool)
    x = w.vector(argument, inner)
    if inner.is_floating_point:  # copysign keeps the sign bit of -0 and NaN
        x = f"cute.math.copysign({w.vector(1, inner)}, {x})"
    return computed(w, f"{x} < 0", torch.bool, "signbit", args, True)


def _classification(text: str, of_integer: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        (x,) = args
        inner = operand_dtype(x)
        if not inner.is_floating_point:
            return constant(of_integer, torch.bool)
        return computed(w, text.format(x=w.vector(x, inner)), torch.bool, "", args, True)

    return emit


spell("isnan.default")(_classification("{x} != {x}", False))
spell("isinf.default")(_classification('cute.math.abs({x}) == float("inf")', False))
spell("isfinite.default")(_classification('cute.math.abs({x}) < float("inf")', True))
spell("isposinf.default")(_classification('{x} == float("inf")', False))
spell("isneginf.default")(_classification('{x} == float("-inf")', False))
