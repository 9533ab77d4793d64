"""What may be left of a failing case when a part of it is cut out.

Hypothesis shrinks what a case was drawn from, one choice after the other; that takes hundreds of examples, and ends
where no single choice can be less. A text can be cut where it was never drawn: half of a sum at once, an operand in the
place of its operation, a position in the place of an element. What a cut leaves is a legal case if the one before was:
no index is touched, nor what one is computed from, nor a size that a capture goes by.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flexconf import layouts
from flexconf.case import BlockSpec, Capture, Case, Problem, used
from flexconf.errors import InputError
from flexconf.modtext.syntax import parse

_LEAVES = {"score": ("score", "q"), "mask": ("q",)}
_PLAIN = Problem(B=1, H=1, Hkv=1, M=16, N=16, D=16, Dv=16)
_SIZES = ("B", "M", "N", "D", "Dv")
_MANNERS = ("layout", "scale", "qkv", "dtype")
_Item = TypeVar("_Item")


def mods(case: Case) -> Iterator[Case]:
    """The case without its mask_mod, and without its score_mod."""
    if case.mask_mod is not None:
        yield from _with(case, mask_mod=None, block=BlockSpec())
    if case.score_mod is not None:
        yield from _with(case, score_mod=None)


def sums(case: Case) -> Iterator[Case]:
    """The case with a part of the sum that its score_mod ends with: a half, a quarter, ..., one term, all but one."""
    if case.score_mod is not None:
        statements = parse(case.score_mod)
        last = statements[-1]
        assert isinstance(last, ast.Expr)
        for some in _parts(_addends(last.value)):
            yield from _with(case, score_mod=_text([*statements[:-1], ast.Expr(_sum(some))]))


def operations(case: Case) -> Iterator[Case]:
    """The case with an operand, or a position, in the place of one of its operations; the outermost first."""
    for mod, kind in (("score_mod", "score"), ("mask_mod", "mask")):
        text = getattr(case, mod)
        for less in texts(text, kind) if text is not None else ():
            yield from _with(case, **{mod: less})


def manners(case: Case) -> Iterator[Case]:
    """The case with plainer lists, strides, sizes, scale and values."""
    yield from _with(case, block=BlockSpec())
    for position, capture in enumerate(case.captures):
        if layouts.parse(capture.layout).of is None and capture.layout != "contiguous":
            plain = Capture(capture.name, capture.shape, capture.dtype, capture.values)
            yield from _with(case, captures=(*case.captures[:position], plain, *case.captures[position + 1 :]))
    yield from _problems(case)


PASSES: tuple[Callable[[Case], Iterator[Case]], ...] = (mods, sums, operations, manners)
"""The largest cuts first. Each is tried until it gets no further before the next is: what failed mostly fails again."""


def texts(text: str, kind: str) -> Iterator[str]:
    """The texts of a mod of that kind, "score" or "mask", with one operation or assignment less than `text`."""
    statements = parse(text)
    fixed = _in_indices(statements)
    for position, statement in enumerate(statements):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in fixed:
                continue
            rest = [*statements[:position], *statements[position + 1 :]]
            for value in (*(_name(leaf) for leaf in _LEAVES[kind]), statement.value):
                yield _text([_replaced(s, name, value) for s in rest])
        if isinstance(statement, ast.Assign | ast.Expr):
            for value in _less(statement.value, kind):
                changed = copy.copy(statement)
                changed.value = value
                yield _text([*statements[:position], changed, *statements[position + 1 :]])


def _problems(case: Case) -> Iterator[Case]:
    p = case.problem
    sized = bool(case.captures) or case.block.kind == "lists"  # where sizes are what legal indices go by
    fields = _MANNERS if sized else (*_SIZES, *_MANNERS)
    plain = {name: getattr(_PLAIN, name) for name in fields}
    if not sized:
        plain |= {"H": 1, "Hkv": 1}
    groups = [plain, *({name: value} for name, value in plain.items() if name not in ("H", "Hkv"))]
    if not sized:
        groups += [{"H": 1, "Hkv": 1}, {"H": p.Hkv}]
    for changes in groups:
        try:
            problem = Problem(**{**vars(p), **changes})
        except InputError:
            continue
        if problem != p:
            yield from _with(case, problem=problem)


def _with(case: Case, **changes: Any) -> Iterator[Case]:
    """The case with these changes and without what nothing reads any more; nothing where it would be none."""
    wanted = {"captures": case.captures, "score_mod": case.score_mod, "mask_mod": case.mask_mod, **changes}
    try:
        wanted["captures"] = used(wanted["captures"], wanted["score_mod"], wanted["mask_mod"])
        changed = case.replace(**wanted)
    except (InputError, RecursionError):
        return
    yield changed.replace(name=f"fuzz-{changed.digest()[:12]}")


# ------------------------------------------------------------------------------------------------------- texts


def _parts(items: list[_Item]) -> Iterator[list[_Item]]:
    """What is left of a list: a half, a quarter, ..., each alone, then all but one."""
    size = len(items)
    while size > 1:
        size = (size + 1) // 2
        for start in range(0, len(items), size):
            yield items[start : start + size]
    if len(items) > 2:
        for n in range(len(items)):
            yield items[:n] + items[n + 1 :]


def _less(node: ast.expr, kind: str) -> Iterator[ast.expr]:
    """The expression with one of its operations replaced by an operand, or by a leaf; the outermost first."""
    waiting: list[tuple[ast.expr, _Path]] = [(node, ())]
    for inner, path in waiting:
        operands = list(_operands(inner))
        if not operands:
            continue
        for leaf in _LEAVES[kind]:
            yield _put(node, path, _name(leaf))
        for operand, _ in operands:
            yield _put(node, path, operand)
        if not isinstance(inner, ast.Subscript):
            waiting += [(operand, (*path, step)) for operand, step in operands]


_Step = tuple[str, int | None]
_Path = tuple[_Step, ...]


def _operands(node: ast.expr) -> Iterator[tuple[ast.expr, _Step]]:
    """The operands of an operation that could stand in its place, each with the field that holds it."""
    if isinstance(node, ast.BinOp):
        yield node.left, ("left", None)
        yield node.right, ("right", None)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node.operand, ("operand", None)
    elif isinstance(node, ast.Compare):
        yield node.left, ("left", None)
        yield node.comparators[0], ("comparators", 0)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and not _is_module(node.func.value):
            yield node.func.value, ("func.value", None)
        else:
            yield from ((argument, ("args", n)) for n, argument in enumerate(node.args))
    elif isinstance(node, ast.Subscript):
        inner = node.slice
        yield from ((i, ("slice", None)) for i in (inner.elts if isinstance(inner, ast.Tuple) else [inner]))


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "torch"


def _put(node: ast.expr, path: _Path, new: ast.expr) -> ast.expr:
    """A copy of the expression with another one at that place."""
    if not path:
        return new
    (name, number), *rest = path
    holder, _, field = name.rpartition(".")
    changed = copy.copy(node)
    if holder:  # the value of a method's attribute
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


def _in_indices(statements: list[ast.stmt]) -> frozenset[str]:
    """The names that an index reads, and what they are assigned from."""
    found: set[str] = set()
    for statement in reversed(statements):
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript):
                found |= {n.id for n in ast.walk(node.slice) if isinstance(n, ast.Name)}
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id in found for t in statement.targets
        ):
            found |= {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
    return frozenset(found)


def _replaced(statement: ast.stmt, name: str, value: ast.expr) -> ast.stmt:
    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(value) if node.id == name and isinstance(node.ctx, ast.Load) else node

    changed = Put().visit(copy.deepcopy(statement))
    assert isinstance(changed, ast.stmt)
    return changed


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
    """Assignments and a last expression as text, without the assignments that nothing reads."""
    kept = statements[-1:]
    for statement in reversed(statements[:-1]):
        read = {n.id for s in kept for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id in read for t in targets):
            kept.insert(0, statement)
    return "\n".join(ast.unparse(ast.fix_missing_locations(s)) for s in kept)
