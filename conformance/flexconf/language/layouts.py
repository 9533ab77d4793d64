"""Strided views over guarded storage: a read or write out of place must show.

Every tensor that a case hands to a subject is a view of a larger one-dimensional storage. The elements
before, after and between those of the view are guards: NaN in floats, the smallest (unsigned: largest) value
in integers, and in bool the opposite of the element before.

Layouts of captures, as a case writes them:

======================= ======================================================================================
`contiguous`            row-major
`transposed`            the last two dimensions swapped in memory
`permuted`              all dimensions in reverse order in memory
`permuted(2, 0, 1)`     memory order of the dimensions, outermost first
`stepped`, `stepped(k)` every second (k-th) element along the last dimension
`padded`, `padded(k)`   three (k) guards after every row
`expanded`              stride 0 in dimension 0
`expanded(1, 2)`        stride 0 in the given dimensions
`offset`, `offset(k)`   row-major, 7 (k) elements off the alignment
`strided(5, 1)`         these strides, one a dimension, 0 to repeat it; for views that span more than 2^31 elements
`view_of(x)`            the same elements as capture x, as another tensor on the same storage
`transpose_of(x)`       capture x with its dimensions in reverse order, on the same storage
`last_of(x)`            x[-1] of capture x, on the same storage
`first_of(x)`           x[0] of capture x, on the same storage: from last_of(x) it differs by its offset alone
======================= ======================================================================================

A `strided` view may span more elements than memory holds. Then only the pages around its elements are ever touched, and
the guards are those next to an element, and those at its offset as 32 bits would have it. The storage reaches so far
before the view that such a wrong offset still lies in it.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flexconf.errors import InputError

__all__ = ["LAYOUTS", "SHARED", "STRIDED", "Layout", "Placement", "dense", "encode", "parse", "place"]

LAYOUTS = ("contiguous", "transposed", "permuted", "stepped", "padded", "expanded", "offset")
SHARED = ("view_of", "transpose_of", "last_of", "first_of")
STRIDED = "strided"
_GUARD = 64
_TILE = 256
_GUARD_MOST = 1 << 16
_WHOLE = 1 << 26  # elements of a storage that is written whole
_WRAP = 1 << 32
_NEAR = 4  # guards on either side of an element, where the storage is not written whole
_TEXT = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?")


@dataclass(frozen=True)
class Layout:
    """A parsed layout: its kind, its integer arguments, or the capture whose storage it shares."""

    kind: str
    numbers: tuple[int, ...] = ()
    of: str | None = None


def parse(text: str) -> Layout:
    """The layout that `text` says. Raises InputError."""
    match = _TEXT.fullmatch(text.strip())
    kind, rest = (match.group(1), match.group(2)) if match else ("", None)
    if kind in SHARED:
        if not rest or not rest.strip().isidentifier():
            raise InputError(f"layout {text!r}: {kind} needs the name of a capture, such as {kind}(bias)")
        return Layout(kind, of=rest.strip())
    if kind not in (*LAYOUTS, STRIDED):
        raise InputError(f"unknown layout {text!r}; the layouts are {', '.join((*LAYOUTS, STRIDED, *SHARED))}")
    parts = [part.strip() for part in rest.split(",")] if rest and rest.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"layout {text!r}: the arguments are whole numbers")
    numbers = tuple(int(part) for part in parts)
    if kind == STRIDED and (not numbers or max(numbers) >= _WRAP):
        raise InputError(f"layout {text!r}: strided takes a stride below 2^32 for each dimension")
    if kind in ("contiguous", "transposed") and numbers:
        raise InputError(f"layout {text!r}: {kind} takes no arguments")
    if kind in ("stepped", "padded", "offset") and (len(numbers) > 1 or any(not 1 <= n <= 64 for n in numbers)):
        raise InputError(f"layout {text!r}: {kind} takes one number from 1 to 64")
    return Layout(kind, numbers)


@dataclass(frozen=True)
class Placement:
    """Where a tensor's elements lie: strides and offset in elements, `size` elements of storage in all."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    size: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape with every dimension of stride 0 counted once: the elements that really exist."""
        return tuple(
            1 if stride == 0 and length else length for length, stride in zip(self.shape, self.strides, strict=True)
        )


