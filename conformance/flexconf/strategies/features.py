"""The features that an example may have. Swarm testing: every example switches a random subset of them off.

Groce et al., "Swarm Testing", ISSTA 2012: a feature that every example may contain hides faults that show only without
it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Features:
    """Switches. With all of them off, a case has a float32 expression of the score and constants, and one head."""

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
    vectors: bool = False

    @classmethod
    def every(cls) -> Features:
        """All features on."""
        return cls(**{f.name: True for f in fields(cls)})


_OFTEN = frozenset({"captures", "dtypes", "functions"})
"""On in three of four examples: L7 mostly asks for combinations of these features."""

_SELDOM = frozenset({"empty"})
"""On in one of four examples: an empty problem has nothing to compare."""


def features() -> SearchStrategy[Features]:
    """A random subset of the features. Hypothesis shrinks towards fewer features."""
    often, seldom = st.sampled_from((False, True, True, True)), st.sampled_from((False, False, False, True))
    chosen = dict.fromkeys(_OFTEN, often) | dict.fromkeys(_SELDOM, seldom)
    return st.builds(Features, **{f.name: chosen.get(f.name, st.booleans()) for f in fields(Features)})
