"""Rules for reductions of short vectors (L7.8): sum, mean, prod, amax, amin, any, all.

An implementation may take the elements in any order, and may round to the nominal dtype after each step (L7.2). So a
bound here holds for every order and every bracketing: it counts n - 1 roundings of the sum, or product, of magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.integers import any_integer, within
from flexconf.oracles.operation import INF, Call, UnmodelledOperation, exact_op, spread, truth, unsure
from flexconf.oracles.shadow import Shadow, as_float, rounded

MEAN_ULPS = 2.0
"""The division by the number of elements: as `div`, or one product with its rounded reciprocal."""


def reduced(op: Call) -> Shadow:
    """The shadow of a reduction of one or more dimensions. Raises UnmodelledOperation if no dimension is named."""
    if op.args.get("dim") in (None, []):
        raise UnmodelledOperation(f"{op.func} of a whole tensor has no error model; name a dimension")
    x = op.args["self"]
    if op.name in ("any", "all"):
        return _logical(op, truth(x))
    if not op.nominal.is_floating_point:
        return _whole(op, x)
    a = as_float(x, op.nominal)
    if op.name in ("amax", "amin"):
        return _extreme(op, a)
    return _product(op, a) if op.name == "prod" else _sum(op, a)


RULES: dict[str, Callable[[Call], Shadow]] = dict.fromkeys(
    ("sum", "mean", "prod", "amax", "amin", "any", "all"), reduced
)
"""Operation -> rule. Their bounds depend on the number of elements, so `error_model.OPS` has no figure for them."""


def _dims(op: Call) -> list[int]:
    given = op.args["dim"]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _count(op: Call, v: Tensor) -> int:
    return math.prod(v.shape[d] for d in _dims(op))


def _over(op: Call, f: Callable[..., Tensor], x: Tensor) -> Tensor:
    """`f`, such as torch.sum, over the reduced dimensions, which stay as dimensions of size 1 with keepdim."""
    kept: Tensor = f(x, _dims(op), keepdim=True)
    return kept if op.args.get("keepdim") else kept.squeeze(tuple(_dims(op)))


def _products(op: Call, x: Tensor) -> Tensor:
    for d in sorted((d % x.dim() for d in _dims(op)), reverse=True):
        x = x.prod(d, keepdim=True)
    return x if op.args.get("keepdim") else x.squeeze(tuple(_dims(op)))


def _gamma(n: int, nominal: torch.dtype) -> float:
    """Higham's gamma_n for the nominal dtype, with the oracle's slack."""
    unit = em.UNIT_ROUNDOFF[nominal]
    return (n + (2 if nominal == torch.float64 else 0)) * unit / (1 - (n + 2) * unit) * em.ORACLE_SLACK


def _least(nominal: torch.dtype) -> float:
    """How far one flushed or subnormal result may be from the exact one."""
    if nominal == torch.float64:
        return 2.0**-1022
    return 2.0**-25 if nominal == torch.float16 else em.FLT_MIN


def _finite(x: Shadow) -> Tensor:
    """The magnitudes that an implementation may have, 0 where the value is infinite or NaN."""
    size = x.v.abs() + torch.where(x.error().isinf(), 0.0, x.error())
    return torch.where(x.v.isfinite(), size, 0.0)


def _doubtful(op: Call, x: Shadow) -> Tensor:
    """Where an element is indeterminate."""
    return _over(op, torch.any, x.error().expand_as(x.v).isinf())


def _sum(op: Call, x: Shadow) -> Shadow:
    count = _count(op, x.v)
    total = _over(op, torch.sum, x.v)
    sizes = _over(op, torch.sum, _finite(x))
    e = None if x.e is None else _over(op, torch.sum, x.error().expand_as(x.v))
    rounding = _gamma(count - 1, op.nominal) * sizes + (count - 1) * _least(op.nominal) * (sizes > 0)
    whole = _over(op, torch.all, x.v == x.v.round()) & (sizes <= 2.0 ** em.SIGNIFICAND_BITS[op.nominal])
    if x.e is None:
        rounding = torch.where(whole, 0.0, rounding)
    overflows = sizes > em.LARGEST[op.nominal]  # in some order
    doubt = overflows | _doubtful(op, x)
    rounding = torch.where(doubt, INF, rounding)
    if op.name == "sum" and e is None and not bool((rounding > 0).any()):
        return Shadow(total, None, op.nominal)
    if op.name == "mean":
        total, rounding = total / count, rounding / count
        e = None if e is None else e / count
        return rounded(total, e, op.nominal, (), ulps=MEAN_ULPS, extra=rounding, unsure=lambda: doubt)
    return rounded(total, e, op.nominal, (), ulps=0.0, extra=rounding, unsure=lambda: doubt)


def _product(op: Call, x: Shadow) -> Shadow:
    count = _count(op, x.v)
    total = _products(op, x.v)
    sizes = _finite(x)
    largest = _products(op, sizes.clamp(min=1.0))
    smallest = _products(op, torch.where(sizes > 0, sizes.clamp(max=1.0), 1.0))
    most = _products(op, torch.where(x.v.isfinite(), sizes, 1.0))
    e = None if x.e is None else (most - _products(op, torch.where(x.v.isfinite(), x.v.abs(), 1.0))) * em.ORACLE_SLACK
    rounding = _gamma(count - 1, op.nominal) * most + (count - 1) * _least(op.nominal) * largest
    whole = _over(op, torch.all, x.v == x.v.round()) & (largest <= 2.0 ** em.SIGNIFICAND_BITS[op.nominal])
    if x.e is None:
        rounding = torch.where(whole, 0.0, rounding)
    infinite = _over(op, torch.any, x.v.isinf())
    zero = _over(op, torch.any, (x.v.abs() <= x.error()) & (x.error() > 0))
    # Some order may overflow before a small factor, or flush a product to 0 before an infinity.
    doubt = (largest > em.LARGEST[op.nominal]) | _doubtful(op, x)
    doubt = doubt | (infinite & (zero | (smallest < _least(op.nominal))))
    if e is None and not bool((doubt | (rounding > 0)).any()):
        return Shadow(total, None, op.nominal)
    return rounded(total, e, op.nominal, (), ulps=0.0, extra=torch.where(doubt, INF, rounding), unsure=lambda: doubt)


def _extreme(op: Call, x: Shadow) -> Shadow:
    """amax and amin are monotone in every element, and pick one of them."""
    f = torch.amax if op.name == "amax" else torch.amin
    v = _over(op, f, x.v)
    zero = x.v == 0
    either = _over(op, torch.any, zero & x.v.signbit()) & _over(op, torch.any, zero & ~x.v.signbit()) & (v == 0)
    sign = either.double() * 2.0**-149  # PyTorch may return either zero
    if x.e is None:
        return Shadow(v, sign if bool(either.any()) else None, op.nominal, mixed=bool(either.any()))
    e = torch.maximum(spread(v, _over(op, f, x.v - x.error()), _over(op, f, x.v + x.error())), sign)
    return exact_op(op, v, torch.where(_doubtful(op, x), INF, e))


def _logical(op: Call, x: Shadow) -> Shadow:
    """An uncertain element decides nothing if another one certainly does."""
    f, open_ = (torch.any if op.name == "any" else torch.all), unsure(x).expand_as(x.v)
    v = _over(op, f, x.v)
    decisive = x.v if op.name == "any" else ~x.v
    e = _over(op, torch.any, open_) & ~_over(op, torch.any, decisive & ~open_)
    e_or_none = e if bool(e.any()) else None
    if op.nominal == torch.bool:
        return Shadow(v, e_or_none, torch.bool)
    return Shadow(v.to(op.nominal), None if e_or_none is None else e.double(), op.nominal, mixed=e_or_none is not None)


def _whole(op: Call, x: Shadow) -> Shadow:
    """Integers wrap around, and so have the same sum and product in every order."""
    if x.exact:
        return Shadow(op.real, None, op.nominal, real=True) if x.real else any_integer(op)
    if op.name in ("amax", "amin"):
        f = torch.amax if op.name == "amax" else torch.amin
        exact = x.v.double()
        width = spread(_over(op, f, exact), _over(op, f, exact - x.error()), _over(op, f, exact + x.error()))
        return within(_over(op, f, x.v), _over(op, f, exact), width, op.nominal)
    v = x.v.to(op.nominal)
    uncertain = x.error().expand_as(x.v)
    if op.name == "prod":
        open_ = _over(op, torch.any, uncertain > 0)
        return within(_products(op, v), _products(op, v.double()), torch.where(open_, INF, 0.0).double(), op.nominal)
    return within(
        _over(op, torch.sum, v), _over(op, torch.sum, v.double()), _over(op, torch.sum, uncertain), op.nominal
    )
