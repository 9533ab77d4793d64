"""Rules for operations that PyTorch composes of others. Each piece of the composition has its own rule and bound.

The definitions are those of PyTorch's kernels (aten/src/ATen/native/cpu and cuda). A piece has the nominal dtype of the
result. So in half precision an implementation may round every piece, as some of PyTorch's own kernels do, or keep it in
float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from flexconf.oracles import error_model as em
from flexconf.oracles.arithmetic import either_order
from flexconf.oracles.operation import INF, LN2, Call, aten, truth
from flexconf.oracles.propagate import RULES, shadow_of
from flexconf.oracles.shadow import Shadow

Definition = Callable[[Call], Shadow]


def _piece(op: Call, name: str, *arguments: Any, nominal: torch.dtype | None = None) -> Shadow:
    """The shadow of the operation `name` on shadows and numbers. `nominal` is by default the dtype of `op`."""
    nominal = op.nominal if nominal is None else nominal
    packet = getattr(aten, name)
    func = packet.Tensor if "Tensor" in packet.overloads() else packet.default
    names = [a.name for a in func._schema.arguments]
    shadows = [op.converted(a, op.nominal) for a in arguments]
    return shadow_of(
        Call(func, name, dict(zip(names, shadows, strict=False)), torch.empty(0, dtype=nominal), op.fast_math)
    )


def _is(op: Call, name: str, *arguments: Any) -> Shadow:
    """A piece with a boolean result: a comparison, a classification, or logic."""
    return _piece(op, name, *arguments, nominal=torch.bool)


def _where(op: Call, condition: Shadow, x: Any, y: Any) -> Shadow:
    given = {"condition": condition, "self": op.converted(x, op.nominal), "other": op.converted(y, op.nominal)}
    return shadow_of(Call(aten.where.self, "where", given, torch.empty(0, dtype=op.nominal), op.fast_math))


def _number(op: Call, name: str, default: float) -> float:
    given = op.args.get(name)
    return default if given is None else float(given)


def _times_log(op: Call, logarithm: str) -> Shadow:
    """x * log(y). The result is 0 if x is 0, and NaN if y is NaN."""
    x, y = op.operand("self"), op.operand("other")
    product = _piece(op, "mul", x, _piece(op, logarithm, y))
    return _where(op, _is(op, "isnan", y), math.nan, _where(op, _is(op, "eq", x, 0.0), 0.0, product))


def _log_of_sum(op: Call, exponential: str) -> Shadow:
    """The larger operand plus log(1 + exp(-distance)). Two equal infinities give that infinity."""
    x, y = op.operand("self"), op.operand("other")
    distance = _piece(op, "abs", _piece(op, "sub", x, y))
    rest = _piece(op, "log1p", _piece(op, exponential, _piece(op, "neg", distance)))
    if exponential == "exp2":
        rest = _piece(op, "div", rest, LN2)
    total = _piece(op, "add", _piece(op, "maximum", x, y), rest)
    both = _is(op, "logical_and", _is(op, "isinf", x), _is(op, "eq", x, y))
    return _where(op, both, x, total)


def _heaviside(op: Call) -> Shadow:
    x = op.operand("self")
    return _where(op, _is(op, "eq", x, 0.0), op.operand("values"), _where(op, _is(op, "gt", x, 0.0), 1.0, 0.0))


def _nan_to_num(op: Call) -> Shadow:
    x, most = op.operand("self"), em.LARGEST[op.nominal]
    up = _where(op, _is(op, "eq", x, INF), _number(op, "posinf", most), x)
    down = _where(op, _is(op, "eq", x, -INF), _number(op, "neginf", -most), up)
    return _where(op, _is(op, "isnan", x), _number(op, "nan", 0.0), down)


def _addcdiv(op: Call) -> Shadow:
    """self + value * tensor1 / tensor2. PyTorch's CPU kernel multiplies first, and its GPU kernel divides first."""
    x, y, value = op.operand("tensor1"), op.operand("tensor2"), _number(op, "value", 1.0)
    second = _piece(op, "div", _piece(op, "mul", x, value), y)
    if value != 1:
        second = either_order(second, _piece(op, "mul", _piece(op, "div", x, y), value))
    return _piece(op, "add", op.operand("self"), second)


def _celu(op: Call) -> Shadow:
    x, alpha = op.operand("self"), _number(op, "alpha", 1.0)
    below = _piece(op, "mul", _piece(op, "expm1", _piece(op, "div", x, alpha)), alpha)
    return _where(op, _is(op, "lt", x, 0.0), below, x)


