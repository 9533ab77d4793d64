"""Rules for comparisons, classification (isnan and the like), logic, and casts."""

from __future__ import annotations

from typing import Any

import torch

from flexconf.oracles.integers import any_integer, integer
from flexconf.oracles.operation import INF, Call, truth, unsure
from flexconf.oracles.shadow import Shadow, as_float, doubt, scalar


def comparison(op: Call) -> Shadow:
    a, b = op.args["self"], op.args["other"]
    common = common_dtype(a, b)
    if common.is_floating_point:
        x, y = op.converted(a, common), op.converted(b, common)
    else:
        x, y = integer(a, common), integer(b, common)
    v = op.on(self=x.v, other=y.v)
    if x.exact and y.exact:
        return Shadow(v, None, torch.bool)
    slack = x.error() + y.error()
    if isinstance(b, Shadow) and (a is b or (a.v is b.v and a.e is b.e)):
        return Shadow(v, doubt(x.e), torch.bool)  # x == x tests for NaN: both sides have the same error
    distance = (x.v.double() - y.v.double()).abs_()
    unsure = ((distance <= slack) & (slack > 0)) | slack.isinf()
    return Shadow(v, unsure if bool(unsure.any()) else None, torch.bool)


def common_dtype(a: Any, b: Any) -> torch.dtype:
    def probe(x: Any) -> Any:
        # Promotion treats tensors with and without dimensions differently. The number of elements does not matter.
        return torch.empty(1 if x.v.dim() else (), dtype=x.nominal, device="meta") if isinstance(x, Shadow) else x

    return torch.result_type(probe(a), probe(b))


def classification(op: Call) -> Shadow:
    a = op.args["self"]
    open_ = doubt(a.e) if a.nominal.is_floating_point else torch.zeros((), dtype=torch.bool)
    return Shadow(op.on(self=a.v), open_ if bool(open_.any()) else None, torch.bool)


def logic(op: Call) -> Shadow:
    """Three-valued logic: `false & x` is certainly false and `true | x` is certainly true, even if x is uncertain."""
    kind = op.name.strip("_").rpartition("_")[2]
    a, b = op.args["self"], op.args.get("other")
    if op.nominal != torch.bool:
        return any_integer(op)
    x = truth(a)
    if kind == "not":
        return Shadow(~x.v, x.e, torch.bool)
    y = truth(b)
    ux, uy = unsure(x), unsure(y)
    if kind == "and":
        v, e = x.v & y.v, (ux & (y.v | uy)) | (uy & (x.v | ux))
    elif kind == "or":
        v, e = x.v | y.v, (ux & (~y.v | uy)) | (uy & (~x.v | ux))
    else:
        v, e = x.v ^ y.v, ux | uy
    return Shadow(v, e if bool(e.any()) else None, torch.bool)


def cast(op: Call) -> Shadow:
    a, target = op.args["self"], op.nominal
    if not isinstance(a, Shadow):  # a Python number that vmap turns into a tensor
        return scalar(a, target)
    if target == torch.bool:
        return truth(a)
    if target.is_floating_point:
        return as_float(a, target)
    if not a.nominal.is_floating_point:
        return integer(a, target)
    v = torch.trunc(a.v)
    info = torch.iinfo(target)
    low, high = torch.trunc(a.v - a.error()), torch.trunc(a.v + a.error())
    inside = (low >= info.min) & (high <= info.max) if target != torch.int64 else (low >= info.min) & (high < 2.0**63)
    e = torch.where(inside, torch.maximum(high - v, v - low), INF)  # out of range: any value is legal
    value = torch.where(inside, v, 0.0).to(target)
    certain = not bool((e > 0).any())
    return Shadow(value, None if certain else e, target, mixed=not certain, wild=bool(e.isinf().any()))