def dense(
    shape: Sequence[int],
    order: Sequence[int] | None = None,
    *,
    step: int = 1,
    pad: int = 0,
    expanded: Sequence[int] = (),
    shift: int = 0,
) -> Placement:
    """Place `shape` densely, dimensions in memory `order` (outermost first), between guards.

    `step` is the stride of the innermost dimension, `pad` the guards after each innermost row, `expanded` the
    dimensions of stride 0, `shift` the elements off a 64-element alignment.
    """
    order = tuple(range(len(shape))) if order is None else tuple(order)
    strides = [0] * len(shape)
    running = step
    for position, dimension in enumerate(reversed(order)):
        if dimension in expanded:
            continue
        strides[dimension] = running
        running *= max(shape[dimension], 1)
        if position == 0:
            running += pad
    extent = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    extent = extent if all(shape) else 0
    # As wide as the tensor and a tile: who counts a negative index from nowhere, or reads a tile past the last query,
    # reads a guard, and nobody else's memory.
    beyond = max(math.prod(shape), extent) + _TILE * max(strides, default=0)
    guard = min(_GUARD_MOST, -(-(beyond + _GUARD) // _GUARD) * _GUARD)
    return Placement(tuple(shape), tuple(strides), guard + shift, guard + shift + extent + guard)


def strided(shape: Sequence[int], strides: Sequence[int]) -> Placement:
    """Place `shape` with these strides. Raises InputError when two elements would share a place."""
    what = f"layout 'strided({', '.join(map(str, strides))})'"
    if len(shape) != len(strides):
        raise InputError(f"{what}: {len(strides)} strides for {len(shape)} dimensions")
    span = 0
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length > 1 and stride:
            if stride <= span:
                raise InputError(f"{what}: elements of {tuple(shape)} would overlap")
            span += (length - 1) * stride
    if span >= _WRAP:
        raise InputError(f"{what} spans {span:,} elements; at most 2^32 are allowed")
    stored = math.prod(length for length, stride in zip(shape, strides, strict=True) if stride)
    if stored > _GUARD_MOST:
        raise InputError(f"{what} holds {stored:,} elements; at most {_GUARD_MOST:,} are allowed")
    # An index that is negative, or an offset that wraps around at 32 bits, still leads into the storage.
    before = sum(length * stride for length, stride in zip(shape, strides, strict=True))
    lead = -(-(before + _GUARD) // _GUARD) * _GUARD
    return Placement(tuple(shape), tuple(strides), lead, lead + (span + 1 if all(shape) else 0) + _GUARD)


def placement(layout: Layout, shape: Sequence[int]) -> Placement:
    """The placement of a capture of this shape. Raises InputError when the layout does not suit the rank."""
    rank = len(shape)
    match layout.kind:
        case "contiguous":
            return dense(shape)
        case "transposed":
            if rank < 2:
                raise InputError(f"layout 'transposed' needs at least 2 dimensions, the capture has {rank}")
            return dense(shape, (*range(rank - 2), rank - 1, rank - 2))
        case "permuted":
            order = layout.numbers or tuple(reversed(range(rank)))
            if sorted(order) != list(range(rank)):
                raise InputError(f"layout 'permuted{order}' is not an order of {rank} dimensions")
            return dense(shape, order)
        case "stepped":
            return dense(shape, step=layout.numbers[0] if layout.numbers else 2)
        case "padded":
            return dense(shape, pad=layout.numbers[0] if layout.numbers else 3)
        case "expanded":
            dimensions = layout.numbers or (0,)
            if any(dimension >= rank for dimension in dimensions):
                raise InputError(f"layout 'expanded{dimensions}': the capture has {rank} dimensions")
            return dense(shape, expanded=dimensions)
        case "offset":
            return dense(shape, shift=layout.numbers[0] if layout.numbers else 7)
        case "strided":
            return strided(shape, layout.numbers)
    raise InputError(f"layout {layout.kind!r} has no storage of its own")


def encode(values: npt.NDArray[Any], dtype: str, what: str) -> Tensor:
    """Round exact values to `dtype`, to nearest even, independently of the platform. Contiguous, on the CPU.

    Raises InputError when an integer dtype cannot hold the values.
    """
    target: torch.dtype = getattr(torch, dtype)
    if dtype == "bool":
        return torch.from_numpy(np.ascontiguousarray(values != 0)).reshape(values.shape)
    if target.is_floating_point:
        exact = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if dtype == "bfloat16":
                return _bfloat16(exact.astype(np.float32))
            rounded = np.ascontiguousarray(exact.astype(dtype))
        return torch.from_numpy(rounded).reshape(values.shape)
    if values.size and values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise InputError(f"{what}: the values are not integers, but the dtype is {dtype}")
        values = values.astype(np.int64)
    bounds = np.iinfo(dtype)
    if values.size and not (bounds.min <= int(values.min()) and int(values.max()) <= bounds.max):
        raise InputError(f"{what}: the values {values.min()} to {values.max()} do not fit {dtype}")
    return torch.from_numpy(np.ascontiguousarray(values.astype(dtype))).reshape(values.shape)


def _bfloat16(values: npt.NDArray[np.float32]) -> Tensor:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    rounded = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
    return torch.from_numpy(rounded.astype(np.uint16).view(np.int16)).reshape(values.shape).view(torch.bfloat16)


def place(stored: Tensor, where: Placement, device: str | torch.device) -> Tensor:
    """A view laid out as `where` says over guarded storage, holding `stored` (of `where.stored_shape`)."""
    if where.size > _WHOLE:
        return _placed_apart(stored, where, device)
    storage = _guards(stored, where)
    storage.as_strided(where.stored_shape, where.strides, where.offset).copy_(stored)
    return storage.to(device).as_strided(where.shape, where.strides, where.offset)


def _placed_apart(stored: Tensor, where: Placement, device: str | torch.device) -> Tensor:
    """Like `place`, in a storage of which no page is touched but those around elements."""
    storage = _reserved(where.size, stored.dtype, torch.device(device))
    at = torch.full((1,), where.offset)
    for length, stride in zip(where.stored_shape, where.strides, strict=True):
        at = (at.unsqueeze(1) + torch.arange(length) * stride).flatten()
    value = _guard_of(stored).flatten().to(device)
    # The nearest element says what a guard is, and of two as near the one before it.
    for apart in (-_WRAP, *(n for distance in range(_NEAR, 0, -1) for n in (-distance, distance))):
        storage[(at + apart).clamp(min=0).to(device)] = value
    storage.as_strided(where.stored_shape, where.strides, where.offset).copy_(stored)
    return storage.as_strided(where.shape, where.strides, where.offset)


def _reserved(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A storage of `size` elements. On the CPU it is address space alone, whose pages are zeros until they are written.

    Raises InputError where there is not so much of it.
    """
    if device.type != "cpu":
        return torch.empty(size, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize, flags=flags), dtype=dtype)
    except (OSError, OverflowError) as error:
        raise InputError(f"a view that spans {size:,} elements of {dtype} finds no address space: {error}") from None


def _guard_of(stored: Tensor) -> Tensor:
    """For each element the value of a guard beside it."""
    if stored.dtype == torch.bool:
        return ~stored
    if stored.dtype.is_floating_point:
        return torch.full_like(stored, float("nan"))
    info = torch.iinfo(stored.dtype)
    return torch.full_like(stored, info.min if info.min < 0 else info.max)


def _guards(stored: Tensor, where: Placement) -> Tensor:
    dtype = stored.dtype
    if dtype.is_floating_point:
        return torch.full((where.size,), float("nan"), dtype=dtype)
    if dtype != torch.bool:
        info = torch.iinfo(dtype)
        return torch.full((where.size,), info.min if info.min < 0 else info.max, dtype=dtype)
    written = torch.zeros(where.size, dtype=torch.int64)
    if stored.numel():
        holds = written.as_strided(where.stored_shape, where.strides, where.offset)
        holds.copy_(stored.to(torch.int64) + 1)  # 0: nothing here, 1: False, 2: True
    last = torch.cummax(torch.where(written > 0, torch.arange(where.size), torch.zeros_like(written)), dim=0).values
    before = torch.where(written[last] > 0, written[last], written[where.offset : where.offset + 1])
    return before != 2
