"""Reads the outline of a case from its text and captures, without running it: operations with dtypes, reads, shape.

The walk gives every expression its PyTorch dtype (L7.2, for scalars), and an interval if it is an integer. So it knows
the dtype on which an operation works, and which index may be negative.
"""

from __future__ import annotations

import ast
import hashlib
import io
import math
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flexconf.cases.case import Case
from flexconf.fuzz import marks
from flexconf.fuzz.values import DrawnValue, constant, folded, interval, kinds, operand, promoted
from flexconf.language import layouts
from flexconf.language.operations import ROWS, rows_by_function

__all__ = ["SPELLINGS", "Outline", "Read", "UsedOperation", "of_case", "of_text", "stride_kind", "tokens"]

_FUNCTIONS = rows_by_function()
_LIKE = frozenset(row.name for row in ROWS if row.filled)
SPELLINGS = {
    other.rpartition(".")[2]: first.rpartition(".")[2]
    for first, *others in (tuple(row.calls) for row in ROWS if row.calls)
    for other in others
}
"""Other names of an operation -> the name used here, which is the first name in its row."""
_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder", ast.Pow: "pow", ast.LShift: "bitwise_left_shift", ast.RShift: "bitwise_right_shift",
    ast.BitAnd: "bitwise_and", ast.BitOr: "bitwise_or", ast.BitXor: "bitwise_xor",
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip
_UNARY: Mapping[type[ast.unaryop], str] = {ast.USub: "neg", ast.Invert: "bitwise_not", ast.UAdd: "pos"}
_EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class UsedOperation:
    """One operation of a mod. `dtype` is the promoted dtype of its tensor operands, "number" if it has none."""

    name: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype}"


@dataclass(frozen=True)
class Read:
    """One read of a capture. `kinds` of its indices: constant, variable, computed, loaded, negative.

    A read of a 0-dim capture has the kind "none". `places` are the indices as text.
    """

    capture: str
    kinds: tuple[str, ...]
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outline:
    """The outline of a case's mods.

    `operations` and `reads` are in the order of evaluation, score_mod first. `graph` is a hash: it is the same for
    cases whose mods differ in names and constants only, if their captures have the same ranks and dtypes. `shared` are
    the captures that both mods read, and `repeated` are the captures read more than once. `marks` are the keys of
    `flexconf.fuzz.marks`: argument forms, promotions, lanes, permuted reads, views.
    """

    operations: tuple[UsedOperation, ...]
    reads: tuple[Read, ...]
    graph: str
    shared: frozenset[str]
    repeated: frozenset[str]
    marks: frozenset[str]


@dataclass
class _Walked:
    operations: list[UsedOperation] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)


def of_case(case: Case) -> Outline:
    """The outline of a case. The constructor of the case has checked the text already."""
    symbols = case.problem.symbols()
    dtypes = {c.name: (c.dtype, len(c.shape)) for c in case.captures}
    renaming: dict[str, str] = {}
    operations: list[UsedOperation] = []
    reads: list[Read] = []
    used: list[set[str]] = []
    found: set[str] = set()
    texts: list[str] = []
    for kind, text in (("score", case.score_mod), ("mask", case.mask_mod)):
        if text is None:
            texts.append("")
            continue
        seen = _Walked()
        tree = ast.parse(textwrap.dedent(text).strip())
        _Walk(kind, symbols, dtypes, seen).module(tree)
        operations += seen.operations
        reads += seen.reads
        used.append({read.capture for read in seen.reads})
        found |= seen.marks
        texts.append(_normal(tree, renaming, dtypes))
    ranks = [f"{dtypes[name][1]}:{dtypes[name][0]}" for name in renaming if name in dtypes]
    graph = hashlib.sha256("|".join([*texts, *ranks]).encode()).hexdigest()[:16]
    names = [read.capture for read in reads]
    found |= marks.permutations((read.capture, read.places) for read in reads)
    found |= marks.views(case.captures, used)
    return Outline(
        operations=tuple(operations),
        reads=tuple(reads),
        graph=graph,
        shared=frozenset(used[0] & used[1]) if len(used) == 2 else frozenset(),
        repeated=frozenset(name for name in names if names.count(name) > 1),
        marks=frozenset(found),
    )


