"""Rules for functions of floats: exponentials, logarithms, trigonometry, activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.operation import INF, LN2, Operation, finish, spread, straddles_zero
from flexconf.oracles.shadow import Shadow


def monotone(op: Operation) -> Shadow:
    """Both ends of the interval; outside the domain that is NaN, and hence indeterminate."""
    a = op.operand("self")
    v = op.on(self=a.v)
    e = None if a.e is None else spread(v, op.on(self=a.v - a.e), op.on(self=a.v + a.e))
    if op.name == "rsqrt" and a.e is not None and e is not None:  # a pole at 0 from the right, NaN from the left
        e = torch.where(straddles_zero(a), INF, e)

    if e is not None and op.name in ("asin", "acos", "atanh"):  # both ends outside, the middle inside
        assert a.e is not None
        e = torch.where(v.isnan() & (a.e > 0) & (a.v.abs() - a.e <= 1), INF, e)
    if op.name == "sinh":
        e = _early_overflow(a, e)
    return finish(op, v, e, a)


def _early_overflow(a: Shadow, e: Tensor | None) -> Tensor | None:
    """sinh and cosh are exp(|x|) / 2: between 88.7 and 89.4 they are finite, but exp in float32 is not."""
    if a.nominal == torch.float64 or not bool((a.v.abs() + a.error() > 88.7).any()):
        return e
    near = (a.v.abs() + a.error() > 88.7) & (a.v.abs() - a.error() < 89.5)
    return torch.where(near, INF, a.error() * 0 if e is None else e)


def exponential(op: Operation, base_log: float, argument_rounding: float) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    e: Tensor | None = None
    if a.e is not None:
        e = torch.expm1(a.e * (base_log * em.ORACLE_SLACK)) * v
        if bool((a.e > 1).any()) or bool(e.isnan().any()):  # v may have underflowed where its upper end has not
            e = torch.where(a.e > 1, op.on(self=a.v + a.e), e.nan_to_num(nan=0.0, posinf=INF))
    extra = None
    if argument_rounding:
        # exp(x) = exp2(x * log2(e)): the constant and the product are rounded in float32.
        extra = torch.where(v.isfinite() & a.v.isfinite(), a.v.abs() * v * (argument_rounding * em.U32), 0.0)
    # Overflow is certain where the lower end overflows too.
    low = None if a.e is None else a.v - a.e
    return finish(op, v, e, a, extra=extra, unsure=None if low is None else lambda: op.on(self=low) <= em.FLT_MAX)


def log(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a, **_near_one(op, v))
    room = a.v - a.e
    steep = {"log": 1.0, "log2": 1 / LN2, "log10": 1 / math.log(10)}[op.name] * em.ORACLE_SLACK
    e = torch.where(room > 0, a.e * steep / room, torch.where((a.e > 0) & (a.v + a.e >= 0), INF, 0.0).double())
    e = e.nan_to_num_(nan=0.0, posinf=INF)  # log(inf)
    return finish(op, v, e, a, unsure=lambda: e.isinf(), **_near_one(op, v))


def _near_one(op: Operation, v: Tensor) -> dict[str, Tensor]:
    """What lg2.approx adds to its relative error between 0.5 and 2, where the error is absolute.

    With the relative error, which counts from |v| + e, this covers an input on the other side of 0.5 or 2 as well.
    """
    if not op.approximate:
        return {}
    unit = {"log": LN2, "log2": 1.0, "log10": math.log10(2)}[op.name]
    return {"extra": torch.clamp(unit - v.abs(), min=0.0).nan_to_num_(nan=0.0) * (em.LG2_APPROX * em.ORACLE_SLACK)}


def sine(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    slope = torch.cos(a.v) if op.name == "sin" else torch.sin(a.v)
    e = slope.abs_().add_(0.5 * a.e).mul_(a.e).clamp_(max=2.0)
    return finish(op, v, e.nan_to_num_(nan=0.0), a)


def tangent(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    low, high = a.v - a.e, a.v + a.e
    pole = torch.floor(low / math.pi + 0.5) != torch.floor(high / math.pi + 0.5)
    e = torch.where(pole & (a.e > 0), INF, spread(v, torch.tan(low), torch.tan(high)))
    return finish(op, v, e, a)


def cosh(op: Operation) -> Shadow:
    a = op.operand("self")
    e = None if a.e is None else torch.where(a.e == 0, 0.0, a.e * torch.sinh(a.v.abs() + a.e))
    return finish(op, op.on(self=a.v), _early_overflow(a, e), a)


def tanh(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    if a.e is None:
        return finish(op, v, None, a)
    # |tanh'| = 1 - tanh**2 at the centre, |tanh''| <= 0.77 everywhere; and tanh is 1-Lipschitz and bounded.
    e = torch.square(v).neg_().add_(1.0).add_(a.e, alpha=0.385).clamp_(max=1.0).mul_(a.e).clamp_(max=2.0)
    return finish(op, v, e, a)


def sigmoid(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    rest = 1 - v
    # exp(-x) with its 2.5 ulp and the rounding of x * log2(e) enters with weight 1 - v.
    extra = torch.where(a.v.isinf(), 0.0, (a.v.abs() * 2 + 5).mul_(em.U32).mul_(v).mul_(rest))
    e = None
    if a.e is not None:
        e = (v * rest).add_(a.e, alpha=0.0483).clamp_(max=0.25).mul_(a.e).clamp_(max=1.0)
    return finish(op, v, e, a, extra=extra, tiny=2.0**-120)


def silu(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    gate = torch.sigmoid(a.v)
    extra = (a.v.abs() * 2 + 5).mul_(em.U32).mul_(v.abs()).mul_(1 - gate).nan_to_num_(nan=0.0, posinf=0.0)
    e = None
    if a.e is not None:
        slope = (gate + v * (1 - gate)).nan_to_num_(nan=1.0)  # silu'; |silu''| <= 0.5
        e = slope.abs_().add_(a.e, alpha=0.25).clamp_(max=1.1).mul_(a.e)
    # Below -88 float32 exp(-x) overflows and the quotient is -0; the value itself is then under 2**-120.
    return finish(op, v, e, a, extra=extra, tiny=2.0**-119)


def gelu(op: Operation) -> Shadow:
    a = op.operand("self")
    v = op.on(self=a.v)
    # 1 + g cancels for negative x: the error of g (2.5 ulp of at most 1, plus its argument's few roundings,
    # plus the # sum's own) is absolute. |x| is cut where the true value is below any float32.
    extra = torch.clamp(a.v.abs(), max=1e30).mul_(0.5 * 12 * em.U32)
    if op.approximate and op.args.get("approximate", "none") == "tanh":
        gate = torch.tanh(math.sqrt(2 / math.pi) * (a.v + 0.044715 * a.v**3)).abs()
        extra = extra + torch.clamp(a.v.abs(), max=1e30) * gate * (0.5 * em.TANH_APPROX * em.ORACLE_SLACK)
    extra = torch.where(a.v.isinf(), 0.0, extra)
    e = None
    if a.e is not None:
        if op.args.get("approximate", "none") == "none":
            phi = torch.exp(-0.5 * a.v * a.v) / math.sqrt(2 * math.pi)
            slope = torch.special.ndtr(a.v) + torch.where(a.v.isinf(), 0.0, a.v * phi)
            e = slope.abs_().add_(a.e, alpha=0.4).clamp_(max=1.13).mul_(a.e)  # |gelu''| <= 0.8
        else:
            e = a.e * 1.13
    return finish(op, v, e, a, extra=extra)


def softplus(op: Operation) -> Shadow:
    a = op.operand("self")
    beta, threshold = float(op.args.get("beta", 1)), float(op.args.get("threshold", 20))
    v = op.on(self=a.v)
    scaled = beta * a.v
    gate = torch.sigmoid(scaled)
    extra = (torch.clamp(scaled.abs(), max=200.0) * 3 + 5).mul_(em.U32 / beta).mul_(gate)
    extra = torch.where(scaled < -200, 0.0, extra)
    margin = beta * a.error() + (scaled.abs() * 4 * em.U32 if threshold < 16 else 0.0)
    jump = math.log1p(math.exp(-threshold)) / beta if threshold > -700 else INF
    extra = extra + torch.where((scaled - threshold).abs() <= margin, jump, 0.0)
    e = None
    if a.e is not None:  # softplus'' <= beta / 4; beyond the threshold the slope is 1
        slope = gate.add(a.e, alpha=0.125 * beta).clamp_(max=1.0)
        e = torch.where(scaled > threshold - margin, 1.0, slope) * a.e
    return finish(op, v, e, a, extra=extra)


def log_sigmoid(op: Operation) -> Shadow:
    a = op.operand("self")
    v = torch.nn.functional.logsigmoid(a.v)
    rest = torch.sigmoid(-a.v)  # the slope; |second derivative| <= 1 / 4
    share = torch.sigmoid(-a.v.abs())  # with which the error of exp(-|x|) enters
    extra = (torch.clamp(a.v.abs(), max=200.0) * 2 + 5).mul_(em.U32).mul_(share)
    extra = torch.where(a.v.abs() > 200, 0.0, extra)
    e = None if a.e is None else rest.add(a.e, alpha=0.125).clamp_(max=1.0).mul_(a.e)
    return finish(op, v, e, a, extra=extra)


def angle(op: Operation) -> Shadow:
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
