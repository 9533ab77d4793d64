"""The mods that are measured, as a user writes them. Indices are scalars or broadcast; captures are closed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

ScoreMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MaskMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

SOFTCAP = 20.0
WINDOW = 1024


def softcap(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Scores bent smoothly into (-20, 20), as in Gemma 2."""
    return SOFTCAP * torch.tanh(score / SOFTCAP)


def alibi(slopes: Tensor) -> ScoreMod:
    """Attention with linear biases; `slopes` (H,) float32."""

    def alibi(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + slopes[h] * (kv - q)

    return alibi


def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Every query sees itself and what is before it."""
    return q >= kv


def sliding_window(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Every query sees itself and the 1024 keys before it."""
    return (q >= kv) & (q - kv <= WINDOW)


def document(documents: Tensor) -> MaskMod:
    """Causal within each of the packed documents; `documents` (S,) int32 holds every position's document."""

    def document(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (documents[q] == documents[kv]) & (q >= kv)

    return document
