"""Faults of block lists: which blocks are walked, and which of them are masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from flexconf.cases.case import BlockSpec
from planted import corrections
from planted.fault import Fault
from planted.patching import Apply, arguments, attributes, rewritten
from planted.witness import mask, plain, problem

Lists = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

_LISTS = ("KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX")


def _lists(change: Callable[[Lists], Lists]) -> Apply:
    """Replace the lists that a kernel is given: counts and indices of partial blocks, then of full blocks."""

    def changed(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if _LISTS[0] not in named:
            return named
        a, b, c, d = (named[name] for name in _LISTS)
        return {**named, **dict(zip(_LISTS, change((a, b, c, d)), strict=True))}

    return arguments(changed)


def _longer(count: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.where((count > 0) & (count < index.shape[-1]), count + 1, count)


def _range(index: torch.Tensor) -> torch.Tensor:
    """Consecutive blocks from the first listed block on, clamped to the last block."""
    blocks = index.shape[-1]
    return (index[..., :1] + torch.arange(blocks, dtype=index.dtype)).clamp(max=blocks - 1)


def _block_function(*substitutions: tuple[str, str]) -> Apply:
    def changes() -> list[tuple[Any, str, Any]]:
        from flexflash.launch import host

        return [rewritten(host, "_modify_block", *substitutions)]

    return attributes(changes)


def _work(change: Callable[[torch.Tensor], torch.Tensor]) -> Apply:
    """Change `Tiles.work`, the blocks that the host launcher walks: b, h, row of blocks, block of keys, masked."""

    def changes() -> list[tuple[Any, str, Any]]:
        from flexflash.launch import host

        true = host.Tiles.work
        return [(host.Tiles, "work", lambda tiles, columns: change(true(tiles, columns)))]

    return attributes(changes)


def _unmasked_beside_full_ones(work: torch.Tensor) -> torch.Tensor:
    rows, masked = work[:, :3], work[:, 4:]
    full = rows[masked[:, 0] == 0]
    beside = (rows.unsqueeze(1) == full).all(dim=2).any(dim=1, keepdim=True)
    return torch.cat([work[:, :4], masked.masked_fill(beside, 0)], dim=1)


def _rows(index: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The indices of the first row of blocks, for every row. Returns `index` if all counts are 0."""
    return index[:, :, :1].expand_as(index).contiguous() if int(count.max()) else index


_FOUR = BlockSpec(q=4, kv=2)
_TALL = BlockSpec(q=2, kv=8)

LISTS = (
    Fault(
        "trivial-mask-fill",
        "block lists",
        "A mask_mod that is constantly False counts as no mask, as aten.full does in the source.",
        lambda: corrections.reverted("trivial-mask-fill"),
        mask("q < -1", at=problem(), block=BlockSpec(q=8, kv=8, kind="lists", partial=((0,),))).replace(
            mask_mod="torch.zeros_like(q, dtype=torch.bool)"
        ),
    ),
    Fault(
        "trivial-mask-lists",
        "block lists",
        "Block lists are ignored if the mask_mod is trivial.",
        lambda: corrections.reverted("trivial-mask-lists"),
        plain(problem(), block=BlockSpec(q=4, kv=2, kind="lists", full=((0, 2),))),
    ),
    Fault(
        "full-blocks-masked-again",
        "block lists",
        "The mask_mod is also applied in full blocks, where only the lists decide.",
        _work(lambda work: work.index_fill(1, torch.tensor([4]), 1)),
        mask("q < kv", block=BlockSpec(q=8, kv=8, kind="lists", full=((0,),))),
    ),
    Fault(
        "partial-blocks-not-masked",
        "block lists",
        "In a row of blocks that has a full block, the mask_mod is applied nowhere.",
        _work(_unmasked_beside_full_ones),
        mask("kv < 3", block=_FOUR),
    ),
    Fault(
        "last-partial-block-dropped",
        "block lists",
        "The loop over partial blocks ends one block too early.",
        _lists(lambda t: ((t[0] - 1).clamp(min=0), *t[1:])),
        mask("kv < 1"),
    ),
    Fault(
        "last-full-block-dropped",
        "block lists",
        "The loop over full blocks ends one block too early if there are several.",
        _lists(lambda t: (t[0], t[1], torch.where(t[2] > 1, t[2] - 1, t[2]), t[3])),
        mask("kv < 4", block=_FOUR),
    ),
    Fault(
        "list-read-too-far",
        "block lists",
        "The loop over partial blocks reads one entry past the end of the list.",
        _lists(lambda t: (_longer(t[0], t[1]), *t[1:])),
        mask("kv < 9", block=BlockSpec(q=4, kv=2, kind="lists", partial=((0,),))),
    ),
    Fault(
        "partial-and-full-swapped",
        "block lists",
        "The lists of full and partial blocks are passed in the wrong order.",
        _lists(lambda t: (t[2], t[3], t[0], t[1])),
        mask("q < kv"),
    ),
    Fault(
        "lists-of-head-0",
        "block lists",
        "The block lists of head 0 are used for all heads.",
        _lists(lambda t: (t[0][:, :1], t[1][:, :1], t[2][:, :1], t[3][:, :1])),
        mask("h < 1", at=problem(H=2, Hkv=2), block=BlockSpec(q=4, kv=5)),
    ),
    Fault(
        "lists-of-batch-0",
        "block lists",
        "The block lists of batch 0 are used for all batches.",
        _lists(lambda t: (t[0][:1], t[1][:1], t[2][:1], t[3][:1])),
        mask("b < 1", at=problem(B=2), block=BlockSpec(q=4, kv=5)),
    ),
    Fault(
        "list-taken-for-a-range",
        "block lists",
        "A list is read as its first block and the blocks that follow it, as in a causal mask.",
        _lists(lambda t: (t[0], _range(t[1]), t[2], _range(t[3]))),
        plain(problem(), block=BlockSpec(q=4, kv=2, kind="lists", full=((0, 2),))),
    ),
    Fault(
        "indices-of-the-first-row",
        "block lists",
        "Every row of blocks reads the full blocks' indices of the first row.",
        _lists(lambda t: (t[0], t[1], t[2], _rows(t[3], t[2]))),
        plain(problem(), block=BlockSpec(q=2, kv=4, kind="lists", full=((0,), (1,)))),
    ),
    Fault(
        "query-relative-to-the-block",
        "block lists",
        "q counts from the beginning of the row of blocks.",
        _block_function(("cute.full(width, m,", "cute.full(width, m - row * height,")),
        mask("kv < q", block=_TALL),
    ),
    Fault(
        "key-relative-to-the-block",
        "block lists",
        "kv counts from the beginning of the block.",
        _block_function(("kv_idx.load(),", "kv_idx.load() - block * breadth,")),
        mask("kv < 3", block=_FOUR),
    ),
    Fault(
        "vector-past-the-block",
        "block lists",
        "The last vector of a block writes past the end of the block, into another block's scores.",
        _block_function(("keys[kv_idx[lane]] = score[lane]", "keys[min(n + lane, columns - 1)] = score[lane]")),
        mask("kv < 9", block=BlockSpec(q=4, kv=3, kind="lists", full=((0, 1),)), score_mod="score + 1"),
        width=2,
    ),
)
