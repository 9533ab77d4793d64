"""Named switches for the defects of the source document that this implementation corrects (clauses marked [C]).

Each correction is in force by default. A test takes one back with `reverted`, to prove that the suite sees the defect;
such a switch belongs to the current context (thread or task), never to the process. The environment variable
FLEXFLASH_REVERT (names, separated by commas) takes corrections back for a whole run of the suite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

DESCRIPTIONS: Final[dict[str, str]] = {
    "indexer-docstring": "L2.5: follow the code (b + size0*q), not the docstring's example (1*b + 2*q)",
    "indexer-scope": "L3.3: swap the indexer for the current context, not for the whole process",
    "trivial-mask-fill": "L4.3: a constant-False mask is not trivial",
    "trivial-mask-lists": "L4.3: sparse block lists count, also under a trivial mask_mod",
    "capability-per-device": "L4.4: cache the architecture's answer per device, not once per process",
}

_FROM_ENVIRONMENT = frozenset(filter(None, os.environ.get("FLEXFLASH_REVERT", "").split(",")))
if _FROM_ENVIRONMENT - set(DESCRIPTIONS):
    raise ValueError(f"FLEXFLASH_REVERT={','.join(sorted(_FROM_ENVIRONMENT))}: there are {', '.join(DESCRIPTIONS)}")

_reverted: ContextVar[frozenset[str]] = ContextVar("flexflash_reverted_corrections", default=_FROM_ENVIRONMENT)


def in_force(name: str) -> bool:
    """Whether the correction `name` applies here. Raises KeyError for a name that does not exist."""
    if name not in DESCRIPTIONS:
        raise KeyError(f"no correction named {name!r}; there are {', '.join(DESCRIPTIONS)}")
    return name not in _reverted.get()


@contextmanager
def reverted(*names: str) -> Iterator[None]:
    """Put the named defects back for the current context."""
    for name in names:
        in_force(name)
    token = _reverted.set(_reverted.get() | frozenset(names))
    try:
        yield
    finally:
        _reverted.reset(token)
