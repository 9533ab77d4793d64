"""The vocabulary of mods: operations, names, and hints that replace forbidden forms by allowed ones."""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Mapping
from typing import Literal

from flexconf.errors import InputError
from flexconf.language.arithmetic import SYMBOLS
from flexconf.language.operations import SIGNATURES, Signature

Kind = Literal["score", "mask"]


class ModTextError(InputError):
    """The text of a mod is outside the grammar.

    The message is one line: the position if it is known, the fault, and in most cases a form that works.
    """


DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
)  # fmt: skip
"""The dtypes of clause L7.5, as `torch.<name>`."""


OPERATIONS: Mapping[str, Signature] = SIGNATURES
"""The signatures of all callable operations by dotted name, from the table of operations."""

STRING_CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "rounding_mode": ("floor", "trunc", None),
    "approximate": ("none", "tanh"),
}
"""The choices of keywords that take a word. `rounding_mode=None` is the default: division without rounding."""
CONSTANTS: Mapping[str, float] = {"inf": math.inf, "nan": math.nan, "pi": math.pi}
PARAMETERS: Mapping[Kind, tuple[str, ...]] = {
    "score": ("score", "b", "h", "q", "kv"),
    "mask": ("b", "h", "q", "kv"),
}
GRAMMAR_NAMES = frozenset({*PARAMETERS["score"], *SYMBOLS, *CONSTANTS, "torch"})
"""The names that the grammar defines: parameters, sizes, constants and `torch`. They need no capture."""

HINTS: Mapping[str, str] = {
    "abs": "torch.abs(x)",
    "min": "torch.minimum(x, y)",
    "max": "torch.maximum(x, y)",
    "round": "torch.round(x)",
    "pow": "x ** y or torch.pow(x, y)",
    "sum": "+",
    "int": "x.to(torch.int32)",
    "float": "x.to(torch.float32), or inf for float('inf')",
    "bool": "x.to(torch.bool) or x != 0",
    "math": "torch.<operation>, or the constants inf, nan and pi",
    "np": "torch.<operation>",
    "numpy": "torch.<operation>",
    "F": "torch.nn.functional.<operation>",
    "q_idx": "q",
    "kv_idx": "kv",
    "k_idx": "kv",
    "q_index": "q",
    "kv_index": "kv",
    "batch": "b",
    "b_idx": "b",
    "head": "h",
    "h_idx": "h",
    "len": "the symbols " + ", ".join(SYMBOLS),
    "range": "explicit terms; a mod has no loops",
}
REDUCTIONS = ("sum", "mean", "prod", "any", "all", "amax", "amin")
"""Reductions of one dimension of a short vector, as methods and as functions of torch (L7.8)."""

METHODS = frozenset({"to", "pow", "unsqueeze", *REDUCTIONS})
"""The methods of a tensor that a mod's text may call."""

LONGEST_VECTOR = 16
"""The most elements of a vector in a mod's text. A lowering takes fewer, and refuses longer ones by name."""

METHOD_HINTS: Mapping[str, str] = {
    "float": ".to(torch.float32)",
    "double": ".to(torch.float64)",
    "half": ".to(torch.float16)",
    "bfloat16": ".to(torch.bfloat16)",
    "int": ".to(torch.int32)",
    "long": ".to(torch.int64)",
    "bool": ".to(torch.bool)",
    "item": "the tensor itself; a mod works on scalar tensors",
}
STATEMENTS: Mapping[type[ast.stmt], str] = {
    ast.If: "'if' on a tensor is Python control flow; write torch.where(condition, x, y)",
    ast.For: "a mod has no loops; write the terms out",
    ast.While: "a mod has no loops; write the terms out",
    ast.Return: "leave out 'return': the last line is the result",
    ast.FunctionDef: "write only the body: assignments and a final expression",
    ast.Import: "nothing can be imported; torch.<operation>, inf, nan and pi are there",
    ast.ImportFrom: "nothing can be imported; torch.<operation>, inf, nan and pi are there",
    ast.AugAssign: "write x = x + y instead of an in-place operation",
    ast.AnnAssign: "leave out the annotation",
    ast.Assert: "assert on a tensor is Python control flow",
    ast.Delete: "'del' has no use here",
}
EXPRESSIONS: Mapping[type[ast.expr], str] = {
    ast.IfExp: "'x if c else y' on a tensor is Python control flow; write torch.where(c, x, y)",
    ast.BoolOp: "'and'/'or' on tensors is Python control flow; write (x) & (y) or (x) | (y)",
    ast.Lambda: "write only the body of the mod, without 'lambda'",
    ast.NamedExpr: "write the assignment on its own line",
    ast.List: "a mod has no lists",
    ast.Dict: "a mod has no dictionaries",
    ast.Set: "a mod has no sets",
    ast.JoinedStr: "a mod has no strings",
    ast.Slice: "index with scalars only, no slices: bias[h, q]",
    ast.Tuple: "a tuple may only be an index: bias[h, q]",
    ast.Starred: "'*' unpacking has no use here",
    ast.ListComp: "a mod has no loops; write the terms out",
    ast.GeneratorExp: "a mod has no loops; write the terms out",
}
BINARY = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.LShift, ast.RShift, ast.BitAnd, ast.BitOr, ast.BitXor,
)  # fmt: skip
COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
UNARY = (ast.USub, ast.UAdd, ast.Invert)


def check_capture_name(name: str) -> None:
    """Raises ModTextError if a capture cannot have this name.

    >>> check_capture_name("bias")
    >>> check_capture_name("kv")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    flexconf.language.modtext.vocabulary.ModTextError: a capture cannot be called 'kv': the name is taken ...
    """
    taken = name in GRAMMAR_NAMES or name in HINTS or name in ("score_mod", "mask_mod", "make_mod")
    if not name.isidentifier() or keyword.iskeyword(name) or taken or name.startswith("_"):
        raise ModTextError(f"a capture cannot be called {name!r}: the name is taken or is not an identifier")
