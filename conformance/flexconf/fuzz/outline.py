"""What a case says, read from its text and captures without running anything: operations with dtypes, reads, shape.

The walk assigns every expression PyTorch's dtype (L7.2, for scalars) and an interval for whole numbers, so that it can
tell which operation works on what, and which index may be negative.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import math
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from flexconf import layouts
from flexconf.case import Case

__all__ = ["SPELLINGS", "Operation", "Outline", "Read", "of_case", "of_text", "stride_kind", "tokens"]

_FLOATING = frozenset(
    "exp exp2 expm1 log log1p log2 log10 sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh sigmoid erf erfc atan2 div silu gelu softplus elu logsigmoid hypot copysign".split()
)
_BOOLEAN = frozenset("eq ne lt le gt ge logical_and logical_or logical_xor logical_not isnan isinf isfinite".split())
_LIKE = frozenset({"full_like", "zeros_like", "ones_like"})
SPELLINGS = {"true_divide": "div"}
"""Two names of one operation."""
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
class Operation:
    """One operation of a mod and the dtype that its tensor operands promote to."""

    name: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype}"


@dataclass(frozen=True)
class Read:
    """One read of a capture; `kinds` says how each index comes about: constant, variable, computed, loaded, negative.

    A read of rank 0 has the kind "none".
    """

    capture: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """A case's mods. `operations` in the order of evaluation, score_mod first; `reads` likewise.

    `graph` is the same for cases whose mods differ in names and constants only, and whose captures have the same ranks
    and dtypes. `shared` are captures that both mods read, `repeated` those read more than once.
    """

    operations: tuple[Operation, ...]
    reads: tuple[Read, ...]
    graph: str
    shared: frozenset[str]
    repeated: frozenset[str]


@dataclass(frozen=True)
class _Value:
    """An expression: a tensor of `dtype`, or a Python number (dtype None); what is known of its range.

    `rank` are the dimensions still to be indexed. `variable`: it is b, h, q or kv itself. `loaded`: it depends on a
    capture.
    """

    dtype: str | None
    low: float = -math.inf
    high: float = math.inf
    number: bool | int | float | None = None
    rank: int = 0
    variable: bool = False
    loaded: bool = False
    capture: str = ""
    kinds: tuple[str, ...] = ()


@dataclass
class _Seen:
    operations: list[Operation] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


def of_case(case: Case) -> Outline:
    """The outline of a case. Its text has been checked when the case was made."""
    symbols = case.problem.symbols()
    dtypes = {c.name: (c.dtype, len(c.shape)) for c in case.captures}
    renaming: dict[str, str] = {}
    operations: list[Operation] = []
    reads: list[Read] = []
    used: list[set[str]] = []
    texts: list[str] = []
    for kind, text in (("score", case.score_mod), ("mask", case.mask_mod)):
        if text is None:
            texts.append("")
            continue
        seen = _Seen()
        tree = ast.parse(textwrap.dedent(text).strip())
        _Walk(kind, symbols, dtypes, seen).module(tree)
        operations += seen.operations
        reads += seen.reads
        used.append({read.capture for read in seen.reads})
        texts.append(_normal(tree, renaming, dtypes))
    ranks = [f"{dtypes[name][1]}:{dtypes[name][0]}" for name in renaming if name in dtypes]
    graph = hashlib.sha256("|".join([*texts, *ranks]).encode()).hexdigest()[:16]
    names = [read.capture for read in reads]
    return Outline(
        operations=tuple(operations),
        reads=tuple(reads),
        graph=graph,
        shared=frozenset(used[0] & used[1]) if len(used) == 2 else frozenset(),
        repeated=frozenset(name for name in names if names.count(name) > 1),
    )


def of_text(text: str, captures: Mapping[str, tuple[str, int]]) -> tuple[Operation, ...]:
    """The operations of a score_mod's text over captures of (dtype, rank)."""
    seen = _Seen()
    _Walk("score", dict.fromkeys(("B", "H", "Hkv", "M", "N", "D", "Dv"), 8), captures, seen).module(ast.parse(text))
    return tuple(seen.operations)


def tokens(case: Case) -> int:
    """The number of tokens of a case's mods, as Python counts them, without line ends."""
    ends = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    texts = [text for text in (case.score_mod, case.mask_mod) if text is not None]
    return sum(
        token.type not in ends
        for text in texts
        for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(text).strip() + "\n").readline)
    )


