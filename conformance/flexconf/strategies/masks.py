"""Draws mask_mods, of the common families and as free boolean expressions, and the block masks around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hypothesis import strategies as st

from flexconf.cases.block import PATTERNS, BlockSpec
from flexconf.cases.case import Capture
from flexconf.strategies import expressions, foci, tables
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope

_FAMILIES = (
    "q >= kv",
    "(q >= kv) & (q - kv < {n})",
    "torch.abs(q - kv) < {n}",
    "q // {n} == kv // {n}",
    "(q >= kv) | (kv < {n})",
    "(q - kv) % {n} == 0",
    "(q + kv + h) % {n} != 0",
    "(kv < {n}) | (q // {n} >= kv // {n})",
    "h % 2 == b % 2",
    "q < {n}",
    "h < 1",
    "b < 1",
    "kv >= {n} * b",
    "(q * 1103515245 + kv * 12345) % 100 < {n} * 6",
    "torch.ones_like(kv, dtype=torch.bool)",
)
_NOTHING = "torch.zeros_like(q, dtype=torch.bool)"  # only block lists with full blocks leave any keys
_OF_THE_BATCH = ("b < 1", "kv >= {n} * b", "b % 2 == kv % 2")  # drawn more often if B > 1
_OF_THE_HEAD = ("h < 1", "(q + kv + h) % {n} != 0", "kv >= 2 * h")
_WITH_CAPTURES = ("document", "lengths", "keep")
_SIZES = (4, 16, 3, 64, 7)
BLOCKS = (128, 64, 32, 16, 256, 12, 5)


def mask(draw: Draw, scope: Scope) -> str:
    """The text of a mask_mod. `scope` is of kind "mask" and receives the new captures."""
    common = ["common"] * (6 if scope.captures else 0)
    names = [*_FAMILIES, *(_WITH_CAPTURES if scope.features.captures else ()), *common, *["free"] * 4, *["focus"] * 5]
    names += [_NOTHING] * (2 if scope.features.lists else 0)
    names += [*_OF_THE_BATCH] * (6 if scope.problem.B > 1 else 0) + [*_OF_THE_HEAD] * (4 if scope.problem.H > 1 else 0)
    family: str = one(draw, names)
    size = one(draw, _SIZES)
    if family in _WITH_CAPTURES:
        return _captured(scope, family) or _FAMILIES[0]
    if family not in _MADE:
        return family.format(n=size)
    text = _MADE[family](draw, scope)
    if text is None:
        return _FAMILIES[0]
    # A random condition is often false everywhere, and then all results are zero.
    return text if draw(st.integers(0, 2)) == 0 else f"({text}) | (kv % {size} == 0)"


def _free(draw: Draw, scope: Scope) -> str:
    return expressions.condition(draw, scope, draw(st.integers(1, 3))).text


def _focus(draw: Draw, scope: Scope) -> str | None:
    found = foci.focus(draw, scope)
    return " ^ ".join(f"({expressions.compared(draw, term).text})" for term in found) or None


def _common(draw: Draw, scope: Scope) -> str | None:
    """A condition on a capture that the score_mod may read too, or on another tensor on the same storage.

    Returns None if no read is surely within bounds.
    """
    other, found = scope.free_name(), None
    if draw(st.booleans()) and scope.features.shared_storage and other is not None:
        # Most confusions of two tensors need two dimensions.
        base = one(draw, [c for c in scope.captures if len(c.shape) > 1] or scope.captures)
        found = tables.shared(draw, scope, other, base, 1, expressions.index)
    if found is None:
        found = tables.reread(draw, scope, one(draw, scope.captures), 1, expressions.index)
    return expressions.compared(draw, found).text if found is not None else None


_MADE: Mapping[str, Callable[[Draw, Scope], str | None]] = {"free": _free, "focus": _focus, "common": _common}


def _captured(scope: Scope, family: str) -> str | None:
    name, p = scope.free_name(), scope.problem
    if name is None:
        return None
    if family == "document":
        longest = max(p.M, p.N, 1)
        capture = Capture(name, (scope.symbol(longest),), "int32", "steps(5)")
        text = f"{name}[q] == {name}[kv]"
        scope.values[name] = (0, longest // 5, False)
    elif family == "lengths":
        capture = Capture(name, (max(p.B, 1),), "int32", f"integers(0, {p.N + 1})")
        text = f"kv < {name}[b]"
        scope.values[name] = (0, p.N, False)
    else:
        capture = Capture(name, (max(p.H, 1), max(p.N, 1)), "bool", "bool(0.7)")
        text = f"{name}[h, kv]"
        scope.values[name] = (0, 1, False)
    scope.captures.append(capture)
    return text


def block(
    draw: Draw, scope: Scope, text: str | None, queries: Sequence[int] = BLOCKS, keys: Sequence[int] = BLOCKS
) -> BlockSpec:
    """The spec of the block mask, for the mask_mod `text`. It is the default if the features allow no other."""
    f, p = scope.features, scope.problem
    q, kv = one(draw, queries), one(draw, keys)
    by_hand, by_pattern = draw(st.booleans()), draw(st.integers(0, 3)) == 3
    if not f.block_sizes:
        q = kv = 128
    elif f.lists and by_hand:
        q, kv = _several(draw, q, queries, p.M), _several(draw, kv, keys, p.N)
    rows, columns = -(-p.M // q), -(-p.N // kv)
    constant = text is not None and "_like(" in text  # a constant mask_mod tests something only beside block lists
    listed = (by_hand or constant) and f.lists and 0 < rows * columns <= 40 and p.B * p.H > 0
    if not listed:
        if text is None:
            return BlockSpec(kind="none") if by_pattern and f.lists else BlockSpec()
        # A broadcast block mask is computed for b = h = 0 and used for all b and h. In partial blocks, the mask_mod
        # still applies to every b and h.
        return BlockSpec(q=q, kv=kv, broadcast=f.block_sizes and draw(st.booleans()))
    if by_pattern:
        return BlockSpec(q=q, kv=kv, kind="lists", pattern=one(draw, _patterns(rows, columns)))
    many = draw(st.booleans()) and p.B * p.H * rows * columns <= 40
    states = "fnp" if text == _NOTHING else "pfn"
    lists = [[_rows(draw, rows, columns, states) for _ in range(p.H if many else 1)] for _ in range(p.B if many else 1)]
    if not many:
        return BlockSpec(q=q, kv=kv, kind="lists", partial=lists[0][0][0], full=lists[0][0][1])
    partial, full = (tuple(tuple(head[kind] for head in heads) for heads in lists) for kind in (0, 1))
    return BlockSpec(q=q, kv=kv, kind="lists", partial=partial, full=full)


def _patterns(rows: int, columns: int) -> list[str]:
    """The patterns that leave some blocks, each twice, and the pattern "nothing" once."""
    empty = {"nothing", *(["empty_rows"] if rows < 2 else []), *(["first_empty"] if columns < 2 else [])}
    return [*(name for name in PATTERNS if name not in empty for _ in range(2)), "nothing"]


def _several(draw: Draw, size: int, sizes: Sequence[int], length: int) -> int:
    """A block size that splits the length into two to six blocks, else `size`: one block has no order to get wrong."""
    fitting = [n for n in sizes if n < length <= 6 * n]
    return one(draw, fitting) if fitting else size


def _rows(
    draw: Draw, rows: int, columns: int, kinds: str
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """(partial, full): for each row of query blocks, its key blocks in any order. A block is in one list or in none.

    `kinds` are the states of a block in the order of shrinking: p (partial), f (full), n (not listed). If there is only
    one block, it is never left out: its state is `kinds[0]` instead.
    """
    partial, full = [], []
    for _ in range(rows):
        order = draw(st.permutations(range(columns)))
        states = [one(draw, kinds if rows * columns > 1 else kinds.replace("n", kinds[0])) for _ in order]
        partial.append(tuple(c for c, s in zip(order, states, strict=True) if s == "p"))
        full.append(tuple(c for c, s in zip(order, states, strict=True) if s == "f"))
    return tuple(partial), tuple(full)
