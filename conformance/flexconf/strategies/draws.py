"""Draws one of several options; the strategies are cached, because the same options are drawn again and again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]


def one(draw: Draw, among: Iterable[T]) -> T:
    """One of the options, which must be hashable. Hypothesis shrinks towards the first."""
    options = tuple(among)
    found: T = draw(_sampled(options, tuple(map(type, options))))  # types tell 1 from True
    return found


@functools.lru_cache(maxsize=4096)
def _sampled(among: tuple[T, ...], types: tuple[type, ...]) -> st.SearchStrategy[T]:
    # Hypothesis validates every new strategy, which takes longer than drawing from it.
    return st.sampled_from(among)
