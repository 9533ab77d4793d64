"""One call of an ATen operation, as the rules see it, and helper functions that several rules share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexconf.oracles.shadow import Shadow, as_float, doubt, rounded, scalar

aten = torch.ops.aten
INF = math.inf
LN2 = math.log(2.0)
WIDEST_GATHER = 4
"""If an uncertain index may be off by at most this much, `gather` reads every candidate. Beyond it, the result is
indeterminate."""


class UnmodelledOperation(Exception):
    """The mod uses an operation that has no error model. The oracle does not guess one."""


@dataclass(frozen=True)
class Call:
    """One call of an ATen overload.

    `args` are its arguments by schema name, with shadows in the place of tensors. `real` is its result. `fast_math`:
    an implementation may use approximate instructions for it.
    """

    func: Any
    name: str
    args: Mapping[str, Any]
    real: Tensor
    fast_math: bool = False

    @property
    def nominal(self) -> torch.dtype:
        return self.real.dtype

    @property
    def approximate(self) -> bool:
        """Whether fast_math changes the error model of this operation. It never does for float64."""
        return self.fast_math and self.name in em.FAST and self.nominal != torch.float64

    @property
    def model(self) -> em.OpModel:
        return em.FAST[self.name] if self.approximate else em.OPS[self.name]

    @property
    def shadows(self) -> list[Shadow]:
        found: list[Shadow] = []
        for a in self.args.values():
            if isinstance(a, Shadow):
                found.append(a)
            elif isinstance(a, (list, tuple)):
                found.extend(x for x in a if isinstance(x, Shadow))
        return found

    def operand(self, name: str, nominal: torch.dtype | None = None) -> Shadow:
        """The argument `name`, a tensor or a Python number, as a float shadow of dtype `nominal`.

        `nominal` is by default the dtype of the result.
        """
        return self.converted(self.args[name], self.nominal if nominal is None else nominal)

    @staticmethod
    def converted(a: Any, nominal: torch.dtype) -> Shadow:
        return as_float(a, nominal) if isinstance(a, Shadow) else scalar(a, nominal)

    def on(operation, /, **values: Any) -> Tensor:  # noqa: N805  # `self` is an argument of aten operations
        """The result of the same ATen operation on other values. An argument that is not named keeps its value."""
        given: dict[str, Any] = {}
        for name, argument in operation.args.items():
            value = values.get(name, argument)
            # The overload takes a Python number here, and no tensor.
            number = isinstance(value, Tensor) and not isinstance(argument, Shadow)
            given[name] = value.item() if number else bare(value)
        result: Tensor = call(operation.func, given)
        return result


def bare(a: Any) -> Any:
    if isinstance(a, Shadow):
        return a.v
    if isinstance(a, (list, tuple)):
        return type(a)(bare(x) for x in a)
    return a


def call(func: Any, given: Mapping[str, Any]) -> Any:
    positional, named = [], {}
    for argument in func._schema.arguments:
        if argument.name in given:
            if argument.kwarg_only:
                named[argument.name] = given[argument.name]
            else:
                positional.append(given[argument.name])
    return func(*positional, **named)


def plus(*errors: Tensor | None) -> Tensor | None:
    total: Tensor | None = None
    for e in errors:
        if e is not None:
            total = e if total is None else total + e
    return total


def times(factor: Tensor, e: Tensor | None) -> Tensor | None:
    if e is None:
        return None
    return factor.abs().mul_(e) if e.shape == factor.shape else factor.abs() * e


def straddles_zero(x: Shadow) -> Tensor:
    return torch.zeros((), dtype=torch.bool) if x.e is None else (x.e > 0) & (x.v.abs() <= x.e)


def spread(v: Tensor, *others: Tensor) -> Tensor:
    """The largest distance of `others` from `v`, element by element.

    The distance of equal infinities and of two NaNs is 0. The distance of a NaN from anything else is inf.
    """
    result = torch.zeros_like(v)
    for other in others:
        d = (v - other).abs_()
        if bool(d.isnan().any()):
            same = (v == other) | (v.isnan() & other.isnan())
            d = torch.where(d.isnan(), torch.where(same, 0.0, INF).double(), d)
        result = torch.maximum(result, d)
    return result.mul_(em.ORACLE_SLACK)


def finish(op: Call, v: Tensor, e: Tensor | None, *inputs: Shadow, **more: Any) -> Shadow:
    more.setdefault("ulps", op.model.ulps)
    return rounded(v, e, op.nominal, inputs, **more)


def exactly(result: Shadow, where: Tensor, source: Shadow) -> Shadow:
    """`result`, with the error of `source` where `where` is true: there it is `source` itself, without rounding."""
    if not bool(where.any()):
        return result
    return replace(result, e=torch.where(where, source.error(), result.error()), mixed=True)


def exact_op(op: Call, v: Tensor, e: Tensor | None, *inputs: Shadow) -> Shadow:
    """The result of an operation that selects or moves values and never rounds."""
    if e is None:
        return Shadow(v, None, op.nominal)
    wild = any(x.wild for x in inputs)
    if wild:
        for x in inputs:
            e = torch.where(doubt(x.e), INF, e)
    if bool(e.isinf().any()) or bool(e.isnan().any()):
        e, wild = e.nan_to_num(nan=INF, posinf=INF), True
    return Shadow(v, e, op.nominal, mixed=True, wild=wild)


def truth(a: Any, nominal: torch.dtype | None = None) -> Shadow:
    """A tensor or number of any dtype as a boolean shadow: whether it is not equal to zero."""
    if not isinstance(a, Shadow):
        return Shadow(torch.tensor(bool(a)), None, torch.bool)
    if a.nominal == torch.bool:
        return a
    v = a.v != 0
    if a.e is None:
        return Shadow(v, None, torch.bool)
    unsure = (a.e > 0) & (a.v.double().abs() <= a.e)
    return Shadow(v, unsure if bool(unsure.any()) else None, torch.bool)


def unsure(a: Shadow) -> Tensor:
    return torch.zeros((), dtype=torch.bool) if a.e is None else a.e.bool()
