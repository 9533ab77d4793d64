"""Extrema, bounds, rounding and casts (L7.2, L7.6)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch

from ..numbers import Unwritable
from .pieces import combined, computed, unchanged
from .ranges import is_nonnegative, is_unsigned, keeps_sign, limit_of, within
from .table import spell
from .values import Argument, Emitter, Value, Writer, constant_of, cute_name, given


def _extremum(name: str, *, least: bool, drop_nan: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        x, y = args
        if dtype is torch.bool:
            return combined(w, "&" if least else "|", x, y, dtype)
        a, b = w.vector(x, dtype), w.vector(y, dtype)
        if not dtype.is_floating_point or drop_nan:
            text = f"cute.math.{'min' if least else 'max'}({a}, {b})"
        else:
            text = f"{w.use(name)}({a}, {b})"
        either, both = (is_nonnegative(x) or is_nonnegative(y)), (is_nonnegative(x) and is_nonnegative(y))
        result = computed(w, text, dtype, name, (x, y), both if least else either)
        return within(result, limit_of(x), limit_of(y))

    return emit


_MINIMUM = _extremum("minimum", least=True, drop_nan=False)
_MAXIMUM = _extremum("maximum", least=False, drop_nan=False)
spell("minimum.default clamp_max.Tensor")(_MINIMUM)
spell("maximum.default clamp_min.Tensor")(_MAXIMUM)
spell("fmin.default")(_extremum("minimum", least=True, drop_nan=True))
spell("fmax.default")(_extremum("maximum", least=False, drop_nan=True))


@spell("hardtanh.default", "clamp")
def _hardtanh(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    low, high = given(args, kw, 1, "min_val", -1), given(args, kw, 2, "max_val", 1)
    return _clamp(w, (args[0], low, high), {}, dtype)


@spell("clamp.default clamp.Tensor", "clamp")
def _clamp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    low, high = given(args, kw, 1, "min"), given(args, kw, 2, "max")
    value: Argument = args[0]
    if low is not None:
        value = _bounded(w, value, low, dtype, _MAXIMUM, "<")
    if high is not None:
        value = _bounded(w, value, high, dtype, _MINIMUM, ">")
    assert isinstance(value, Value)
    return value


@spell("clamp_min.default")
def _clamp_min(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, low = args
    return _bounded(w, x, low, dtype, _MAXIMUM, "<")


@spell("clamp_max.default")
def _clamp_max(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, high = args
    return _bounded(w, x, high, dtype, _MINIMUM, ">")


@spell("relu.default")
def _relu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    return _bounded(w, x, 0, dtype, _MAXIMUM, "<")


def _bounded(w: Writer, value: Argument, bound: Argument, dtype: torch.dtype, extremum: Emitter, symbol: str) -> Value:
    number = constant_of(bound)
    if number is None or not dtype.is_floating_point or math.isnan(number):
        return extremum(w, (value, bound), {}, dtype)
    # A comparison with a constant keeps a NaN: it is false, and the value stays. No second test is needed.
    x = w.vector(value, dtype)
    text = f"cute.where({x} {symbol} {w.operand(bound, dtype)}, {w.vector(bound, dtype)}, {x})"
    return computed(w, text, dtype, "clamp", (value,))


@spell("leaky_relu.default", only="floats")
def _leaky_relu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    slope = given(args, kw, 1, "negative_slope", 0.01)
    x = w.vector(args[0], dtype)
    text = f"cute.where({x} > 0.0, {x}, {x} * {w.operand(slope, dtype)})"
    return computed(w, text, dtype, "leaky_relu", args)


def _rounding(text: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        (x,) = args
        if not dtype.is_floating_point:
            return unchanged(w, x, dtype)
        return computed(w, text.format(x=w.vector(x, dtype)), dtype, "", args)

    return emit


for _name, _text in (("floor", "floor"), ("ceil", "ceil"), ("round", "roundeven"), ("trunc", "trunc")):
    spell(f"{_name}.default")(_rounding(f"cute.math.{_text}({{x}})"))


@spell("round.decimals")
def _round_decimals(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    decimals = constant_of(kw.get("decimals", 0))
    if not dtype.is_floating_point or not isinstance(decimals, int):
        raise Unwritable("this use of decimals")
    if abs(decimals) > sys.float_info.max_10_exp:
        raise Unwritable(f"{decimals} decimals; no float has more than {sys.float_info.max_10_exp}")
    (argument,) = args
    x, power = w.vector(argument, dtype), w.operand(10.0 ** abs(decimals), dtype)
    up, down = ("*", "/") if decimals >= 0 else ("/", "*")
    return computed(w, f"cute.math.roundeven({x} {up} {power}) {down} {power}", dtype, "round", args)


spell("frac.default")(_rounding("{x} - cute.math.trunc({x})"))


@spell("_to_copy.default", "cast")
def _to_copy(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (source,) = args
    if not isinstance(source, Value):
        raise Unwritable("a Python number, which torch.vmap makes of one; a mod sees scalars and needs no vmap")
    text = w.vector(source, dtype)
    if dtype in (torch.float16, torch.bfloat16) and source.dtype is not dtype:
        text = w.assign(f"{text}.to({cute_name(dtype)}).to(cutlass.Float32)", "rounded")
    limit = limit_of(source)
    integer = not dtype.is_floating_point and dtype is not torch.bool
    fits = integer and limit is not None and limit <= torch.iinfo(dtype).max
    fits = fits and (source.nonnegative or not is_unsigned(dtype))
    kept = integer and source.nonnegative and (fits or keeps_sign(source.dtype, dtype))
    nonnegative = is_unsigned(dtype) or kept
    return Value(text, dtype, None, source.uniform, nonnegative, limit if fits else None)


@spell("clone.default")
def _clone(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    return unchanged(w, x, dtype)
