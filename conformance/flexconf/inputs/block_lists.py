"""The BlockMask of a case: made from its mask_mod, or from the lists or the pattern in the case."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.inputs.changed_lists import Lists, changed

Rows = Sequence[Sequence[int]]
Nested = Sequence[Sequence[Rows]]  # [b][h][row] -> the blocks of a list


def block_mask(case: Case, mask_mod: Callable[..., Tensor] | None, device: str | torch.device) -> BlockMask | None:
    """The BlockMask of a case.

    Returns None if the case has no BlockMask, or if B, M or N is 0 (clause L9.4). Raises InputError if the lists are
    invalid, or if the mask_mod fails on the CPU.
    """
    p, block = case.problem, case.block
    if 0 in (p.B, p.M, p.N) or block.kind == "none":
        return None
    size = (block.q, block.kv)
    M, N = _made_for(case)
    if block.kind == "from_mask":
        if mask_mod is None:
            return None
        batch, heads = (None, None) if block.broadcast else (p.B, p.H)
        try:
            made = of_mask(mask_mod, batch, heads, M, N, size, device)
        except Exception as error:
            if torch.device(device).type != "cpu":
                raise  # a failure on a GPU need not be the fault of the mod
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise InputError(f"case {case.name!r}: the mask_mod failed: {said}") from None
        if not block.changes_lists:
            return made
        assert made.full_kv_num_blocks is not None and made.full_kv_indices is not None
        full = Lists(made.full_kv_num_blocks, made.full_kv_indices)
        return changed(case, Lists(made.kv_num_blocks, made.kv_indices), full, mask_mod)
    partial, full = (Lists(*_list_tensors(nested, case, device)) for nested in _lists(case))
    return changed(case, partial, full, mask_mod)


def of_mask(
    mask_mod: Callable[..., Tensor],
    B: int | None,
    H: int | None,
    M: int,
    N: int,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
) -> BlockMask:
    """PyTorch's `create_block_mask` with blocks of `size`. It also takes modules and bound methods.

    PyTorch's own cannot count their parameters, so it gets a function that calls the mod; the BlockMask has the mod.
    Raises any exception of the mask_mod.
    """

    def counted(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return mask_mod(b, h, q, kv)

    takes = mask_mod if inspect.isfunction(mask_mod) else counted
    made = create_block_mask(takes, B, H, M, N, device=str(device), BLOCK_SIZE=size)
    if takes is not mask_mod:
        made.mask_mod = mask_mod
    return made


def _made_for(case: Case) -> tuple[int, int]:
    """The lengths (M, N) that the lists are made for. Raises InputError if they are shorter than the problem's."""
    p = case.problem
    M, N = case.block.made_for or (p.M, p.N)
    if M < p.M or N < p.N:
        raise InputError(f"case {case.name!r}: block: made_for is {(M, N)}, shorter than (M, N) = {(p.M, p.N)}")
    return M, N


def relisted(
    mask: BlockMask, kv_indices: Tensor, full_kv_indices: Tensor | None, mask_mod: Callable[..., Tensor] | None
) -> BlockMask:
    """`mask` with other block indices and another mask_mod."""
    made: BlockMask = BlockMask.from_kv_blocks(
        mask.kv_num_blocks,
        kv_indices,
        mask.full_kv_num_blocks,
        full_kv_indices,
        BLOCK_SIZE=mask.BLOCK_SIZE,
        mask_mod=mask_mod,
        seq_lengths=mask.seq_lengths,
        compute_q_blocks=mask.q_num_blocks is not None,
    )
    return made


def _lists(case: Case) -> tuple[Nested, Nested]:
    block = case.block
    M, N = _made_for(case)
    rows, columns = math.ceil(M / block.q), math.ceil(N / block.kv)
    if block.pattern is not None:
        partial, full = _pattern(block.pattern, rows, columns)
        return [[partial]], [[full]]
    empty: Nested = [[[[]] * rows]]
    return (
        _nested(block.partial, rows, "partial", case) if block.partial is not None else empty,
        _nested(block.full, rows, "full", case) if block.full is not None else empty,
    )


def _pattern(pattern: str, rows: int, columns: int) -> tuple[Rows, Rows]:
    """The partial lists and the full lists of a pattern, one list per row of query blocks."""
    everything = list(range(columns))
    none: Rows = [[] for _ in range(rows)]
    match pattern:
        case "dense":  # every block is full
            return none, [everything for _ in range(rows)]
        case "dense_partial":  # every block is partial
            return [everything for _ in range(rows)], none
        case "reversed":  # every block in descending order: even blocks are full, odd blocks partial
            backwards = everything[::-1]
            return (
                [[j for j in backwards if j % 2] for _ in range(rows)],
                [[j for j in backwards if j % 2 == 0] for _ in range(rows)],
            )
        case "diagonal":  # one full block per row
            return none, [[i % columns] for i in range(rows)]
        case "checkerboard":  # every second block is partial, the others are absent
            return [[j for j in everything if (i + j) % 2 == 0] for i in range(rows)], none
        case "empty_rows":  # even rows list no block, odd rows list every block as full
            return none, [everything if i % 2 else [] for i in range(rows)]
        case "first_empty":  # block 0 of every row is absent, block 1 is partial, the others are full
            return [everything[1:2] for _ in range(rows)], [everything[2:] for _ in range(rows)]
    return none, none  # "nothing"


def _nested(lists: object, rows: int, what: str, case: Case) -> Nested:
    def shaped(value: object, depth: int) -> bool:
        if depth == 0:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, tuple) and all(shaped(item, depth - 1) for item in value)

    nested: Nested
    # Lists of empty rows, such as ((), ()), fit both forms. They are [row][block], so that form is tested first.
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
    """Block counts (b, h, rows) and block indices (b, h, rows, columns), both int32.

    The entries after the end of a list are the blocks that are not listed. They are valid indices, so a kernel that
    reads too far returns a wrong result and does not crash. Raises InputError if a row lists a block twice, or a block
    that does not exist.
    """
    columns = math.ceil(_made_for(case)[1] / case.block.kv)
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
