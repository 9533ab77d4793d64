"""Sums, products, quotients, remainders, powers and signs (L7.3, L7.6)."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from ..numbers import compute_dtype
from .pieces import approximates, combined, computed, function_name, infix, unchanged
from .ranges import EXACT, at_least, is_nonnegative, is_power_of_two, is_unsigned, limit_of, with_limit, within
from .table import spell
from .values import Argument, Value, Writer, constant_of, given

_FLT_MIN: Final = 2.0**-126


@spell("add.Tensor add.Scalar")
def _add(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], times_alpha(w, args, kw, dtype)
    if dtype is torch.bool:
        return combined(w, "|", x, y, dtype)
    nonnegative = is_nonnegative(x) and is_nonnegative(y)
    return with_limit(infix(w, "{x} + {y}", x, y, dtype, "add", nonnegative), operator.add, x, y)


@spell("sub.Tensor sub.Scalar")
def _sub(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args[0], times_alpha(w, args, kw, dtype)
    result = infix(w, f"{{x}} {_minus(args, kw)} {{y}}", x, y, dtype, "sub")
    if dtype.is_floating_point or is_unsigned(dtype):
        return result
    result = with_limit(result, operator.add, x, y)
    if dtype not in (torch.int32, torch.int64) or not (isinstance(x, Value) and isinstance(y, Value)):
        return result
    exact = result.limit is not None and result.limit <= EXACT and x.dtype is y.dtype is dtype
    return replace(result, difference=(x, y) if exact and x.uniform != y.uniform else None)


@spell("rsub.Tensor rsub.Scalar")
def _rsub(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    minuend, subtrahend = args[1], times_alpha(w, (args[1], args[0], *args[2:]), kw, dtype)
    return infix(w, f"{{x}} {_minus(args, kw)} {{y}}", minuend, subtrahend, dtype, "rsub")


def _minus(args: Sequence[Argument], kw: dict[str, Argument]) -> str:
    """The operator between a minuend and a subtrahend that is already multiplied by alpha.

    PyTorch computes x + y * -alpha. If alpha is the integer 0, -alpha is 0 as well, and not -0.0.
    """
    alpha = constant_of(given(args, kw, 2, "alpha", 1))
    return "+" if isinstance(alpha, int) and alpha == 0 else "-"


@spell("mul.Tensor mul.Scalar")
def _mul(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args
    if dtype is torch.bool:
        return combined(w, "&", x, y, dtype)
    result = infix(w, "{x} * {y}", x, y, dtype, "mul", is_nonnegative(x) and is_nonnegative(y))
    return with_limit(result, operator.mul, x, y)


@spell("div.Tensor div.Scalar")
def _div(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args
    divisor = constant_of(y)
    if divisor is not None and _by_reciprocal(w, float(divisor), dtype):
        return infix(w, "{x} * (1.0 / {y})", x, rounded32(divisor), dtype, "div")
    if divisor is None and approximates(w, dtype):
        text = f"{w.use('div_approx')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return computed(w, text, dtype, "div", (x, y))
    return infix(w, "{x} / {y}", x, y, dtype, "div")


def rounded32(number: float) -> float:
    """`number`, rounded to float32."""
    return float(torch.tensor(number, dtype=torch.float32))


def _by_reciprocal(w: Writer, divisor: float, dtype: torch.dtype) -> bool:
    """Whether x / divisor may be written x * (1 / divisor), which a GPU does in one instruction instead of nine.

    If the divisor is a power of two, both are equal. If not, the reciprocal and the product are rounded: the error is
    at most 1.5 ulp instead of 0.5. The error bound of a quotient allows that, but not where a comparison, a floor or a
    pole depends on the exact quotient of whole numbers (see `smoothness`).
    """
    divisor = rounded32(divisor)
    if compute_dtype(dtype) is not torch.float32 or not _FLT_MIN < abs(divisor) < 1 / _FLT_MIN:
        return False
    return w.smooth or abs(math.frexp(divisor)[0]) == 0.5


@spell("div.Tensor_mode div.Scalar_mode floor_divide.default floor_divide.Scalar", "div")
def _rounded_div(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    mode = kw.get("rounding_mode", "floor")
    if mode is None:
        return _div(w, args, {}, dtype)
    return within(_quotient(w, args, mode, dtype), limit_of(args[0]))


def _quotient(w: Writer, args: Sequence[Argument], mode: Argument, dtype: torch.dtype) -> Value:
    x, y = args
    positive = is_nonnegative(x) and at_least(y, 1)
    if dtype.is_floating_point:
        if mode == "floor":
            text = f"{w.use('floor_divide')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        else:
            quotient = infix(w, "{x} / {y}", x, y, dtype, "div")
            text = f"cute.math.trunc({quotient.text})"
        return computed(w, text, dtype, "div", (x, y))
    divisor = constant_of(y)
    if mode == "floor" and isinstance(divisor, int) and is_power_of_two(divisor):
        # An arithmetic shift floors; `//` takes ten instructions for that.
        vector = w.vector(x, dtype)
        amount = shift_amount(w, divisor.bit_length() - 1, dtype)
        text = f"cute.TensorSSA({vector} >> {amount}, {vector}.shape, {vector}.dtype)"
        return computed(w, text, dtype, "div", (x,), positive)
    y = _divisor(w, x, y, dtype)
    if mode == "floor" or positive:
        return infix(w, "{x} // {y}", x, y, dtype, "div", positive)
    text = f"{w.use('truncate_divide')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
    return computed(w, text, dtype, "div", (x, y))


def _divisor(w: Writer, x: Argument, y: Argument, dtype: torch.dtype) -> Argument:
    """The divisor of integers: `y`, but 1 in the lanes where there is no quotient (L7.3).

    A constant divisor stays as it is: it is not 0, since such a mod is refused before.
    """
    if constant_of(y) is not None or dtype.is_floating_point:
        return y
    limit = limit_of(x)
    fits = limit is not None and limit <= torch.iinfo(dtype).max
    vector = w.vector(y, dtype)
    if is_unsigned(dtype) or fits or is_nonnegative(x) or is_nonnegative(y):
        return computed(w, f"{w.use('divisor')}({vector})", dtype, "divisor", (y,), is_nonnegative(y))
    text = f"{w.use('divisor_of')}({w.vector(x, dtype)}, {vector})"
    return computed(w, text, dtype, "divisor", (x, y))


@spell("remainder.Tensor remainder.Scalar remainder.Scalar_Tensor")
def _remainder(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args
    return within(_floor_remainder(w, x, y, dtype), limit_of(y))


def _floor_remainder(w: Writer, x: Argument, y: Argument, dtype: torch.dtype) -> Value:
    if dtype.is_floating_point:
        text = f"{w.use('remainder')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return computed(w, text, dtype, "remainder", (x, y))
    if is_nonnegative(x) and at_least(y, 1):
        return infix(w, "{x} % {y}", x, y, dtype, "remainder", True)
    divisor = constant_of(y)
    if isinstance(divisor, int) and is_power_of_two(divisor):
        return infix(w, "{x} & {y}", x, divisor - 1, dtype, "remainder", True)
    if isinstance(divisor, int) and divisor > 0:
        r = w.assign(f"{w.vector(x, dtype)} % {w.operand(divisor, dtype)}", "c_remainder")  # with the sign of x
        return computed(
            w, f"cute.where({r} < 0, {r} + {w.operand(divisor, dtype)}, {r})", dtype, "remainder", (x,), True
        )
    y = _divisor(w, x, y, dtype)
    quotient = infix(w, "{x} // {y}", x, y, dtype, "floor_div")
    whole = infix(w, "{x} * {y}", quotient, y, dtype, "whole")
    return infix(w, "{x} - {y}", x, whole, dtype, "remainder")


@spell("fmod.Tensor fmod.Scalar")
def _fmod(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args
    divisor = _divisor(w, x, y, dtype)
    return within(infix(w, "{x} % {y}", x, divisor, dtype, "fmod", is_nonnegative(x)), limit_of(y))


@spell("neg.default")
def _neg(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    result = computed(w, f"-{w.vector(x, dtype)}", dtype, "neg", args)
    return result if is_unsigned(dtype) else with_limit(result, lambda most: most, x)


@spell("abs.default")
def _abs(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    if is_unsigned(dtype) or (is_nonnegative(x) and not dtype.is_floating_point):
        return unchanged(w, x, dtype)
    # The smallest integer of a dtype has no positive counterpart and stays as it is.
    result = computed(w, f"cute.math.abs({w.vector(x, dtype)})", dtype, "abs", args, True)
    return with_limit(result, lambda most: most, x)


@spell("sign.default sgn.default")
def _sign(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    if dtype is torch.bool:
        return unchanged(w, x, dtype)
    return computed(w, f"{w.use('sign')}({w.vector(x, dtype)})", dtype, "sign", args, is_nonnegative(x))


@spell("reciprocal.default")
def _reciprocal(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (argument,) = args
    x = w.vector(argument, dtype)
    text = f"{w.use('rcp_approx')}({x})" if approximates(w, dtype) else f"1.0 / {x}"
    return computed(w, text, dtype, "reciprocal", args)


@spell("pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar")
def _pow(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = args
    exponent = constant_of(y)
    if exponent in (1, 2, 3):
        times = int(exponent)
        text = " * ".join([w.vector(x, dtype)] * times)
        result = computed(w, text, dtype, "pow", (x,), exponent == 2 or is_nonnegative(x))
        return with_limit(result, lambda most: most**times, x)
    if not dtype.is_floating_point:
        text = f"{w.use('integer_power')}({w.vector(x, dtype)}, {w.vector(y, dtype)})"
        return computed(w, text, dtype, "pow", (x, y), is_unsigned(dtype))
    if exponent == 0.5:
        return computed(w, f"{function_name(w, 'sqrt', dtype)}({w.vector(x, dtype)})", dtype, "pow", (x,))
    if exponent == -0.5:
        return computed(w, f"cute.math.rsqrt({w.vector(x, dtype)})", dtype, "pow", (x,))
    if exponent == -1:
        return _reciprocal(w, (x,), {}, dtype)
    if constant_of(x) == 2:
        return computed(w, f"cute.math.exp2({w.vector(y, dtype)})", dtype, "pow", (y,))
    return computed(w, f"cute.math.pow({w.vector(x, dtype)}, {w.vector(y, dtype)})", dtype, "pow", (x, y))


def shift_amount(w: Writer, amount: int, dtype: torch.dtype) -> str:
    """`amount`, as CuTe takes it in a shift of a vector of `dtype`."""
    # CuTe shifts a vector by a plain int or by a vector, but not by a typed scalar.
    return str(amount) if dtype is torch.int32 else w.vector(amount, dtype)


def times_alpha(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Argument:
    """The second argument of add, sub or rsub, times `alpha`."""
    alpha = constant_of(given(args, kw, 2, "alpha", 1))
    if alpha == 1:
        return args[1]
    result = infix(w, "{x} * {y}", args[1], alpha, dtype, "scaled")
    return result if is_unsigned(dtype) else with_limit(result, operator.mul, args[1], alpha)
