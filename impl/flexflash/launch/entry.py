"""The part that the launchers share: block lists, vector width and tensors of the entry that a rendered text calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import cutlass.cute as cute
import torch
from cutlass.cute.runtime import from_dlpack

from ..errors import InputError

VECTOR_WIDTHS: Final = (1, 2, 4, 8)


class BlockSparseTensors(NamedTuple):
    """The block lists in flash-attn-4's order: partial blocks first, then full ones.

    The counts are (B or 1, H or 1, rows), the indices (B or 1, H or 1, rows, blocks), int32. `block_size` is (q, kv).
    """

    mask_block_cnt: torch.Tensor
    mask_block_idx: torch.Tensor
    full_block_cnt: torch.Tensor
    full_block_idx: torch.Tensor
    block_size: tuple[int, int]

    def per_head(self, batch: int, heads: int) -> list[torch.Tensor]:
        """The four lists, broadcast to (B, H, rows) and (B, H, rows, blocks), as int32."""
        return [t.expand(batch, heads, *t.shape[2:]).to(torch.int32) for t in self[:4]]


class TakesBlockLists:
    """A launcher that reads the block lists as they are."""

    def block_sparse_tensors(
        self,
        mask_block_cnt: torch.Tensor,
        mask_block_idx: torch.Tensor,
        full_block_cnt: torch.Tensor,
        full_block_idx: torch.Tensor,
        block_size: tuple[int, int],
    ) -> BlockSparseTensors:
        """The block lists in the form that `forward` takes; shapes as in `BlockSparseTensors`."""
        return BlockSparseTensors(mask_block_cnt, mask_block_idx, full_block_cnt, full_block_idx, block_size)


def check_width(width: int | None) -> None:
    """Raises InputError unless `width`, the number of keys that a mod sees at once, is in `VECTOR_WIDTHS` or None."""
    if width is not None and width not in VECTOR_WIDTHS:
        raise InputError(f"vector width must be 1, 2, 4 or 8, not {width}")


def width_for(chosen: int | None, score_mod: Any, captures: Sequence[torch.Tensor]) -> int:
    """The vector width: `chosen`, else the mod's own `__vec_size__`, else flash-attn-4's choice (L6.5).

    flash-attn-4 chooses 2 without captures and 1 with captures.
    """
    return chosen or getattr(score_mod, "__vec_size__", None) or (1 if captures else 2)


def cute_tensor(tensor: torch.Tensor) -> cute.Tensor:
    """The tensor for CuTe, detached from autograd. It keeps its strides, 0 for an expanded dimension."""
    return from_dlpack(tensor.detach())
