"""Guarded outputs: they detect writes of a launch outside its output and LSE (L9.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GUARD = 4096
_PATTERN = 0x5A


@dataclass(frozen=True)
class Canary:
    """A tensor in the middle of a larger storage. All other bytes of the storage hold a pattern."""

    tensor: Tensor
    storage: Tensor

    @classmethod
    def around(cls, size: Sequence[int], stride: Sequence[int], fill: float, like: Tensor, pad: int = 0) -> Canary:
        """A guarded tensor of `size` and `stride` (in elements), filled with `fill`.

        It has the dtype of `like` and is on the same device. `pad` elements lie between two rows: the stride of every
        dimension except the innermost one grows in proportion, so the order of the strides is kept. The guards before
        and after the tensor have 4096 bytes each.
        """
        strides = _padded(size, stride, pad)
        extent = 1 + sum((n - 1) * s for n, s in zip(size, strides, strict=True)) if 0 not in size else 0
        guard = _GUARD // like.element_size()
        bytes_ = (extent + 2 * guard) * like.element_size()
        storage = torch.full((bytes_,), _PATTERN, dtype=torch.uint8, device=like.device)
        tensor = storage.view(like.dtype).as_strided(tuple(size), strides, guard)
        tensor.fill_(fill)
        return cls(tensor, storage)

    def intact(self) -> bool:
        """Whether all bytes outside the tensor still hold the pattern. Waits for the device."""
        touched = self.storage.clone()
        view = touched.view(self.tensor.dtype)
        view.as_strided(self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()).view(
            self.tensor.dtype
        ).copy_(_pattern(self.tensor))
        return bool((touched == _PATTERN).all())


def _pattern(like: Tensor) -> Tensor:
    single = torch.full((like.element_size(),), _PATTERN, dtype=torch.uint8, device=like.device)
    return single.view(like.dtype)[0]


def _padded(size: Sequence[int], stride: Sequence[int], pad: int) -> tuple[int, ...]:
    if not pad:
        return tuple(stride)
    inner = min((s for n, s in zip(size, stride, strict=True) if n > 1), default=1)
    row = min((s for n, s in zip(size, stride, strict=True) if n > 1 and s > inner), default=0)
    if not row:
        return tuple(stride)
    return tuple(s if s < row else s // row * (row + pad) for s in stride)
