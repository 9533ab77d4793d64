"""The names that an expression may read: the parameters of the mod, and its captures and variables so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flexconf.cases.case import Capture
from flexconf.cases.problem import Problem
from flexconf.strategies.features import Features
from flexconf.strategies.terms import Term

NAMES = ("bias", "table", "weight", "offset", "extra", "more", "scale", "slope", "bound", "other")
_DEVIATIONS = 12
"""Sums of products of normal numbers lie within this many standard deviations: one in 10^11 does not."""
_SPREAD = {"normal": 1, "large": 3, "tiny": 2**-10, "infinite": 1}


@dataclass
class Scope:
    """The surroundings of one mod of the given kind, "score" or "mask". Both mods of a case share their captures.

    `values` gives (least value, largest value, whether there may be infinities) of each capture by name.
    """

    features: Features
    problem: Problem
    kind: str
    captures: list[Capture] = field(default_factory=list)
    values: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    variables: list[Term] = field(default_factory=list)

    def parameters(self) -> list[Term]:
        """The index variables kv, q, h and b."""
        p = self.problem
        sizes = {"kv": p.N, "q": p.M, "h": p.H, "b": p.B}
        return [Term(name, "int32", 0, max(size - 1, 0)) for name, size in sizes.items()]

    def leaves(self) -> list[Term]:
        """The leaves of expressions. The index h or b is left out if there is only one head or batch."""
        positions = self.parameters()
        found = [t for t in positions if t.hi > 0 or t.text in ("kv", "q")]
        return [*([self.score()] * 2 if self.kind == "score" else []), *self.variables, *found]

    def score(self) -> Term:
        """The score. Its range has a wide margin, because an index may be computed from the score."""
        p = self.problem
        if p.qkv in _SPREAD:
            most = _DEVIATIONS * math.sqrt(p.D) * _SPREAD[p.qkv] ** 2
        else:
            most = p.D if p.qkv == "constant" else 0
        most = max(abs(p.effective_scale) * most, 1.0)
        return Term("score", "float32", -most, most, special=p.qkv == "infinite")

    def free_name(self) -> str | None:
        """A name for another capture. Returns None if all names are taken."""
        return next(iter(self.free_names(1)), None)

    def free_names(self, count: int) -> list[str]:
        """Names for `count` more captures, or fewer if the other names are taken."""
        taken = {c.name for c in self.captures}
        return [name for name in NAMES if name not in taken][:count]

    def symbol(self, size: int) -> int | str:
        """The symbol of the problem that has the value `size`, or `size` itself if there is none."""
        p = self.problem
        named = {"N": p.N, "M": p.M, "H": p.H, "B": p.B}
        return next((name for name, value in named.items() if value == size and size > 1), size)
