"""Refuses malformed input before the kernel is rendered (L5.5). Every refusal is an InputError."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn.attention.flex_attention import BlockMask

from .errors import InputError

DTYPES = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256


def check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raises InputError unless q (B, H, M, D), k (B, Hkv, N, D) and v (B, Hkv, N, Dv) fit together.

    Also raises InputError if one of them requires grad while grad mode is on.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{name} must be a tensor, not {type(tensor).__name__}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if any(t.dim() != 4 for t in (q, k, v)):
        raise InputError(f"q, k and v must have rank 4 (batch, heads, length, head dim): {shapes}")
    if len({t.device for t in (q, k, v)}) != 1:
        raise InputError(f"q, k and v are on different devices: {q.device}, {k.device}, {v.device}")
    if len({t.dtype for t in (q, k, v)}) != 1 or q.dtype not in DTYPES:
        raise InputError(f"q, k and v must be all float16 or all bfloat16, not {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise InputError(f"the batch sizes differ: {shapes}")
    if k.shape[1] != v.shape[1] or k.shape[2] != v.shape[2]:
        raise InputError(f"k and v must agree in heads and length: {shapes}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise InputError(f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key/value heads: {shapes}")
    if q.shape[3] != k.shape[3]:
        raise InputError(f"q and k must have the same head dim: {shapes}")
    for name, dim in (("q and k", q.shape[3]), ("v", v.shape[3])):
        if not 8 <= dim <= MAX_HEAD_DIM or dim % 8:
            raise InputError(f"head dim {dim} of {name} must be a multiple of 8 from 8 to {MAX_HEAD_DIM}: {shapes}")
    check_gradients({"q": q, "k": k, "v": v})


def check_gradients(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises InputError if one of the named `tensors` requires grad while grad mode is on.

    Only the forward pass is lowered.
    """
    if not torch.is_grad_enabled():
        return
    wanting = [name for name, tensor in tensors.items() if tensor.requires_grad]
    if wanting:
        verb = "requires" if len(wanting) == 1 else "require"
        raise InputError(
            f"{', '.join(wanting)} {verb} grad, but gradients are not implemented (L5.5): "
            "call under torch.no_grad(), or pass x.detach()"
        )


def check_scale(scale: float | torch.Tensor | None, head_dim: int) -> float:
    """The factor on Q K^T as a float: `scale`, or 1/sqrt(`head_dim`) if it is None.

    Raises InputError if `scale` is not a finite number, or is a tensor that requires grad while grad mode is on.
    """
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(scale, torch.Tensor):
        check_gradients({"scale": scale})
    try:
        number = float(scale)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"scale must be a number, not {scale!r}") from None
    if not math.isfinite(number):
        raise InputError(f"scale must be finite, not {number}")
    return number


