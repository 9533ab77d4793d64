"""Rules for operations that pick one of their inputs, or round it to a whole number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexconf.oracles.integers import integer
from flexconf.oracles.operation import INF, Call, exact_op, finish, spread, unsure
from flexconf.oracles.shadow import Shadow, exact_result, scalar


def select(op: Call) -> Shadow:
    if op.name == "masked_fill":
        condition, first, second = op.args["mask"], op.args["value"], op.args["self"]
    else:
        condition, first, second = op.args["condition"], op.args["self"], op.args["other"]
    if op.nominal.is_floating_point:
        a, b = op.converted(first, op.nominal), op.converted(second, op.nominal)
    else:
        a, b = integer(first, op.nominal), integer(second, op.nominal)
    v = torch.where(condition.v, a.v, b.v)
    if a.exact and b.exact and condition.exact:
        return Shadow(v, None, op.nominal)
    if op.nominal == torch.bool:
        return Shadow(v, bool_select(condition, a, b), torch.bool)
    e = torch.where(condition.v, a.error(), b.error())
    wild = a.wild or b.wild
    if not condition.exact:
        gap = (a.v.double() - b.v.double()).abs()
        same = (a.v == b.v) | (a.v.isnan() & b.v.isnan())
        gap = torch.where(same, 0.0, gap.nan_to_num(nan=INF, posinf=INF))
        e = torch.where(condition.e, torch.maximum(a.error(), b.error()) + gap, e)
        wild = True
    return Shadow(v, e, op.nominal, mixed=True, wild=wild)


def bool_select(condition: Shadow, a: Shadow, b: Shadow) -> Tensor:
    ua, ub, uc = unsure(a), unsure(b), unsure(condition)
    return torch.where(uc, ua | ub | (a.v != b.v), torch.where(condition.v, ua, ub))


def order(op: Call) -> Shadow:
    """min, max, clamps and relu.

    They are monotone in every argument, so the ends of the arguments' intervals give the ends of the result's interval.
    """
    names = [n for n in ("self", "other", "min", "max", "min_val", "max_val") if op.args.get(n) is not None]
    operands = {n: op.operand(n) for n in names}
    v = op.on(**{n: x.v for n, x in operands.items()})
    zero = [scalar(0.0, op.nominal)] if op.name == "relu" else []
    e = _either_zero(v, *operands.values(), *zero) if op.nominal.is_floating_point else None
    if all(x.exact for x in operands.values()):
        return Shadow(v, e, op.nominal)
    low = op.on(**{n: x.v - x.error() for n, x in operands.items()})
    high = op.on(**{n: x.v + x.error() for n, x in operands.items()})
    width = spread(v, low, high)
    return exact_op(op, v, width if e is None else torch.maximum(width, e), *operands.values())


def _either_zero(v: Tensor, *operands: Shadow) -> Tensor | None:
    """An error of 2^-149 where one operand is +0, another is -0 and `v` is a zero; None if there is no such element.

    PyTorch may return either zero, depending on the dtype and the number of elements. The error makes a later atan2 or
    division treat the sign as open.
    """
    minus = plus = torch.zeros((), dtype=torch.bool)
    for x in operands:
        minus, plus = minus | (x.v == 0) & torch.signbit(x.v), plus | (x.v == 0) & ~torch.signbit(x.v)
    either = (v == 0) & minus & plus
    return either.double() * 2.0**-149 if bool(either.any()) else None


def stepped(op: Call, x: Shadow, f: Callable[[Tensor], Tensor]) -> Shadow:
    v = f(x.v)
    if x.e is None:
        return Shadow(v, None, op.nominal)
    return exact_op(op, v, spread(v, f(x.v - x.e), f(x.v + x.e)), x)


def step(op: Call) -> Shadow:
    return stepped(op, op.operand("self"), lambda x: op.on(self=x))


def frac(op: Call) -> Shadow:
    a = op.operand("self")
    v = torch.frac(a.v)
    if a.e is None:
        return exact_result(v, op.nominal)
    jumps = torch.trunc(a.v - a.e) != torch.trunc(a.v + a.e)
    return finish(op, v, torch.where(jumps, torch.clamp(a.e, min=2.0), a.e), a, ieee=True, ulps=0.5)
