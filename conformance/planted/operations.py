"""Faults of single operations: entries of the operation table and functions of the prelude."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from flexconf.cases.case import Capture
from flexflash import numbers, ops, smoothness
from flexflash.ops import Argument, Emitter, Value, Writer, arithmetic, pieces, ranges
from planted.fault import Fault
from planted.patching import attributes, entries, everywhere, helper, mapping, together
from planted.witness import mask, problem, score

Keywords = dict[str, Argument]


def emitter(name: str) -> Emitter:
    """The emitter of an operation in the table, such as "fmod.Tensor"."""
    packet, _, overload = name.partition(".")
    found = ops.lookup(getattr(getattr(torch.ops.aten, packet), overload))
    assert found is not None
    return found.emit


def _instead(name: str) -> Any:
    """Use the emitter of another operation."""
    return lambda emit: emitter(name)


def _with(**keywords: Argument) -> Any:
    """Call the emitter with these keywords set."""

    def make(emit: Emitter) -> Emitter:
        return lambda w, args, kw, dtype: emit(w, args, {**kw, **keywords}, dtype)

    return make


def _function(template: str) -> Any:
    """Write a function of one float as `template`, such as "{x} + 1.0". Other dtypes keep their emitter."""

    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            if not dtype.is_floating_point:
                return emit(w, args, kw, dtype)
            return pieces.computed(w, template.format(x=w.vector(args[0], dtype)), dtype, "wrong", args[:1])

        return wrong

    return make


def _binary(template: str) -> Any:
    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            return pieces.infix(w, template, args[0], args[1], dtype, "wrong")

        return wrong

    return make


def _truncating(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        mode = kw.get("rounding_mode", "floor")
        return emit(w, args, {**kw, "rounding_mode": "trunc" if mode == "floor" else mode}, dtype)

    return wrong


def _flooring(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        mode = kw.get("rounding_mode", "floor")
        return emit(w, args, {**kw, "rounding_mode": "floor" if mode == "trunc" else mode}, dtype)

    return wrong


def _integer_quotient(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        inner = ops.operand_dtype(*args[:2])
        if inner.is_floating_point or inner is torch.bool:
            return emit(w, args, kw, dtype)
        whole = pieces.infix(w, "{x} // {y}", args[0], args[1], inner, "whole")
        return dataclasses.replace(whole, text=w.vector(whole, dtype), dtype=dtype)

    return wrong


def _without_alpha(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        return emit(w, args[:2], {}, dtype)

    return wrong


def _in_left_dtype(symbol: str) -> Any:
    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            x, y = args[0], args[1]
            left = ops.operand_dtype(x) if isinstance(x, Value) and x.constant is None else ops.operand_dtype(x, y)
            if isinstance(y, float) and not left.is_floating_point:
                y = int(y) if abs(y) < 2**31 else 0
            text = f"{w.operand(x, left)} {symbol} {w.operand(y, left)}"
            return pieces.computed(w, text, torch.bool, "", (x, y), True)

        return wrong

    return make


def _logical_shift(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        found, amount = emit(w, args, kw, dtype), ops.constant_of(args[1])
        if not isinstance(amount, int) or not 0 < amount < ranges.bits_of(dtype) or ranges.is_unsigned(dtype):
            return found
        mask = (1 << (ranges.bits_of(dtype) - amount)) - 1
        return dataclasses.replace(pieces.combined(w, "&", found, mask, dtype), nonnegative=True)

    return wrong


def _never_negative(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        found = emit(w, args, kw, dtype)
        return dataclasses.replace(found, nonnegative=all(ranges.is_nonnegative(a) for a in args[:2]))

    return wrong


def _without_upper_bound(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        low = args[1] if len(args) > 1 else kw.get("min")
        return emit(w, args, kw, dtype) if low is None else emit(w, (args[0], low), {}, dtype)

    return wrong


def _bits(symbol: str) -> Any:
    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            inner = ops.operand_dtype(*args[:2])
            if inner.is_floating_point or inner is torch.bool:
                return emit(w, args, kw, dtype)
            found = pieces.combined(w, symbol, args[0], args[1], inner)
            return dataclasses.replace(found, text=w.vector(found, torch.bool), dtype=torch.bool)

        return wrong

    return make


def _never_zero(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        if dtype is not torch.bool:
            return emit(w, args, kw, dtype)
        x = w.vector(args[0], torch.bool)
        return pieces.computed(w, f"{x} == {x}", torch.bool, "", args[:1], True)

    return wrong


def _power(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        if not dtype.is_floating_point:
            return emit(w, args, kw, dtype)
        x, y = w.vector(args[0], dtype), w.vector(args[1], dtype)
        return pieces.computed(w, f"cute.math.exp2({y} * cute.math.log2({x}))", dtype, "pow", args[:2])

    return wrong


_COMPARISONS = (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!="))


def _always(w: Writer, divisor: float, dtype: torch.dtype) -> bool:
    return numbers.compute_dtype(dtype) is torch.float32


_CHEAP_FORMS = "conformance/suite/test_cheap_forms.py"
_ENDING = frozenset(
    getattr(torch.ops.aten, name).default
    for name in "sqrt rsqrt log log2 log10 log1p asin acos atanh acosh reciprocal".split()
)
_DIVISIONS = "div.Tensor_mode div.Scalar_mode floor_divide.default"

OPERATIONS = (
    Fault(
        "c-remainder",
        "operations",
        "The remainder of integers takes the dividend's sign, as C's % does, not the divisor's.",
        entries("remainder.Tensor remainder.Scalar remainder.Scalar_Tensor", _instead("fmod.Tensor")),
        score("score + (q - 2) % 3"),
    ),
    Fault(
        "c-division",
        "operations",
        "Floor division rounds towards zero, as C's / does on integers.",
        entries(_DIVISIONS, _truncating),
        score("score + (q - 2) // 3"),
    ),
    Fault(
        "truncating-division-floors",
        "operations",
        'div(rounding_mode="trunc") is written with //, which floors.',
        entries("div.Tensor_mode div.Scalar_mode", _flooring),
        score('score + torch.div(q - 2, 3, rounding_mode="trunc")'),
    ),
    Fault(
        "true-division-of-integers",
        "operations",
        "The quotient of two integers is an integer, as if / were //.",
        entries("div.Tensor div.Scalar", _integer_quotient),
        score("q / 2"),
    ),
    Fault(
        "reciprocal-for-any-divisor",
        "operations",
        "A quotient is computed as a product with a rounded reciprocal, even if a floor then needs the exact "
        "quotient.",
        attributes(lambda: [(arithmetic, "_by_reciprocal", _always)]),
        score("score + torch.floor(q / 41)", at=problem(M=42)),
        found_by=_CHEAP_FORMS,
    ),
    Fault(
        "reciprocal-under-a-root",
        "operations",
        "A quotient is computed as a product with a rounded reciprocal, even at the end of the domain of a root, a "
        "logarithm or an arc function.",
        attributes(lambda: [(smoothness, "_ANYWHERE", smoothness._ANYWHERE | _ENDING)]),
        score("torch.sqrt(1 - q / 41)", at=problem(M=42)),
        found_by=_CHEAP_FORMS,
    ),
    Fault(
        "reversed-subtraction",
        "operations",
        "rsub takes its operands in the order of sub: 1 - x becomes x - 1.",
        entries("rsub.Scalar", _instead("sub.Tensor")),
        score("score + (1 - q)"),
    ),
    Fault(
        "alpha-dropped",
        "operations",
        "add and sub ignore alpha.",
        entries("add.Tensor sub.Tensor", _without_alpha),
        score("torch.add(score, q, alpha=2)"),
    ),
    Fault(
        "comparison-in-the-left-dtype",
        "operations",
        "A comparison casts its right operand to the dtype of its left operand instead of promoting both.",
        together(*(entries(f"{n}.Scalar {n}.Tensor", _in_left_dtype(s)) for n, s in _COMPARISONS)),
        mask("kv < 0.5"),
    ),
    Fault(
        "gelu-by-tanh",
        "operations",
        "gelu is always its tanh approximation.",
        entries("gelu.default", _with(approximate="tanh")),
        score("torch.nn.functional.gelu(q / 2)"),
    ),
    Fault(
        "exp-to-base-2",
        "operations",
        "exp is written as exp2 without the factor log2(e).",
        entries("exp.default", _instead("exp2.default")),
        score("torch.exp(q)"),
    ),
    Fault(
        "power-by-logarithm",
        "operations",
        "pow is exp2(y * log2(x)), which is NaN for a negative base.",
        entries("pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar", _power),
        score("score**2"),
    ),
    Fault(
        "round-half-up",
        "operations",
        "round is floor(x + 0.5): halves go up, not to the even neighbour.",
        entries("round.default", _function("cute.math.floor({x} + 0.5)")),
        score("torch.round(q / 2)"),
    ),
    Fault(
        "floor-truncates",
        "operations",
        "floor is a cast to an integer, which truncates.",
        entries("floor.default", _instead("trunc.default")),
        score("torch.floor(-q / 2)"),
    ),
    Fault(
        "fraction-of-negative",
        "operations",
        "frac is x - floor(x), which is not negative for a negative x.",
        entries("frac.default", _function("{x} - cute.math.floor({x})")),
        score("torch.frac(-q / 2)"),
    ),
    Fault(
        "sign-of-zero",
        "operations",
        "sign has only two branches and gives 1 for 0.",
        helper("sign", "cute.where(x > 0, one,", "cute.where(x >= 0, one,"),
        score("score + torch.sign(q)"),
    ),
    Fault(
        "clamp-without-upper-bound",
        "operations",
        "clamp with both bounds applies only the lower bound.",
        entries("clamp.default clamp.Tensor hardtanh.default", _without_upper_bound),
        score("torch.clamp(q, 0, 1) + score"),
    ),
    Fault(
        "tanh-approximate",
        "operations",
        "tanh is the hardware's tanh.approx, which has 11 bits.",
        entries("tanh.default", _function("cute.math.tanh({x}).to(cutlass.Float16).to(cutlass.Float32)")),
        score("torch.tanh(q)"),
    ),
    Fault(
        "shift-amount-wraps",
        "operations",
        "A shift by the width of the type or more uses the amount modulo the width, as x86 does.",
        helper("shift_left", "return cute.where(inside, cute.TensorSSA(x << safe, x.shape, x.dtype), zero)",
               "return cute.TensorSSA(x << (amount % x.dtype.width), x.shape, x.dtype)"),
        score("score + (q << 33)"),
    ),
    Fault(
        "logical-right-shift",
        "operations",
        "A right shift of a negative number shifts in zeros instead of the sign.",
        entries("bitwise_right_shift.Tensor_Scalar __rshift__.Scalar", _logical_shift),
        score("score + (q - 2 >> 30)"),
    ),
    Fault(
        "difference-called-nonnegative",
        "operations",
        "The difference of two positions counts as non-negative, so an index computed from it is not wrapped.",
        entries("sub.Tensor sub.Scalar", _never_negative),
        score("bias[q - kv]", Capture("bias", ("M+N",))),
    ),
    Fault(
        "overflow-forgotten",
        "operations",
        "A product of non-negative integers counts as non-negative even if it wraps around.",
        attributes(lambda: everywhere(ranges, "with_limit", lambda value, *rest: value)),
        score("score + (q * 1103515245) % 7"),
    ),
    Fault(
        "logical-and-of-bits",
        "operations",
        "logical_and of integers is a bitwise and: 1 and 2 give 0.",
        entries("logical_and.default", _bits("&")),
        mask("torch.logical_and(q, kv)"),
    ),
    Fault(
        "not-of-bool-by-bits",
        "operations",
        "~ of a bool inverts all bits of a byte, so every result is true.",
        entries("bitwise_not.default", _never_zero),
        mask("~(kv < 2)"),
    ),
    Fault(
        "int64-truncated",
        "operations",
        "int64 is computed in 32 bits.",
        mapping(ops.CUTE_NAMES, {torch.int64: "Int32"}),
        score("q.to(torch.int64) * 2**30 * 8 / 2**32"),
    ),
    Fault(
        "uint8-signed",
        "operations",
        "uint8 is read as int8: values from 128 on are negative.",
        mapping(ops.CUTE_NAMES, {torch.uint8: "Int8"}),
        mask("t[kv] > 9", Capture("t", ("N",), "uint8", "bits")),
    ),
    Fault(
        "float-remainder-in-c",
        "operations",
        "The remainder of floats takes the dividend's sign.",
        helper("remainder", "return cute.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)", "return r"),
        score("score % 3"),
    ),
)  # fmt: skip
