"""How the BlockMask of a case is made."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from flexconf.cases.problem import one_of, whole
from flexconf.errors import InputError

__all__ = ["PATTERNS", "BlockSpec", "Chosen"]

BLOCK_KINDS = ("from_mask", "none", "lists")
PATTERNS = (
    "dense",
    "dense_partial",
    "reversed",
    "diagonal",
    "checkerboard",
    "empty_rows",
    "first_empty",
    "nothing",
)
_LATER = {"made_for", "full_lists", "width", "slice", "of"}
"""Fields that are newer than the first goldens. A digest has them only if they are not the default."""

Lists = tuple[Any, ...]
Chosen = int | slice | tuple[int, ...]
"""What a slice takes of one dimension: an index, a Python slice, or a list of indices."""


@dataclass(frozen=True)
class BlockSpec:
    """How the BlockMask of a case is made. The block size is `q` x `kv`.

    `kind` is one of:

    - "from_mask": made from the mask_mod by `create_block_mask`. `broadcast` gives block lists of shape (1, 1, ...),
      for a mask that does not depend on b and h.
    - "none": there is no BlockMask.
    - "lists": made from `pattern` (one of PATTERNS), or from `partial` and `full`. These list the key/value blocks of
      each row of query blocks, in this order: as [row][block] for all batches and heads, or as [b][h][row][block].

    These change a BlockMask that has lists, in this order:

    - `made_for`: the lengths (M, N) that the lists are made for. They are then adjusted to the problem's lengths, which
      are not longer, as `BlockMask._adjust` does it.
    - `full_lists` False: there are no full lists. What they would list, the partial lists have too.
    - `width`: the number of entries in a row of the block indices, as one number or as (partial, full). By default it
      is the number of key/value blocks.
    - `slice`: the BlockMask is `base[slice]`, such as "1, 2:4, [3, 1]", of a base with `of` = (batches, heads, rows of
      query blocks). The rest of the base lists every block, so that a read in the wrong place shows.

    Raises InputError.
    """

    q: int = 128
    kv: int = 128
    kind: str = "from_mask"
    broadcast: bool = False
    pattern: str | None = None
    partial: Lists | None = None
    full: Lists | None = None
    made_for: tuple[int, int] | None = None
    full_lists: bool = True
    width: int | tuple[int, int] | None = None
    slice: str | None = None
    of: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("q", "kv"):
            whole(getattr(self, name), f"{name} of the block", 1, 4096)
        one_of(self.kind, BLOCK_KINDS, "kind of the block")
        for name in ("broadcast", "full_lists"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} of the block must be true or false, not {getattr(self, name)!r}")
        if self.pattern is not None:
            one_of(self.pattern, PATTERNS, "pattern of the block")
        given = self.pattern is not None or self.partial is not None or self.full is not None
        if given != (self.kind == "lists"):
            raise InputError("a block of kind 'lists', and no other, has a pattern or partial and full lists")
        if self.pattern is not None and (self.partial is not None or self.full is not None):
            raise InputError("a block has either a pattern or partial and full lists, not both")
        self._check_changes()

    def _check_changes(self) -> None:
        if self.kind == "none" and self.changes_lists:
            raise InputError("a block of kind 'none' has no lists, so no made_for, full_lists, width or slice")
        if self.full is not None and not self.full_lists:
            raise InputError("the block states full lists, but says full_lists = false")
        if self.made_for is not None:
            _numbers(self.made_for, 2, "made_for of the block", "two lengths, such as [300, 400]", 1)
        if isinstance(self.width, tuple):
            _numbers(self.width, 2, "width of the block", "a number, or two such as [1, 3]", 0)
        elif self.width is not None:
            whole(self.width, "width of the block", 0, 4096)
        if isinstance(self.width, tuple) and not self.full_lists:
            raise InputError("the block has two widths, but says full_lists = false; give one number")
        if (self.slice is None) != (self.of is None):
            raise InputError("a block has slice and of, such as slice = '1, 0:2, 1:3' and of = [2, 4, 5], or neither")
        if self.of is not None:
            _numbers(self.of, 3, "of of the block", "batches, heads and rows of blocks, such as [2, 4, 5]", 1)
            self.chosen()

    @property
    def changes_lists(self) -> bool:
        """Whether the lists are changed after they are made."""
        return any(getattr(self, name) != getattr(BlockSpec, name) for name in _LATER)

    def chosen(self) -> tuple[Chosen, Chosen, Chosen]:
        """The parts of `slice`, for batches, heads and rows. A part that is not given takes everything.

        Raises InputError if a part is not an index, a slice or a list of indices, or takes nothing of the base.
        """
        assert isinstance(self.slice, str) and self.of is not None
        parts = re.findall(r"\[[^\]]*\]|[^,\s]+", self.slice)
        if not 1 <= len(parts) <= 3 or re.sub(r"\[[^\]]*\]", "", self.slice).count(",") != len(parts) - 1:
            raise InputError(
                f"slice of the block is {self.slice!r}; write one to three parts, such as '1, 0:2, [3, 1]'"
            )
        b, h, row = (_part(parts[n] if n < len(parts) else ":", size, self.slice) for n, size in enumerate(self.of))
        if sum(isinstance(part, tuple) for part in (b, h, row)) > 1:
            raise InputError(f"slice of the block is {self.slice!r}; at most one part may be a list of indices")
        return b, h, row

    def essentials(self) -> dict[str, Any]:
        """The fields that a digest has: all of them, but a field of `_LATER` only if it is not the default."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _LATER or value != getattr(BlockSpec, name)
        }

    def changed(self) -> dict[str, Any]:
        """The fields that are not the default."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(BlockSpec, name)}


def _numbers(given: object, count: int, what: str, example: str, least: int) -> None:
    if not isinstance(given, tuple) or len(given) != count:
        raise InputError(f"{what} is {given!r}, but must be {example}")
    for number in given:
        whole(number, what, least)


def _part(text: str, size: int, whole_text: str) -> Chosen:
    wrong = InputError(f"slice of the block is {whole_text!r}: {text!r} takes nothing of {size}")
    found: Chosen
    if re.fullmatch(r"-?\d{1,6}", text):
        found = int(text)
        inside = -size <= found < size
    elif pieces := re.fullmatch(r"(-?\d{1,6})?:(-?\d{1,6})?", text):
        found = slice(*(int(piece) if piece is not None else None for piece in pieces.groups()))
        inside = len(range(size)[found]) > 0
    elif re.fullmatch(r"\[\s*\d{1,6}(\s*,\s*\d{1,6})*\s*\]", text):
        found = tuple(int(number) for number in text.strip("[] ").split(","))
        inside = max(found) < size
    else:
        raise InputError(f"slice of the block is {whole_text!r}: {text!r} is no index, no slice and no list of indices")
    if not inside:
        raise wrong
    return found
