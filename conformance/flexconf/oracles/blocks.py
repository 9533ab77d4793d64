"""Reads the lists of a BlockMask: which blocks are visited, and which of them call mask_mod (L8.4).

It uses none of PyTorch's own code for block masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class BlockListError(Exception):
    """The block lists do not fit the problem, or they name a block twice or a negative block."""


@dataclass(frozen=True)
class Visits:
    """The elements of a problem that the block lists visit.

    `full` and `partial` are bool, (B or 1, H or 1, M, N). `full` marks the elements of full blocks, which mask_mod does
    not mask. `partial` marks the elements of partial blocks, which mask_mod masks. An element in neither is absent: its
    key and value are not read.
    """

    full: Tensor
    partial: Tensor


def visits(block_mask: Any, B: int, H: int, M: int, N: int) -> Visits:
    """Expands the lists of `block_mask` to the elements of a problem.

    block_mask: PyTorch's BlockMask. It has kv_num_blocks (b, h, rows), kv_indices (b, h, rows, columns), the same lists
    for full blocks (or None), and BLOCK_SIZE (q, kv). b is 1 or B, and h is 1 or H. M and N need not be multiples of
    the block size. Raises BlockListError if the lists are for another problem, name a block twice or name a negative
    block.
    """
    q_size, kv_size = block_mask.BLOCK_SIZE
    rows, columns = -(-M // q_size), -(-N // kv_size)
    partial = _listed(block_mask.kv_num_blocks, block_mask.kv_indices, B, H, rows, columns)
    full = torch.zeros_like(partial[:1, :1])
    if block_mask.full_kv_num_blocks is not None:
        full = _listed(block_mask.full_kv_num_blocks, block_mask.full_kv_indices, B, H, rows, columns)
    if bool((partial & full).any()):
        raise BlockListError("a block is listed both as full and as partial; it would be attended twice")

    def spread(blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(q_size, -2)[..., :M, :].repeat_interleave(kv_size, -1)[..., :N]

    return Visits(spread(full), spread(partial))


def _listed(counts: Tensor, indices: Tensor, B: int, H: int, rows: int, columns: int) -> Tensor:
    b, h, listed_rows = counts.shape
    if b not in (1, B) or h not in (1, H) or listed_rows < rows:
        raise BlockListError(
            f"block lists for (B, H, rows) = {(b, h, listed_rows)} do not fit a problem of {(B, H, rows)}"
        )
    listed = torch.arange(indices.shape[-1]) < counts.unsqueeze(-1)
    at = torch.where(listed, indices, 0).long()
    if indices.numel() and bool((at < 0).any()):
        raise BlockListError("a block list names a negative block")
    times = torch.zeros(b, h, listed_rows, max(columns, int(at.max()) + 1 if at.numel() else 0), dtype=torch.int64)
    times.scatter_add_(-1, at, listed.long())
    if bool((times > 1).any()):
        raise BlockListError("a block is listed twice in one row; it would be attended twice")
    return times[:, :, :rows, :columns] > 0
