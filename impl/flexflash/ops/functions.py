"""Functions of floats (L7.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..numbers import Unwritable, compute_dtype
from .pieces import APPROXIMATE, approximates, computed, function_name
from .table import spell
from .values import Argument, Emitter, Value, Writer, constant_of, given


def _function(text: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        (x,) = args
        return computed(w, text.format(x=w.vector(x, dtype)), dtype, "", args)

    return emit


for _name in ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "rsqrt"]:
    spell(f"{_name}.default")(_function(f"cute.math.{_name}({{x}})"))


def _approximable(name: str) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        (x,) = args
        return computed(w, f"{function_name(w, name, dtype)}({w.vector(x, dtype)})", dtype, "", args)

    return emit


for _name in APPROXIMATE:
    spell(f"{_name}.default")(_approximable(_name))


def _exponential(w: Writer, x: str, dtype: torch.dtype) -> str:
    """exp(x) as text. In Float32 it is exp2(x * log2(e)).

    On a GPU that takes half the instructions of CuTe's exp; its error is larger by |x| ulp.
    """
    if compute_dtype(dtype) is torch.float64:
        return f"cute.math.exp({x})"
    return f"{function_name(w, 'exp2', dtype)}({x} * {math.log2(math.e)!r})"


@spell("exp.default")
def _exp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    return computed(w, _exponential(w, w.vector(x, dtype), dtype), dtype, "", args)


@spell("sigmoid.default")
def _sigmoid(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    below = f"1.0 + {_exponential(w, f'-{w.vector(x, dtype)}', dtype)}"
    text = f"{w.use('rcp_approx')}({below})" if approximates(w, dtype) else f"1.0 / ({below})"
    return computed(w, text, dtype, "", args)


@spell("silu.default", only="floats")
def _silu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (argument,) = args
    x = w.vector(argument, dtype)
    below = f"1.0 + {_exponential(w, f'-{x}', dtype)}"
    text = f"{w.use('div_approx')}({x}, {below})" if approximates(w, dtype) else f"{x} / ({below})"
    return computed(w, text, dtype, "", args)


@spell("erf.default")
def _erf(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (x,) = args
    return computed(w, f"{_erf_name(w, dtype)}({w.vector(x, dtype)})", dtype, "erf", args)


@spell("erfc.default")
def _erfc(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    if dtype is torch.float64:
        raise Unwritable("float64; cast to float32 first")
    (x,) = args
    return computed(w, f"{w.use('erfc')}({w.vector(x, dtype)})", dtype, "erfc", args)


@spell("gelu.default", only="floats")
def _gelu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (argument,) = args
    x = w.vector(argument, dtype)
    if kw.get("approximate", "none") == "tanh":
        inner = f"{w.operand(0.044715, dtype)} * {x} * {x} * {x}"
        gate = f"{function_name(w, 'tanh', dtype)}({w.operand(math.sqrt(2 / math.pi), dtype)} * ({x} + {inner}))"
    else:
        gate = f"{_erf_name(w, dtype)}({x} * {w.operand(math.sqrt(0.5), dtype)})"
    return computed(w, f"0.5 * {x} * (1.0 + {gate})", dtype, "gelu", args)


@spell("softplus.default", only="floats")
def _softplus(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    beta = constant_of(given(args, kw, 1, "beta", 1))
    threshold = given(args, kw, 2, "threshold", 20)
    x = w.vector(args[0], dtype)
    if beta == 1:
        text = f"cute.where({x} > {w.operand(threshold, dtype)}, {x}, {w.use('log1p')}(cute.math.exp({x})))"
    else:
        b = w.operand(beta, dtype)
        scaled = w.assign(f"{x} * {b}", "scaled")
        smooth = f"{w.use('log1p')}(cute.math.exp({scaled})) / {b}"
        text = f"cute.where({scaled} > {w.operand(threshold, dtype)}, {x}, {smooth})"
    return computed(w, text, dtype, "softplus", args)


@spell("elu.default", only="floats")
def _elu(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    alpha, scale, input_scale = (
        constant_of(given(args, kw, i, name, 1)) for i, name in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
    )
    x = w.vector(args[0], dtype)
    expm1 = w.use("expm1_f64" if dtype is torch.float64 else "expm1")
    inner = x if input_scale == 1 else w.assign(f"{x} * {w.operand(input_scale, dtype)}", "scaled")
    above = x if scale == 1 else f"{x} * {w.operand(scale, dtype)}"
    assert alpha is not None and scale is not None
    below = f"{expm1}({inner}) * {w.operand(alpha * scale, dtype)}"
    # The condition is not `> 0.0`: with a negative alpha, 0 would become -0.
    return computed(w, f"cute.where({x} < 0.0, {below}, {above})", dtype, "elu", args)


def _helper(name: str, *, of_double: bool) -> Emitter:
    def emit(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
        helper = w.use(f"{name}_f64" if of_double and dtype is torch.float64 else name)
        operands = ", ".join(w.vector(a, dtype) for a in args)
        return computed(w, f"{helper}({operands})", dtype, name, args)

    return emit


# CuTe's own expm1 and log1p lose all accuracy near 0; its inverse hyperbolics and hypot do not compile for a CPU.
spell("expm1.default")(_helper("expm1", of_double=True))
spell("log1p.default")(_helper("log1p", of_double=False))
spell("asinh.default")(_helper("asinh", of_double=True))
spell("acosh.default")(_helper("acosh", of_double=True))
spell("atanh.default")(_helper("atanh", of_double=False))
spell("hypot.default", only="floats")(_helper("hypot", of_double=False))
# CuTe's own atan2 of two zeros is NaN if the compiler knows that they are zeros.
spell("atan2.default")(_helper("atan2", of_double=False))


@spell("log_sigmoid_forward.default", "log_sigmoid", only="floats")
def _log_sigmoid(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    (argument,) = args
    x = w.vector(argument, dtype)
    zero = w.vector(0, dtype)
    text = f"cute.where({x} < 0.0, {x}, {zero}) - {w.use('log1p')}(cute.math.exp(-cute.math.abs({x})))"
    return computed(w, text, dtype, "log_sigmoid", args)


@spell("lerp.Scalar lerp.Tensor", only="floats")
def _lerp(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    start, end, weight = (w.vector(a, dtype) for a in args[:3])
    span = w.assign(f"{end} - {start}", "span")
    near = f"{start} + {weight} * {span}"
    far = f"{end} - {span} * (1.0 - {weight})"
    return computed(w, f"cute.where(cute.math.abs({weight}) < 0.5, {near}, {far})", dtype, "lerp", args[:3])


@spell("copysign.Tensor copysign.Scalar")
def _copysign(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
    x, y = (w.vector(a, dtype) for a in args)
    return computed(w, f"cute.math.copysign({x}, {y})", dtype, "copysign", args)


def _erf_name(w: Writer, dtype: torch.dtype) -> str:
    return w.use("erf_f64" if dtype is torch.float64 else "erf")
