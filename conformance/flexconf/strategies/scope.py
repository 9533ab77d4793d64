"""What an expression may read: the parameters of the mod, the captures so far, the variables so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flexconf.cases.case import Capture, Problem
from flexconf.strategies.features import Features
from flexconf.strategies.terms import Term

NAMES = ("bias", "table", "weight", "offset", "extra", "more", "scale", "slope", "bound", "other")
_DEVIATIONS = 12
"""Sums of products of normal numbers lie within this many deviations: one in 10^11 does not."""
_SPREAD = {"normal": 1, "large": 3, "tiny": 2**-10, "infinite": 1}


@dataclass
class Scope:
    """The surroundings of one mod; captures are common to both mods of a case.

    `values` are the least and largest value of what each capture holds, `special` whether it may hold infinities.
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
        """What an expression is made of; a head or batch that is the only one says little."""
        positions = self.parameters()
        found = [t for t in positions if t.hi > 0 or t.text in ("kv", "q")]
        return [*([self.score()] * 2 if self.kind == "score" else []), *self.variables, *found]

    def score(self) -> Term:
        """The score; in integers made of it, an index may depend on its range."""
        p = self.problem
        if p.qkv in _SPREAD:
            most = _DEVIATIONS * math.sqrt(p.D) * _SPREAD[p.qkv] ** 2
        else:
            most = p.D if p.qkv == "constant" else 0
        most = max(abs(p.effective_scale) * most, 1.0)
        return Term("score", "float32", -most, most, special=p.qkv == "infinite")

    def free_name(self) -> str | None:
        """A name for another capture; None when there are enough."""
        return next(iter(self.free_names(1)), None)

    def free_names(self, count: int) -> list[str]:
        """Names for `count` more captures, or fewer when there are enough."""
        taken = {c.name for c in self.captures}
        return [name for name in NAMES if name not in taken][:count]

    def symbol(self, size: int) -> int | str:
        """The problem's symbol for a size, where one has just this value."""
        p = self.problem
        named = {"N": p.N, "M": p.M, "H": p.H, "B": p.B}
        return next((name for name, value in named.items() if value == size and size > 1), size)
