"""Rules for uncertain integers: a discontinuity, such as a floor, may have given them one of several values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexconf.oracles.operation import INF, Call, spread, truth, unsure
from flexconf.oracles.shadow import Shadow, number


def integer(a: Any, nominal: torch.dtype) -> Shadow:
    """A tensor or number as an integer (or boolean) shadow of dtype `nominal`."""
    if not isinstance(a, Shadow):
        return Shadow(number(a, nominal), None, nominal, real=True)
    if nominal == torch.bool:
        return truth(a)
    if a.nominal == nominal:
        return a
    v = a.v.to(nominal)
    if a.e is None:
        return Shadow(v, None, nominal)
    return within(v, a.v.double(), a.error(), nominal)


def within(v: Tensor, exact: Tensor, e: Tensor, nominal: torch.dtype) -> Shadow:
    """The shadow of an integer result. Where the interval `exact` +- `e` leaves the dtype, any value is legal."""
    info = torch.iinfo(nominal)
    e = torch.where((e > 0) & ((exact - e < info.min) | (exact + e > info.max)), INF, e)
    if not bool((e > 0).any()):
        return Shadow(v, None, nominal)
    return Shadow(v, e, nominal, mixed=True, wild=bool(e.isinf().any()))


def integer_sum(op: Call) -> Shadow:
    if op.nominal == torch.bool:  # True + True is True
        return either(op)
    a, b = integer(op.args["self"], op.nominal), integer(op.args["other"], op.nominal)
    alpha = op.args.get("alpha", 1)
    sign = {"add": (1, 1), "sub": (1, -1), "rsub": (-1, 1)}[op.name]
    factors = (sign[0] * (alpha if op.name == "rsub" else 1), sign[1] * (1 if op.name == "rsub" else alpha))
    exact = factors[0] * a.v.double() + factors[1] * b.v.double()
    e = abs(factors[0]) * a.error() + abs(factors[1]) * b.error()
    return within(op.on(self=a.v, other=b.v), exact, e, op.nominal)


def either(op: Call) -> Shadow:
    x, y = truth(op.args["self"]), truth(op.args["other"])
    ux, uy = unsure(x), unsure(y)
    e = (ux & (~y.v | uy)) | (uy & (~x.v | ux))
    return Shadow(x.v | y.v, e if bool(e.any()) else None, torch.bool)


def integer_product(op: Call) -> Shadow:
    if op.nominal == torch.bool:
        s, t = truth(op.args["self"]), truth(op.args["other"])
        us, ut = unsure(s), unsure(t)
        both = (us & (t.v | ut)) | (ut & (s.v | us))
        return Shadow(s.v & t.v, both if bool(both.any()) else None, torch.bool)
    a, b = integer(op.args["self"], op.nominal), integer(op.args["other"], op.nominal)
    x, y = a.v.double(), b.v.double()
    ea, eb = a.error(), b.error()
    e = (x.abs() * eb + y.abs() * ea + ea * eb).nan_to_num(nan=INF, posinf=INF)
    return within(op.on(self=a.v, other=b.v), x * y, e, op.nominal)


def integer_monotone(op: Call) -> Shadow:
    """neg, abs, sign, min, max, clamp and rounding. neg and abs are 1-Lipschitz and keep the error.

    The others are monotone, and are evaluated in float64 at the ends of the interval.
    """
    if op.nominal == torch.bool:
        return any_integer(op)
    if op.name in ("neg", "abs"):
        a = op.args["self"]
        v = op.on(self=a.v)
        return within(v, v.double(), a.error(), op.nominal)
    names = [n for n in ("self", "other", "min", "max", "min_val", "max_val") if isinstance(op.args.get(n), Shadow)]
    v = op.on()
    ends = []
    for side in (-1, 1):
        at = {n: op.args[n].v.double() + side * op.args[n].error() for n in names}
        ends.append(op.on(**at).double())
    return within(v, v.double(), spread(v.double(), *ends), op.nominal)


def integer_floor(op: Call) -> Shadow:
    a, b = integer(op.args["self"], op.nominal), integer(op.args["other"], op.nominal)
    v = op.on()
    if not b.exact or op.args.get("rounding_mode", "floor") not in ("floor", "trunc"):
        return any_integer(op)
    rounding = torch.trunc if op.args.get("rounding_mode") == "trunc" else torch.floor
    x, y = a.v.double(), b.v.double()
    ends = [rounding((x + s * a.error()) / y) for s in (-1, 1)]
    return within(v, v.double(), spread(v.double(), *ends), op.nominal)


def integer_remainder(op: Call) -> Shadow:
    a, b = integer(op.args["self"], op.nominal), integer(op.args["other"], op.nominal)
    v = op.on()
    if not b.exact:
        return any_integer(op)
    rounding = torch.floor if op.name == "remainder" else torch.trunc
    x, y = a.v.double(), b.v.double()
    same = rounding((x - a.error()) / y) == rounding((x + a.error()) / y)
    width = y.abs() if op.name == "remainder" else 2 * y.abs()
    return within(v, v.double(), torch.where(same | (a.error() == 0), a.error(), width), op.nominal)


def any_integer(op: Call) -> Shadow:
    """The rule for an operation without a model for uncertain integers.

    Wherever an input is uncertain, any value of the result is legal.
    """
    unsure = torch.zeros((), dtype=torch.bool)
    for s in op.shadows:
        if s.e is not None:
            unsure = unsure | (s.e > 0 if s.e.dtype != torch.bool else s.e)
    v = op.on()
    unsure = unsure.expand_as(v)
    if op.nominal == torch.bool:
        return Shadow(v, unsure, torch.bool)
    return Shadow(v, torch.where(unsure, INF, 0.0).double(), op.nominal, mixed=True, wild=True)
