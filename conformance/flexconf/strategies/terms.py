"""Terms: parts of a mod's text with their dtype and the range of their values."""

from __future__ import annotations

import ast
import functools
import math
from dataclasses import dataclass

import torch

from flexconf.language import modtext
from flexconf.language.operations import FLOATS as FLOATS
from flexconf.language.operations import INTEGER_RANGES as INTEGER_RANGES

LARGEST = {"float16": 3e4, "bfloat16": 1e30, "float32": 1e30, "float64": 1e30}
"""The largest magnitude of a float term, by dtype. Larger values could overflow, and an overflow has no bound."""


@dataclass(frozen=True)
class Term:
    """An expression, the dtype of its value ("bool", "int32", "float16", ...), and its least and largest value.

    The range of an integer is certain. The range of a float is the expected one, infinite if it is unknown. `special`
    means that the value may be infinite or NaN.
    """

    text: str
    dtype: str
    lo: float
    hi: float
    special: bool = False

    @property
    def is_float(self) -> bool:
        """Whether its dtype is a floating-point dtype."""
        return self.dtype in FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether its dtype is an integer dtype; bool is not."""
        return self.dtype in INTEGER_RANGES

    @property
    def size(self) -> float:
        """The largest magnitude."""
        return max(abs(self.lo), abs(self.hi))

    def within(self, lo: float, hi: float) -> bool:
        """Whether all its values lie in [lo, hi]."""
        return lo <= self.lo and self.hi <= hi

    def fits(self) -> bool:
        """Whether its dtype holds all its values, for floats well below overflow."""
        if self.is_integer:
            least, most = INTEGER_RANGES[self.dtype]
            return self.within(least, most)
        return not self.is_float or self.size <= LARGEST[self.dtype]


@functools.cache
def result_dtype(text: str, x: str, y: str | None = None) -> str:
    """The dtype of `text` over scalars x and y of the given dtypes. Returns "" if PyTorch refuses the text."""
    operands = {name: torch.ones((), dtype=getattr(torch, d)) for name, d in (("x", x), ("y", y)) if d is not None}
    read = modtext.free_names(text)
    mod = modtext.compile_mod(text, "score", {n: t for n, t in operands.items() if n in read}, {})
    index = torch.zeros((), dtype=torch.int32)
    try:
        result: object = mod(torch.zeros(()), index, index, index, index)
    except (RuntimeError, TypeError, ValueError):
        return ""
    return str(result.dtype).removeprefix("torch.") if isinstance(result, torch.Tensor) else ""


def written(text: str) -> str:
    """The text with necessary brackets only."""
    lines = [ast.unparse(statement) for statement in ast.parse(text).body]
    return "\n".join(lines)


def substitute(text: str, x: Term, y: Term | None = None) -> str:
    """`text` with the operands in the place of the names x and y."""
    tree = ast.parse(text, mode="eval")
    bodies = {"x": x.text} | ({"y": y.text} if y is not None else {})

    class Operands(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.parse(bodies[node.id], mode="eval").body if node.id in bodies else node

    return ast.unparse(Operands().visit(tree))


def finite(*values: float) -> bool:
    """Whether all values are finite."""
    return all(math.isfinite(v) for v in values)
