"""The attention problems that are measured: their sizes, their mods, and how much of the work is useful."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.bench import mods
from flexconf.bench.mods import MaskMod, ScoreMod
from flexconf.errors import InputError

_QUICK = 2048
_DOCUMENT_ENDS = (0.043, 0.131, 0.228, 0.389, 0.466, 0.703, 0.942, 1.0)
_SEED = 20


@dataclass(frozen=True)
class Workload:
    """Attention over q (B, H, M, D), k and v (B, Hkv, N, D).

    `score` and `mask` name mods of `flexconf.bench.mods`. `own` are the arguments of flash-attn-4 for the same
    attention, `sdpa` those of torch's scaled_dot_product_attention. Either is None if that function cannot compute the
    attention. `only` restricts the providers.
    """

    name: str
    about: str
    B: int = 4
    H: int = 16
    Hkv: int = 16
    M: int = 8192
    N: int = 8192
    D: int = 128
    dtype: str = "bfloat16"
    score: str | None = None
    mask: str | None = None
    own: Mapping[str, Any] | None = field(default_factory=dict)
    sdpa: Mapping[str, Any] | None = field(default_factory=dict)
    only: tuple[str, ...] = ()

    @property
    def shape(self) -> str:
        """The sizes and the dtype in one line."""
        heads = f"H{self.H}" if self.Hkv == self.H else f"H{self.H} Hkv{self.Hkv}"
        length = f"S{self.M}" if self.M == self.N else f"M{self.M} N{self.N}"
        return f"B{self.B} {heads} {length} D{self.D} {self.dtype}"

    def flops(self, pairs: int) -> int:
        """Useful operations of Q K^T and P V. `pairs` counts the (q, kv) pairs of one head that are attended."""
        return 4 * self.D * pairs * self.B * self.H

    def least_bytes(self) -> int:
        """The bytes of q, k, v and the output, each moved once, in a dtype of 2 bytes."""
        return 2 * self.D * self.B * (2 * self.H * self.M + 2 * self.Hkv * self.N)

    def quick(self) -> Workload:
        """The same workload with lengths of at most 2048."""
        return dataclasses.replace(self, M=min(self.M, _QUICK), N=min(self.N, _QUICK))


WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Workload("none", "no mods"),
        Workload("causal", "causal", mask="causal", own={"causal": True}, sdpa={"is_causal": True}),
        Workload("alibi", "ALiBi, captured float32 slopes", score="alibi", own=None, sdpa=None),
        Workload("softcap", "20 tanh(score / 20)", score="softcap", own={"softcap": mods.SOFTCAP}, sdpa=None),
        Workload(
            "sliding_window",
            "causal, 1024 keys back",
            mask="sliding_window",
            own={"window_size": (mods.WINDOW, 0)},
            sdpa=None,
        ),
        Workload("document", "causal in 8 packed documents, captured int32 ids", mask="document", own=None, sdpa=None),
        Workload("decode", "one query a sequence, 4 query heads to a key/value head", B=16, H=32, Hkv=8, M=1),
        Workload(
            "short", "causal, short", M=512, N=512, D=64, mask="causal", own={"causal": True}, sdpa={"is_causal": True}
        ),
        Workload(
            "simt",
            "causal, one thread a row",
            B=2,
            H=8,
            Hkv=8,
            M=1024,
            N=1024,
            mask="causal",
            only=("reference", "simt"),
        ),
    )
}


def select(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names, or all if `names` is empty. Raises InputError for an unknown name."""
    for name in names:
        if name not in WORKLOADS:
            close = difflib.get_close_matches(name, WORKLOADS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(WORKLOADS)}"
            raise InputError(f"no workload is called {name!r}; {hint}")
    return [w for name, w in WORKLOADS.items() if not names or name in names]


@dataclass(frozen=True)
class Built:
    """The tensors and mods of a workload on a device.

    `exact_score_mod` is the score_mod with its captures in float64. `pairs` counts the (q, kv) pairs of one head that
    the mask leaves.
    """

    workload: Workload
    q: Tensor
    k: Tensor
    v: Tensor
    score_mod: ScoreMod | None
    mask_mod: MaskMod | None
    exact_score_mod: ScoreMod | None
    block_mask: BlockMask | None
    pairs: int

    @property
    def scale(self) -> float:
        """The factor on Q K^T."""
        return 1.0 / math.sqrt(self.workload.D)


def build(workload: Workload, device: str | torch.device, block: tuple[int, int] = (128, 128)) -> Built:
    """Standard normal q, k and v, contiguous, and the mods. `block` is the BlockMask's block size (queries, keys)."""
    w = workload
    generator = torch.Generator(device).manual_seed(_SEED)
    dtype: torch.dtype = getattr(torch, w.dtype)

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(w.B, heads, length, w.D, generator=generator, device=device, dtype=dtype)

    q, k, v = draw(w.H, w.M), draw(w.Hkv, w.N), draw(w.Hkv, w.N)
    score, exact = _score_mods(w, device)
    mask = _mask_mod(w, device)
    blocks = None
    if mask is not None:
        blocks = create_block_mask(mask, None, None, w.M, w.N, device=str(device), BLOCK_SIZE=block)
    return Built(w, q, k, v, score, mask, exact, blocks, attended(mask, w.M, w.N, device))


def attended(mask: MaskMod | None, M: int, N: int, device: str | torch.device, rows: int = 1024) -> int:
    """How many of the M x N (q, kv) pairs `mask` leaves. It is evaluated for `rows` queries at a time."""
    if mask is None:
        return M * N
    zero = torch.zeros((), dtype=torch.int64, device=device)
    keys = torch.arange(N, device=device)
    total = 0
    for first in range(0, M, rows):
        queries = torch.arange(first, min(first + rows, M), device=device)
        total += int(mask(zero, zero, queries[:, None], keys[None, :]).sum())
    return total


def documents(length: int, device: str | torch.device) -> Tensor:
    """The document of each position, int32: 8 documents of uneven length, whose ends are not at tile boundaries."""
    bounds = [0, *(round(end * length) for end in _DOCUMENT_ENDS)]
    ids = [torch.full((end - start,), n, dtype=torch.int32) for n, (start, end) in enumerate(pairwise(bounds))]
    return torch.cat(ids).to(device)


def _score_mods(w: Workload, device: str | torch.device) -> tuple[ScoreMod | None, ScoreMod | None]:
    match w.score:
        case None:
            return None, None
        case "softcap":
            return mods.softcap, mods.softcap
        case "alibi":
            slopes = torch.exp2(-8.0 * torch.arange(1, w.H + 1, device=device, dtype=torch.float32) / w.H)
            return mods.alibi(slopes), mods.alibi(slopes.double())
    raise InputError(f"workload {w.name!r}: there is no score_mod {w.score!r}")


def _mask_mod(w: Workload, device: str | torch.device) -> MaskMod | None:
    match w.mask:
        case None:
            return None
        case "causal":
            return mods.causal
        case "sliding_window":
            return mods.sliding_window
        case "document":
            return mods.document(documents(w.N, device))
    raise InputError(f"workload {w.name!r}: there is no mask_mod {w.mask!r}")
