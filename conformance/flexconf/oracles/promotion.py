"""Restores PyTorch's type promotion of scalars where vmap changes it (L7.2).

A mod's arguments are scalars. Under vmap, the operations beneath see them as tensors with dimensions, but a captured
scalar tensor has none. In torch 2.13 this difference decides the dtype of where, clamp, lerp, addcmul and addcdiv:
`clamp(q, max=t)` of an int32 and an int64 is int64 for two tensors without dimensions, but int32 under vmap. And under
vmap, torch casts a Python number to the dtype of an integer tensor before a true division: `q / 2**31` is negative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

_TRUE_DIVISIONS = frozenset(
    [
        torch.div,
        torch.divide,
        torch.true_divide,
        Tensor.div,
        Tensor.divide,
        Tensor.true_divide,
        Tensor.__truediv__,
        Tensor.__rtruediv__,
    ]
)
_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip
# A table, since a dispatch mode would see calls of torch.promote_types.
_PROMOTED = {(a, b): torch.promote_types(a, b) for a in _DTYPES for b in _DTYPES}


class PlainPromotion(TorchFunctionMode):
    """Gives vmap's dimensions to a tensor without dimensions wherever it meets a tensor that vmap maps.

    It also keeps the value of a Python number in a true division.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mapped: Any = WeakTensorKeyDictionary()
        self._nowhere: Tensor | None = None

    def watching(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `fn`, whose arguments are tensors that vmap maps. The last argument must be an integer tensor."""

        def watched(*arguments: Tensor) -> Any:
            for argument in arguments:
                self._mapped[argument] = True
            self._nowhere = arguments[-1] * 0
            return fn(*arguments)

        return watched

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        mapped = any(t in self._mapped for t in tensors)
        if mapped and len(tensors) > 1 and func is not Tensor.__getitem__:
            args = [self._map(a) for a in args]
            kwargs = {name: self._map(a) for name, a in kwargs.items()}
        if func in (torch.lerp, Tensor.lerp):
            args = _common(args)
        if func in _TRUE_DIVISIONS and kwargs.get("rounding_mode") is None:
            args = [_kept(a, tensors) for a in args]
        result = func(*args, **kwargs)
        index = args[1] if func is Tensor.__getitem__ else ()
        mapped = mapped or any(t in self._mapped for t in _leaves(index))
        if mapped and isinstance(result, Tensor):
            self._mapped[result] = True
        return result

    def _map(self, argument: Any) -> Any:
        if not isinstance(argument, Tensor) or argument in self._mapped or argument.dim() != 0:
            return argument
        return torch.ops.aten.index.Tensor(argument.reshape(1), [self._nowhere])


def _leaves(index: Any) -> list[Tensor]:
    leaves = index if isinstance(index, (tuple, list)) else [index]
    return [i for i in leaves if isinstance(i, Tensor)]


def _common(args: Sequence[Any]) -> list[Any]:
    """Casts the tensors to their common dtype: with dimensions, lerp rejects a weight of another dtype."""
    dtypes = [a.dtype for a in args if isinstance(a, Tensor)]
    common = functools.reduce(lambda a, b: _PROMOTED[a, b], dtypes)
    return [a.to(common) if isinstance(a, Tensor) else a for a in args]


def _kept(number: Any, tensors: Sequence[Tensor]) -> Any:
    """A Python int as a float if it meets integer tensors and the dtype of one cannot hold it; else unchanged."""
    if type(number) is not int or any(t.dtype.is_floating_point or t.dtype == torch.bool for t in tensors):
        return number
    inside = all(torch.iinfo(t.dtype).min <= number <= torch.iinfo(t.dtype).max for t in tensors)
    return number if inside else float(number)
