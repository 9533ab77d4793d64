"""Strided views over guarded storage: a read of a wrong place shows in the result.

Every tensor that a case hands to a subject is a view of a larger one-dimensional storage. The elements of the storage
before, after and between the elements of the view are guards. A guard is NaN for a float dtype, the smallest value for
a signed integer dtype, and 255 for uint8. For bool, it is the opposite of the last element of the view before it.

A case names the layout of a capture by these words:

======================= ======================================================================================
`contiguous`            row-major
`transposed`            the last two dimensions swapped in memory
`permuted`              all dimensions in reverse order in memory
`permuted(2, 0, 1)`     memory order of the dimensions, outermost first
`stepped`, `stepped(k)` every second (k-th) element along the last dimension
`padded`, `padded(k)`   three (k) guards after every row
`expanded`              stride 0 in dimension 0
`expanded(1, 2)`        stride 0 in the given dimensions
`offset`, `offset(k)`   row-major, starting 7 (k) elements after a multiple of 64 elements
`strided(5, 1)`         these strides, one per dimension, 0 to repeat it; for views that span more than 2^31 elements
`view_of(x)`            the same elements as capture x, as another tensor on the same storage
`transpose_of(x)`       capture x with its dimensions in reverse order, on the same storage
`last_of(x)`            x[-1] of capture x, on the same storage
`first_of(x)`           x[0] of capture x, on the same storage: it differs from last_of(x) in the offset only
======================= ======================================================================================

A `strided` view may span more elements than memory holds. If its storage has more than 2^26 elements, only the pages
around the view's elements are written. Guards then stand only in two places: up to 4 elements before and after each
element, and 2^32 elements before each element, where an offset that wraps around at 32 bits leads. The storage begins
far enough before the view to contain these places.
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
_WHOLE = 1 << 26  # the largest storage, in elements, that is filled with guards as a whole
_WRAP = 1 << 32
_NEAR = 4  # guards before and after each element of a storage larger than _WHOLE
_TEXT = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?")


@dataclass(frozen=True)
class Layout:
    """A parsed layout: its kind, and its integer arguments or (`of`) the capture whose storage it shares."""

    kind: str
    numbers: tuple[int, ...] = ()
    of: str | None = None


def parse(text: str) -> Layout:
    """Parses a layout. Raises InputError if the text is outside the vocabulary.

    >>> parse("padded(5)")
    Layout(kind='padded', numbers=(5,), of=None)
    >>> parse("view_of(bias)")
    Layout(kind='view_of', numbers=(), of='bias')
    """
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
    """Where a tensor's elements lie in its storage: `strides`, `offset` and the storage's `size`, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    size: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """`shape` with size 1 in each dimension of stride 0: the elements that exist in memory."""
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
    """Places a tensor of `shape` densely between guards.

    `order` is the memory order of the dimensions, outermost first (default: row-major). `step` is the stride of the
    innermost dimension. `pad` is the number of guards after each innermost row. `expanded` are the dimensions of
    stride 0. `shift` is the distance of the first element from a multiple of 64 elements.

    >>> dense((2, 3, 4), order=(0, 2, 1)).strides
    (12, 1, 3)
    >>> dense((2, 3), pad=5).strides
    (8, 1)
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
    # On each side there are as many guards as the tensor and one tile have elements, but at most _GUARD_MOST. A kernel
    # that does not wrap a negative index, or that reads a tile past the last query, reads guards and no other memory.
    beyond = max(math.prod(shape), extent) + _TILE * max(strides, default=0)
    guard = min(_GUARD_MOST, -(-(beyond + _GUARD) // _GUARD) * _GUARD)
    return Placement(tuple(shape), tuple(strides), guard + shift, guard + shift + extent + guard)


def strided(shape: Sequence[int], strides: Sequence[int]) -> Placement:
    """Places a tensor of `shape` with the given strides, between guards.

    Raises InputError unless each nonzero stride exceeds the span of the smaller ones, so that no two elements overlap.
    Also raises InputError for a wrong number of strides, a span of 2^32 elements or more, and more than 65,536 elements
    in memory.

    >>> strided((2, 3), (2, 1))
    Traceback (most recent call last):
        ...
    flexconf.errors.InputError: layout 'strided(2, 1)': elements of (2, 3) would overlap
    """
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
    # A negative index, or an offset that wraps around at 32 bits, still leads into the storage.
    before = sum(length * stride for length, stride in zip(shape, strides, strict=True))
    lead = -(-(before + _GUARD) // _GUARD) * _GUARD
    return Placement(tuple(shape), tuple(strides), lead, lead + (span + 1 if all(shape) else 0) + _GUARD)


def placement(layout: Layout, shape: Sequence[int]) -> Placement:
    """The placement of a capture of this shape and layout.

    Raises InputError if the layout does not suit the shape, or shares the storage of another capture.
    """
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
    """Rounds exact values to `dtype`, with ties to even. The result has the same bytes on every platform.

    The result is a contiguous tensor on the CPU. For bfloat16, the values are first rounded to float32. Raises
    InputError if an integer dtype cannot hold the values.

    >>> encode(np.array([1 + 2**-8, 1 + 3 * 2**-8]), "bfloat16", "values").tolist()
    [1.0, 1.015625]
    >>> encode(np.array([0, 300]), "uint8", "values")
    Traceback (most recent call last):
        ...
    flexconf.errors.InputError: values: the values 0 to 300 do not fit uint8
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
    """Copies `stored`, of shape `where.stored_shape`, into guarded storage. Returns the view that `where` describes.

    >>> view = place(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), dense((2, 2), pad=1), "cpu")
    >>> view.as_strided((2, 3), (3, 1)).tolist()
    [[1.0, 2.0, nan], [3.0, 4.0, nan]]
    """
    if where.size > _WHOLE:
        return _placed_apart(stored, where, device)
    storage = _guards(stored, where)
    storage.as_strided(where.stored_shape, where.strides, where.offset).copy_(stored)
    return storage.to(device).as_strided(where.shape, where.strides, where.offset)


