"""What may occur in an example. Swarm testing: each example switches a random subset of it off.

Groce et al., "Swarm Testing", ISSTA 2012: what every example may contain crowds out what shows only without it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Features:
    """Switches. With all of them off a case is a float32 expression of score and constants on one head."""

    captures: bool = False
    dtypes: bool = False
    casts: bool = False
    functions: bool = False
    integers: bool = False
    booleans: bool = False
    indices: bool = False
    chained: bool = False
    layouts: bool = False
    shared_storage: bool = False
    specials: bool = False
    variables: bool = False
    mask: bool = False
    lists: bool = False
    block_sizes: bool = False
    heads: bool = False
    lengths: bool = False
    empty: bool = False
    problem_layouts: bool = False
    scales: bool = False
    distributions: bool = False

    @classmethod
    def every(cls) -> Features:
        """All of them on."""
        return cls(**{f.name: True for f in fields(cls)})


_OFTEN = frozenset({"captures", "dtypes", "functions"})
"""On in three of four examples: what L7 asks for is mostly combinations of these."""

_SELDOM = frozenset({"empty"})
"""On in one of four: an empty problem has nothing to compare."""


def features() -> SearchStrategy[Features]:
    """A random subset; fewer is simpler."""
    often, seldom = st.sampled_from((False, True, True, True)), st.sampled_from((False, False, False, True))
    chosen = dict.fromkeys(_OFTEN, often) | dict.fromkeys(_SELDOM, seldom)
    return st.builds(Features, **{f.name: chosen.get(f.name, st.booleans()) for f in fields(Features)})
