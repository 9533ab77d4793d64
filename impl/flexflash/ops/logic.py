"""Comparison, logic, bits, shifts, selection and classification (L7.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .arithmetic import shift_amount
from .pieces import combined, computed, infix
from .ranges import EXACT, bits_of, is_nonnegative, is_unsigned, limit_of, within
from .table import spell
from .values import Argument, Emitter, Value, Writer, constant_of, operand_dtype


def _comparison(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = _apart(w, args[0], args[1])
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
        return infix(w, "{x} - {y}", a, number, x.dtype, False, "sub"), b
    return a, infix(w, "{x} + {y}", b, number, x.dtype, False, "add")


for _name, _symbol in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    spell(f"{_name}.Tensor {_name}.Scalar")(_comparison(_symbol))


def _logical(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return combined(w, symbol, args[0], args[1], torch.bool)

    return emit


def _bitwise(symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        return combined(w, symbol, args[0], args[1], dtype)

    return emit


for _name, _symbol in (("and", "&"), ("or", "|"), ("xor", "^")):
    spell(f"logical_{_name}.default")(_logical(_symbol))
    spell(f"bitwise_{_name}.Tensor bitwise_{_name}.Scalar bitwise_{_name}.Scalar_Tensor")(_bitwise(_symbol))


@spell("logical_not.default")
def _logical_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    inner = operand_dtype(args[0])
    return computed(w, f"{w.vector(args[0], inner)} == 0", torch.bool, "logical_not", args, True)


@spell("bitwise_not.default")
def _bitwise_not(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.bool:
        return _logical_not(w, args, {}, dtype)
    ones = 255 if is_unsigned(dtype) else -1
    return infix(w, "{x} ^ {y}", args[0], ones, dtype, False, "bitwise_not")


def _shift(helper: str, symbol: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args[0], args[1]
        amount = constant_of(y)
        vector = w.vector(x, dtype)
        nonnegative = is_nonnegative(x) and symbol == ">>"
        if isinstance(amount, int) and 0 <= amount < bits_of(dtype):
            text = f"cute.TensorSSA({vector} {symbol} {shift_amount(w, amount, dtype)}, {vector}.shape, {vector}.dtype)"
        else:
            text = f"{w.use(helper)}({vector}, {w.vector(y, dtype)})"
        result = computed(w, text, dtype, helper, (x, y), nonnegative)
        return within(result, limit_of(x)) if symbol == ">>" else result

    return emit


_SHIFTS = "bitwise_{0}_shift.Tensor bitwise_{0}_shift.Tensor_Scalar bitwise_{0}_shift.Scalar_Tensor"
spell(_SHIFTS.format("left") + " __lshift__.Tensor __lshift__.Scalar")(_shift("shift_left", "<<"))
spell(_SHIFTS.format("right") + " __rshift__.Tensor __rshift__.Scalar")(_shift("shift_right", ">>"))


@spell("where.self")
def _where(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    condition, x, y = args
    text = f"cute.where({w.vector(condition, torch.bool)}, {w.vector(x, dtype)}, {w.vector(y, dtype)})"
    result = computed(w, text, dtype, "where", args, is_nonnegative(x) and is_nonnegative(y))
    return within(result, limit_of(x), limit_of(y))


@spell("masked_fill.Scalar masked_fill.Tensor")
def _masked_fill(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    return _where(w, (args[1], args[2], args[0]), {}, dtype)


@spell("signbit.default")
def _signbit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    inner = operand_dtype(args[0])
    if is_unsigned(inner):
        return Value("False", torch.bool, False, True, True)
    x = w.vector(args[0], inner)
    if inner.is_floating_point:  # copysign keeps the sign bit of -0 and NaN
        x = f"cute.math.copysign({w.vector(1, inner)}, {x})"
    return computed(w, f"{x} < 0", torch.bool, "signbit", args, True)


def _classification(text: str, of_integer: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        inner = operand_dtype(args[0])
        if not inner.is_floating_point:
            return Value(repr(of_integer), torch.bool, of_integer, True, True)
        return computed(w, text.format(x=w.vector(args[0], inner)), torch.bool, "", args, True)

    return emit


spell("isnan.default")(_classification("{x} != {x}", False))
spell("isinf.default")(_classification('cute.math.abs({x}) == float("inf")', False))
spell("isfinite.default")(_classification('cute.math.abs({x}) < float("inf")', True))
spell("isposinf.default")(_classification('{x} == float("inf")', False))
spell("isneginf.default")(_classification('{x} == float("-inf")', False))
