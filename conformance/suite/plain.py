"""Attention in float64, written out plainly: what the clause tests compare with. Independent of every other oracle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(output (B, H, M, Dv), LSE (B, H, M)) in float64.

    `score_mod` takes broadcast tensors (score (B, H, M, N), b, h, q, kv); `keep` (B, H, M, N) bool removes elements.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = (t.double().repeat_interleave(group, dim=1) for t in (k, v))
    scores = q.double() @ keys.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if score_mod is not None:
        scores = score_mod(scores, *grid(*scores.shape))
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf"))
    empty = (scores == float("-inf")).all(dim=-1, keepdim=True)
    weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    return weights @ values, torch.logsumexp(scores, dim=-1)


def grid(batch: int, heads: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """b, h, q, kv as int tensors that broadcast to (B, H, M, N)."""
    return (
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(heads).view(-1, 1, 1),
        torch.arange(queries).view(-1, 1),
        torch.arange(keys),
    )


def qkv(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, dim: int = 32, value_dim: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Random bfloat16 tensors from a fixed seed."""
    generator = torch.Generator().manual_seed(hash((batch, heads, kv_heads, queries, keys, dim)) & 0xFFFF)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).bfloat16()

    return (
        normal(batch, heads, queries, dim),
        normal(batch, kv_heads, keys, dim),
        normal(batch, kv_heads, keys, value_dim or dim),
    )


def assert_close(observed: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """bfloat16's precision on the output, float32's on the LSE; NaN and infinities in the same places.

    These tests are about which element is read and which is left out; the certified comparison is `flexconf run`.
    """
    torch.testing.assert_close(observed[0].double(), expected[0], rtol=2**-7, atol=2**-7, equal_nan=True)
    torch.testing.assert_close(observed[1].double(), expected[1], rtol=1e-5, atol=1e-4, equal_nan=True)
