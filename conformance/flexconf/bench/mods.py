"""The mods of the workloads, as a user writes them. Indices are scalars or broadcast; captures are in closures."""

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
    """Limit scores smoothly to (-20, 20), with tanh as in Gemma 2."""
    return SOFTCAP * torch.tanh(score / SOFTCAP)


def alibi(slopes: Tensor) -> ScoreMod:
    """A score_mod of attention with linear biases. `slopes` is (H,), float32, or float64 for the exact rows."""

    def alibi(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + slopes[h] * (kv - q)

    return alibi


def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Each query attends to its own position and to all before it."""
    return q >= kv


def sliding_window(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Each query attends to its own position and to the 1024 before it."""
    return (q >= kv) & (q - kv <= WINDOW)


def document(documents: Tensor) -> MaskMod:
    """A mask_mod that is causal within packed documents. `documents` (S,) int32 is the document of each position."""

    def document(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (documents[q] == documents[kv]) & (q >= kv)

    return document
