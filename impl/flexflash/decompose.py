"""Operations that are written as others: PyTorch's own public decompositions, in the place of a spelling (L7.6).

An operation of this kind reaches the graph as its pieces, each of which has a spelling and an error of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.node import map_aggregate

from . import ops


@functools.cache
def _table() -> dict[Any, Callable[..., Any]]:
    return dict(torch.export.default_decompositions().items())  # type: ignore[no-untyped-call]


def lookup(target: Any) -> Callable[..., Any] | None:
    """What computes the overload `target` from other operations; None where it has a spelling or is not pointwise."""
    if ops.lookup(target) is not None:
        return None
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ()) or target in _POINTWISE
    return _table().get(target) if pointwise else None


_POINTWISE = frozenset([torch.ops.aten.hardswish.default, torch.ops.aten._prelu_kernel.default])
"""Those that PyTorch 2.13 does not say it of."""


def refused(target: Any, args: Any, kwargs: Any) -> str | None:
    """Why PyTorch does not have `target` on arguments like these, in its words; None where it has.

    Decomposed, the operation would be computed on dtypes and numbers that PyTorch itself refuses.
    """

    def ones(argument: Any) -> Any:
        return torch.ones((), dtype=argument.dtype) if isinstance(argument, torch.Tensor) else argument

    with torch._C._DisableTorchDispatch():
        try:
            target(*map_aggregate(args, ones), **map_aggregate(kwargs, ones))
        except Exception as error:  # PyTorch's own refusals have no common base
            return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


_aten = torch.ops.aten
_TRUNCATED = frozenset([_aten.threshold.default, _aten.addcmul.default])


def prepared(target: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments as the decomposition has to be given them: PyTorch's kernels cast these numbers to integers."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if target not in _TRUNCATED or any(t.dtype.is_floating_point for t in tensors):
        return args, kwargs

    def truncated(argument: Any) -> Any:
        return int(argument) if isinstance(argument, float) else argument

    return tuple(map(truncated, args)), {k: truncated(a) for k, a in kwargs.items()}


def as_aten(target: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """A call of one of the two primitives that decompositions are made of besides ATen's operations, as ATen's."""
    if target is torch.ops.prims.convert_element_type.default:
        return torch.ops.aten._to_copy.default, args[:1], {"dtype": args[1]}
    if target is torch.ops.prims.scalar_tensor.default:
        return torch.ops.aten.scalar_tensor.default, args, {"dtype": kwargs["dtype"]}
    return target, args, kwargs