def _gate(op: Call) -> Shadow:
    """min(max(x + 3, 0), 6)."""
    x = _piece(op, "add", op.operand("self"), 3.0)
    return _piece(op, "minimum", _piece(op, "maximum", x, 0.0), 6.0)


def _hardsigmoid(op: Call) -> Shadow:
    return _piece(op, "div", _gate(op), 6.0)


def _hardswish(op: Call) -> Shadow:
    return _piece(op, "div", _piece(op, "mul", op.operand("self"), _gate(op)), 6.0)


def _mish(op: Call) -> Shadow:
    x = op.operand("self")
    return _piece(op, "mul", x, _piece(op, "tanh", _piece(op, "softplus", x)))


def _softshrink(op: Call) -> Shadow:
    x, by = op.operand("self"), _number(op, "lambd", 0.5)
    rest = _where(op, _is(op, "lt", x, -by), _piece(op, "add", x, by), _piece(op, "mul", x, 0.0))
    return _where(op, _is(op, "gt", x, by), _piece(op, "sub", x, by), rest)


def _hardshrink(op: Call) -> Shadow:
    x, by = op.operand("self"), _number(op, "lambd", 0.5)
    inside = _is(op, "logical_and", _is(op, "ge", x, -by), _is(op, "le", x, by))
    return _where(op, inside, 0.0, x)


def _threshold(op: Call) -> Shadow:
    x = op.operand("self")
    return _where(op, _is(op, "le", x, op.args["threshold"]), op.args["value"], x)


def _prelu(op: Call) -> Shadow:
    x = op.operand("self")
    return _where(op, _is(op, "gt", x, 0.0), x, _piece(op, "mul", x, op.operand("weight")))


def _logit(op: Call) -> Shadow:
    x, eps = op.operand("self"), op.args.get("eps")
    if eps is not None:
        x = _where(op, _is(op, "lt", x, eps), eps, _where(op, _is(op, "gt", x, 1.0 - eps), 1.0 - eps, x))
    return _piece(op, "log", _piece(op, "div", x, _piece(op, "rsub", x, 1.0)))


def _by(factor: float) -> Definition:
    return lambda op: _piece(op, "mul", op.operand("self"), factor)


def _sinc(op: Call) -> Shadow:
    x = op.operand("self")
    turned = _piece(op, "mul", x, math.pi)
    return _where(op, _is(op, "eq", x, 0.0), 1.0, _piece(op, "div", _piece(op, "sin", turned), turned))


def _entropy(op: Call) -> Shadow:
    """-x * log(x). The result is 0 at 0, and -inf below 0."""
    x = op.operand("self")
    inside = _piece(op, "mul", _piece(op, "neg", x), _piece(op, "log", x))
    return _where(
        op,
        _is(op, "isnan", x),
        x,
        _where(op, _is(op, "gt", x, 0.0), inside, _where(op, _is(op, "eq", x, 0.0), 0.0, -INF)),
    )


def _signbit(op: Call) -> Shadow:
    """The sign bit. The sign of a NaN is known only if the input is exact, as a capture is."""
    a = op.args["self"]
    v = torch.signbit(a.v)
    open_ = (a.error() > 0) & (a.v.abs() <= a.error()) | (a.v.isnan() & (not a.exact))
    return truth(Shadow(v, open_ if bool(open_.any()) else None, torch.bool))


DEFINITIONS: dict[str, Definition] = {
    "xlogy": lambda op: _times_log(op, "log"),
    "special_xlog1py": lambda op: _times_log(op, "log1p"),
    "logaddexp": lambda op: _log_of_sum(op, "exp"),
    "logaddexp2": lambda op: _log_of_sum(op, "exp2"),
    "heaviside": _heaviside,
    "nan_to_num": _nan_to_num,
    "addcdiv": _addcdiv,
    "celu": _celu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "mish": _mish,
    "softshrink": _softshrink,
    "hardshrink": _hardshrink,
    "threshold": _threshold,
    "_prelu_kernel": _prelu,
    "logit": _logit,
    "deg2rad": _by(math.pi / 180),
    "rad2deg": _by(180 / math.pi),
    "sinc": _sinc,
    "special_entr": _entropy,
    "signbit": _signbit,
}
"""aten packet name -> its rule."""


def pieces(op: Call) -> Shadow:
    """The rule of every operation of `DEFINITIONS`."""
    return DEFINITIONS[op.name](op)


RULES["pieces"] = pieces
