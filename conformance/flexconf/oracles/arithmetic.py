"""Rules for arithmetic: sums, products, quotients, remainders, powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.operation import INF, Call, aten, exact_op, finish, plus, spread, straddles_zero, times
from flexconf.oracles.selection import step, stepped
from flexconf.oracles.shadow import Shadow, doubt, exact_result, rounded, scalar


def sum(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    alpha = op.args.get("alpha", 1)
    v = op.on(self=a.v, other=b.v)
    if alpha in (1, -1):
        return finish(op, v, plus(a.e, b.e), a, b, ieee=True)
    if op.name == "rsub":  # other - alpha * self
        a, b = b, a
    scaled = b.v.abs() * abs(alpha)
    # A separate product may overflow; a product that is fused with the sum does not.
    overflows = scaled.isfinite() & (scaled > em.LARGEST[op.nominal]) & (op.nominal != torch.float64)
    rounding = torch.where(overflows, INF, _factor_rounding(b, alpha, op.nominal))
    b_error = None if b.e is None else b.e * abs(alpha)
    return finish(op, v, plus(a.e, b_error), a, b, ieee=True, extra=rounding, unsure=lambda: overflows & a.v.isinf())


def _factor_rounding(b: Shadow, alpha: float, nominal: torch.dtype) -> Tensor:
    """A bound on the error of `b * alpha`, where alpha and the product may each be rounded to the nominal dtype.

    PyTorch itself rounds both in half precision, and L7.2 asks for no more. The bound is 0 where `b` is exact and the
    nominal dtype holds both alpha and the product.
    """
    if nominal == torch.float64:
        return b.v.abs() * abs(alpha) * (3 * em.UNIT_ROUNDOFF[nominal])
    low = torch.tensor(float(alpha), dtype=torch.float64)
    off = (low - low.to(nominal).double()).abs()
    product = b.v * float(alpha)
    size = product.abs() + b.v.abs() * off
    unit = em.UNIT_ROUNDOFF[nominal]
    least = 2.0**-25 if nominal == torch.float16 else em.FLT_MIN
    rounding = b.v.abs() * off + size * (unit + 2 * em.U32) + torch.where(size == 0, 0.0, least)
    exact = b.exact & bool(off == 0) & (product.to(nominal).double() == product)
    return torch.where(exact | ~b.v.isfinite(), 0.0, rounding * em.ORACLE_SLACK)


def product(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    v = op.on(self=a.v, other=b.v)
    both = None if a.e is None or b.e is None else a.e * b.e
    e = plus(times(a.v, b.e), times(b.v, a.e), both)

    def unsure() -> Tensor:
        return (a.v.isinf() & straddles_zero(b)) | (b.v.isinf() & straddles_zero(a))

    return finish(op, v, e, a, b, ieee=True, unsure=unsure)


def square(op: Call) -> Shadow:
    return _squared(op.operand("self"), op.nominal)


def _squared(a: Shadow, nominal: torch.dtype) -> Shadow:
    e = None if a.e is None else (2 * a.v.abs() + a.e) * a.e
    return rounded(a.v * a.v, e, nominal, (a,), ulps=0.5, ieee=True, unsure=lambda: doubt(a.e))


def quotient_error(v: Tensor, a: Shadow, b: Shadow) -> Tensor | None:
    if a.e is None and b.e is None:
        return None
    if b.e is None:
        assert a.e is not None
        return torch.where(a.e == 0, 0.0, a.e / b.v.abs())
    numerator = plus(times(v, b.e), a.e)
    room = b.v.abs() - b.e
    assert numerator is not None
    e = torch.where(room > 0, numerator / room, torch.where(b.e > 0, INF, 0.0).double())
    return torch.where((numerator == 0) & (room != 0), 0.0, e)


def quotient(op: Call) -> Shadow:
    if op.args.get("rounding_mode") == "floor":
        return floor_divide(op)
    a = scalar(1.0, op.nominal) if op.name == "reciprocal" else op.operand("self")
    b = op.operand("self") if op.name == "reciprocal" else op.operand("other")
    v = a.v / b.v
    e = quotient_error(v, a, b)

    def unsure() -> Tensor:
        either = straddles_zero(b) & ~((a.v == 0) & (b.v == INF))
        return either | (straddles_zero(a) & (b.v == 0)) | (a.v.isinf() & straddles_zero(b))

    power = b.e is None and bool((b.v.frexp().mantissa.abs() == 0.5).all())
    divisor = op.args.get("other")
    if op.approximate and (divisor is None or (isinstance(divisor, Shadow) and not divisor.number)):
        power = False  # only division by a number in the mod's text is done as a product
        e = _approximate_quotient(op, v, e, a, b)
    quotient = finish(op, v, e, a, b, ieee=power, ulps=0.5 if power else op.model.ulps, unsure=unsure)
    if op.args.get("rounding_mode") == "trunc":
        return stepped(op, quotient, torch.trunc)
    return quotient


def _approximate_quotient(op: Call, v: Tensor, e: Tensor | None, a: Shadow, b: Shadow) -> Tensor | None:
    """`e` with the errors of div.approx.ftz added.

    A subnormal dividend may be read as 0. A divisor beyond 2^126 makes the result indeterminate. The reciprocal of such
    a number is an exception: it is smaller than any normal float32, so the usual bound covers it.
    """
    subnormal = (a.v.abs() < em.FLT_MIN) & (a.v != 0)
    if bool(subnormal.any()):
        e = plus(e, torch.where(subnormal, v.abs(), 0.0))
    size = b.v.abs() + b.error()
    large = (size > em.DIVISOR_APPROX) & b.v.isfinite()
    if op.name != "reciprocal" and bool(large.any()):
        e = torch.where(large, INF, torch.zeros_like(v) if e is None else e)
    return e


def corners(op: Call, a: Shadow, b: Shadow, f: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    ea, eb = a.error(), b.error()
    if b.e is None:
        return [f(a.v - ea, b.v), f(a.v + ea, b.v)]
    return [f(a.v + i * ea, b.v + j * eb) for i in (-1, 1) for j in (-1, 1)]


def floor_divide(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    v = aten.floor_divide.default(a.v, b.v)
    if a.exact and b.exact:
        return exact_result(v, op.nominal)
    e = spread(v, *corners(op, a, b, torch.floor_divide))
    e = torch.where(straddles_zero(b), INF, e)
    return finish(op, v, e, a, b, ieee=True, ulps=0.5)


def _of_large_quotients(v: Tensor, x: Tensor, y: Tensor, name: str) -> Tensor:
    """`v` with wrong NaNs replaced by remainders computed with `math.fmod`.

    PyTorch's vectorized kernels return NaN where the quotient overflows float64. Its scalar kernels do not.
    """
    missing = v.isnan() & x.isfinite() & y.isfinite() & (y != 0)
    if not bool(missing.any()):
        return v
    v, x, y = v.clone(), x.expand_as(v), y.expand_as(v)
    for at in missing.nonzero().tolist():
        divisor = float(y[tuple(at)])
        rest = math.fmod(float(x[tuple(at)]), divisor)
        turns = name == "remainder" and rest != 0 and (rest < 0) != (divisor < 0)
        v[tuple(at)] = rest + divisor if turns else rest
    return v


def remainder(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    v = aten.remainder.Tensor(a.v, b.v) if op.name == "remainder" else aten.fmod.Tensor(a.v, b.v)
    v = _of_large_quotients(v, a.v, b.v, op.name)
    if a.exact and b.exact:
        return exact_result(v, op.nominal)
    whole: Callable[[Tensor, Tensor], Tensor] = torch.floor_divide
    if op.name == "fmod":

        def whole(x: Tensor, y: Tensor) -> Tensor:
            return torch.trunc(x / y)

    q = whole(a.v, b.v)
    jumps = spread(q, *corners(op, a, b, whole)) > 0
    eb = b.error()
    jumps = jumps | (q.abs() > 2.0**50) & ((a.error() > 0) | (eb > 0))
    e = torch.where(jumps, 2 * (b.v.abs() + eb), a.error() + q.abs() * eb)
    e = torch.where(straddles_zero(b), INF, e)
    return finish(op, v, e, a, b, ieee=True, ulps=0.5)


def addcmul(op: Call) -> Shadow:
    """self + value * tensor1 * tensor2: two products, in either order, and a sum."""
    x, y, z = op.operand("self"), op.operand("tensor1"), op.operand("tensor2")
    n, value = op.nominal, scalar(op.args.get("value", 1), op.nominal)
    second = multiplied(multiplied(y, z, n), value, n)
    if op.args.get("value", 1) != 1:
        second = either_order(second, multiplied(multiplied(y, value, n), z, n))
    total = plus(x.e, second.e)
    # Fused with the sum, a product does not overflow.
    fused = x.v + y.v * z.v * value.v
    open_ = second.v.isinf() & y.v.isfinite() & z.v.isfinite() & (x.v.isinf() | (fused.abs() < em.FLT_OVERFLOW))
    extra = torch.where(open_, INF, 0.0).double() if bool(open_.any()) else None
    if n == torch.float64:  # the oracle's own product may round to a whole number, which would pass for exact
        whole = (y.v == y.v.round()) & (z.v == z.v.round()) & (value.v == value.v.round()) & (second.v.abs() < 2.0**52)
        extra = torch.where(whole | ~second.v.isfinite(), 0.0, second.v.abs() * 2.0**-51)
        open_ = torch.zeros((), dtype=torch.bool)
    return finish(op, x.v + second.v, total, x, second, ieee=True, extra=extra, unsure=lambda: doubt(total) | open_)


def either_order(a: Shadow, b: Shadow) -> Shadow:
    """The shadow of a result that an implementation may compute either as `a` or as `b`.

    `a` and `b` are two ways to compute the same real value.
    """
    if a.exact and b.exact and torch.equal(a.v, b.v):
        return a
    e = torch.maximum(a.error(), spread(a.v, b.v) + b.error())
    return Shadow(a.v, e, a.nominal, mixed=True, wild=bool(e.isinf().any()))


def lerp(op: Call) -> Shadow:
    """start + weight * (end - start) if |weight| < 0.5, else end - (end - start) * (1 - weight), as in PyTorch."""
    n = op.nominal
    x, y, w = op.operand("self"), op.operand("end"), op.operand("weight")
    span, rest = y.v - x.v, 1.0 - w.v
    v = torch.where(w.v.abs() < 0.5, x.v + w.v * span, y.v - span * rest)
    of_span = x.error() + y.error()
    # Where a part overflows, the two formulas give different results.
    largest = torch.clamp(torch.maximum(w.v.abs(), rest.abs()) + w.error(), min=1.0) * (span.abs() + of_span)
    open_ends = ~(largest < em.LARGEST[n] * (1 + em.UNIT_ROUNDOFF[n] / 2))
    e = None
    if not (x.exact and y.exact and w.exact):
        e = rest.abs() * x.error() + w.v.abs() * y.error() + w.error() * (span.abs() + of_span)
    # Roundings before the last sum: the span, the product and, in the second formula, 1 - weight.
    parts = torch.maximum(2 * w.v.abs(), 3 * rest.abs()) + 3 * w.error()
    extra = parts * (span.abs() + of_span) * em.relative(0.5, n)
    if n != torch.float64:
        extra = torch.where(span == 0, extra, extra + em.FLT_MIN)  # a product may be flushed
    extra = torch.where(open_ends, INF, extra)
    inputs = (x, y, w)
    return finish(op, v, e, *inputs, ieee=True, extra=extra, unsure=lambda: open_ends | doubt(e))


def rounding(op: Call) -> Shadow:
    """round. Rounding to a whole number is exact.

    Rounding to decimals is a product, a rounding to a whole number and a quotient. With negative decimals, the quotient
    comes first and the product last.
    """
    decimals = op.args.get("decimals", 0)
    if not decimals:
        return step(op)
    power = scalar(10.0 ** abs(decimals), op.nominal)
    into, back = (multiplied, divided) if decimals > 0 else (divided, multiplied)
    return back(stepped(op, into(op.operand("self"), power, op.nominal), torch.round), power, op.nominal)


def divided(a: Shadow, b: Shadow, nominal: torch.dtype) -> Shadow:
    return rounded(a.v / b.v, quotient_error(a.v / b.v, a, b), nominal, (a, b), ulps=2.0)


def multiplied(a: Shadow, b: Shadow, nominal: torch.dtype) -> Shadow:
    both = None if a.e is None or b.e is None else a.e * b.e
    e = plus(times(a.v, b.e), times(b.v, a.e), both)
    return rounded(a.v * b.v, e, nominal, (a, b), ulps=0.5, ieee=True)


def lipschitz(op: Call) -> Shadow:
    a = op.operand("self")
    return Shadow(op.on(self=a.v), a.e, op.nominal, a.mixed, a.wild)


def copysign(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    v = op.on(self=a.v, other=b.v)
    if a.exact and b.exact:
        return Shadow(v, None, op.nominal)
    e = torch.where(straddles_zero(b), 2 * a.v.abs() + a.error(), a.error())
    return exact_op(op, v, e, a, b)


def power(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("exponent")
    number = _number(op.args["exponent"])
    if number == 1:
        return a
    if number == 2:
        return _squared(a, op.nominal)
    if number == 3:
        return multiplied(_squared(a, op.nominal), a, op.nominal)
    v = op.on(self=a.v, exponent=b.v)
    e = torch.zeros_like(v) if a.exact and b.exact else spread(v, *corners(op, a, b, torch.pow))
    straddles = straddles_zero(a)
    if bool(straddles.any()):
        # The interval contains 0, where x ** y may have an extremum. A pole at 0, or NaN for an exponent that is not
        # a whole number, makes the result indeterminate.
        e = torch.maximum(e, torch.where(straddles, v.abs(), 0.0).double())
        smooth = b.exact & ((b.v >= 0) & (b.v == b.v.round()))
        e = torch.where(straddles & ~smooth, INF, e)
    if bool((a.v == -INF).any()):
        # sqrt(-inf) is NaN and pow(-inf, 0.5) is inf. PyTorch itself returns either, depending on the dtype.
        e = torch.where((a.v == -INF) & (b.v != b.v.round()), INF, e)
    minus_zero = (a.v == 0) & torch.signbit(a.v)
    if bool(minus_zero.any()):
        # Likewise rsqrt(-0) is -inf and pow(-0, -0.5) is inf; sqrt(-0) is -0 and pow(-0, 0.5) is +0.
        e = torch.where(minus_zero & (b.v == -0.5), INF, torch.where(minus_zero & (b.v == 0.5), 2.0**-149, e))
    if not b.exact:
        e = torch.where((a.v - a.error() < 0) & (b.error() > 0), INF, e)
    return finish(op, v, e, a, b, ulps=op.model.ulps if number is None else em.power_ulps(number))


def _number(exponent: Any) -> float | None:
    """The exponent as a float if it is a Python number in the mod's text, else None.

    A lowering can choose another form of the power only for such an exponent.
    """
    if not isinstance(exponent, Shadow):
        return float(exponent)
    return float(exponent.v) if exponent.number and exponent.exact and exponent.v.numel() == 1 else None


def hypot(op: Call) -> Shadow:
    a, b = op.operand("self"), op.operand("other")
    return finish(op, op.on(self=a.v, other=b.v), plus(a.e, b.e), a, b)
