"""A mod written as text, checked against a small grammar and compiled into a real Python function.

A mod is what a FlexAttention user writes in the body of a `score_mod` or `mask_mod`: one expression, or a few
assignments and a final expression. Nothing else can be said: no attribute outside `torch.<operation>`, no
call outside the table below, bounded size. The function that comes out has its captures as closure cells and
its source in `linecache`, so that tracing, tracebacks and repro scripts see ordinary code.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import keyword
import linecache
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexconf.arithmetic import SYMBOLS
from flexconf.errors import InputError

__all__ = [
    "DTYPES",
    "GRAMMAR_NAMES",
    "LIMITS",
    "OPERATIONS",
    "Kind",
    "ModTextError",
    "ScalarIndexing",
    "check_capture_name",
    "check_result",
    "compile_mod",
    "free_names",
]

Kind = Literal["score", "mask"]


class ModTextError(InputError):
    """The text of a mod is outside the grammar. One line: position, what is wrong, what would work."""


@dataclass(frozen=True)
class Limits:
    """Bounds on the text of a mod: characters, nodes of the syntax tree, levels of nesting."""

    characters: int = 4000
    nodes: int = 400
    nesting: int = 40


LIMITS = Limits()

DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
)  # fmt: skip
"""The dtypes of clause L7.5, as `torch.<name>`."""


@dataclass(frozen=True)
class Signature:
    """How an operation may be called: the least and most positional arguments, and the keywords."""

    least: int
    most: int
    keywords: frozenset[str] = frozenset()


def _table() -> dict[str, Signature]:
    unary = (
        "abs exp exp2 expm1 log log1p log2 log10 sqrt rsqrt reciprocal square sin cos tan asin acos atan "
        "sinh cosh tanh asinh acosh atanh sigmoid erf erfc floor ceil trunc frac sign neg relu "
        "logical_not bitwise_not isnan isinf isfinite"
    )
    binary = (
        "mul pow fmod remainder floor_divide true_divide minimum maximum fmin fmax atan2 copysign hypot "
        "eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor "
        "bitwise_left_shift bitwise_right_shift"
    )
    table = {f"torch.{name}": Signature(1, 1) for name in unary.split()}
    table |= {f"torch.{name}": Signature(2, 2) for name in binary.split()}
    dtype = frozenset({"dtype"})
    table |= {
        "torch.add": Signature(2, 2, frozenset({"alpha"})),
        "torch.sub": Signature(2, 2, frozenset({"alpha"})),
        "torch.div": Signature(2, 2, frozenset({"rounding_mode"})),
        "torch.round": Signature(1, 1, frozenset({"decimals"})),
        "torch.where": Signature(3, 3),
        "torch.lerp": Signature(3, 3),
        "torch.clamp": Signature(1, 3, frozenset({"min", "max"})),
        "torch.clamp_min": Signature(2, 2),
        "torch.clamp_max": Signature(2, 2),
        "torch.full_like": Signature(2, 2, dtype),
        "torch.zeros_like": Signature(1, 1, dtype),
        "torch.ones_like": Signature(1, 1, dtype),
    }
    functional = {
        "silu": Signature(1, 1),
        "gelu": Signature(1, 1, frozenset({"approximate"})),
        "softplus": Signature(1, 3, frozenset({"beta", "threshold"})),
        "relu": Signature(1, 1),
        "relu6": Signature(1, 1),
        "leaky_relu": Signature(1, 2, frozenset({"negative_slope"})),
        "elu": Signature(1, 2, frozenset({"alpha"})),
        "logsigmoid": Signature(1, 1),
        "hardtanh": Signature(1, 3, frozenset({"min_val", "max_val"})),
    }
    table |= {f"torch.nn.functional.{name}": signature for name, signature in functional.items()}
    # Real operations that no lowering of clause L7.6 covers: a case with `expect = "refused:..."` names them.
    table |= {
        "torch.cumsum": Signature(2, 2),
        "torch.sum": Signature(1, 1),
        "torch.sort": Signature(1, 1),
        "torch.rand_like": Signature(1, 1),
    }
    return table


OPERATIONS: Mapping[str, Signature] = _table()
"""What may be called, by its dotted name."""

_STRING_CHOICES = {"rounding_mode": ("floor", "trunc"), "approximate": ("none", "tanh")}
_CONSTANTS: Mapping[str, float] = {"inf": math.inf, "nan": math.nan, "pi": math.pi}
_PARAMETERS: Mapping[Kind, tuple[str, ...]] = {
    "score": ("score", "b", "h", "q", "kv"),
    "mask": ("b", "h", "q", "kv"),
}
GRAMMAR_NAMES = frozenset({*_PARAMETERS["score"], *SYMBOLS, *_CONSTANTS, "torch"})
"""The names that every mod's text may read without being given a capture."""