def of_text(text: str, captures: Mapping[str, tuple[str, int]]) -> tuple[tuple[UsedOperation, ...], frozenset[str]]:
    """(operations, marks) of the text of a score_mod. `captures` gives (dtype, rank) by name."""
    seen = _Walked()
    _Walk("score", dict.fromkeys(("B", "H", "Hkv", "M", "N", "D", "Dv"), 8), captures, seen).module(ast.parse(text))
    return tuple(seen.operations), frozenset(seen.marks)


def tokens(case: Case) -> int:
    """The number of Python tokens in a case's mods, without line ends and indentation."""
    ends = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    texts = [text for text in (case.score_mod, case.mask_mod) if text is not None]
    return sum(
        token.type not in ends
        for text in texts
        for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(text).strip() + "\n").readline)
    )


class _Walk:
    """Walks the statements of a mod in order, and collects what it finds in `seen`."""

    def __init__(
        self, kind: str, symbols: Mapping[str, int], captures: Mapping[str, tuple[str, int]], seen: _Walked
    ) -> None:
        self.seen = seen
        self.depth = 0  # the number of subscripts around the current expression
        self.captures = captures
        ranges = {"b": symbols["B"], "h": symbols["H"], "q": symbols["M"], "kv": symbols["N"]}
        self.names: dict[str, DrawnValue] = {
            name: DrawnValue("int32", 0, max(size - 1, 0), variable=True, lane=name == "kv")
            for name, size in ranges.items()
        }
        self.names |= {name: constant(size) for name, size in symbols.items()}
        self.names |= {name: constant(getattr(math, name)) for name in ("inf", "nan", "pi")}
        if kind == "score":
            self.names["score"] = DrawnValue("float32", lane=True)

    def module(self, tree: ast.Module) -> None:
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                # An index that is given a name is still a computed one, unless the name renames an index variable.
                self.names[statement.targets[0].id] = self.value(statement.value)
            elif isinstance(statement, ast.Expr):
                self.value(statement.value)

    def value(self, node: ast.expr) -> DrawnValue:
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return constant(number)
            case ast.Name(id=name):
                return self.name(name)
            case ast.UnaryOp(op=op, operand=inner):
                return self.operation(_UNARY[type(op)], [self.value(inner)])
            case ast.BinOp(left=left, op=op, right=right):
                return self.operator(_BINARY[type(op)], left, right)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.operator(_COMPARE[type(op)], left, right)
            case ast.Subscript(value=inner, slice=index):
                return self.subscript(self.value(inner), index)
            case ast.Call():
                return self.call(node)
        return DrawnValue("float32")

    def name(self, name: str) -> DrawnValue:
        if name in self.names:
            return self.names[name]
        dtype, rank = self.captures.get(name, ("float32", 0))
        if rank == 0:
            self.seen.reads.append(Read(name, ("none",)))
        low, high = (0.0, 1.0) if dtype == "bool" else (0.0, math.inf) if dtype == "uint8" else _EVERYTHING
        return DrawnValue(dtype, low, high, rank=rank, loaded=True, capture=name, zero=rank == 0)

    def operator(self, name: str, left: ast.expr, right: ast.expr) -> DrawnValue:
        operands = [self.value(left), self.value(right)]
        self.seen.marks |= marks.form(name, operands, {})
        return self.operation(name, operands)

    def subscript(self, inner: DrawnValue, index: ast.expr) -> DrawnValue:
        written = index.elts if isinstance(index, ast.Tuple) else [index]
        self.depth += 1
        parts = [self.value(part) for part in written]
        self.depth -= 1
        found = (*inner.kinds, *(kind for part in parts for kind in kinds(part)))
        places = (*inner.places, *map(ast.unparse, written))
        rank = inner.rank - len(parts)
        if rank <= 0:
            self.seen.reads.append(Read(inner.capture, found, places))
        lane = inner.lane or any(part.lane for part in parts)
        return replace(inner, rank=max(rank, 0), kinds=found, places=places, lane=lane)

    def call(self, node: ast.Call) -> DrawnValue:
        assert isinstance(node.func, ast.Attribute)
        name = SPELLINGS.get(node.func.attr, node.func.attr)
        keywords = {k.arg: k.value for k in node.keywords if k.arg is not None}
        if name == "to":
            target = ast.unparse(node.args[0]).removeprefix("torch.")
            source = self.value(node.func.value)
            self.seen.operations.append(UsedOperation(f"to_{target}", operand([source])))
            if target.startswith("int") and source.dtype is not None and "float" not in source.dtype:
                return replace(source, dtype=target, number=None, variable=False)
            return DrawnValue(target, loaded=source.loaded, lane=source.lane)
        arguments = [self.value(argument) for argument in node.args]
        named = {k: v if marks.is_word(v) else self.value(v) for k, v in keywords.items()}
        self.seen.marks |= marks.form(name, arguments, named)
        # These keywords are operands too: the bounds of a clamp may be tensors.
        arguments += [v for k, v in named.items() if k in ("min", "max", "alpha") and isinstance(v, DrawnValue)]
        mode = keywords.get("rounding_mode")
        if name == "div" and isinstance(mode, ast.Constant) and mode.value is not None:
            name = f"div_{mode.value!s}"
        approximate = keywords.get("approximate")
        if name == "gelu" and isinstance(approximate, ast.Constant) and approximate.value == "tanh":
            name = "gelu_tanh"
        if name in _LIKE and "dtype" in keywords:
            self.seen.operations.append(UsedOperation(name, operand(arguments[:1])))
            return DrawnValue(ast.unparse(keywords["dtype"]).removeprefix("torch."))
        return self.operation(name, arguments)

    def operation(self, name: str, arguments: Sequence[DrawnValue]) -> DrawnValue:
        numbers = [a.number for a in arguments]
        if all(number is not None for number in numbers) and arguments:
            return folded(name, numbers)
        if name == "pos":
            return arguments[0]
        chosen = arguments[1:] if name == "where" else arguments[:1] if name in _LIKE else arguments
        result = promoted([(a.dtype, type(a.number).__name__ if a.dtype is None else "") for a in chosen])
        inner = operand(chosen) if any(a.dtype is not None for a in chosen) else operand(arguments)
        self.seen.operations.append(UsedOperation(name, inner))
        self.seen.marks |= marks.promotions(chosen)
        if self.depth:
            self.seen.marks |= marks.lanes(name, arguments)
        row = _FUNCTIONS.get(name.removesuffix("_tanh"))
        if row is not None and row.result == "bool":
            result = "bool"
        elif row is not None and row.result == "float" and not result.startswith(("float", "bfloat")):
            result = "float32"
        low, high = interval(name, arguments) if "int" in result else _EVERYTHING
        depends = (any(a.loaded for a in arguments), any(a.lane for a in arguments))
        return DrawnValue(result, low, high, loaded=depends[0], lane=depends[1])


def _normal(tree: ast.Module, renaming: dict[str, str], captures: Mapping[str, tuple[str, int]]) -> str:
    """The text with numbered names for captures and variables, and the type's name for every constant.

    `renaming` numbers the captures of both mods. Strings stay.
    """
    local: dict[str, str] = {}

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if node.id in captures:
                return ast.Name(renaming.setdefault(node.id, f"c{len(renaming)}"), node.ctx)
            if node.id in local or isinstance(node.ctx, ast.Store):
                return ast.Name(local.setdefault(node.id, f"x{len(local)}"), node.ctx)
            return node

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Name(type(node.value).__name__, ast.Load()) if not isinstance(node.value, str) else node

        def visit_Assign(self, node: ast.Assign) -> ast.AST:
            value = self.visit(node.value)
            return ast.Assign(targets=[self.visit(t) for t in node.targets], value=value, lineno=1)

    return ast.unparse(ast.fix_missing_locations(Renamed().visit(tree)))


def stride_kind(layout: str) -> str:
    """The kind of a capture's layout, without its numbers."""
    return layouts.parse(layout).kind
