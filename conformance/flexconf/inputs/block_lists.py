"""The BlockMask of a case: made from its mask_mod, or from the lists and patterns that it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.cases.case import Case
from flexconf.errors import InputError

Rows = Sequence[Sequence[int]]
Nested = Sequence[Sequence[Rows]]  # [b][h][row] -> the listed blocks


def block_mask(case: Case, mask_mod: Callable[..., Tensor] | None, device: str | torch.device) -> BlockMask | None:
    """The block mask, or None when there is none or the problem has no elements (clause L9.4). Raises InputError."""
    p, block = case.problem, case.block
    if 0 in (p.B, p.M, p.N) or block.kind == "none":
        return None
    size = (block.q, block.kv)
    if block.kind == "from_mask":
        if mask_mod is None:
            return None
        batch, heads = (None, None) if block.broadcast else (p.B, p.H)
        try:
            return create_block_mask(mask_mod, batch, heads, p.M, p.N, device=str(device), BLOCK_SIZE=size)
        except Exception as error:
            if torch.device(device).type != "cpu":
                raise  # what fails on a GPU alone is no fault of the mod
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise InputError(f"case {case.name!r}: the mask_mod failed: {said}") from None
    partial, full = _lists(case)
    kv_num, kv_idx = _list_tensors(partial, case, device)
    full_num, full_idx = _list_tensors(full, case, device)
    return BlockMask.from_kv_blocks(
        kv_num, kv_idx, full_num, full_idx, BLOCK_SIZE=size, mask_mod=mask_mod, seq_lengths=(p.M, p.N)
    )


def _lists(case: Case) -> tuple[Nested, Nested]:
    block, p = case.block, case.problem
    rows, columns = math.ceil(p.M / block.q), math.ceil(p.N / block.kv)
    if block.pattern is not None:
        partial, full = _pattern(block.pattern, rows, columns)
        return [[partial]], [[full]]
    empty: Nested = [[[[]] * rows]]
    return (
        _nested(block.partial, rows, "partial", case) if block.partial is not None else empty,
        _nested(block.full, rows, "full", case) if block.full is not None else empty,
    )


def _pattern(pattern: str, rows: int, columns: int) -> tuple[Rows, Rows]:
    """Partial and full lists of each row of blocks."""
    everything = list(range(columns))
    none: Rows = [[] for _ in range(rows)]
    match pattern:
        case "dense":  # every block full
            return none, [everything for _ in range(rows)]
        case "dense_partial":  # every block through the mask_mod
            return [everything for _ in range(rows)], none
        case "reversed":  # every block, last first, even ones full
            backwards = everything[::-1]
            return (
                [[j for j in backwards if j % 2] for _ in range(rows)],
                [[j for j in backwards if j % 2 == 0] for _ in range(rows)],
            )
        case "diagonal":  # one full block per row
            return none, [[i % columns] for i in range(rows)]
        case "checkerboard":  # every second block, partial
            return [[j for j in everything if (i + j) % 2 == 0] for i in range(rows)], none
        case "empty_rows":  # every second row of blocks has nothing to attend to
            return none, [everything if i % 2 else [] for i in range(rows)]
        case "first_empty":  # the first block of every row is absent
            return [everything[1:2] for _ in range(rows)], [everything[2:] for _ in range(rows)]
    return none, none  # "nothing"


def _nested(lists: object, rows: int, what: str, case: Case) -> Nested:
    def shaped(value: object, depth: int) -> bool:
        if depth == 0:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, tuple) and all(shaped(item, depth - 1) for item in value)

    nested: Nested
    # Rows that are all empty would also pass for batches without heads; they are rows.
    if shaped(lists, 2) and isinstance(lists, tuple):
        nested = ((lists,),)
    elif shaped(lists, 4) and isinstance(lists, tuple):
        nested = lists
    else:
        raise InputError(f"case {case.name!r}: block: {what} is neither [row][block] nor [b][h][row][block]")
    p = case.problem
    sizes = (len(nested), len(nested[0]))
    if any(len(heads) != sizes[1] for heads in nested) or sizes[0] not in (1, p.B) or sizes[1] not in (1, p.H):
        raise InputError(f"case {case.name!r}: block: {what} has lists for other batches and heads than the problem")
    if any(len(given) != rows for heads in nested for given in heads):
        raise InputError(f"case {case.name!r}: block: {what} must list {rows} rows of blocks")
    return nested


def _list_tensors(nested: Nested, case: Case, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Counts (b, h, rows) and indices (b, h, rows, columns), int32.

    The places behind a list's end hold the blocks that are not listed, in range, so that reading too far
    shows as a wrong result and not as a fault.
    """
    columns = math.ceil(case.problem.N / case.block.kv)
    counts = np.array([[[len(row) for row in rows] for rows in heads] for heads in nested], dtype=np.int32)
    indices = np.zeros((*counts.shape, columns), dtype=np.int32)
    for b, heads in enumerate(nested):
        for h, rows in enumerate(heads):
            for i, row in enumerate(rows):
                if len(set(row)) != len(row) or any(not 0 <= j < columns for j in row):
                    raise InputError(
                        f"case {case.name!r}: block: row {i} lists {list(row)}; "
                        f"each of 0 to {columns - 1} may stand there once"
                    )
                indices[b, h, i] = [*row, *(j for j in range(columns) if j not in row)]
    return torch.from_numpy(counts).to(device), torch.from_numpy(indices).to(device)
