"""Coverage of fuzzing: which keys the examples have reached, and which they have missed.

The keys of an example are read from the text of its case: `op:NAME:DTYPE:WIDTH`, `capture:RANK:DTYPE:STRIDES:INDEX`,
`shape:CLASS`, `template:BRANCH`, and the keys of `flexconf.fuzz.marks`. The universe of all keys comes from the table
of operations that `flexconf ops` checks and the dtypes of each, from the argument forms that the generator knows, from
the dtypes of L7.5, and from the layouts that a case can name.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from flexconf.cases.block import PATTERNS
from flexconf.cases.case import Case
from flexconf.cases.problem import DISTRIBUTIONS, DTYPES, PROBLEM_LAYOUTS
from flexconf.fuzz import marks, outline
from flexconf.fuzz.outline import Outline
from flexconf.language import layouts, modtext
from flexconf.language.operations import OPERATIONS, ROWS

WIDTHS = (1, 2, 4, 8)
INDICES = ("constant", "variable", "computed", "loaded", "negative")
STRIDES = (*layouts.LAYOUTS, *layouts.SHARED)

_VIEWS = tuple(itertools.product(marks.VIEWS, ("one mod", "both mods")))
_SHAPES = (
    "M=0", "N=0", "B=0", "M=1", "N=1", "M<block", "N<block", "M in whole blocks", "N in whole blocks",
    "M with a tail", "N with a tail", "M=N", "M<N", "M>N", "B>1", "one head", "heads equal", "gqa", "mqa",
    "D=Dv", "D!=Dv", "scale by default", "scale given", "scale negative", "scale zero",
    *(f"dtype {name}" for name in DTYPES),
    *(f"layout {name}" for name in PROBLEM_LAYOUTS),
    *(f"qkv {name}" for name in DISTRIBUTIONS),
)  # fmt: skip
_TEMPLATES = (
    "score only", "mask only", "both", "neither", "no captures", "captures in score_mod", "captures in mask_mod",
    "capture in both mods", "capture read twice", "several captures", "capture on another's storage",
    "capture that indexes another", "block default", "block other size", "block from_mask", "block broadcast",
    "block none", "block lists", "lists per head", "lists with full blocks", "lists with partial blocks",
    *(f"pattern {name}" for name in PATTERNS),
)  # fmt: skip


def keys(case: Case, width: int, seen: Outline) -> list[str]:
    """The keys that a case reaches at a vector width: each key once, sorted."""
    found = {f"op:{o.name}:{o.dtype}:{width}" for o in seen.operations if o.dtype != "number"}
    captures = {c.name: c for c in case.captures}
    for read in seen.reads:
        c = captures.get(read.capture)
        if c is not None:
            strides = outline.stride_kind(c.layout)
            found |= {f"capture:{len(c.shape)}:{c.dtype}:{strides}:{kind}" for kind in read.kinds}
    found |= seen.marks
    found |= {f"shape:{name}" for name in _shapes(case)}
    found |= {f"template:{name}" for name in _templates(case, seen)}
    return sorted(found)


def _shapes(case: Case) -> Iterable[str]:
    p = case.problem
    for name, size, block in (("M", p.M, case.block.q), ("N", p.N, case.block.kv)):
        if size in (0, 1):
            yield f"{name}={size}"
        if 0 < size < block:
            yield f"{name}<block"
        elif size > block and size % block:
            yield f"{name} with a tail"
        elif size:
            yield f"{name} in whole blocks"
    if p.B != 1:
        yield "B=0" if p.B == 0 else "B>1"
    yield "M=N" if p.M == p.N else "M<N" if p.M < p.N else "M>N"
    yield "one head" if p.H == 1 else "heads equal" if p.Hkv == p.H else "mqa" if p.Hkv == 1 else "gqa"
    yield "D=Dv" if p.Dv == p.D else "D!=Dv"
    if p.scale is None:
        yield "scale by default"
    else:
        yield "scale zero" if p.scale == 0 else "scale negative" if p.scale < 0 else "scale given"
    yield from (f"dtype {p.dtype}", f"layout {p.layout}", f"qkv {p.qkv}")


def _templates(case: Case, seen: Outline) -> Iterable[str]:
    yield {"score_mod": "score only", "mask_mod": "mask only", "combination": "both", "plain": "neither"}[case.kind]
    names = {kind: _names(text) for kind, text in (("score", case.score_mod), ("mask", case.mask_mod))}
    if not case.captures:
        yield "no captures"
    if len(case.captures) > 1:
        yield "several captures"
    for kind, used in names.items():
        if used:
            yield f"captures in {kind}_mod"
    if seen.shared:
        yield "capture in both mods"
    if seen.repeated:
        yield "capture read twice"
    if any(layouts.parse(c.layout).of is not None for c in case.captures):
        yield "capture on another's storage"
    if any("loaded" in read.kinds for read in seen.reads):
        yield "capture that indexes another"
    yield from _blocks(case)


def _names(text: str | None) -> frozenset[str]:
    return modtext.free_names(text) if text is not None else frozenset()


def _blocks(case: Case) -> Iterable[str]:
    block = case.block
    yield "block default" if (block.q, block.kv) == (128, 128) else "block other size"
    if block.kind == "from_mask" and case.mask_mod is not None:
        yield "block broadcast" if block.broadcast else "block from_mask"
    elif block.kind != "from_mask":
        yield f"block {block.kind}"
    if block.pattern is not None:
        yield f"pattern {block.pattern}"
    for name, lists in (("full", block.full), ("partial", block.partial)):
        if lists:
            yield f"lists with {name} blocks"
            if _depth(lists) == 4:
                yield "lists per head"


def _depth(lists: object) -> int:
    # The depth of an empty list is unknown; it counts as 1.
    if not isinstance(lists, tuple):
        return 0
    return 1 + max((_depth(item) for item in lists), default=0 if not lists else 1)


# ------------------------------------------------------------------------------------------------------ universe


@dataclass(frozen=True)
class Axis:
    """One table of the report: `reached` counts examples by key, `missed` are the keys that no example reached."""

    name: str
    reached: Mapping[str, int]
    missed: tuple[str, ...]

    @property
    def total(self) -> int:
        """The size of the universe."""
        return len(self.reached) + len(self.missed)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"of": self.total, "reached": len(self.reached), "missed": list(self.missed)}


@dataclass(frozen=True)
class Coverage:
    """The tables, and `outside`: reached pairs "operation dtype" that are not in the universe."""

    axes: tuple[Axis, ...]
    outside: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"tables": {axis.name: axis.to_json() for axis in self.axes}, "outside": list(self.outside)}


@cache
def operations() -> frozenset[tuple[str, str]]:
    """Every (operation, dtype of its tensor operands) that L7.6 asks for. `flexconf ops` checks them one by one."""
    found: set[tuple[str, str]] = set()
    for operation in OPERATIONS:
        for dtype in operation.dtypes:
            seen, _ = outline.of_text(operation.text, {"x": (dtype, 0), "y": (dtype, 0)})
            found |= {(o.name, o.dtype) for o in seen if o.dtype == dtype}
    return frozenset(found)


@cache
def _named_operations() -> frozenset[str]:
    """The names in `operations`, and of all other functions that a mod can call and a lowering must take."""
    refused = {row.name for row in ROWS if row.refused}
    called = {outline.SPELLINGS.get(name, name) for name in (d.rpartition(".")[2] for d in modtext.OPERATIONS)}
    return frozenset({name for name, _ in operations()} | (called - refused))


@cache
def captures() -> frozenset[tuple[str, str, str, str]]:
    """Every (rank, dtype, strides, kind of index) of a capture that a case can have."""
    least = {"transposed": 2, "permuted": 2, "stepped": 1, "padded": 1, "expanded": 1, "transpose_of": 2}
    return frozenset(
        (str(rank), dtype, strides, index)
        for rank, dtype, strides in itertools.product(range(5), modtext.DTYPES, STRIDES)
        if rank >= least.get(strides, 0) and not (strides in ("last_of", "first_of") and rank == 4)
        for index in (INDICES if rank else ("none",))
    )


def _marked(text: str, kind: str, captures: Mapping[str, tuple[str, int]]) -> set[tuple[str, ...]]:
    """The marks of one kind in a text, split at their colons, without the kind."""
    _, found = outline.of_text(text, captures)
    return {tuple(mark.split(":")[1:]) for mark in found if mark.startswith(f"{kind}:")}


@cache
def forms() -> frozenset[tuple[str, ...]]:
    """Every (operation, arguments) of the argument forms that the generator and `flexconf ops` know."""
    from flexconf.strategies import forms as drawn

    found: set[tuple[str, ...]] = set()
    for operation in (*OPERATIONS, *drawn.table()):
        dtype = operation.dtypes[0]
        found |= _marked(operation.text, "form", {"x": (dtype, 0), "y": (dtype, 0)})
    return frozenset(found)


@cache
def lanes() -> frozenset[tuple[str, ...]]:
    """Every (operation, arguments that differ within a vector) in the indices that `strategies.lanes` makes."""
    from flexconf.strategies import lanes as drawn

    return frozenset().union(*(_marked(text, "lanes", {drawn.TABLE: ("float32", 1)}) for text in drawn.examples()))


@cache
def promotions() -> frozenset[tuple[str, ...]]:
    """Every ("zero", dtype of a 0-dim capture, dtype) and ("number", type of a Python number, dtype)."""
    zero = itertools.product(("zero",), modtext.DTYPES, modtext.DTYPES)
    return frozenset((*zero, *itertools.product(("number",), ("bool", "int", "float"), modtext.DTYPES)))


@cache
def permutations() -> frozenset[tuple[str, ...]]:
    """Every (rank, places whose indices differ) of two reads of one table with permuted indices."""
    return frozenset(
        (str(rank), "".join(map(str, places)))
        for rank in (2, 3, 4)
        for count in range(2, rank + 1)
        for places in itertools.combinations(range(rank), count)
    )


def report(counts: Mapping[str, int]) -> Coverage:
    """The tables for `counts`, the number of examples by key.

    Products of several axes are reported whole and by pairs: a short run reaches every pair long before every
    combination.
    """
    ops = _split(counts, "op", 3)
    caps = _split(counts, "capture", 4)
    wanted = operations()
    every = captures()
    axes = [
        _axis("operations", {(name,) for name in _named_operations()}, ops, (0,)),
        _axis("operations x dtypes", wanted, ops, (0, 1)),
        _axis("operations x widths", {(n, str(w)) for n, _ in wanted for w in WIDTHS}, ops, (0, 2)),
        _axis("operations x dtypes x widths", {(n, d, str(w)) for n, d in wanted for w in WIDTHS}, ops, (0, 1, 2)),
    ]
    named = ("rank", "dtype", "strides", "index")
    for i, j in itertools.combinations(range(4), 2):
        pairs = {(c[i], c[j]) for c in every}
        axes.append(_axis(f"captures: {named[i]} x {named[j]}", pairs, caps, (i, j)))
    axes.append(_axis("captures: rank x dtype x strides x index", every, caps, (0, 1, 2, 3)))
    axes.append(_axis("argument forms", forms(), _split(counts, "form", 2), (0, 1)))
    axes.append(_axis("promotions", promotions(), _split(counts, "promotion", 3), (0, 1, 2)))
    axes.append(_axis("lanes that differ in an index", lanes(), _split(counts, "lanes", 2), (0, 1)))
    axes.append(_axis("permuted reads of a table", permutations(), _split(counts, "permutation", 2), (0, 1)))
    axes.append(_axis("views of one storage", _VIEWS, _split(counts, "views", 2), (0, 1)))
    axes.append(_axis("shape classes", {(name,) for name in _SHAPES}, _split(counts, "shape", 1), (0,)))
    axes.append(_axis("template branches", {(name,) for name in _TEMPLATES}, _split(counts, "template", 1), (0,)))
    outside = sorted({f"{name} {dtype}" for name, dtype, _ in ops if (name, dtype) not in wanted})
    return Coverage(tuple(axes), tuple(outside))


def _split(counts: Mapping[str, int], kind: str, parts: int) -> dict[tuple[str, ...], int]:
    return {
        tuple(key.split(":", parts)[1:]): count
        for key, count in counts.items()
        if key.startswith(f"{kind}:") and key.count(":") >= parts
    }


def _axis(
    name: str, universe: Iterable[tuple[str, ...]], counts: Mapping[tuple[str, ...], int], positions: tuple[int, ...]
) -> Axis:
    reached: Counter[tuple[str, ...]] = Counter()
    for key, count in counts.items():
        reached[tuple(key[i] for i in positions)] += count
    everything = sorted(universe)
    return Axis(
        name,
        {" ".join(key): reached[key] for key in everything if reached[key]},
        tuple(" ".join(key) for key in everything if not reached[key]),
    )


def share(counts: Mapping[str, int]) -> float:
    """The share of the (operation, dtype) pairs that were reached, for a progress line. NaN if there are no pairs."""
    wanted = operations()
    found = {tuple(key.split(":")[1:3]) for key in counts if key.startswith("op:")}
    return len(found & wanted) / len(wanted) if wanted else math.nan