_HINTS: Mapping[str, str] = {
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
_METHOD_HINTS: Mapping[str, str] = {
    "float": ".to(torch.float32)",
    "double": ".to(torch.float64)",
    "half": ".to(torch.float16)",
    "bfloat16": ".to(torch.bfloat16)",
    "int": ".to(torch.int32)",
    "long": ".to(torch.int64)",
    "bool": ".to(torch.bool)",
    "item": "the tensor itself; a mod works on scalar tensors",
}
_STATEMENTS: Mapping[type[ast.stmt], str] = {
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
_EXPRESSIONS: Mapping[type[ast.expr], str] = {
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
_BINARY = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.LShift, ast.RShift, ast.BitAnd, ast.BitOr, ast.BitXor,
)  # fmt: skip
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_UNARY = (ast.USub, ast.UAdd, ast.Invert)


class ScalarIndexing(TorchFunctionMode):
    """Turns `tensor[scalar tensors and ints]` into `aten.index`, as FlexAttention does, so that no index is
    read back to Python and `bias[b][q]` means `bias[b, q]`.

    The mode sees calls outside vmap only; under vmap use PyTorch's own.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            tensor, index = args
            parts = index if isinstance(index, tuple) else (index,)
            if all(isinstance(part, Tensor | int) for part in parts):
                indices = [
                    part if isinstance(part, Tensor) else torch.tensor(part, device=tensor.device) for part in parts
                ]
                return torch.ops.aten.index(tensor, indices)
        return func(*args, **(kwargs or {}))


def compile_mod(
    text: str,
    kind: Kind,
    captures: Mapping[str, Tensor],
    constants: Mapping[str, int | float],
    name: str = "mod",
) -> Callable[..., Tensor]:
    """The mod that `text` says, as a function of scalar tensors.

    `kind` "score" gives `(score, b, h, q, kv) -> score`, "mask" gives `(b, h, q, kv) -> bool`. `captures` are
    the tensors it may read, by name; `constants` are the sizes of the problem (B, H, Hkv, M, N, D, Dv) as
    Python numbers. `name` appears in tracebacks. Raises ModTextError.
    """
    statements = _parse(text)
    ranks = {key: value.dim() for key, value in captures.items()}
    for key in captures:
        check_capture_name(key)
    checker = _Checker(kind, ranks, constants)
    for statement in statements:
        checker.statement(statement)

    cells: dict[str, Any] = {}
    for used in checker.used:
        if used in captures:
            cells[used] = captures[used]
        elif used in constants:
            cells[used] = constants[used]
        elif used in _CONSTANTS:
            cells[used] = _CONSTANTS[used]
    source = _source(text, statements, kind, list(cells))
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<flexconf {kind}_mod {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"torch": torch, "__name__": "flexconf.modtext"}
    exec(compile(source, filename, "exec"), namespace)  # checked against the grammar above
    mod: Callable[..., Tensor] = namespace["make_mod"](**cells)
    return mod


def free_names(text: str) -> frozenset[str]:
    """The captures that the text needs: names it reads and the grammar does not give. Raises ModTextError."""
    free: set[str] = set()
    assigned: set[str] = set()
    for statement in _parse(text):
        value = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
        if value is not None:
            free |= set(_values(value)) - assigned - GRAMMAR_NAMES
        if isinstance(statement, ast.Assign):
            assigned |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return frozenset(free - set(_HINTS))


def _values(expression: ast.expr) -> Iterator[str]:
    """The names that stand for a value; what is called, or has an attribute but `.to`, is no capture."""
    stack: list[ast.AST] = [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            stack.extend([*node.args, *node.keywords])
        elif not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr != "to"):
            stack.extend(ast.iter_child_nodes(node))


def check_result(mod: Callable[..., Tensor], kind: Kind) -> None:
    """Call the mod once on scalars without data, and check that what it returns is a mod's result.

    A mask_mod must return a bool scalar, a score_mod a scalar of a floating dtype. `mod` comes from
    compile_mod; for the call its captures are replaced by tensors without data of the same shape and dtype.
    Raises ModTextError.
    """
    meta = torch.device("meta")
    index = [torch.empty((), dtype=torch.int32, device=meta) for _ in range(4)]
    scalars = index if kind == "mask" else [torch.empty((), dtype=torch.float32, device=meta), *index]
    with torch.no_grad(), ScalarIndexing():
        try:
            result: object = _without_data(mod)(*scalars)
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModTextError(f"PyTorch refuses it: {reason[0][:200]}") from None
    if not isinstance(result, Tensor):
        like = "torch.full_like(score, x)" if kind == "score" else "torch.ones_like(q, dtype=torch.bool)"
        raise ModTextError(f"the result is the Python value {result!r}, not a tensor; write {like}")
    if result.dim() != 0:
        raise ModTextError(f"the result has the shape {tuple(result.shape)}; a mod returns a scalar")
    if kind == "mask" and result.dtype != torch.bool:
        raise ModTextError(
            f"the result is {_short(result.dtype)}, but a mask is bool; write a comparison, such as q >= kv"
        )
    if kind == "score" and not result.dtype.is_floating_point:
        raise ModTextError(
            f"the result is {_short(result.dtype)}, but a score is a float; "
            "write torch.where(condition, score, -inf) or x.to(torch.float32)"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _without_data(mod: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same code over captures on the meta device. Takes a function that compile_mod made."""
    factory_globals = mod.__globals__
    names = mod.__code__.co_freevars
    cells = [cell.cell_contents for cell in mod.__closure__ or ()]
    swapped = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value
        for name, value in zip(names, cells, strict=True)
    }
    made: Callable[..., Tensor] = factory_globals["make_mod"](**swapped)
    return made


def check_capture_name(name: str) -> None:
    """Raise ModTextError when a capture cannot have this name."""
    taken = name in GRAMMAR_NAMES or name in _HINTS or name in ("score_mod", "mask_mod", "make_mod")
    if not name.isidentifier() or keyword.iskeyword(name) or taken or name.startswith("_"):
        raise ModTextError(f"a capture cannot be called {name!r}: the name is taken or is not an identifier")


# ---------------------------------------------------------------------------------------------------- parsing

_TOKEN = re.compile(r"[A-Za-z_]\w*|[0-9.]+|\*\*|//|<<|>>|[-+~()\[\]{}]|\S")
_PREFIX = frozenset({"-", "+", "~", "not", "**", "lambda", "await"})


def _parse(text: str) -> list[ast.stmt]:
    """The statements of the text, after the bounds that must hold before the parser sees it."""
    if len(text) > LIMITS.characters:
        raise ModTextError(
            f"the mod has {len(text):,} characters, at most {LIMITS.characters:,} are allowed; put tables into captures"
        )
    if not text.strip():
        raise ModTextError("the mod is empty; the identity is the score itself: score")
    if "\0" in text:
        raise ModTextError("the mod holds a null character")
    _check_nesting(text)
    try:
        tree = ast.parse(textwrap.dedent(text).strip())
    except SyntaxError as error:
        at = f"line {error.lineno}, column {error.offset}" if error.lineno else "the text"
        line = (error.text or "").strip()[:60]
        raise ModTextError(f"{at}: {error.msg}{f' in {line!r}' if line else ''}") from None
    except (RecursionError, MemoryError, ValueError):
        raise ModTextError(f"the mod is nested too deeply; at most {LIMITS.nesting} levels are allowed") from None
    nodes = sum(1 for _ in _limited_walk(tree))
    if nodes > LIMITS.nodes:
        raise ModTextError(f"the mod has more than {LIMITS.nodes} operations and names; put tables into captures")
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Assign) or last is None:
            raise ModTextError("the last line must be an expression: the mod's result")
    return tree.body


