"""Rules for functions of floats: exponentials, logarithms, trigonometry, activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.operation import INF, LN2, Call, exactly, finish, spread, straddles_zero
from flexconf.oracles.shadow import Shadow, represented


def monotone(op: Call, **more: Any) -> Shadow:
    """A monotone function: its error follows from its values at both ends of the interval.

    An end outside the domain gives NaN, and hence an indeterminate result.
    """
    a = op.operand("self")
    v = op.on(self=a.v)
    e = None if a.e is None else spread(v, op.on(self=a.v - a.e), op.on(self=a.v + a.e))
    if op.name == "rsqrt" and a.e is not None and e is not None:  # a pole at 0, and NaN below
        e = torch.where(straddles_zero(a), INF, e)

    if e is not None and op.name in ("asin", "acos", "atanh"):
        # Centre and ends may all be outside the domain although the interval reaches into it.
        assert a.e is not None
        e = torch.where(v.isnan() & (a.e > 0) & (a.v.abs() - a.e <= 1), INF, e)
    if e is not None and op.name in ("elu", "leaky_relu"):  # with a negative slope below 0, the minimum is at 0
        e = torch.where(straddles_zero(a), torch.maximum(e, v.abs() * em.ORACLE_SLACK), e)
    if op.name == "sinh":
        e = _early_overflow(a, e)
    return finish(op, v, e, a, **more)


def rectified(op: Call) -> Shadow:
    """leaky_relu and elu: a curve below zero, the argument itself above."""
    a = op.operand("self")
    if op.name == "elu":
        # input_scale is rounded, and so is its product with x. Below 0, expm1 does not amplify a relative error.
        below = monotone(op, ulps=op.model.ulps + (0.0 if op.args.get("input_scale", 1) == 1 else 1.0))
        return exactly(below, a.v - a.error() > 0, a) if op.args.get("scale", 1) == 1 else below
    exact = represented(float(op.args.get("negative_slope", 0.01)), op.nominal)
    below = monotone(op, ieee=True, ulps=0.5) if exact else monotone(op)
    return exactly(below, a.v - a.error() > 0, a)


def _early_overflow(a: Shadow, e: Tensor | None) -> Tensor | None:
    """`e`, or inf where |x| may lie between 88.7 and 89.5.

    There sinh and cosh may be computed as exp(|x|) / 2: the result is finite up to 89.4, but exp overflows float32.
    """
    if a.nominal == torch.float64 or not bool((a.v.abs() + a.error() > 88.7).any()):
        return e
    near = (a.v.abs() + a.error() > 88.7) & (a.v.abs() - a.error() < 89.5)
    return torch.where(near, INF, a.error() * 0 if e is None else e)


def exponential(op: Call, base_log: float, argument_rounding: float) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    e: Tensor | None = None
    if a.e is not None:
        e = torch.expm1(a.e * (base_log * em.ORACLE_SLACK)) * v
        if bool((a.e > 1).any()) or bool(e.isnan().any()):  # v may underflow where the upper end does not
            e = torch.where(a.e > 1, op.on(self=a.v + a.e), e.nan_to_num(nan=0.0, posinf=INF))
    extra = None
    if argument_rounding:
        # exp(x) = exp2(x * log2(e)): the constant and the product are rounded.
        extra = (a.v.abs() + a.error()) * (v if e is None else v + e) * (argument_rounding * em.unit(op.nominal))
        extra = torch.where(v.isfinite() & a.v.isfinite(), extra, 0.0)
    # Overflow is certain where the lower end overflows too.
    low = None if a.e is None else a.v - a.e
    return finish(op, v, e, a, extra=extra, unsure=None if low is None else lambda: op.on(self=low) <= em.FLT_MAX)


def log(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a, **_near_one(op, v))
    room = a.v - a.e
    steep = {"log": 1.0, "log2": 1 / LN2, "log10": 1 / math.log(10)}[op.name] * em.ORACLE_SLACK
    e = torch.where(room > 0, a.e * steep / room, torch.where((a.e > 0) & (a.v + a.e >= 0), INF, 0.0).double())
    e = e.nan_to_num_(nan=0.0, posinf=INF)  # NaN where a.v is inf
    return finish(op, v, e, a, unsure=lambda: e.isinf(), **_near_one(op, v))


def _near_one(op: Call, v: Tensor) -> dict[str, Tensor]:
    """The error of lg2.approx in addition to its relative error, for inputs between 0.5 and 2, as {"extra": error}.

    In that range the instruction has an absolute error. The relative error is computed from |v| + e, so the sum also
    covers an exact input on one side of 0.5 or 2 and an implementation's input on the other. Returns {} without
    fast_math.
    """
    if not op.approximate:
        return {}
    unit = {"log": LN2, "log2": 1.0, "log10": math.log10(2)}[op.name]
    return {"extra": torch.clamp(unit - v.abs(), min=0.0).nan_to_num_(nan=0.0) * (em.LG2_APPROX * em.ORACLE_SLACK)}


def sine(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    slope = torch.cos(a.v) if op.name == "sin" else torch.sin(a.v)
    e = slope.abs_().add_(0.5 * a.e).mul_(a.e).clamp_(max=2.0)
    return finish(op, v, e.nan_to_num_(nan=0.0), a)


def tangent(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    low, high = a.v - a.e, a.v + a.e
    pole = torch.floor(low / math.pi + 0.5) != torch.floor(high / math.pi + 0.5)
    e = torch.where(pole & (a.e > 0), INF, spread(v, torch.tan(low), torch.tan(high)))
    return finish(op, v, e, a)


def cosh(op: Call) -> Shadow:
    a = op.operand("self")
    e = None if a.e is None else torch.where(a.e == 0, 0.0, a.e * torch.sinh(a.v.abs() + a.e))
    return finish(op, op.on(self=a.v), _early_overflow(a, e), a)


def tanh(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    # tanh' is 1 - tanh**2 at the centre, and |tanh''| <= 0.77 everywhere. Also, tanh is 1-Lipschitz and bounded.
    e = torch.square(v).neg_().add_(1.0).add_(a.e, alpha=0.385).clamp_(max=1.0).mul_(a.e).clamp_(max=2.0)
    return finish(op, v, _between_ends(op, a, v, e), a)


def _between_ends(op: Call, a: Shadow, v: Tensor, e: Tensor) -> Tensor:
    """`e`, or the error from the values at both ends of the interval if that is smaller.

    The ends are evaluated only if an interval is wide, since there a slope gives a loose bound.
    """
    if a.e is None or not bool((a.e > 0.25).any()):
        return e
    return torch.minimum(e, spread(v, op.on(self=a.v - a.e), op.on(self=a.v + a.e)))


def _exp_error(size: Tensor, nominal: torch.dtype) -> Tensor:
    """A bound on the relative error of exp(-x) for |x| = `size`: 2.5 ulp, and the rounding of x * log2(e)."""
    return (size * em.EXP_ARGUMENT + 5).mul_(em.unit(nominal) * em.ORACLE_SLACK)


def _over(slope: Tensor, a: Shadow, most: float, steepness: float = 1.0) -> Tensor:
    """An upper bound, over the interval of `a`, on a function whose value at the centre is `slope`.

    `most` is the maximum of the function. The slope of its logarithm is at most `steepness`.
    """
    if a.e is None:
        return slope
    if a.e.numel() and float(a.e.max()) * steepness <= 1:  # exp(t) <= 1 + 2 t
        return torch.addcmul(slope, slope, a.e, value=2 * steepness)
    return torch.clamp(slope * torch.exp(a.e * steepness), max=most)


def sigmoid(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    slope = v * (1 - v)
    # The error of exp(-x) enters with weight 1 - v.
    extra = torch.where(a.v.isinf(), 0.0, _exp_error(a.v.abs() + a.error(), op.nominal) * _over(slope, a, 0.25))
    e = None
    if a.e is not None:
        e = _between_ends(op, a, v, slope.add(a.e, alpha=0.0483).clamp_(max=0.25).mul_(a.e).clamp_(max=1.0))
    return finish(op, v, e, a, extra=extra, tiny=2.0**-120)


def silu(op: Call) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    gate = torch.sigmoid(a.v)
    size = a.v.abs() + a.error()
    extra = _exp_error(size, op.nominal) * size * _over(gate * (1 - gate), a, 0.25)
    extra = extra.nan_to_num_(nan=0.0, posinf=0.0)
    e = None
    if a.e is not None:
        slope = (gate + v * (1 - gate)).nan_to_num_(nan=1.0)  # silu'; |silu''| <= 0.5
        e = slope.abs_().add_(a.e, alpha=0.25).clamp_(max=1.1).mul_(a.e)
    # Below x = -88 exp(-x) overflows float32 and the quotient is -0. The exact value is then smaller than 2**-119.
    return finish(op, v, e, a, extra=extra, tiny=2.0**-119)


def gelu(op: Call) -> Shadow:
    """x / 2 * (1 + g), where g is an erf or a tanh. For negative x the sum cancels, so the absolute error of g remains.

    The error of g is counted in unit roundoffs. g itself has 2.5 ulp, and from 0.5 to 1 one ulp is one roundoff. Its
    argument adds 2 for erf(x * sqrt(1/2)), weighted by |z erf'(z)| <= 0.49, or 7 for the cubic of tanh, weighted by
    |z tanh'(z)| <= 0.45. For erf and |x| from 1.9 to 5.1 the total is 12, because PyTorch's own CPU kernel is off by
    up to 11.5 there (measured on a grid, torch 2.13). For |x| beyond 8 (9 in float64), g is 1 or -1.
    """
    a = op.operand("self")
    tanh = op.args.get("approximate", "none") == "tanh"
    inner = math.sqrt(2 / math.pi) * (a.v + 0.044715 * a.v**3)
    # 1 + g cancels in float64 too. This form does not.
    gate = torch.sigmoid(2 * inner) if tanh else torch.special.erfc(a.v * -math.sqrt(0.5)) / 2
    v = a.v * gate
    size = torch.clamp(a.v.abs() + a.error(), max=1e30)
    near = (size > 1.9) & (a.v.abs() - a.error() < 5.1)
    roundoffs = 2.5 + 7 * 0.45 if tanh else torch.where(near, 12.0, 2.5 + 2 * 0.49)
    extra = size * roundoffs * (0.5 * em.unit(op.nominal))
    beyond = a.v.abs() - a.error() > (9 if op.nominal == torch.float64 else 8)
    extra = torch.where(beyond, torch.where(a.v < 0, v.abs(), 0.0), extra)
    if op.approximate and tanh:
        extra = extra + size * torch.tanh(inner).abs() * (0.5 * em.TANH_APPROX * em.ORACLE_SLACK)
    extra = torch.where(a.v.isinf(), 0.0, extra)
    e = None
    if a.e is not None:
        if tanh:
            within = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * a.v * a.v)
            slope = gate + (2 * within * v * (1 - gate)).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        else:
            phi = torch.exp(-0.5 * a.v * a.v) / math.sqrt(2 * math.pi)
            slope = gate + torch.where(a.v.isinf(), 0.0, a.v * phi)
        e = slope.abs_().add_(a.e, alpha=0.41).clamp_(max=1.13).mul_(a.e)  # |gelu''| <= 0.8, with tanh 0.82
    return finish(op, v, e, a, extra=extra)


def softplus(op: Call) -> Shadow:
    """log1p(exp(beta * x)) / beta, and x itself where beta * x is beyond the threshold."""
    a = op.operand("self")
    beta, threshold = float(op.args.get("beta", 1)), float(op.args.get("threshold", 20))
    unit, steep = em.unit(op.nominal), abs(beta)
    wide = 1 / steep if beta else 0.0  # with beta 0 the result is an infinity
    v = op.on(self=a.v)
    scaled = beta * a.v
    gate = torch.sigmoid(scaled)
    # If beta is a power of two, product and quotient are exact. Otherwise both are rounded, and so is beta.
    whole = abs(math.frexp(beta)[0]) == 0.5
    ulps = op.model.ulps + (0.0 if whole else 2.5)
    error = _exp_error(scaled.abs() + steep * a.error(), op.nominal)
    if not whole:
        error = error + (scaled.abs() + steep * a.error()) * (2 * unit)
    extra = torch.where(scaled == -INF, 0.0, error * _over(gate, a, 1.0, steep) * wide)
    margin = steep * a.error() + (scaled.abs() * 4 * unit if threshold < 16 else 0.0)
    jump = math.log1p(math.exp(-threshold)) * wide if threshold > -700 else INF
    extra = extra + torch.where((scaled - threshold).abs() <= margin, jump, 0.0)
    e = None
    if a.e is not None:  # |softplus''| <= |beta| / 4; beyond the threshold the slope is 1
        slope = gate.add(a.e, alpha=0.125 * steep).clamp_(max=1.0)
        e = torch.where(scaled > threshold - margin, 1.0, slope) * a.e
    result = finish(op, v, e, a, extra=extra.nan_to_num(nan=0.0), ulps=ulps, tiny=em.FLT_MIN * max(1.0, wide))
    return exactly(result, scaled - margin > threshold, a)


def log_sigmoid(op: Call) -> Shadow:
    a = op.operand("self")
    v = torch.nn.functional.logsigmoid(a.v)
    rest = torch.sigmoid(-a.v)  # the slope; |second derivative| <= 1 / 4
    share = torch.sigmoid(-a.v.abs())  # the weight of the error of exp(-|x|)
    extra = _exp_error(a.v.abs() + a.error(), op.nominal) * _over(share, a, 0.5)
    extra = torch.where(a.v.isinf(), 0.0, extra)
    e = None if a.e is None else rest.add(a.e, alpha=0.125).clamp_(max=1.0).mul_(a.e)
    return finish(op, v, e, a, extra=extra)


def angle(op: Call) -> Shadow:
    y, x = op.operand("self"), op.operand("other")
    v = op.on(self=y.v, other=x.v)
    if y.exact and x.exact:
        return finish(op, v, None, y, x)
    distance = torch.hypot(y.error(), x.error())
    room = torch.hypot(y.v, x.v) - distance
    turn = 2 * math.pi
    e = torch.where(room > 0, distance / room, turn).nan_to_num(nan=turn).clamp(max=turn)
    cut = straddles_zero(y) & (x.v - x.error() <= 0)
    e = torch.where(distance == 0, 0.0, torch.where(cut, turn, e))
    return finish(op, v, e, y, x)