def check_captures(captures: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Raises InputError if one of the named `captures` is not on `device`, the query's device."""
    for name, tensor in captures.items():
        if tensor.device != device:
            raise InputError(
                f"the captured tensor `{name}` is on {tensor.device}, the query on {device}; "
                "move it outside the mod, or write .to(q.device) in it"
            )


def check_block_mask(block_mask: BlockMask, q: torch.Tensor, k: torch.Tensor) -> None:
    """Raises InputError if the block mask does not fit the lengths, batch, heads or device of q and k.

    Also raises InputError if its lists name a block twice, or a block beyond the keys (L8.4).
    """
    lengths = tuple(int(x) for x in block_mask.seq_lengths)
    if lengths != (q.shape[2], k.shape[2]):
        raise InputError(
            f"the block mask is for lengths {lengths}, the tensors have (M, N) = {(q.shape[2], k.shape[2])}"
        )
    rows = -(-q.shape[2] // int(block_mask.BLOCK_SIZE[0]))
    lists = {"kv": (block_mask.kv_num_blocks, block_mask.kv_indices)}
    if block_mask.full_kv_num_blocks is not None and block_mask.full_kv_indices is not None:
        lists["full_kv"] = (block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    for name, (counts, indices) in lists.items():
        _check_list_shapes(name, counts, indices, rows, block_mask, q)
    _check_listed_blocks(lists, -(-k.shape[2] // int(block_mask.BLOCK_SIZE[1])))


def _check_list_shapes(
    name: str, counts: torch.Tensor, indices: torch.Tensor, rows: int, block_mask: BlockMask, q: torch.Tensor
) -> None:
    if indices.dim() != 4 or counts.shape != indices.shape[:-1]:
        raise InputError(
            f"{name}_num_blocks {tuple(counts.shape)} and {name}_indices {tuple(indices.shape)} "
            "must be (batch, heads, rows) and (batch, heads, rows, blocks)"
        )
    batch, heads = counts.shape[:2]
    if batch not in (1, q.shape[0]) or heads not in (1, q.shape[1]):
        raise InputError(
            f"the block mask has (batch, heads) = {(batch, heads)}, the query {(q.shape[0], q.shape[1])}; "
            "each must be 1 or equal"
        )
    if counts.shape[2] != rows:
        raise InputError(
            f"the block mask has {counts.shape[2]} block rows of {block_mask.BLOCK_SIZE[0]}, "
            f"a query of length {q.shape[2]} needs {rows}"
        )
    for tensor in (counts, indices):
        if tensor.device != q.device:
            raise InputError(f"the block mask is on {tensor.device}, the query on {q.device}")


def _check_listed_blocks(lists: Mapping[str, tuple[torch.Tensor, torch.Tensor]], blocks: int) -> None:
    named: torch.Tensor | None = None
    outside: list[torch.Tensor] = []
    for counts, indices in lists.values():
        width = indices.shape[3]
        listed = torch.arange(width, device=counts.device) < counts.unsqueeze(-1)
        block = indices.long()
        stray = listed.logical_and((block < 0).logical_or(block >= blocks))
        outside += [(counts < 0).any(), (counts > width).any(), stray.any()]
        # Entries after the end of a list, and blocks outside the keys, are counted in the extra place `blocks`.
        counted = torch.zeros(*counts.shape, blocks + 1, dtype=torch.int32, device=counts.device)
        counted.scatter_add_(
            3, torch.where(listed.logical_and(~stray), block, blocks), torch.ones_like(indices, dtype=torch.int32)
        )
        named = counted if named is None else named + counted
    assert named is not None
    twice = named[..., :blocks] > 1
    # One test for all errors, so that the host waits for a GPU once only.
    if not bool(torch.stack([*outside, twice.any()]).any()):
        return
    for name, (counts, indices) in lists.items():
        _refuse_stray(name, counts, indices, blocks)
    b, h, row, block_twice = (int(x) for x in twice.nonzero()[0])
    raise InputError(
        f"the block mask names block {block_twice} twice in row {row} of (b, h) = {(b, h)}; "
        f"kv_indices and full_kv_indices may name each of the {blocks} blocks once (L8.4)"
    )


def _refuse_stray(name: str, counts: torch.Tensor, indices: torch.Tensor, blocks: int) -> None:
    for place, (count, row) in enumerate(zip(counts.flatten().tolist(), indices.flatten(0, 2).tolist(), strict=True)):
        b, h, i = (
            place // (counts.shape[1] * counts.shape[2]),
            place // counts.shape[2] % counts.shape[1],
            place % counts.shape[2],
        )
        where = f"row {i} of (b, h) = {(b, h)}"
        if not 0 <= count <= len(row):
            raise InputError(f"{name}_num_blocks says {count} in {where}, but {name}_indices has {len(row)} a row")
        for block in row[:count]:
            if not 0 <= block < blocks:
                raise InputError(
                    f"{name}_indices names block {block} in {where}; the keys have blocks 0 to {blocks - 1} (L8.4)"
                )