def _placed_apart(stored: Tensor, where: Placement, device: str | torch.device) -> Tensor:
    """Like `place`, but writes guards only near the elements and where their offsets wrap around at 32 bits."""
    storage = _reserved(where.size, stored.dtype, torch.device(device))
    at = torch.full((1,), where.offset)
    for length, stride in zip(where.stored_shape, where.strides, strict=True):
        at = (at.unsqueeze(1) + torch.arange(length) * stride).flatten()
    value = _guard_of(stored).flatten().to(device)
    # From far to near, so that the nearest element decides a guard's value; of two at the same distance, the one before
    # the guard decides.
    for apart in (-_WRAP, *(n for distance in range(_NEAR, 0, -1) for n in (-distance, distance))):
        storage[(at + apart).clamp(min=0).to(device)] = value
    storage.as_strided(where.stored_shape, where.strides, where.offset).copy_(stored)
    return storage.as_strided(where.shape, where.strides, where.offset)


def _reserved(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A storage of `size` elements. On the CPU it is only reserved address space.

    A page of it reads as zeros and takes memory only once it is written. Raises InputError if the CPU has not enough
    address space.
    """
    if device.type != "cpu":
        return torch.empty(size, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize, flags=flags), dtype=dtype)
    except (OSError, OverflowError) as error:
        raise InputError(f"a view that spans {size:,} elements of {dtype} finds no address space: {error}") from None


def _guard_of(stored: Tensor) -> Tensor:
    """For each element, the value of a guard beside it."""
    if stored.dtype == torch.bool:
        return ~stored
    if stored.dtype.is_floating_point:
        return torch.full_like(stored, float("nan"))
    info = torch.iinfo(stored.dtype)
    return torch.full_like(stored, info.min if info.min < 0 else info.max)


def _guards(stored: Tensor, where: Placement) -> Tensor:
    """A storage of `where.size` guards. For bool, each guard is the opposite of the last element before it."""
    dtype = stored.dtype
    if dtype.is_floating_point:
        return torch.full((where.size,), float("nan"), dtype=dtype)
    if dtype != torch.bool:
        info = torch.iinfo(dtype)
        return torch.full((where.size,), info.min if info.min < 0 else info.max, dtype=dtype)
    written = torch.zeros(where.size, dtype=torch.int64)
    if stored.numel():
        holds = written.as_strided(where.stored_shape, where.strides, where.offset)
        holds.copy_(stored.to(torch.int64) + 1)  # 0: a guard, 1: False, 2: True
    last = torch.cummax(torch.where(written > 0, torch.arange(where.size), torch.zeros_like(written)), dim=0).values
    before = torch.where(written[last] > 0, written[last], written[where.offset : where.offset + 1])
    return before != 2