class _Walk:
    """Walks a mod's statements in order."""

    def __init__(
        self, kind: str, symbols: Mapping[str, int], captures: Mapping[str, tuple[str, int]], seen: _Seen
    ) -> None:
        self.seen = seen
        self.captures = captures
        ranges = {"b": symbols["B"], "h": symbols["H"], "q": symbols["M"], "kv": symbols["N"]}
        self.names: dict[str, _Value] = {
            name: _Value("int32", 0, max(size - 1, 0), variable=True) for name, size in ranges.items()
        }
        self.names |= {name: _constant(size) for name, size in symbols.items()}
        self.names |= {name: _constant(getattr(math, name)) for name in ("inf", "nan", "pi")}
        if kind == "score":
            self.names["score"] = _Value("float32")

    def module(self, tree: ast.Module) -> None:
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                # A name for an index is still computed, unless it only renames.
                self.names[statement.targets[0].id] = self.value(statement.value)
            elif isinstance(statement, ast.Expr):
                self.value(statement.value)

    def value(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return _constant(number)
            case ast.Name(id=name):
                return self.name(name)
            case ast.UnaryOp(op=op, operand=operand):
                return self.operation(_UNARY[type(op)], [self.value(operand)])
            case ast.BinOp(left=left, op=op, right=right):
                return self.operation(_BINARY[type(op)], [self.value(left), self.value(right)])
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.operation(_COMPARE[type(op)], [self.value(left), self.value(right)])
            case ast.Subscript(value=inner, slice=index):
                return self.subscript(self.value(inner), index)
            case ast.Call():
                return self.call(node)
        return _Value("float32")

    def name(self, name: str) -> _Value:
        if name in self.names:
            return self.names[name]
        dtype, rank = self.captures.get(name, ("float32", 0))
        if rank == 0:
            self.seen.reads.append(Read(name, ("none",)))
        low, high = (0.0, 1.0) if dtype == "bool" else (0.0, math.inf) if dtype == "uint8" else _EVERYTHING
        return _Value(dtype, low, high, rank=rank, loaded=True, capture=name)

    def subscript(self, inner: _Value, index: ast.expr) -> _Value:
        parts = [self.value(part) for part in (index.elts if isinstance(index, ast.Tuple) else [index])]
        kinds = (*inner.kinds, *(kind for part in parts for kind in _kinds(part)))
        rank = inner.rank - len(parts)
        if rank <= 0:
            self.seen.reads.append(Read(inner.capture, kinds))
        return replace(inner, rank=max(rank, 0), kinds=kinds)

    def call(self, node: ast.Call) -> _Value:
        assert isinstance(node.func, ast.Attribute)
        name = SPELLINGS.get(node.func.attr, node.func.attr)
        keywords = {k.arg: k.value for k in node.keywords if k.arg is not None}
        if name == "to":
            target = ast.unparse(node.args[0]).removeprefix("torch.")
            source = self.value(node.func.value)
            self.seen.operations.append(Operation(f"to_{target}", _operand([source])))
            if target.startswith("int") and source.dtype is not None and "float" not in source.dtype:
                return replace(source, dtype=target, number=None, variable=False)
            return _Value(target, loaded=source.loaded)
        arguments = [self.value(argument) for argument in node.args]
        # Their values count: the bounds of a clamp may be tensors.
        arguments += [self.value(v) for k, v in keywords.items() if k in ("min", "max", "alpha")]
        mode = keywords.get("rounding_mode")
        if name == "div" and isinstance(mode, ast.Constant):
            name = f"div_{mode.value!s}"
        approximate = keywords.get("approximate")
        if name == "gelu" and isinstance(approximate, ast.Constant) and approximate.value == "tanh":
            name = "gelu_tanh"
        if name in _LIKE and "dtype" in keywords:
            self.seen.operations.append(Operation(name, _operand(arguments[:1])))
            return _Value(ast.unparse(keywords["dtype"]).removeprefix("torch."), loaded=arguments[0].loaded)
        return self.operation(name, arguments)

    def operation(self, name: str, arguments: Sequence[_Value]) -> _Value:
        numbers = [a.number for a in arguments]
        if all(number is not None for number in numbers) and arguments:
            return _folded(name, numbers)
        if name == "pos":
            return arguments[0]
        chosen = arguments[1:] if name == "where" else arguments[:1] if name in _LIKE else arguments
        result = _promoted([(a.dtype, type(a.number).__name__ if a.dtype is None else "") for a in chosen])
        operand = _operand(chosen) if any(a.dtype is not None for a in chosen) else _operand(arguments)
        self.seen.operations.append(Operation(name, operand))
        if name in _BOOLEAN:
            result = "bool"
        elif name.removesuffix("_tanh") in _FLOATING and not result.startswith(("float", "bfloat")):
            result = "float32"
        low, high = _interval(name, arguments) if "int" in result else _EVERYTHING
        return _Value(result, low, high, loaded=any(a.loaded for a in arguments))


def _constant(number: bool | int | float) -> _Value:
    bound = float(number) if math.isfinite(number) else 0.0
    return _Value(None, bound, bound, number=number)


def _folded(name: str, numbers: Sequence[bool | int | float | None]) -> _Value:
    """A Python number that Python computes; only its type and, for the usual operators, its value matter here."""
    a, b = numbers[0] or 0, (numbers[1] if len(numbers) > 1 else 0) or 0
    value: bool | int | float = a
    try:
        match name:
            case "neg":
                value = -a
            case "add":
                value = a + b
            case "sub":
                value = a - b
            case "mul":
                value = a * b
            case "div":
                value = a / b
            case "floor_divide":
                value = a // b
            case "remainder":
                value = a % b
    except ArithmeticError:
        pass
    return _constant(value)


def _operand(arguments: Sequence[_Value]) -> str:
    tensors = [(a.dtype, "") for a in arguments if a.dtype is not None]
    return _promoted(tensors) if tensors else "number"


_CATEGORY = {"bool": 0, "int": 1, "float": 2}


def _promoted(operands: Sequence[tuple[str | None, str]]) -> str:
    return _promote(tuple(operands))


@functools.lru_cache(maxsize=4096)
def _promote(operands: tuple[tuple[str | None, str], ...]) -> str:
    """PyTorch's promotion of scalar tensors (dtype, "") and Python numbers (None, type)."""
    result: torch.dtype | None = None
    for dtype, _ in operands:
        if dtype is not None:
            given = getattr(torch, dtype)
            result = given if result is None else torch.promote_types(result, given)
    kinds = [kind for dtype, kind in operands if dtype is None]
    highest = max((_CATEGORY.get(kind, 2) for kind in kinds), default=-1)
    if result is None:
        return ("bool", "int64", "float32")[max(highest, 0)]
    own = 2 if result.is_floating_point else 0 if result is torch.bool else 1
    if highest > own:
        return ("bool", "int64", "float32")[highest]
    return str(result).removeprefix("torch.")


def _interval(name: str, arguments: Sequence[_Value]) -> tuple[float, float]:
    """Bounds of a whole number, as far as they are easily known."""
    a = arguments[0]
    b = arguments[1] if len(arguments) > 1 else a
    match name:
        case "add" if len(arguments) == 2:
            return a.low + b.low, a.high + b.high
        case "sub" if len(arguments) == 2:
            return a.low - b.high, a.high - b.low
        case "neg":
            return -a.high, -a.low
        case "abs" | "square":
            return 0.0, math.inf
        case "mul":
            ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high) if not (math.isnan(x * y))]
            return (min(ends), max(ends)) if len(ends) == 4 else _EVERYTHING
        case "remainder" if b.low > 0:
            return 0.0, b.high - 1
        case "remainder" if b.high < 0:
            return b.low + 1, 0.0
        case "floor_divide" | "div_floor" | "bitwise_right_shift" if b.low >= 0 and a.low >= 0:
            return 0.0, a.high
        case "bitwise_left_shift" if a.low >= 0:
            return 0.0, math.inf
        case "bitwise_and" if min(a.low, b.low) >= 0 or max(a.low, b.low) >= 0:
            return 0.0, max(a.high, b.high)
        case "bitwise_or" | "bitwise_xor" if min(a.low, b.low) >= 0:
            return 0.0, math.inf
        case "minimum" | "clamp_max":
            return min(a.low, b.low), min(a.high, b.high)
        case "maximum" | "clamp_min":
            return max(a.low, b.low), max(a.high, b.high)
        case "clamp" if len(arguments) == 3:
            low, high = arguments[1], arguments[2]
            return max(a.low, low.low), min(max(a.high, low.high), high.high)
        case "relu":
            return max(a.low, 0.0), max(a.high, 0.0)
        case "where":
            return min(x.low for x in arguments[1:]), max(x.high for x in arguments[1:])
    return _EVERYTHING


def _kinds(index: _Value) -> tuple[str, ...]:
    """How an index comes about; a loaded or computed one that may be negative is counted as both."""
    if index.number is not None:
        return ("negative",) if index.low < 0 else ("constant",)
    if index.variable:
        return ("variable",)
    kind = "loaded" if index.loaded else "computed"
    # Of a loaded index nothing is known; it is not called negative for that.
    return (kind, "negative") if index.low < 0 and math.isfinite(index.low) else (kind,)


def _normal(tree: ast.Module, renaming: dict[str, str], captures: Mapping[str, tuple[str, int]]) -> str:
    """The text with captures, locals and constants replaced by what they are."""
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
