"""A third oracle: attention written out plainly in float64. It shares no code with math64 except torch.

It computes no bounds, and it rounds where PyTorch rounds: the operations of a mod run in the dtypes that PyTorch gives
them. So its results differ from the values of math64, but they must lie within the bounds of math64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score_mod: Callable[..., Tensor] | None = None,
    mask_mod: Callable[..., Tensor] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(output (B, H, M, Dv), natural LSE (B, H, M)) in float64. The arguments are those of `math64.attention`."""
    B, H, M, D = q.shape
    Hkv, N, Dv = k.shape[1], k.shape[2], v.shape[3]
    out = torch.zeros(B, H, M, Dv, dtype=torch.float64)
    lse = torch.full((B, H, M), -math.inf, dtype=torch.float64)
    if 0 in (B, H, M, N):
        return out, lse
    scale = 1 / math.sqrt(D) if scale is None else scale
    rows, columns = torch.arange(M, dtype=torch.int32), torch.arange(N, dtype=torch.int32)
    for b in range(B):
        for h in range(H):
            head = h // (H // Hkv)
            # The score that a mod sees is float32 (L7.1). A kernel rounds it too, so the bound allows for it.
            score = ((q[b, h].double() @ k[b, head].double().T) * scale).float()
            at = (torch.tensor(b, dtype=torch.int32), torch.tensor(h, dtype=torch.int32), rows, columns)
            if score_mod is not None:
                score = _over_keys_and_queries(score_mod, 1)(score, *at)
            keep = torch.ones(M, N, dtype=torch.bool)
            if mask_mod is not None:
                keep = _over_keys_and_queries(mask_mod, 0)(*at)
            attended, unmasked = _listed(block_mask, b, h, M, N)
            score = score.double().masked_fill(~(attended & (keep | unmasked)), -math.inf)
            some = (score != -math.inf).any(-1)
            out[b, h, some] = torch.softmax(score[some], -1) @ v[b, head].double()
            lse[b, h] = torch.logsumexp(score, -1)
    return out, lse


def _over_keys_and_queries(mod: Callable[..., Tensor], scores: int) -> Callable[..., Tensor]:
    """`mod` mapped over queries and keys with vmap. Broadcasting would promote to other dtypes in some operations."""
    over_keys = torch.vmap(mod, (*[0] * scores, None, None, None, 0))
    return torch.vmap(over_keys, (*[0] * scores, None, None, 0, None))


def _listed(block_mask: Any, b: int, h: int, M: int, N: int) -> tuple[Tensor, Tensor]:
    """(attended, attended without mask_mod), both bool (M, N), from the block lists, read one entry at a time."""
    attended, unmasked = (torch.zeros(M, N, dtype=torch.bool) for _ in range(2))
    if block_mask is None:
        return ~attended, unmasked
    height, width = block_mask.BLOCK_SIZE
    kinds = (
        (block_mask.kv_num_blocks, block_mask.kv_indices, False),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices, True),
    )
    for counts, indices, is_full in kinds:
        if counts is None:
            continue
        counts, indices = (t[min(b, t.shape[0] - 1), min(h, t.shape[1] - 1)] for t in (counts, indices))
        for row in range(counts.shape[0]):
            for column in indices[row, : int(counts[row])].tolist():
                block = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
                attended[block] = True
                if is_full:
                    unmasked[block] = True
    return attended, unmasked
