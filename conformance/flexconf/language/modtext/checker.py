"""Checks that a mod's statements are within the grammar, and collects the captures and constants that they read."""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from flexconf.language.arithmetic import SYMBOLS
from flexconf.language.modtext.vocabulary import (
    BINARY,
    COMPARISONS,
    CONSTANTS,
    DTYPES,
    EXPRESSIONS,
    HINTS,
    LONGEST_VECTOR,
    METHOD_HINTS,
    OPERATIONS,
    PARAMETERS,
    REDUCTIONS,
    STATEMENTS,
    STRING_CHOICES,
    UNARY,
    Kind,
    ModTextError,
)
from flexconf.language.operations import Signature


@dataclass(frozen=True)
class _Value:
    """The known facts about an expression: its value if it is a Python number, and its shape otherwise."""

    number: int | float | None = None
    shape: tuple[int, ...] = ()


_SCALAR = _Value()


class Checker:
    """Checks statements in order and remembers the known facts about each assigned name.

    `used` holds the captures and constants that the statements read. Every method raises ModTextError, with line and
    column, for a form outside the grammar.
    """

    def __init__(self, kind: Kind, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, int | float]) -> None:
        self.kind = kind
        self.shapes = shapes
        self.constants = {**CONSTANTS, **constants}
        self.locals: dict[str, _Value] = dict.fromkeys(PARAMETERS[kind], _SCALAR)
        self.used: dict[str, None] = {}  # an ordered set: names in order of first use

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        raise ModTextError(f"line {line}, column {column}: {message}")

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=value):
                self.scalar(value)
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value):
                if name in self.shapes or name in self.constants or name == "torch" or name in SYMBOLS:
                    self.fail(target, f"{name!r} is given and cannot be assigned; choose another name")
                if name.startswith("__"):
                    self.fail(target, f"{name!r}: names that begin with two underscores are reserved")
                self.locals[name] = self.expression(value)
            case ast.Assign():
                self.fail(node, "assign one name per line: x = expression")
            case _:
                hint = STATEMENTS.get(type(node), "only assignments and a final expression are allowed")
                self.fail(node, hint)

    def scalar(self, node: ast.expr) -> _Value:
        """Checks an expression that has to be a scalar."""
        value = self.expression(node)
        if value.shape:
            self.fail(node, self.left_over(node, value))
        return value

    def operand(self, node: ast.expr) -> _Value:
        """Checks an expression that may be a scalar or a short vector (L7.8)."""
        value = self.expression(node)
        if math.prod(value.shape) > LONGEST_VECTOR:
            self.fail(node, self.left_over(node, value))
        return value

    def left_over(self, node: ast.expr, value: _Value) -> str:
        what, rank = ast.unparse(node), len(value.shape)
        left = f"{rank} dimension{'s' if rank > 1 else ''}"
        if not isinstance(node, ast.Name | ast.Subscript):
            return f"{what} still has {left}; reduce every one, such as ({what}).sum(-1)"
        more = ", ".join(("q", "kv", "h", "b")[:rank])
        example = f"{what[:-1]}, {more}]" if what.endswith("]") else f"{what}[{more}]"
        return f"{what} still has {left}; index every one, such as {example}"

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
            case ast.UnaryOp(op=op, operand=operand) if isinstance(op, UNARY):
                return self.folded(node, [self.operand(operand)])
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, BINARY):
                return self.binary(node, self.operand(left), self.operand(right))
            case ast.BinOp(op=ast.MatMult()):
                self.fail(node, "'@' needs matrices; a mod works on scalars")
            case ast.Compare(ops=ops) if len(ops) > 1:
                self.fail(
                    node,
                    "a chained comparison is Python control flow; write (a < b) & (b < c), with the brackets",
                )
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                if not isinstance(op, COMPARISONS):
                    self.fail(node, "'is' and 'in' have no use here; write == or !=")
                return self.folded(node, [self.operand(left), self.operand(right)])
            case ast.Subscript(value=value, slice=index):
                return self.subscript(node, value, index)
            case ast.Call():
                return self.call(node)
            case ast.Attribute():
                self.attribute(node)
            case _:
                what = type(node).__name__
                self.fail(node, EXPRESSIONS.get(type(node), f"{what} is not part of a mod's grammar"))

    def number(self, node: ast.AST, value: int | float) -> _Value:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.fail(node, "an integer here does not fit into 64 bits")
        return _Value(number=value)

    def name(self, node: ast.Name, name: str) -> _Value:
        if name in self.locals:
            return self.locals[name]
        if name in self.shapes:
            self.used.setdefault(name)
            return _Value(shape=self.shapes[name])
        if name in self.constants:
            self.used.setdefault(name)
            return _Value(number=self.constants[name])
        if name == "torch":
            self.fail(node, "torch alone is no value; write torch.<operation>(...)")
        if name == "score":
            self.fail(node, "a mask_mod has no score; it sees b, h, q and kv")
        if name in HINTS:
            self.fail(node, f"{name!r} is not available; write {HINTS[name]}")
        known = [*self.locals, *self.shapes, *self.constants]
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
        """The result of an operation: a Python number if every operand is one, otherwise a tensor."""
        numbers = [operand.number for operand in operands]
        if any(number is None for number in numbers):
            return self.together(node, operands)
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

    def together(self, node: ast.AST, operands: Sequence[_Value]) -> _Value:
        """The result of a pointwise operation, whose operands are broadcast."""
        try:
            return _Value(shape=tuple(np.broadcast_shapes(*(operand.shape for operand in operands))))
        except ValueError:
            shapes = " and ".join(str(list(operand.shape)) for operand in operands if operand.shape)
            self.fail(node, f"vectors of the shapes {shapes} do not go together")

    def subscript(self, node: ast.Subscript, value: ast.expr, index: ast.expr) -> _Value:
        inner = self.expression(value)
        what = ast.unparse(value)
        if inner.number is not None:
            self.fail(node, f"{what} is a number and cannot be indexed")
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        places: list[_Value] = []
        for part in parts:
            if isinstance(part, ast.Slice) or (isinstance(part, ast.Constant) and part.value in (None, ...)):
                self.fail(part, EXPRESSIONS[ast.Slice])
            at = self.operand(part)
            places.append(at)
            if isinstance(at.number, float):
                self.fail(part, f"{what} is indexed with the float {at.number}; an index is an integer")
        rank = len(inner.shape)
        if len(parts) > rank:
            has = f"{rank} dimension{'s' if rank != 1 else ''}"
            self.fail(node, f"{what} has {has} and is indexed with {len(parts)}")
        return _Value(shape=self.together(node, places).shape + inner.shape[len(parts) :])

    def call(self, node: ast.Call) -> _Value:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and _dotted(node.func) != "torch.to":
            value = self.operand(node.func.value)
            if len(node.args) != 1 or node.keywords:
                self.fail(node, "write .to(torch.<dtype>) with the dtype alone")
            self.dtype(node.args[0])
            return _Value(shape=value.shape)
        dotted = _dotted(node.func)
        vector = self.vector_call(node, dotted)
        if vector is not None:
            return vector
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
        operands = [self.operand(argument) for argument in node.args]
        for given in node.keywords:
            self.keyword_argument(node, dotted, signature, given)
        return self.together(node, operands)

    def vector_call(self, node: ast.Call, dotted: str | None) -> _Value | None:
        """`x.sum(-1)`, `torch.sum(x, -1)`, `x.unsqueeze(-1)` or `x.pow(2)`; None if the call is another one."""
        if not isinstance(node.func, ast.Attribute):
            return None
        name, is_method = node.func.attr, not (dotted or "").startswith("torch.")
        if name not in REDUCTIONS and name != "unsqueeze" and not (name == "pow" and is_method):
            return None
        given = [node.func.value, *node.args] if is_method else [*node.args]
        if not 1 <= len(given) <= 2 or any(word.arg != "dim" for word in node.keywords) or len(node.keywords) > 1:
            self.fail(node, f"write x.{name}(...) with one number, such as x.{name}({2 if name == 'pow' else -1})")
        if name == "pow":
            if len(given) != 2 or node.keywords:
                self.fail(node, "write x.pow(2), or x ** 2")
            return self.together(node, [self.operand(part) for part in given])
        value = self.expression(given[0])
        if len(given) == 1 and not node.keywords:
            if name == "unsqueeze":
                self.fail(node, "unsqueeze needs a dimension, such as x.unsqueeze(-1)")
            return _SCALAR  # of a whole tensor, which a lowering refuses by name
        at = self.expression([*given[1:], *(word.value for word in node.keywords)][0])
        rank = len(value.shape) + (name == "unsqueeze")
        if not isinstance(at.number, int) or not -rank <= at.number < rank:
            self.fail(node, f"{name} takes a dimension from {-rank} to {rank - 1}, not {ast.unparse(node)}")
        shape, place = list(value.shape), at.number % rank
        if name == "unsqueeze":
            shape.insert(place, 1)
        else:
            del shape[place]
        return _Value(shape=tuple(shape))

    def keyword_argument(self, node: ast.Call, dotted: str, signature: Signature, given: ast.keyword) -> None:
        word = given.arg
        if word is None or word not in signature.keywords:
            allowed = ", ".join(sorted(signature.keywords)) or "no keywords"
            self.fail(node, f"{dotted} does not take {word or '**'}; it takes {allowed}")
        if word == "dtype":
            self.dtype(given.value)
        elif word in STRING_CHOICES:
            choices = STRING_CHOICES[word]
            if not isinstance(given.value, ast.Constant) or given.value.value not in choices:
                self.fail(node, f"{word} is one of {', '.join(map(repr, choices))}")
        else:
            self.scalar(given.value)

    def unknown_call(self, node: ast.Call, dotted: str | None) -> NoReturn:
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            hint = METHOD_HINTS.get(method)
            if hint is None:
                candidate = f"torch.{method}"
                hint = f"{candidate}(x)" if candidate in OPERATIONS else "torch.<operation>(x)"
            methods = ".to(torch.<dtype>), .pow(), .unsqueeze() and reductions such as .sum(-1)"
            self.fail(node, f"the methods are {methods}, not .{method}(); write {hint}")
        if dotted is None:
            self.fail(node, "only torch.<operation>(...) can be called")
        if dotted in HINTS:
            self.fail(node, f"{dotted}() is not available; write {HINTS[dotted]}")
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
    """The text `a.b.c` of a chain of attributes on a name. Returns None for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None