def _check_nesting(text: str) -> None:
    depth = run = 0
    for token in _TOKEN.findall(text):
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        run = run + 1 if token in _PREFIX else 0
        if depth > LIMITS.nesting or run > LIMITS.nesting:
            raise ModTextError(f"the mod is nested more than {LIMITS.nesting} levels deep; use assignments")


def _limited_walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that stands for an operation, a name or a number; stops soon after the bound."""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    seen = 0
    while stack and seen <= LIMITS.nodes:
        node, level = stack.pop()
        if level > LIMITS.nesting + 2:  # the module and the statement are levels of their own
            raise ModTextError(f"the mod is nested more than {LIMITS.nesting} levels deep; use assignments")
        if isinstance(node, ast.expr | ast.stmt):
            seen += 1
            yield node
        for child in ast.iter_child_nodes(node):
            # x + y + z + ... is long, not deep: the left operand stays on the level of its parent.
            left = isinstance(node, ast.BinOp) and child is node.left
            stack.append((child, level if left else level + 1))


# --------------------------------------------------------------------------------------------------- checking


@dataclass(frozen=True)
class _Value:
    """What is known of an expression: a Python number, or a tensor with its rank if that is known."""

    number: int | float | None = None
    rank: int | None = 0


_SCALAR = _Value()


class _Checker:
    """Walks the statements in order, with what is known of each assigned name."""

    def __init__(self, kind: Kind, ranks: Mapping[str, int], constants: Mapping[str, int | float]) -> None:
        self.kind = kind
        self.ranks = ranks
        self.constants = {**_CONSTANTS, **constants}
        self.locals: dict[str, _Value] = dict.fromkeys(_PARAMETERS[kind], _SCALAR)
        self.used: dict[str, None] = {}  # in order of use

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        raise ModTextError(f"line {line}, column {column}: {message}")

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=value):
                self.scalar(value)
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value):
                if name in self.ranks or name in self.constants or name == "torch" or name in SYMBOLS:
                    self.fail(target, f"{name!r} is given and cannot be assigned; choose another name")
                if name.startswith("__"):
                    self.fail(target, f"{name!r}: names that begin with two underscores are reserved")
                self.locals[name] = self.expression(value)
            case ast.Assign():
                self.fail(node, "assign one name per line: x = expression")
            case _:
                hint = _STATEMENTS.get(type(node), "only assignments and a final expression are allowed")
                self.fail(node, hint)

    def scalar(self, node: ast.expr) -> _Value:
        """An expression where a scalar is needed."""
        value = self.expression(node)
        if value.rank:
            what = ast.unparse(node)
            more = ", ".join(("q", "kv", "h", "b")[: value.rank])
            example = f"{what[:-1]}, {more}]" if what.endswith("]") else f"{what}[{more}]"
            left = f"{value.rank} dimension{'s' if value.rank > 1 else ''}"
            self.fail(node, f"{what} still has {left}; index every one, such as {example}")
        return value

    def expression(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return self.number(node, number)
            case ast.Constant(value=value):
                self.fail(node, f"{value!r} has no use here; only numbers and True/False are constants")
            case ast.Name(id=name):
                return self.name(node, name)
            case ast.UnaryOp(op=ast.Not()):
                self.fail(node, "'not' on a tensor is Python control flow; write ~(x)")
            case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _UNARY):
                return self.folded(node, [self.scalar(operand)])
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _BINARY):
                return self.binary(node, self.scalar(left), self.scalar(right))
            case ast.BinOp(op=ast.MatMult()):
                self.fail(node, "'@' needs matrices; a mod works on scalars")
            case ast.Compare(ops=ops) if len(ops) > 1:
                self.fail(
                    node,
                    "a chained comparison is Python control flow; write (a < b) & (b < c), with the brackets",
                )
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                if not isinstance(op, _COMPARISONS):
                    self.fail(node, "'is' and 'in' have no use here; write == or !=")
                return self.folded(node, [self.scalar(left), self.scalar(right)])
            case ast.Subscript(value=value, slice=index):
                return self.subscript(node, value, index)
            case ast.Call():
                return self.call(node)
            case ast.Attribute():
                self.attribute(node)
            case _:
                what = type(node).__name__
                self.fail(node, _EXPRESSIONS.get(type(node), f"{what} is not part of a mod's grammar"))

    def number(self, node: ast.AST, value: int | float) -> _Value:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.fail(node, "an integer here does not fit into 64 bits")
        return _Value(number=value)

    def name(self, node: ast.Name, name: str) -> _Value:
        if name in self.locals:
            return self.locals[name]
        if name in self.ranks:
            self.used.setdefault(name)
            return _Value(rank=self.ranks[name])
        if name in self.constants:
            self.used.setdefault(name)
            return _Value(number=self.constants[name])
        if name == "torch":
            self.fail(node, "torch alone is no value; write torch.<operation>(...)")
        if name == "score":
            self.fail(node, "a mask_mod has no score; it sees b, h, q and kv")
        if name in _HINTS:
            self.fail(node, f"{name!r} is not available; write {_HINTS[name]}")
        known = [*self.locals, *self.ranks, *self.constants]
        close = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else "a tensor that the mod reads must be given as a capture"
        self.fail(node, f"unknown name {name!r}; {hint}")

    def binary(self, node: ast.BinOp, left: _Value, right: _Value) -> _Value:
        divides = isinstance(node.op, ast.FloorDiv | ast.Mod) or (
            isinstance(node.op, ast.Div) and left.number is not None
        )
        if divides and isinstance(right.number, int) and right.number == 0:
            self.fail(node, "division by zero")
        shifts = isinstance(node.op, ast.LShift | ast.RShift)
        if shifts and right.number is not None and not 0 <= right.number < 64:
            self.fail(node, f"a shift by {right.number} is undefined; shift by 0 to 63")
        if isinstance(node.op, ast.Pow) and left.number is not None and right.number is not None:
            bits = math.log2(abs(left.number)) if left.number else 0.0
            if not abs(right.number) * abs(bits) < 1000 or abs(right.number) > 1000:
                self.fail(node, "the power of these numbers is out of range")
        return self.folded(node, [left, right])

    def folded(self, node: ast.expr, operands: Sequence[_Value]) -> _Value:
        """A Python number when every operand is one (Python computes it), a scalar tensor otherwise."""
        numbers = [operand.number for operand in operands]
        if any(number is None for number in numbers):
            return _SCALAR
        names = [f"x{position}" for position in range(len(numbers))]
        match node:
            case ast.UnaryOp(op=op):
                shell: ast.expr = ast.UnaryOp(op=op, operand=_load(names[0]))
            case ast.BinOp(op=op):
                shell = ast.BinOp(left=_load(names[0]), op=op, right=_load(names[1]))
            case ast.Compare(ops=ops):
                shell = ast.Compare(left=_load(names[0]), ops=ops, comparators=[_load(names[1])])
            case _:
                return _SCALAR
        expression = ast.fix_missing_locations(ast.Expression(shell))
        try:
            value = eval(compile(expression, "<constant>", "eval"), {}, dict(zip(names, numbers, strict=True)))
        except (ArithmeticError, TypeError, ValueError) as error:
            self.fail(node, f"{ast.unparse(node)} has no value: {error}")
        if isinstance(value, complex):
            self.fail(node, f"{ast.unparse(node)} is a complex number")
        return self.number(node, value)

    def subscript(self, node: ast.Subscript, value: ast.expr, index: ast.expr) -> _Value:
        inner = self.expression(value)
        what = ast.unparse(value)
        if inner.number is not None:
            self.fail(node, f"{what} is a number and cannot be indexed")
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        for part in parts:
            if isinstance(part, ast.Slice) or (isinstance(part, ast.Constant) and part.value in (None, ...)):
                self.fail(part, _EXPRESSIONS[ast.Slice])
            number = self.scalar(part).number
            if isinstance(number, float):
                self.fail(part, f"{what} is indexed with the float {number}; an index is an integer")
        if inner.rank is None:
            return _Value(rank=None)
        if len(parts) > inner.rank:
            has = f"{inner.rank} dimension{'s' if inner.rank != 1 else ''}"
            self.fail(node, f"{what} has {has} and is indexed with {len(parts)}")
        return _Value(rank=inner.rank - len(parts))

    def call(self, node: ast.Call) -> _Value:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and _dotted(node.func) != "torch.to":
            self.scalar(node.func.value)
            if len(node.args) != 1 or node.keywords:
                self.fail(node, "write .to(torch.<dtype>) with the dtype alone")
            self.dtype(node.args[0])
            return _SCALAR
        dotted = _dotted(node.func)
        if dotted is None or not dotted.startswith("torch."):
            self.unknown_call(node, dotted)
        signature = OPERATIONS.get(dotted)
        if signature is None:
            if dotted == "torch.tensor":
                self.fail(node, "write the number itself instead of torch.tensor(...)")
            close = difflib.get_close_matches(dotted, OPERATIONS, 1, 0.7)
            hint = f"did you mean {close[0]}?" if close else "`flexconf ops` lists what is"
            self.fail(node, f"{dotted} is not among the operations of a mod; {hint}")
        bounds = sum(1 for given in node.keywords if given.arg in ("min", "max"))
        count = len(node.args) + bounds
        if not signature.least <= count <= signature.most:
            wanted = (
                str(signature.least) if signature.least == signature.most else f"{signature.least} to {signature.most}"
            )
            self.fail(node, f"{dotted} takes {wanted} arguments, not {len(node.args)}")
        for argument in node.args:
            self.scalar(argument)
        for given in node.keywords:
            self.keyword_argument(node, dotted, signature, given)
        return _SCALAR

    def keyword_argument(self, node: ast.Call, dotted: str, signature: Signature, given: ast.keyword) -> None:
        word = given.arg
        if word is None or word not in signature.keywords:
            allowed = ", ".join(sorted(signature.keywords)) or "no keywords"
            self.fail(node, f"{dotted} does not take {word or '**'}; it takes {allowed}")
        if word == "dtype":
            self.dtype(given.value)
        elif word in _STRING_CHOICES:
            choices = _STRING_CHOICES[word]
            value = given.value.value if isinstance(given.value, ast.Constant) else None
            if value not in choices:
                self.fail(node, f"{word} is one of {', '.join(map(repr, choices))}")
        else:
            self.scalar(given.value)

    def unknown_call(self, node: ast.Call, dotted: str | None) -> NoReturn:
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            hint = _METHOD_HINTS.get(method)
            if hint is None:
                candidate = f"torch.{method}"
                hint = f"{candidate}(x)" if candidate in OPERATIONS else "torch.<operation>(x)"
            self.fail(node, f"the only method is .to(torch.<dtype>), not .{method}(); write {hint}")
        if dotted is None:
            self.fail(node, "only torch.<operation>(...) can be called")
        if dotted in _HINTS:
            self.fail(node, f"{dotted}() is not available; write {_HINTS[dotted]}")
        hint = f"write torch.{dotted}(...)" if f"torch.{dotted}" in OPERATIONS else "`flexconf ops` lists what can be"
        self.fail(node, f"{dotted}() cannot be called; {hint}")

    def dtype(self, node: ast.expr) -> None:
        dotted = _dotted(node) or ""
        if dotted.removeprefix("torch.") not in DTYPES or not dotted.startswith("torch."):
            self.fail(node, f"{ast.unparse(node)} is not a dtype; the dtypes are torch.{', torch.'.join(DTYPES)}")

    def attribute(self, node: ast.Attribute) -> NoReturn:
        dotted = _dotted(node)
        if dotted in OPERATIONS:
            self.fail(node, f"{dotted} is an operation; call it")
        if dotted in {"torch.inf", "torch.nan", "torch.pi", "math.inf", "math.nan", "math.pi"}:
            self.fail(node, f"write {dotted.split('.')[1]} instead of {dotted}")
        if dotted is not None and dotted.removeprefix("torch.") in DTYPES:
            self.fail(node, f"{dotted} is a dtype; it goes into .to({dotted})")
        self.fail(
            node,
            f"attribute .{node.attr} is not available; only torch.<operation>(...) and .to(torch.<dtype>)",
        )


def _load(name: str) -> ast.Name:
    return ast.Name(id=name, ctx=ast.Load())


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a chain of attributes on a name; None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _source(text: str, statements: Sequence[ast.stmt], kind: Kind, cells: Sequence[str]) -> str:
    """The text as the body of a function inside a factory whose parameters are the closure cells."""
    original = textwrap.dedent(text).strip()

    def segment(node: ast.expr) -> str:
        code = ast.get_source_segment(original, node) or ast.unparse(node)
        return f"({code})" if "\n" in code else code

    lines = [f"def make_mod({', '.join(cells)}):", f"    def {kind}_mod({', '.join(_PARAMETERS[kind])}):"]
    for statement in statements[:-1]:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            lines.append(f"        {statement.targets[0].id} = {segment(statement.value)}")
        # An expression statement before the last has no effect and is dropped.
    last = statements[-1]
    if isinstance(last, ast.Expr):
        lines.append(f"        return {segment(last.value)}")
    lines.append(f"    return {kind}_mod")
    return "\n".join(lines) + "\n"
