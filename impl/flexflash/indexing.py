"""Linear indices: lexicographic by default, colexicographic inside a CuTe render (clauses L2 and L3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import sympy
import torch

from .errors import InputError

Size: TypeAlias = "int | sympy.Expr"
Indexer: TypeAlias = Callable[[Sequence[sympy.Expr]], sympy.Expr]
IndexerFactory: TypeAlias = "Callable[[FixedLayout], Indexer]"


class Identity(sympy.Function):  # type: ignore[misc]  # sympy ships no types for Function
    """An inert wrapper. Algebra does not look through it, so a sum keeps the form in which it was built (L2.3)."""

    nargs = 1


def fixed_indexer(size: Sequence[Size], stride: Sequence[Size] | None = None, offset: Size = 0) -> Indexer:
    """Lexicographic indexer: `offset + sum(index * stride)` (L2.1).

    `size` and `stride` have one entry per dimension, in elements. Without `stride`, the layout is contiguous. A
    dimension of size 1 adds nothing. The indexer raises InputError on a rank mismatch.

    >>> b, q = sympy.symbols("b q")
    >>> fixed_indexer([4, 128])([b, q])
    128*b + q
    >>> fixed_indexer([4, 128], stride=[1, 4], offset=7)([b, q])
    b + 4*q + 7
    """
    strides = tuple(stride) if stride is not None else contiguous_strides(size)

    def indexer(index: Sequence[sympy.Expr]) -> sympy.Expr:
        _check_rank(index, size)
        result = sympy.sympify(offset)
        for i, extent, step in zip(index, size, strides, strict=True):
            if extent != 1:
                result = result + i * step
        return result

    return indexer


def fixed_indexer_cute(size: Sequence[Size], stride: Sequence[Size] | None = None, offset: Size = 0) -> Indexer:
    """Colexicographic indexer: `i0 + s0*i1 + s0*s1*i2 + ...`, from the sizes alone (L2.2).

    CuTe reads a linear index colexicographically and then applies the tensor's own strides (L2.4). For this reason,
    `stride` is accepted and not used. The indexer raises InputError on a rank mismatch, and on a nonzero `offset`
    (L2.6).

    For size [4, 128] and index [b, q], the result is `b + 4*q` (L2.5), with `q` wrapped in an Identity (L2.3):

    >>> b, q = sympy.symbols("b q")
    >>> fixed_indexer_cute([4, 128])([b, q]).replace(Identity, lambda index: index)
    b + 4*q
    """

    def indexer(index: Sequence[sympy.Expr]) -> sympy.Expr:
        if sympy.sympify(offset) != 0:
            raise InputError(f"a layout with offset {offset} has no colexicographic index; pass the view itself")
        _check_rank(index, size)
        if not index:
            return sympy.Integer(0)
        result = sympy.sympify(index[0])
        runner: Size = size[0]
        for i, extent in zip(index[1:], size[1:], strict=True):
            result = result + runner * Identity(i)
            runner = runner * extent
        return result

    return indexer


def contiguous_strides(size: Sequence[Size]) -> tuple[Size, ...]:
    """Row-major strides in elements for `size`.

    >>> contiguous_strides([2, 3, 4])
    (12, 4, 1)
    """
    strides: list[Size] = []
    runner: Size = 1
    for extent in reversed(size):
        strides.append(runner)
        runner = runner * extent
    return tuple(reversed(strides))


def infer_dense_strides(size: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense tensor of `size` whose dimensions lie in memory in the order of `strides` (L5.1).

    Of dimensions with equal strides, the last is the innermost. A dimension of size 1 is ordered by its stride like any
    other. It does not change the strides of the other dimensions:

    >>> infer_dense_strides((2, 1, 3), (3, 100, 1))
    (3, 6, 1)
    """
    order = sorted(range(len(size)), key=lambda d: (strides[d], -d))
    result = [0] * len(size)
    runner = 1
    for d in order:
        result[d] = runner
        runner *= max(size[d], 1)
    return tuple(result)


def _check_rank(index: Sequence[sympy.Expr], size: Sequence[Size]) -> None:
    if len(index) != len(size):
        raise InputError(f"{len(index)} indices for a tensor of rank {len(size)} (size {list(size)})")


def _lexicographic(layout: FixedLayout) -> Indexer:
    return fixed_indexer(layout.size, layout.stride, layout.offset)


def _colexicographic(layout: FixedLayout) -> Indexer:
    return fixed_indexer_cute(layout.size, layout.stride, layout.offset)


_factory: ContextVar[IndexerFactory] = ContextVar("flexflash_indexer_factory", default=_lexicographic)


@dataclass(frozen=True)
class FixedLayout:
    """The layout of a tensor in memory: `size`, `stride` and `offset` in elements. Sizes may be symbolic (L2.7)."""

    device: torch.device
    dtype: torch.dtype
    size: tuple[Size, ...]
    stride: tuple[Size, ...]
    offset: Size = 0

    def make_indexer(self) -> Indexer:
        """The indexer of the current context: lexicographic, or colexicographic inside a render (L3.1)."""
        return _factory.get()(self)

    @property
    def numel(self) -> Size:
        """The number of logical elements. An expanded dimension counts with its full size."""
        result: Size = 1
        for extent in self.size:
            result = result * extent
        return result

    def reaches(self, limit: int) -> bool:
        """Whether the number of elements, or an element's distance from the first in memory, exceeds `limit` (L2.8).

        The distance follows from the strides: a view of few elements may span more memory than an expanded view of
        many elements. Symbolic sizes and strides are assumed to stay below `limit`.
        """
        span: Size = 0
        for extent, stride in zip(self.size, self.stride, strict=True):
            span = span + (extent - 1) * abs(stride)
        return any(isinstance(size, int) and size > limit for size in (self.numel, span))


@contextmanager
def patch_fixed_layout_indexer_for_cutedsl() -> Iterator[None]:
    """Make `FixedLayout.make_indexer` colexicographic while the block (or the decorated function) runs (L3).

    The change is confined to the current context: a render in another thread or task is unaffected (L3.3). It is undone
    when the block raises. Nested uses unwind in order (L3.2).
    """
    token = _factory.set(_colexicographic)
    try:
        yield
    finally:
        _factory.reset(token)
