"""Block lists that were adjusted to other lengths, merged, padded or cut, or taken from a larger BlockMask.

Each change returns the lists in the memory layout that PyTorch's own operation gives them: views where it gives views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from flexconf.cases.case import Case
from flexconf.errors import InputError


@dataclass(frozen=True)
class Lists:
    """The block counts (b, h, rows) and block indices (b, h, rows, entries) of the partial lists or the full lists."""

    counts: Tensor
    indices: Tensor

    def listed(self) -> Tensor:
        """Which entries of the indices belong to a list, bool (b, h, rows, entries)."""
        entries = torch.arange(self.indices.shape[-1], device=self.indices.device)
        return entries < self.counts.unsqueeze(-1)


def changed(case: Case, partial: Lists, full: Lists | None, mask_mod: Callable[..., Tensor] | None) -> BlockMask:
    """The BlockMask of `case` from the lists that its block kind gives, after the changes that its block states.

    Raises InputError if the lists cannot be changed in this way.
    """
    block, p = case.block, case.problem
    rows, columns = math.ceil(p.M / block.q), math.ceil(p.N / block.kv)
    if block.made_for is not None:
        partial = adjusted(partial, rows, columns, case)
        full = adjusted(full, rows, columns, case) if full is not None else None
    if full is not None and not block.full_lists:
        partial, full = merged(partial, full, columns), None
    if block.width is not None:
        widths = block.width if isinstance(block.width, tuple) else (block.width, block.width)
        partial = of_width(partial, widths[0], "partial", case)
        full = of_width(full, widths[1], "full", case) if full is not None else None
    if block.slice is None:
        return _block_mask(partial, full, case, mask_mod, columns, p.M)
    return _sliced(partial, full, case, mask_mod, columns)


def adjusted(lists: Lists, rows: int, columns: int, case: Case) -> Lists:
    """The lists for fewer rows and columns of blocks, as views, like BlockMask._adjust of torch 2.14 and later.

    An earlier `_adjust` miscounts if there are fewer columns, so no torch is asked. Raises InputError if a list is not
    ascending: `_adjust` keeps the first entries of a list.
    """
    kept = Lists(lists.counts[:, :, :rows], lists.indices[:, :, :rows, :columns])
    listed = Lists(kept.counts, lists.indices[:, :, :rows]).listed()
    pairs = listed[..., 1:] & (lists.indices[:, :, :rows].diff(dim=-1) < 0)
    if bool(pairs.any()):
        raise InputError(f"case {case.name!r}: block: made_for needs lists in ascending order")
    counts = (kept.listed() & (kept.indices < columns)).sum(-1).to(torch.int32)
    return Lists(counts, kept.indices)


def merged(partial: Lists, full: Lists, columns: int) -> Lists:
    """One list of the blocks of both, in ascending order."""

    def dense(lists: Lists) -> Tensor:
        marks = torch.zeros(*lists.counts.shape, columns + 1, dtype=torch.bool, device=lists.counts.device)
        at = torch.where(lists.listed(), lists.indices, columns).long()
        return marks.scatter(-1, at, True)[..., :columns]

    either = dense(partial) | dense(full)
    order = torch.argsort(either.to(torch.int32), dim=-1, descending=True, stable=True)
    return Lists(either.sum(-1).to(torch.int32), order.to(torch.int32))


def of_width(lists: Lists, width: int, what: str, case: Case) -> Lists:
    """The lists with `width` entries per row. New entries are 0, the entries behind every list.

    Raises InputError if a list is longer than that.
    """
    longest = int(lists.counts.max()) if lists.counts.numel() else 0
    if longest > width:
        raise InputError(
            f"case {case.name!r}: block: a {what} list has {longest} blocks, which do not fit width {width}"
        )
    indices = torch.nn.functional.pad(lists.indices, (0, max(width - lists.indices.shape[-1], 0)))
    return Lists(lists.counts, indices[..., :width].contiguous())


def _block_mask(
    partial: Lists, full: Lists | None, case: Case, mask_mod: Callable[..., Tensor] | None, columns: int, M: int
) -> BlockMask:
    """PyTorch's BlockMask of the lists, for M queries.

    The lists by key/value block, which only the backward pass reads, are left out where torch before 2.14 cannot
    compute them.
    """
    widths = [lists.indices.shape[-1] for lists in (partial, full) if lists is not None]
    made: BlockMask = BlockMask.from_kv_blocks(
        partial.counts,
        partial.indices,
        full.counts if full is not None else None,
        full.indices if full is not None else None,
        BLOCK_SIZE=(case.block.q, case.block.kv),
        mask_mod=mask_mod,
        seq_lengths=(M, case.problem.N),
        compute_q_blocks=min(widths) >= columns,
    )
    return made


def _sliced(
    partial: Lists, full: Lists | None, case: Case, mask_mod: Callable[..., Tensor] | None, columns: int
) -> BlockMask:
    """`base[slice]` with the mask_mod and the lengths of the case, which people set after they slice."""
    base_partial = _base(partial, case, columns, decoys=full is None)
    base_full = _base(full, case, columns, decoys=True) if full is not None else None
    rows = base_partial.counts.shape[2]
    base = _block_mask(base_partial, base_full, case, mask_mod, columns, rows * case.block.q)
    device = partial.counts.device
    index = tuple(torch.tensor(x, device=device) if isinstance(x, tuple) else x for x in case.block.chosen())
    made: BlockMask = base[index]
    made.mask_mod = base.mask_mod
    made.seq_lengths = (case.problem.M, case.problem.N)
    return made


def _base(lists: Lists, case: Case, columns: int, decoys: bool) -> Lists:
    """Lists of the sizes `of`, with `lists` where the slice takes them. Elsewhere, `decoys` list every block."""
    block = case.block
    assert block.of is not None
    places = [
        (part % size,) if isinstance(part, int) else part if isinstance(part, tuple) else tuple(range(size)[part])
        for part, size in zip(block.chosen(), block.of, strict=True)
    ]
    taken = tuple(len(chosen) for chosen in places)
    if taken != tuple(lists.counts.shape):
        raise InputError(
            f"case {case.name!r}: block: the slice takes (batches, heads, rows) = {taken}, "
            f"but the lists are for {tuple(lists.counts.shape)}"
        )
    width = lists.indices.shape[-1]
    backwards = torch.arange(min(width, columns) - 1, -1, -1, dtype=torch.int32)
    indices = torch.nn.functional.pad(backwards, (0, width - len(backwards))).repeat(*block.of, 1)
    counts = torch.full(block.of, len(backwards) if decoys else 0, dtype=torch.int32)
    at = torch.meshgrid(*(torch.tensor(chosen) for chosen in places), indexing="ij")
    indices[at] = lists.indices.cpu()
    counts[at] = lists.counts.cpu()
    return Lists(counts.to(lists.counts.device), indices.to(lists.indices.device))
