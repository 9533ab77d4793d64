"""Faults of arguments: dropped, defaulted or swapped ones, and numbers or 0-dim tensors of a wrong value or dtype."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flexconf.cases.case import Capture
from flexflash import codegen, numbers, ops
from flexflash.ops import Argument, Emitter, Value, Writer, pieces, table
from planted.fault import Fault
from planted.operations import emitter
from planted.patching import Apply, attributes, entries, helper, together
from planted.witness import mask, score

Keywords = dict[str, Argument]
Change = Callable[[list[Argument], Keywords], tuple[Sequence[Argument], Keywords]]

_HALVES = (torch.float16, torch.bfloat16)


def _called(names: str, change: Change, other: str = "") -> Apply:
    """Call the entries `names` with `change(arguments, keywords)`. If `other` is given, call that entry instead."""

    def make(emit: Emitter) -> Emitter:
        chosen = emitter(other) if other else emit

        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            given, keywords = change(list(args), dict(kw))
            return chosen(w, given, keywords, dtype)

        return wrong

    return entries(names, make)


def _first(count: int) -> Change:
    """Keep only the first `count` arguments, and no keyword."""
    return lambda args, kw: (args[:count], {})


def _turned(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
    return [args[1], args[0], *args[2:]], kw


def _without(place: int, default: Argument) -> Change:
    def change(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
        return [*args[:place], default, *args[place + 1 :]], kw

    return change


def _numbers(places: Sequence[int], words: str, change: Callable[[float], Argument]) -> Change:
    """Apply `change` to the Python numbers among the arguments at `places` and the keywords `words`."""

    def changed(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
        def one(given: Argument) -> Argument:
            return change(given) if type(given) in (int, float) else given  # type: ignore[arg-type]

        found = [one(a) if i in places else a for i, a in enumerate(args)]
        return found, {k: one(v) if k in words.split() else v for k, v in kw.items()}

    return changed


def _none_floors(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
    return args, {**kw, "rounding_mode": kw.get("rounding_mode") or "floor"}


def _sorted_bounds(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
    low, high = (ops.constant_of(a) if a is not None else None for a in [*args[1:], None, None][:2])
    if low is None or high is None:
        return args, kw
    return [args[0], min(low, high), max(low, high)], kw


def _other_factor(args: list[Argument], kw: Keywords) -> tuple[Sequence[Argument], Keywords]:
    """Multiply the first operand by alpha instead of the second."""
    return _turned(args, kw) if len(args) > 2 or "alpha" in kw else (args, kw)


def _integer_bounds(rounded: Callable[[float], int]) -> Any:
    """Apply `rounded` to the bounds if the bounded argument is an integer."""

    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            if ops.operand_dtype(args[0]).is_floating_point:
                return emit(w, args, kw, dtype)
            places = _numbers(range(1, 3), "min max", rounded)
            return emit(w, *places(list(args), dict(kw)), dtype)

        return wrong

    return make


def _in_dtype_of(first: int, second: int) -> Any:
    """Cast the argument `second` to the dtype of the argument `first`, instead of both to a common dtype."""

    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
            x, y = args[first], args[second]
            if not (isinstance(x, Value) and isinstance(y, Value)) or x.dtype is y.dtype:
                return emit(w, args, kw, dtype)
            if y.constant is not None:
                number = torch.tensor(y.constant).to(x.dtype).item()
                y = dataclasses.replace(y, text=repr(number), dtype=x.dtype, constant=number)
            else:
                y = Value(w.vector(y, x.dtype), x.dtype, None, y.uniform)
            return emit(w, [y if i == second else a for i, a in enumerate(args)], kw, dtype)

        return wrong

    return make


def _condition_times(emit: Emitter) -> Emitter:
    def wrong(w: Writer, args: Sequence[Argument], kw: Keywords, dtype: torch.dtype) -> Value:
        conditions = [a for a in args if isinstance(a, Value) and a.dtype is torch.bool]
        if dtype.is_floating_point or dtype is torch.bool or not conditions:
            return emit(w, args, kw, dtype)
        both = pieces.combined(w, "&", args[0], args[1], torch.bool)
        return dataclasses.replace(both, text=w.vector(both, dtype), dtype=dtype)

    return wrong


def _recorder() -> Any:
    return importlib.import_module("flexflash.trace")._Recorder  # `flexflash.trace` is the function


def _numbers_as_tensors() -> list[tuple[Any, str, Any]]:
    recorder, true = _recorder(), _recorder().__torch_dispatch__
    names = ("add.Tensor", "sub.Tensor", "mul.Tensor")
    targets = {getattr(getattr(torch.ops.aten, n.partition(".")[0]), n.partition(".")[2]) for n in names}

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in targets:
            args = tuple(self._full(a, torch.int64) if type(a) is int else a for a in args)
        return true(self, func, types, args, kwargs)

    return [(recorder, "__torch_dispatch__", dispatch)]


def _zero_dims_as(known: dict[torch.dtype, torch.dtype]) -> Apply:
    """Give 0-dim captures the dtype `known[dtype]` when PyTorch computes the dtype of a result."""

    def changes() -> list[tuple[Any, str, Any]]:
        recorder, true = _recorder(), _recorder()._as_meta

        def as_meta(self: Any, value: Any) -> Any:
            found = true(self, value)
            if not isinstance(value, tuple) or any(isinstance(v, list) for v in value):
                return found

            def one(given: Any, meta: Any) -> Any:
                captured = any(given is c for c in self.captures)
                if not captured or given.dim() or given.dtype not in known:
                    return meta
                return torch.empty((), dtype=known[given.dtype], device="meta")

            return tuple(one(given, meta) for given, meta in zip(value, found, strict=True))

        return [(recorder, "_as_meta", as_meta)]

    return attributes(changes)


def _dtype_of_likes_dropped() -> list[tuple[Any, str, Any]]:
    recorder, true = _recorder(), _recorder()._constant

    def constant(self: Any, func: Any, args: Any, kwargs: Any) -> Any:
        like = str(func).endswith("_like.default")
        return true(self, func, args, {k: v for k, v in kwargs.items() if k != "dtype" or not like})

    return [(recorder, "_constant", constant)]


def _unfilled(when: Callable[[torch.dtype], bool]) -> Apply:
    def changes() -> list[tuple[Any, str, Any]]:
        true = numbers.filled
        return [(codegen, "filled", lambda number, dtype: number if when(dtype) else true(number, dtype))]

    return attributes(changes)


def _saturated() -> list[tuple[Any, str, Any]]:
    true = numbers.operand_number

    def number(given: Any, dtype: torch.dtype) -> Any:
        if dtype.is_floating_point or dtype is torch.bool:
            return true(given, dtype)
        limits = torch.iinfo(dtype)
        return min(max(int(given), limits.min), limits.max)

    return [(owner, "operand_number", number) for owner in (numbers, codegen, table)]


_BOUNDED = "clamp.default clamp_min.default clamp_max.default"
_NN = "torch.nn.functional."


def _fault(name: str, about: str, apply: Apply, text: str, *captures: Capture, masked: bool = False) -> Fault:
    return Fault(name, "operations", about, apply, (mask if masked else score)(text, *captures))


FORMS = (
    _fault("rounding-mode-none-floors", "div(rounding_mode=None), which is the default, floors.",
           _called("div.Tensor_mode div.Scalar_mode", _none_floors), "score + torch.div(q, 2, rounding_mode=None)"),
    _fault("decimals-dropped", "round ignores decimals.",
           _called("round.decimals", _first(1), "round.default"), "torch.round(score, decimals=1)"),
    _fault("decimals-without-sign", "round treats negative decimals as positive.",
           _called("round.decimals", _numbers((), "decimals", abs)), "torch.round(score * 30, decimals=-1)"),
    _fault("softplus-threshold-dropped", "softplus ignores threshold and always uses 20.",
           _called("softplus.default", _first(2)), f"{_NN}softplus(score, 1, 0)"),
    _fault("softplus-beta-dropped", "softplus ignores beta and always uses 1.",
           _called("softplus.default", _without(1, 1)), f"{_NN}softplus(score, beta=2)"),
    _fault("elu-alpha-dropped", "elu ignores alpha and always uses 1.",
           _called("elu.default", _first(1)), f"{_NN}elu(score, alpha=3.0)"),
    _fault("leaky-slope-dropped", "leaky_relu ignores negative_slope and always uses 0.01.",
           _called("leaky_relu.default", _first(1)), f"{_NN}leaky_relu(score, negative_slope=0.5)"),
    _fault("gelu-approximation-dropped", "gelu ignores approximate and never uses the tanh approximation.",
           _called("gelu.default", _first(1)), f"{_NN}gelu(score, approximate='tanh')"),
    _fault("hardtanh-bounds-dropped", "hardtanh ignores its bounds and always clamps to -1 and 1.",
           _called("hardtanh.default", _first(1)), f"{_NN}hardtanh(score, -0.5, 2)"),
    _fault("hardtanh-upper-bound-dropped", "hardtanh ignores its upper bound and always uses 1.",
           _called("hardtanh.default", _first(2)), f"{_NN}hardtanh(score * 9, max_val=2)"),
    _fault("clamp-without-lower-bound", "clamp with both bounds applies only the upper bound.",
           _called("clamp.default", _without(1, None)), "torch.clamp(score, -1, 9)"),
    _fault("clamp-sorts-its-bounds", "clamp swaps its bounds if the lower bound is above the upper bound.",
           _called("clamp.default", _sorted_bounds), "torch.clamp(q, 3, -2) + score"),
    _fault("alpha-on-the-other-operand", "add multiplies its first operand by alpha.",
           _called("add.Tensor", _other_factor), "torch.add(score, q, alpha=2)"),
    _fault("alpha-is-whole", "An alpha that is not a whole number is truncated to a whole number.",
           _called("add.Tensor sub.Tensor", _numbers((2,), "alpha", int)), "torch.add(score, kv * 1.0, alpha=0.5)"),
    _fault("lerp-does-not-leave", "A weight of lerp below 0 counts as 0, and a weight above 1 counts as 1.",
           _called("lerp.Scalar", _numbers((2,), "weight", lambda n: min(max(n, 0.0), 1.0))),
           "torch.lerp(score, kv * 1.0, 1.5)"),
    _fault("reflected-remainder", "The remainder of a number by a tensor is computed as the remainder of the "
                                  "tensor by the number.",
           _called("remainder.Scalar_Tensor", _turned), "score + 7 % (q + 2)"),
    _fault("reflected-shift", "A number that a tensor shifts is used as the shift amount, and the tensor is shifted.",
           _called("bitwise_left_shift.Scalar_Tensor bitwise_right_shift.Scalar_Tensor", _turned), "score + (1 << q)"),
    _fault("reflected-power", "A number to the power of a tensor is computed as the tensor to the power of the "
                              "number.",
           _called("pow.Scalar", _turned), "score + 3 ** q"),
    _fault("dtype-of-likes-dropped", "full_like, ones_like and zeros_like ignore dtype.",
           attributes(_dtype_of_likes_dropped), "score + q * torch.full_like(q, 2.5, dtype=torch.float32)"),
    _fault("fractional-bounds-truncated", "clamp of integers truncates bounds that are not whole numbers, so the "
                                          "result stays an integer.",
           entries(_BOUNDED, _integer_bounds(int)), "score + torch.clamp(q, 0.5, 2.5)"),
    _fault("fractional-bounds-rounded-up", "An upper bound of integers that is not a whole number is rounded up.",
           entries("clamp_max.default", _integer_bounds(math.ceil)), "score + torch.clamp_max(kv, 1.5)"),
    _fault("where-in-the-first-dtype", "where casts its second branch to the dtype of the first.",
           entries("where.self", _in_dtype_of(1, 2)), "score + torch.where(q < 2, q, kv * 0.5)"),
    _fault("where-in-the-second-dtype", "where casts its first branch to the dtype of the second.",
           entries("where.self", _in_dtype_of(2, 1)), "score + torch.where(q < 2, kv * 0.5, q)"),
    _fault("extrema-in-the-first-dtype", "minimum and maximum cast their second operand to the dtype of the first.",
           entries("minimum.default maximum.default", _in_dtype_of(0, 1)), "score + torch.minimum(q, kv * 0.5)"),
    _fault("extrema-in-the-second-dtype", "minimum and maximum cast their first operand to the dtype of the second.",
           entries("minimum.default maximum.default", _in_dtype_of(1, 0)), "score + torch.maximum(kv * 0.5, q)"),
    _fault("comparison-in-the-right-dtype", "A comparison casts its left operand to the dtype of its right operand.",
           together(*(entries(f"{n}.Tensor", _in_dtype_of(1, 0)) for n in ("lt", "le", "gt", "ge", "eq", "ne"))),
           "kv * 0.5 <= q", masked=True),
    _fault("number-taken-for-a-tensor", "A Python integer promotes as an int64 tensor does.",
           attributes(_numbers_as_tensors), "score + t[kv] * 5", Capture("t", ("N",), "int8", "integers(60, 127)")),
    _fault("zero-dim-taken-for-a-number", "A 0-dim capture promotes as a Python number does: only its category "
                                          "(bool, integer, float) counts.",
           _zero_dims_as({torch.int64: torch.int8, torch.int32: torch.int8, torch.int16: torch.int8,
                          torch.float64: torch.bfloat16, torch.float32: torch.bfloat16}),
           "score + (q + c) % 7", Capture("c", (), "int64", "constant(8589934595)")),
    _fault("zero-dim-double-forgotten", "Arithmetic with a 0-dim float64 capture runs in float32.",
           _zero_dims_as({torch.float64: torch.float32}), "score + (kv + c - 16777216.0)",
           Capture("c", (), "float64", "constant(16777217)")),
    _fault("condition-times-number-is-one", "The product of a condition and an integer is a bool.",
           entries("mul.Tensor", _condition_times), "score + (kv < 2) * 5"),
    _fault("unsigned-exponent-top-bit", "Bit 7 of an unsigned exponent is lost.",
           helper("integer_power", "exponent.dtype.width - int(exponent.dtype.signed)", "exponent.dtype.width - 1"),
           "score + torch.pow(t[kv], u[q])", Capture("t", ("N",), "uint8", "integers(2, 3)"),
           Capture("u", ("M",), "uint8", "constant(128)")),
    _fault("constant-not-of-its-dtype", "An integer tensor filled with 2.7 holds 2.7 instead of 2.",
           _unfilled(lambda dtype: True), "score + q / torch.full_like(q, 2.7)"),
    _fault("half-constant-not-rounded", "A half-precision tensor filled with 0.1 holds the float64 value 0.1.",
           _unfilled(lambda dtype: dtype in _HALVES), "score * (t[kv] == torch.full_like(t[kv], 0.1))",
           Capture("t", ("N",), "bfloat16", "constant(0.1)")),
    _fault("zeros-of-either-sign-merged", "0.0 and -0.0 are merged into one constant, because they are equal in "
                                          "Python.",
           attributes(lambda: [(codegen, "is_minus_zero", lambda number, dtype: False)]),
           "torch.copysign(score, 0.0) + 2 * torch.copysign(score, -0.0)"),
    _fault("wide-number-saturates", "A number that an integer dtype cannot hold becomes the dtype's largest value.",
           attributes(_saturated), "score + (q + 2147483648) % 7"),
)  # fmt: skip
