"""Calls mods on a CPU in the way that flash-attn-4 calls them on Blackwell (SM100).

There, score_mod and mask_mod each have a vector width of their own. A mask_mod of several keys returns its answers as
bits: one Uint32 for every 32 keys, the lowest bit for the first key. Read in flash-attn-4 4.0.0b36.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from torch import Tensor

from flexconf.subjects.trial import Refused
from flexflash.launch.entry import cute_tensor, width_for
from flexflash.launch.host import HostLauncher, Mod, Tiles

MAX_WIDTH = 128
"""The keys of a tile of flash-attn-4's SM100 kernel: no mod sees more keys at once."""


def shl_u32(value: Any, shift: Any) -> Any:
    """`value` << `shift`, both Uint32; 0 for a shift of 32 or more, as the instruction shl.b32 of a GPU gives it."""
    return cutlass.Uint32(cutlass.Uint64(value) << cutlass.Uint64(cutlass.min(cutlass.Uint32(shift), 32)))


def shr_u32(value: Any, shift: Any) -> Any:
    """`value` >> `shift`, both Uint32; 0 for a shift of 32 or more, as the instruction shr.u32 of a GPU gives it."""
    return cutlass.Uint32(cutlass.Uint64(value) >> cutlass.Uint64(cutlass.min(cutlass.Uint32(shift), 32)))


UTILS = {"shl_u32": shl_u32, "shr_u32": shr_u32}
"""The functions of `flash_attn.cute.utils` that generated code calls."""


@dataclass
class BlackwellLauncher(HostLauncher):
    """Runs kernels on the CPU, and calls the mods as flash-attn-4 does on SM100. It takes no `vector_width`.

    The widths are the mods' own `__vec_size__`. Without it, a score_mod sees 2 keys, or 1 if there are captures, and a
    mask_mod sees 1 key and returns a number that is not 0 for a key that is kept.
    """

    def modify(
        self,
        scores: Tensor,
        columns: int,
        score_mod: Mod | None,
        mask_mod: Mod | None,
        tiles: Tiles,
        width: int,
        captures: Sequence[Tensor],
    ) -> None:
        """Apply the mods to `scores` (B, H, M, N), float32, in place, as in `HostLauncher`; `width` is not used.

        Raises Refused for a width that flash-attn-4 does not take.
        """
        self.on_stage("compile")
        widths = (width_for(None, score_mod, captures), getattr(mask_mod, "__vec_size__", 1))
        for each in widths:
            check_width(each)
        # CuTe refuses an empty list of tensors.
        auxiliary = [cute_tensor(t) for t in captures] or [cute_tensor(scores)]
        operands = (cute_tensor(scores), auxiliary, cute_tensor(tiles.work(columns)))
        compiled = cute.compile(_modify, score_mod, mask_mod, widths, (columns, *tiles.block_size), *operands)
        self.on_stage("launch")
        compiled(*operands)


def check_width(width: int) -> None:
    """Raises Refused unless flash-attn-4 takes mods of `width` keys at once."""
    if not 1 <= width <= MAX_WIDTH or width & (width - 1):
        raise Refused("compile", f"a mod of {width} keys at once: flash-attn-4 takes powers of two up to {MAX_WIDTH}")


# CuTe warns of static loops of more than 32 rounds, so the lanes are in two loops.


@cute.jit
def _modify(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    widths: cutlass.Constexpr,
    sizes: cutlass.Constexpr,
    scores: cute.Tensor,
    captures: list[cute.Tensor],
    work: cute.Tensor,
) -> None:
    """Apply the mods to the blocks of `work` (blocks, 5): b, h, row of blocks, block of keys, masked."""
    columns, height, breadth = sizes
    for n in cutlass.range(work.shape[0], unroll=1):
        b, h, row, block, masked = work[n, 0], work[n, 1], work[n, 2], work[n, 3], work[n, 4] != 0
        first = block * breadth
        last = min(first + breadth, columns) - 1
        for m in cutlass.range(row * height, min((row + 1) * height, scores.shape[2]), unroll=1):
            keys = scores[b, h, m, None]
            if cutlass.const_expr(score_mod is not None):
                _score_row(score_mod, widths[0], columns, keys, captures, b, h, m, first, last)
            if cutlass.const_expr(mask_mod is not None):  # noqa: SIM102 -- one is the compiler's
                if masked:
                    _mask_row(mask_mod, widths[1], columns, keys, captures, b, h, m, first, last)


@cute.jit
def _score_row(
    score_mod: cutlass.Constexpr,
    width: cutlass.Constexpr,
    columns: cutlass.Constexpr,
    keys: cute.Tensor,
    captures: list[cute.Tensor],
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
    first: cutlass.Int32,
    last: cutlass.Int32,
) -> None:
    # Vector loads of a mod need groups that begin at a multiple of the width, as the groups of flash-attn-4's tiles do.
    for n in cutlass.range(first // width * width, last + 1, width, unroll=1):
        score = cute.make_rmem_tensor(width, cutlass.Float32)
        for word in cutlass.range_constexpr(0, width, 32):
            for lane in cutlass.range_constexpr(word, min(word + 32, width)):
                # Lanes outside the block see the score of a key of the block. So no mod reads outside its captures,
                # even if it computes an index from the score.
                score[lane] = keys[min(max(n + lane, first), last)]
        score.store(score_mod(score.load(), *_indices(b, h, m, n, columns, width), None, captures))
        for word in cutlass.range_constexpr(0, width, 32):
            for lane in cutlass.range_constexpr(word, min(word + 32, width)):
                place = min(max(n + lane, first), last)
                keys[place] = score[lane] if place == n + lane else keys[place]


@cute.jit
def _mask_row(
    mask_mod: cutlass.Constexpr,
    width: cutlass.Constexpr,
    columns: cutlass.Constexpr,
    keys: cute.Tensor,
    captures: list[cute.Tensor],
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
    first: cutlass.Int32,
    last: cutlass.Int32,
) -> None:
    for n in cutlass.range(first // width * width, last + 1, width, unroll=1):
        kept = mask_mod(*_indices(b, h, m, n, columns, width), None, captures)
        for word in cutlass.range_constexpr(0, width, 32):
            for lane in cutlass.range_constexpr(word, min(word + 32, width)):
                place = min(max(n + lane, first), last)
                if cutlass.const_expr(width == 1):
                    keep = cutlass.Boolean(kept[0])
                else:
                    keep = (kept[word // 32] >> cutlass.Uint32(lane - word)) & cutlass.Uint32(1) != cutlass.Uint32(0)
                # The bits of lanes outside the block say nothing.
                keys[place] = keys[place] if place != n + lane or keep else -cutlass.Float32.inf


@cute.jit
def _indices(
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
    n: cutlass.Int32,
    columns: cutlass.Constexpr,
    width: cutlass.Constexpr,
) -> tuple[cute.TensorSSA, cute.TensorSSA, cute.TensorSSA, cute.TensorSSA]:
    """The batch, the head, the query and the keys of `width` lanes from key `n` on.

    Lanes past the last key of the problem see that key.
    """
    kv_idx = cute.make_rmem_tensor(width, cutlass.Int32)
    for word in cutlass.range_constexpr(0, width, 32):
        for lane in cutlass.range_constexpr(word, min(word + 32, width)):
            kv_idx[lane] = min(n + lane, columns - 1)
    return (
        cute.full(width, b, cutlass.Int32),
        cute.full(width, h, cutlass.Int32),
        cute.full(width, m, cutlass.Int32),
        kv_idx.load(),
    )
