"""Problems for the tests of the float64 oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flexconf.oracles.evaluation import IndexingByTensors, over_indices

Mod = Callable[..., Tensor]
INF = math.inf


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(
    B: int = 1,
    H: int = 2,
    Hkv: int = 1,
    M: int = 70,
    N: int = 90,
    D: int = 32,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B + 10 * H + 100 * M + N)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return draw(B, H, M, D), draw(B, Hkv, N, D), draw(B, Hkv, N, D)


def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return q >= kv


def attended(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in float32 and the keys' mask applied; and V, heads repeated."""
    groups = q.shape[1] // k.shape[1]
    score = (q.float() @ k.repeat_interleave(groups, 1).float().transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]))
    if score_mod is not None:
        indices = [torch.arange(n, dtype=torch.int32) for n in score.shape]
        with IndexingByTensors():
            score = over_indices(score_mod, "score")(score, *indices).float()
    if mask is not None:
        score = torch.where(mask, score, -INF)
    return score, v.repeat_interleave(groups, 1).float()


def in_float32(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Mod | None = None,
    mask: Tensor | None = None,
    spoil: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What a plain kernel does: float32 scores, probabilities rounded to the dtype of V, natural LSE."""
    score, values = attended(q, k, v, score_mod, mask)
    top = score.amax(-1, keepdim=True)
    empty = top == -INF
    p = torch.exp(score - torch.where(empty, 0.0, top))
    total = p.sum(-1, keepdim=True)
    rounded = p.to(v.dtype)
    if spoil is not None:
        rounded = spoil(rounded)
    out = rounded.float() @ values / torch.where(empty, 1.0, total)
    return out.to(q.dtype), torch.where(empty, -INF, top + torch.log(total)).squeeze(-1)
