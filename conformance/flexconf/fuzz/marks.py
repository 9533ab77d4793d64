"""What a lowering takes for something else and counts of operations and captures do not show, as keys of coverage.

`form:NAME:ARGUMENTS`          an operation called in one way: `softplus:x, beta=default, threshold=int`
`promotion:KIND:DTYPE:DTYPE`   a 0-dim capture (`zero`) or a Python number (`number`) beside a tensor of another dtype
`lanes:NAME:PLACES`            in an index, an operation of which only these arguments differ within a vector
`permutation:RANK:PLACES`      a capture read twice, at the same indices but in these places in another order
`views:HOW:WHERE`              two captures on one storage: how they differ, in one mod or in both
"""

from __future__ import annotations

import ast
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeGuard

from flexconf.cases.case import Capture
from flexconf.fuzz.values import Value
from flexconf.language import layouts

PLACED: Mapping[str, tuple[str, ...]] = {
    "clamp": ("", "min", "max"),
    "hardtanh": ("", "min_val", "max_val"),
    "leaky_relu": ("", "negative_slope"),
    "elu": ("", "alpha"),
    "softplus": ("", "beta", "threshold"),
}
"""Which arguments may be written by place as well as by keyword; "" is the operand."""

DEFAULTS: Mapping[tuple[str, str], int | float | str | None] = {
    ("add", "alpha"): 1,
    ("sub", "alpha"): 1,
    ("div", "rounding_mode"): None,
    ("round", "decimals"): 0,
    ("gelu", "approximate"): "none",
    ("softplus", "beta"): 1,
    ("softplus", "threshold"): 20,
    ("leaky_relu", "negative_slope"): 0.01,
    ("elu", "alpha"): 1.0,
    ("hardtanh", "min_val"): -1.0,
    ("hardtanh", "max_val"): 1.0,
}
"""What PyTorch takes for a keyword that is not written; `min`, `max` and `dtype` have no value that says the same."""


def is_word(node: ast.expr) -> TypeGuard[ast.expr]:
    """Whether a keyword's value is no expression of the grammar: a word, None, or a dtype."""
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, str)
    return isinstance(node, ast.Attribute)


def form(name: str, arguments: Sequence[Value], keywords: Mapping[str, Value | ast.expr]) -> set[str]:
    """The form that a call has, if it has a number or a keyword; of tensors alone every call is alike."""
    places = PLACED.get(name, ())
    written = [_sort(name, places[i] if i < len(places) else "", a) for i, a in enumerate(arguments)]
    written += [f"{word}={_sort(name, word, given)}" for word, given in sorted(keywords.items())]
    if all(part == "x" for part in written) and name not in PLACED:
        return set()
    return {f"form:{name}:{', '.join(written)}"}


def _sort(name: str, word: str, given: Value | ast.expr) -> str:
    """A tensor, the default, a word, or a sort of number."""
    if isinstance(given, ast.expr):
        value = given.value if isinstance(given, ast.Constant) else ast.unparse(given).removeprefix("torch.")
        return "default" if (name, word) in DEFAULTS and DEFAULTS[name, word] == value else str(value)
    number = given.number
    if number is None:
        return "x"
    if (name, word) in DEFAULTS and DEFAULTS[name, word] == number and not isinstance(number, bool):
        return "default"
    if isinstance(number, bool):
        return "bool"
    if number == 0 and isinstance(number, float):
        return "-0.0" if math.copysign(1, number) < 0 else "0.0"
    sign = "-" if number < 0 else ""
    return f"{sign}{'int' if isinstance(number, int) else 'float'}"


def promotions(operands: Sequence[Value]) -> set[str]:
    """The pairs of a 0-dim capture, or a Python number, and a tensor of another dtype or place."""
    found = set()
    for one, other in itertools.permutations(operands, 2):
        if other.dtype is None:
            continue
        if one.dtype is None:
            found.add(f"promotion:number:{type(one.number).__name__}:{other.dtype}")
        elif one.zero:
            found.add(f"promotion:zero:{one.dtype}:{other.dtype}")
    return found


def lanes(name: str, arguments: Sequence[Value]) -> set[str]:
    """The arguments that differ within a vector, where others do not."""
    differ = [i for i, a in enumerate(arguments) if a.lane]
    if not differ or len(differ) == len(arguments):
        return set()
    return {f"lanes:{name}:{''.join(map(str, differ))}"}


def permutations(reads: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """The places in which two reads of one capture have the same indices in another order."""
    by_capture: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for capture, places in reads:
        by_capture[capture].add(places)
    found = set()
    for reads_of_one in by_capture.values():
        for one, other in itertools.combinations(sorted(reads_of_one), 2):
            if sorted(one) == sorted(other):
                differ = "".join(str(i) for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
                found.add(f"permutation:{len(one)}:{differ}")
    return found


VIEWS = ("same", "strides", "offset", "slice")
"""How two tensors on one storage differ: in nothing, their strides, their offset alone, or their shape."""


def views(captures: Sequence[Capture], used: Sequence[Set[str]]) -> set[str]:
    """The pairs of captures on one storage that the mods read."""
    on: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for c in captures:
        layout = layouts.parse(c.layout)
        on[layout.of or c.name].append((c.name, layout.kind if layout.of else ""))
    found = set()
    for names in on.values():
        for (one, first), (other, second) in itertools.combinations(names, 2):
            how = _how(first, second)
            places = [[one in mod, other in mod] for mod in used]
            if any(all(place) for place in places):
                found.add(f"views:{how}:one mod")
            if len(used) == 2 and any(places[i][0] and places[1 - i][1] for i in (0, 1)):
                found.add(f"views:{how}:both mods")
    return found


def _how(first: str, second: str) -> str:
    kinds = {first, second}
    if kinds == {"first_of", "last_of"}:
        return "offset"
    if kinds & {"first_of", "last_of"}:
        return "slice" if first != second else "same"
    return "strides" if "transpose_of" in kinds and first != second else "same"
