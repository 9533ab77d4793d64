"""Mods that are rendered, and evaluated on the CPU alone, for tests of L7."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexflash import lower
from flexflash.launch.host import HostLauncher
from plain import grid, qkv

B, H, M, N = 2, 4, 9, 13
Q, K, V = qkv(B, H, 2, M, N, 16)
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def evaluate_mod(mod: Mod, scores: Tensor | None = None, width: int = 4) -> Tensor:
    scores = torch.zeros(B, H, M, N) if scores is None else scores
    return HostLauncher(width).evaluate(lower(Q, K, V, mod), scores)


def expected_of(mod: Mod, scores: Tensor | None = None) -> Tensor:
    """The mod on broadcast index tensors (right for pointwise mods): PyTorch's own values."""
    scores = torch.zeros(B, H, M, N) if scores is None else scores
    return mod(scores, *(g.int() for g in grid(B, H, M, N))).float().expand(B, H, M, N)


DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
]  # fmt: skip


def table_of(dtype: torch.dtype, *size: int) -> Tensor:
    """Values that depend on dtype and size alone, so that a test does not depend on those before it."""
    generator = torch.Generator().manual_seed(sum(size) + 1000 * DTYPES.index(dtype))
    if dtype is torch.bool:
        return torch.rand(size, generator=generator) > 0.5
    if dtype.is_floating_point:
        return torch.randn(size, generator=generator).to(dtype)
    low, high = (0, 100) if dtype is torch.uint8 else (-100, 100)
    return torch.randint(low, high, size, generator=generator, dtype=dtype)


def both_of(mod: Mod, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return evaluate_mod(mod, scores), expected_of(mod, scores)
