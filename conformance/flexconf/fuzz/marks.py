"""Coverage keys for distinctions that a lowering can confuse, and that operations and captures alone do not show.

`form:NAME:ARGUMENTS`          a way to call an operation: `softplus:x, beta=default, threshold=int`
`promotion:KIND:DTYPE:DTYPE`   a 0-dim capture (`zero`) or a Python number (`number`) beside a tensor
`lanes:NAME:PLACES`            in an index, an operation where only these arguments differ within a vector
`permutation:RANK:PLACES`      two reads of a capture with the same indices, in another order in these places
`views:HOW:WHERE`              two captures on one storage: how they differ, and whether one mod or both read them
"""

from __future__ import annotations

import ast
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeGuard

from flexconf.cases.case import Capture
from flexconf.fuzz.values import DrawnValue
from flexconf.language import layouts

PLACED: Mapping[str, tuple[str, ...]] = {
    "clamp": ("", "min", "max"),
    "hardtanh": ("", "min_val", "max_val"),
    "leaky_relu": ("", "negative_slope"),
    "elu": ("", "alpha"),
    "softplus": ("", "beta", "threshold"),
}
"""The keywords of the arguments that may also be given by position, in order; "" stands for the operand."""

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
"""PyTorch's default of each (function, keyword). For `min`, `max` and `dtype`, no value equals leaving them out."""


def is_word(node: ast.expr) -> TypeGuard[ast.expr]:
    """Whether a keyword's value is a string, None or a dtype, which are not expressions of the mod grammar."""
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, str)
    return isinstance(node, ast.Attribute)


def form(name: str, arguments: Sequence[DrawnValue], keywords: Mapping[str, DrawnValue | ast.expr]) -> set[str]:
    """The mark of a call's form. Except for functions in `PLACED`, a call with tensors alone has no mark."""
    places = PLACED.get(name, ())
    written = [_sort(name, places[i] if i < len(places) else "", a) for i, a in enumerate(arguments)]
    written += [f"{word}={_sort(name, word, given)}" for word, given in sorted(keywords.items())]
    if all(part == "x" for part in written) and name not in PLACED:
        return set()
    return {f"form:{name}:{', '.join(written)}"}


def _sort(name: str, word: str, given: DrawnValue | ast.expr) -> str:
    """The sort of an argument: "x" for a tensor, "default", a word, or a sort of number such as "-int"."""
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


def promotions(operands: Sequence[DrawnValue]) -> set[str]:
    """The marks of each pair of operands: a 0-dim capture or a Python number, and another operand that is a tensor."""
    found = set()
    for one, other in itertools.permutations(operands, 2):
        if other.dtype is None:
            continue
        if one.dtype is None:
            found.add(f"promotion:number:{type(one.number).__name__}:{other.dtype}")
        elif one.zero:
            found.add(f"promotion:zero:{one.dtype}:{other.dtype}")
    return found


def lanes(name: str, arguments: Sequence[DrawnValue]) -> set[str]:
    """The mark of an operation where some arguments differ within a vector and some do not. Otherwise an empty set."""
    differ = [i for i, a in enumerate(arguments) if a.lane]
    if not differ or len(differ) == len(arguments):
        return set()
    return {f"lanes:{name}:{''.join(map(str, differ))}"}


def permutations(reads: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """The marks of two reads of one capture whose indices are permuted: the places in which they differ."""
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
"""How two tensors on one storage differ: not at all, in their strides, in their offset only, or in their shape."""


def views(captures: Sequence[Capture], used: Sequence[Set[str]]) -> set[str]:
    """The marks of each pair of captures on one storage that the mods read. `used` has the captures of each mod."""
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
