"""The block lists as a launcher of ours passes them on."""

from __future__ import annotations

from typing import NamedTuple

import torch


class BlockSparseTensors(NamedTuple):
    """The block lists in flash-attn-4's order: partial blocks first, then full ones.

    Counts (B or 1, H or 1, rows), indices (B or 1, H or 1, rows, blocks), int32; `block_size` is (q, kv).
    """

    mask_block_cnt: torch.Tensor
    mask_block_idx: torch.Tensor
    full_block_cnt: torch.Tensor
    full_block_idx: torch.Tensor
    block_size: tuple[int, int]
