"""Drawing one of several things, of which there are the same again and again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]


def one(draw: Draw, among: Iterable[T]) -> T:
    """One of them, the first where Hypothesis shrinks; they can be hashed."""
    options = tuple(among)
    found: T = draw(_sampled(options, tuple(map(type, options))))  # 1 and True are equal
    return found


@functools.lru_cache(maxsize=4096)
def _sampled(among: tuple[T, ...], types: tuple[type, ...]) -> st.SearchStrategy[T]:
    # Hypothesis looks at every strategy that it meets for the first time, which takes longer than to draw from it.
    return st.sampled_from(among)
