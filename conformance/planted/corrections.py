"""Named switches for the defects of the source (flex_flash_attention.py) that the reference corrects (clauses [C]).

The reference has no code for these switches. A test puts a defect back with `reverted`, to prove that the suite finds
it. The defect is in the whole process until the block ends. The environment variable FLEXFLASH_REVERT (names, separated
by commas) puts defects back for a whole run of the suite (`flexconf.tampering.revert_from_environment`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from flexflash import eligibility, indexing
from planted.patching import Apply, attributes, recoded, rewritten

DESCRIPTIONS: Final[dict[str, str]] = {
    "indexer-docstring": "L2.5: follow the code (b + size0*q), not the docstring's example (1*b + 2*q)",
    "indexer-scope": "L3.3: swap the indexer for the current context, not for the whole process",
    "trivial-mask-fill": "L4.3: a constant-False mask is not trivial",
    "trivial-mask-lists": "L4.3: sparse block lists count, also under a trivial mask_mod",
    "capability-per-device": "L4.4: cache the architecture's answer per device, not once per process",
}


class _ProcessWide:
    """Replaces the context variable of the indexer by one value for all threads, as in the source."""

    def __init__(self, value: Any) -> None:
        self._values = [value]

    def get(self) -> Any:
        return self._values[-1]

    def set(self, value: Any) -> int:
        self._values.append(value)
        return len(self._values) - 1

    def reset(self, token: int) -> None:
        del self._values[token:]


def _asked_once() -> list[tuple[Any, str, Any]]:
    """The capability of the first device that is asked about is given for every device."""
    true, first = eligibility._capability_on, []

    def capability_on(device: torch.device) -> tuple[int, int]:
        first.append(device)
        return true(first[0])

    return [(eligibility, "_capability_on", capability_on)]


_DEFECTS: Final[dict[str, Apply]] = {
    "indexer-docstring": attributes(
        lambda: [
            recoded(
                indexing,
                "fixed_indexer_cute",
                ("runner: Size = size[0]", "runner: Size = 2"),
                ("runner = runner * extent", "runner = runner + 1"),
            )
        ]
    ),
    "indexer-scope": attributes(lambda: [(indexing, "_factory", _ProcessWide(indexing._lexicographic))]),
    "trivial-mask-fill": attributes(
        lambda: [recoded(eligibility, "is_trivial_mask_graph", ("return result.args[1] is True", "return True"))]
    ),
    "trivial-mask-lists": attributes(
        lambda: [rewritten(eligibility, "needs_block_mask", ("return sparse_lists or not", "return not"))]
    ),
    "capability-per-device": attributes(_asked_once),
}


def known(name: str) -> str:
    """Returns `name`. Raises KeyError if no correction has that name."""
    if name not in DESCRIPTIONS:
        raise KeyError(f"no correction named {name!r}; there are {', '.join(DESCRIPTIONS)}")
    return name


@contextmanager
def reverted(*names: str) -> Iterator[None]:
    """Put the named defects back in this process until the block ends. Raises KeyError for an unknown name."""
    chosen = [_DEFECTS[known(name)] for name in names]
    with ExitStack() as stack:
        for apply in chosen:
            stack.enter_context(apply())
        yield
