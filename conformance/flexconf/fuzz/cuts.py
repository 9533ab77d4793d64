"""Cuts: smaller cases that are left when a part of a failing case is removed.

Hypothesis shrinks the choices from which a case was drawn, one after the other. That takes hundreds of examples, and it
ends when no single choice can become less. Cuts work on the text itself: they remove half of a sum at once, or put an
operand in the place of its operation, or a position in the place of an element.

A cut of a legal case is a legal case. Otherwise the cut could cause a failure of its own, which would be taken for the
one that is being shrunk. Therefore:

- An operand changes only where its operation takes every number. Indices, divisors and shift distances stay, and so do
  the expressions from which they are computed.
- Where an expression is cast to an integer, only a position replaces it.
- Sizes stay if the case has captures or block lists, because legal indices depend on them.
- The scale and the values of q, k and v stay, because the range of the scores depends on them.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flexconf.cases.case import BlockSpec, Capture, Case, used
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.language import layouts
from flexconf.language.modtext.syntax import parse
from flexconf.language.operations import ROWS

_LEAVES = {"score": ("score", "q"), "mask": ("q",)}
_PLAIN = Problem(B=1, H=1, Hkv=1, M=16, N=16, D=16, Dv=16)
_SIZES = ("B", "M", "N", "D", "Dv")
_MANNERS = ("layout", "dtype")  # not the scale and not `qkv`: the range of an operand may depend on them
_EVERY = frozenset(call.removeprefix("torch.") for row in ROWS if row.every for call in row.calls)
"""The functions of torch that take every number of any dtype, and whose result is finite if the operands are."""
_WIDE = ("torch.float32", "torch.float64", "torch.bfloat16", "torch.bool")
"""The dtypes to which every number can be cast."""
_WHOLE = ("torch.int16", "torch.int32", "torch.int64")
"""The dtypes to which every position can be cast."""
_HALF = ("torch.float16",)
"""The dtypes to which every position can be cast, but not every number."""
_Item = TypeVar("_Item")


def mods(case: Case) -> Iterator[Case]:
    """The case without its mask_mod, then the case without its score_mod."""
    if case.mask_mod is not None:
        yield from _with(case, mask_mod=None, block=BlockSpec())
    if case.score_mod is not None:
        yield from _with(case, score_mod=None)


def sums(case: Case) -> Iterator[Case]:
    """The case with a part of the sum at the end of its score_mod: a half, a quarter, ..., one term, all but one."""
    if case.score_mod is not None:
        statements = parse(case.score_mod)
        last = statements[-1]
        assert isinstance(last, ast.Expr)
        for less in _smaller_sums(last.value):
            yield from _with(case, score_mod=_text([*statements[:-1], ast.Expr(less)]))


def operations(case: Case) -> Iterator[Case]:
    """The case with an operand, the score or q in the place of one of its operations, the outermost first."""
    for mod, kind in (("score_mod", "score"), ("mask_mod", "mask")):
        text = getattr(case, mod)
        for less in texts(text, kind) if text is not None else ():
            yield from _with(case, **{mod: less})


def manners(case: Case) -> Iterator[Case]:
    """The case with default blocks, with a contiguous capture, with smaller sizes, or in a plain layout and dtype."""
    yield from _with(case, block=BlockSpec())
    for position, capture in enumerate(case.captures):
        if layouts.parse(capture.layout).of is None and capture.layout != "contiguous":
            plain = Capture(capture.name, capture.shape, capture.dtype, capture.values)
            yield from _with(case, captures=(*case.captures[:position], plain, *case.captures[position + 1 :]))
    yield from _problems(case)


PASSES: tuple[Callable[[Case], Iterator[Case]], ...] = (mods, sums, operations, manners)
"""The passes, those with the largest cuts first. Each is repeated until it cuts no more; then the next one starts.
Going back to an earlier pass after each cut would mostly repeat cuts that failed."""


def texts(text: str, kind: str) -> Iterator[str]:
    """The texts with one operation or assignment less than `text`, a mod of the given kind ("score" or "mask")."""
    statements = parse(text)
    fixed = _particular(statements)
    for position, statement in enumerate(statements):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in fixed:
                continue
            rest = [*statements[:position], *statements[position + 1 :]]
            inlined = [] if isinstance(statement.value, ast.Constant) else [statement.value]
            for value in (*(_name(leaf) for leaf in _LEAVES[kind]), *inlined):
                yield _text([_replaced(s, name, value) for s in rest])
        if isinstance(statement, ast.Assign | ast.Expr):
            for value in _less(statement.value, kind):
                changed = copy.copy(statement)
                changed.value = value
                yield _text([*statements[:position], changed, *statements[position + 1 :]])


def _problems(case: Case) -> Iterator[Case]:
    p = case.problem
    sized = bool(case.captures) or case.block.kind == "lists"  # then legal indices depend on the sizes
    fields = _MANNERS if sized else (*_SIZES, *_MANNERS)
    plain = {name: getattr(_PLAIN, name) for name in fields}
    if not sized:
        plain |= {"H": 1, "Hkv": 1}
    groups = [plain, *({name: value} for name, value in plain.items() if name not in ("H", "Hkv"))]
    if not sized:
        groups += [{"H": 1, "Hkv": 1}, {"H": p.Hkv}]
    for changes in groups:
        # Sizes never grow: the range of an index would grow with them.
        changes = {k: v for k, v in changes.items() if k not in _SIZES or v < getattr(p, k)}
        try:
            problem = Problem(**{**vars(p), **changes})
        except InputError:
            continue
        if problem != p:
            yield from _with(case, problem=problem)


def _with(case: Case, **changes: Any) -> Iterator[Case]:
    """The case with these changes, without captures that no mod reads any more. Yields nothing if it is not legal."""
    wanted = {"captures": case.captures, "score_mod": case.score_mod, "mask_mod": case.mask_mod, **changes}
    try:
        wanted["captures"] = used(wanted["captures"], wanted["score_mod"], wanted["mask_mod"])
        changed = case.replace(**wanted)
    except (InputError, RecursionError):
        return
    yield changed.replace(name=f"fuzz-{changed.digest()[:12]}")


# ------------------------------------------------------------------------------------------------------- texts


def _parts(items: list[_Item]) -> Iterator[list[_Item]]:
    """Parts of a list: its halves, its quarters, ..., its single items, then the list without each one of them."""
    size = len(items)
    while size > 1:
        size = (size + 1) // 2
        for start in range(0, len(items), size):
            yield items[start : start + size]
    if len(items) > 2:
        for n in range(len(items)):
            yield items[:n] + items[n + 1 :]


def _less(node: ast.expr, kind: str) -> Iterator[ast.expr]:
    """The expression with one of its operations replaced by an operand, the score or q, the outermost first."""
    waiting: list[tuple[ast.expr, _Path, bool]] = [(node, (), kind == "mask")]
    for inner, path, logical in waiting:
        operands = _operands(inner)
        # A mod must return a tensor, so a constant does not replace an operation.
        less = [
            *map(_name, _LEAVES[kind] if operands else ()),
            *(o for o in operands if not isinstance(o, ast.Constant)),
        ]
        for value in less:
            # Only a bool replaces a condition. A bool does not replace a number: PyTorch subtracts no bools.
            if _is_logical(value) if logical else _is_logical(inner) or not _is_logical(value):
                yield _put(node, path, value)
        if _is_cast(inner, _WHOLE) and operands and not isinstance(operands[0], ast.Name):
            yield _put(node, (*path, _CAST), _name("q"))
        if _is_cast(inner, _HALF) and _is_cast(operands[0], _WHOLE):
            yield _put(node, (*path, _CAST, _CAST), _name("q"))
        waiting += [(operand, (*path, step), must) for operand, step, must in _free(inner)]


_Step = tuple[str, int | None]
_Path = tuple[_Step, ...]
_CAST: _Step = ("func.value", None)  # the place of a cast's operand


def _operands(node: ast.expr) -> list[ast.expr]:
    """The operands of an operation that could replace it."""
    match node:
        case ast.BinOp():
            return [node.left, node.right]
        case ast.UnaryOp() if not isinstance(node.operand, ast.Constant):
            return [node.operand]
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.Call(func=ast.Attribute(value=value, attr="to")) if not _is_module(value):
            return [value]
        case ast.Call():
            return node.args
        case ast.Subscript():
            return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return []


def _free(node: ast.expr) -> Iterator[tuple[ast.expr, _Step, bool]]:
    """(operand, its place, whether it must be a bool) of each operand for which the operation takes every number."""
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
            yield node.left, ("left", None), False
            yield node.right, ("right", None), False
        case ast.BinOp(op=ast.Div() | ast.FloorDiv() | ast.Mod()):
            yield node.left, ("left", None), False
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.BitXor()) if _is_logical(node):
            yield node.left, ("left", None), True
            yield node.right, ("right", None), True
        case ast.UnaryOp():
            yield node.operand, ("operand", None), isinstance(node.op, ast.Invert)
        case ast.Compare():
            yield node.left, ("left", None), False
            yield node.comparators[0], ("comparators", 0), False
        case ast.Call(func=ast.Attribute(value=value, attr="to")) if _is_cast(node, _WIDE):
            yield value, _CAST, False
        case ast.Call(func=ast.Attribute(value=value, attr=name), keywords=[]) if _is_module(value) and name in _EVERY:
            for n, argument in enumerate(node.args):
                yield argument, ("args", n), name == "where" and n == 0


def _is_cast(node: ast.expr, dtypes: tuple[str, ...]) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="to")):
            return not _is_module(value) and ast.unparse(node.args[0]) in dtypes
    return False


def _is_logical(node: ast.expr) -> bool:
    """Whether an expression is a bool by its syntax: a comparison, or a combination of comparisons."""
    match node:
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.BitXor()):
            return _is_logical(node.left) and _is_logical(node.right)
        case ast.UnaryOp(op=ast.Invert()):
            return _is_logical(node.operand)
    return isinstance(node, ast.Compare)


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "torch"


def _put(node: ast.expr, path: _Path, new: ast.expr) -> ast.expr:
    """A copy of the expression `node` with `new` at the place `path`."""
    if not path:
        return new
    (name, number), *rest = path
    holder, _, field = name.rpartition(".")
    changed = copy.copy(node)
    if holder:  # the operand of a method
        inner = copy.copy(getattr(node, holder))
        setattr(inner, field, _put(getattr(inner, field), tuple(rest), new))
        setattr(changed, holder, inner)
    elif number is None:
        setattr(changed, field, _put(getattr(node, field), tuple(rest), new))
    else:
        several = list(getattr(node, field))
        several[number] = _put(several[number], tuple(rest), new)
        setattr(changed, field, several)
    return changed


def _particular(statements: list[ast.stmt]) -> frozenset[str]:
    """The names that are read where an operation does not take every number, and the names they are computed from."""
    found: set[str] = set()

    def look(node: ast.AST, free: bool) -> None:
        if isinstance(node, ast.Name) and not free:
            found.add(node.id)
        takes = [operand for operand, _, _ in _free(node)] if free and isinstance(node, ast.expr) else []
        for child in ast.iter_child_nodes(node):
            # The operand of a method is a child of the attribute, not of the call.
            look(child, (free and isinstance(node, ast.Attribute)) or _holds(child, takes))

    for statement in reversed(statements):
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        particular = any(isinstance(t, ast.Name) and t.id in found for t in targets)
        if isinstance(statement, ast.Assign | ast.Expr):
            look(statement.value, not particular)
    return frozenset(found)


def _holds(child: ast.AST, operands: list[ast.expr]) -> bool:
    inner = child.value if isinstance(child, ast.Attribute) else child
    return any(inner is operand for operand in operands)


def _replaced(statement: ast.stmt, name: str, value: ast.expr) -> ast.stmt:
    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(value) if node.id == name and isinstance(node.ctx, ast.Load) else node

    changed = Put().visit(copy.deepcopy(statement))
    assert isinstance(changed, ast.stmt)
    return changed


def _smaller_sums(node: ast.expr) -> Iterator[ast.expr]:
    """A sum with some of its terms. For a sum times a number: the sum alone, then its parts times the number."""
    match node:
        case ast.BinOp(left=inner, op=ast.Mult(), right=ast.Constant() as factor):
            yield inner
            for less in _smaller_sums(inner):
                yield ast.BinOp(less, ast.Mult(), factor)
        case _:
            for some in _parts(_addends(node)):
                yield _sum(some)


def _addends(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_addends(node.left), *_addends(node.right)]
    return [node]


def _sum(terms: list[ast.expr]) -> ast.expr:
    total = terms[0]
    for term in terms[1:]:
        total = ast.BinOp(total, ast.Add(), term)
    return total


def _name(text: str) -> ast.expr:
    return ast.Name(text, ast.Load())


def _text(statements: list[ast.stmt]) -> str:
    """The statements as text, without assignments that the kept statements after them do not read."""
    kept = statements[-1:]
    for statement in reversed(statements[:-1]):
        read = {n.id for s in kept for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id in read for t in targets):
            kept.insert(0, statement)
    return "\n".join(ast.unparse(ast.fix_missing_locations(s)) for s in kept)
