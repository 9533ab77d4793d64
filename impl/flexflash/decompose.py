"""Operations without a spelling of their own: PyTorch's public decompositions replace them (L7.6).

The graph contains only the pieces of such an operation. Each piece has its own spelling and its own error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.node import map_aggregate

from . import ops
from .errors import said


@functools.cache
def _table() -> dict[Any, Callable[..., Any]]:
    return dict(torch.export.default_decompositions().items())  # type: ignore[no-untyped-call]


def lookup(target: Any) -> Callable[..., Any] | None:
    """PyTorch's function that computes the overload `target` from other operations.

    Returns None if `target` has a spelling, is not pointwise, or has no public decomposition.
    """
    if ops.lookup(target) is not None:
        return None
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ()) or target in _POINTWISE
    return _table().get(target) if pointwise else None


_POINTWISE = frozenset([torch.ops.aten.hardswish.default, torch.ops.aten._prelu_kernel.default])
"""Pointwise operations that PyTorch 2.13 does not tag as pointwise."""


def refused(target: Any, args: Any, kwargs: Any) -> str | None:
    """PyTorch's error message if it refuses `target` on arguments of these dtypes and numbers, else None.

    Without this check, the decomposition would compute on dtypes and numbers that PyTorch itself refuses.
    """

    def ones(argument: Any) -> Any:
        return torch.ones((), dtype=argument.dtype) if isinstance(argument, torch.Tensor) else argument

    with torch._C._DisableTorchDispatch():
        try:
            target(*map_aggregate(args, ones), **map_aggregate(kwargs, ones))
        except Exception as error:  # PyTorch's errors have no common base class
            return said(error)
    return None


_aten = torch.ops.aten
_TRUNCATED = frozenset([_aten.threshold.default, _aten.addcmul.default])


def prepared(target: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments that the decomposition of `target` needs.

    On integer tensors, PyTorch's kernels of threshold and addcmul cast float numbers to integers. The decompositions
    do not, so the numbers are cast here.
    """
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if target not in _TRUNCATED or any(t.dtype.is_floating_point for t in tensors):
        return args, kwargs

    def truncated(argument: Any) -> Any:
        return int(argument) if isinstance(argument, float) else argument

    return tuple(map(truncated, args)), {k: truncated(a) for k, a in kwargs.items()}


def as_aten(target: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The call as an ATen operation.

    Decompositions call two primitives besides ATen: `convert_element_type` and `scalar_tensor`. Any other call is
    returned unchanged.
    """
    if target is torch.ops.prims.convert_element_type.default:
        return torch.ops.aten._to_copy.default, args[:1], {"dtype": args[1]}
    if target is torch.ops.prims.scalar_tensor.default:
        return torch.ops.aten.scalar_tensor.default, args, {"dtype": kwargs["dtype"]}
    return target, args, kwargs
