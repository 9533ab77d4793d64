"""The Python objects that a mod may be: a function, or another callable as people write them.

Each form is a factory `make_mod` in Python source. Its parameters are the captures and the sizes that the mod reads.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from flexconf.language.modtext.syntax import parse
from flexconf.language.modtext.vocabulary import PARAMETERS, Kind, ModTextError

JOINED = {"and_masks": ast.BitAnd, "or_masks": ast.BitOr}
"""Forms of a mask_mod that PyTorch's function of this name joins, and the operator between its parts."""

FORMS = ("function", "module", "method", "partial", *JOINED)
"""The forms of a mod:

- "function": a function. Captures are closure cells.
- "module": an nn.Module. Captures are its buffers.
- "method": a bound method. Captures are attributes of the object.
- "partial": a functools.partial. Captures are its first arguments.
- "and_masks", "or_masks": the mask_mod is PyTorch's and_masks or or_masks of the operands of `&` or `|` in its text.
  The score_mod is a function.
"""


def operands(text: str, form: str) -> list[ast.expr]:
    """The operands that `and_masks` or `or_masks` joins. Raises ModTextError if the text is not such a chain.

    >>> [ast.unparse(part) for part in operands("(q >= kv) & (q - kv < 64) & (h > 0)", "and_masks")]
    ['q >= kv', 'q - kv < 64', 'h > 0']
    """
    statements = parse(text)
    last = statements[-1]
    found: list[ast.expr] = []
    if len(statements) == 1 and isinstance(last, ast.Expr):
        rest: ast.expr = last.value
        while isinstance(rest, ast.BinOp) and isinstance(rest.op, JOINED[form]):
            found.insert(0, rest.right)
            rest = rest.left
        found.insert(0, rest)
    if len(found) < 2:
        sign = "&" if form == "and_masks" else "|"
        raise ModTextError(f"form {form!r} needs one expression of masks joined by {sign}, such as (a) {sign} (b)")
    return found


def source(
    text: str, statements: Sequence[ast.stmt], kind: Kind, cells: Sequence[str], tensors: Sequence[str], form: str
) -> str:
    """The source of a factory `make_mod` for a mod of `form`.

    `cells` are the names that the mod reads, `tensors` those of them that are captures.
    """
    original = textwrap.dedent(text).strip()
    name, parameters = f"{kind}_mod", PARAMETERS[kind]
    body = _body_lines(original, statements)
    held = [f"{tensor} = self.{tensor}" for tensor in tensors]
    lines: list[str]
    if form in JOINED and kind == "mask":
        parts = operands(text, form)
        lines = [f"from torch.nn.attention.flex_attention import {form}", ""]
        for n, part in enumerate(parts):
            lines += _function(f"{name}_{n}", parameters, [f"return {_segment(original, part)}"])
        lines.append(f"return {form}({', '.join(f'{name}_{n}' for n in range(len(parts)))})")
    elif form == "module":
        lines = ["class Mod(torch.nn.Module):"]
        lines += _indented(_function("__init__", ["self"], [
            "super().__init__()", *(f'self.register_buffer("{tensor}", {tensor})' for tensor in tensors)
        ]))  # fmt: skip
        lines += ["", *_indented(_function("forward", ["self", *parameters], [*held, *body])), "", "return Mod()"]
    elif form == "method":
        lines = ["class Mods:"]
        if tensors:
            kept = [f"self.{tensor} = {tensor}" for tensor in tensors]
            lines += [*_indented(_function("__init__", ["self"], kept)), ""]
        lines += [*_indented(_function(name, ["self", *parameters], [*held, *body])), "", f"return Mods().{name}"]
    elif form == "partial":
        lines = ["import functools", "", *_function(name, [*tensors, *parameters], body)]
        lines.append(f"return functools.partial({', '.join([name, *tensors])})")
    else:
        lines = [*_function(name, parameters, body), f"return {name}"]
    return "\n".join([f"def make_mod({', '.join(cells)}):", *_indented(lines)]) + "\n"


def _function(name: str, parameters: Sequence[str], body: Sequence[str]) -> list[str]:
    return [f"def {name}({', '.join(parameters)}):", *_indented(body)]


def _indented(lines: Sequence[str]) -> list[str]:
    # An expression of several lines is one entry, and its further lines stay as the author wrote them.
    return [f"    {line}" if line else "" for line in lines]


def _segment(original: str, node: ast.expr) -> str:
    code = ast.get_source_segment(original, node) or ast.unparse(node)
    return f"({code})" if "\n" in code else code


def _body_lines(original: str, statements: Sequence[ast.stmt]) -> list[str]:
    """The mod's statements. An expression statement before the last has no effect and is dropped."""
    lines = [
        f"{statement.targets[0].id} = {_segment(original, statement.value)}"
        for statement in statements[:-1]
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    ]
    last = statements[-1]
    if isinstance(last, ast.Expr):
        lines.append(f"return {_segment(original, last.value)}")
    return lines


def said_by(statements: Sequence[ast.stmt]) -> list[str]:
    """The syntax trees of a mod's assignments and result, as text. Two mods with equal lists compute the same."""
    kept = [s for s in statements[:-1] if isinstance(s, ast.Assign)]
    last = statements[-1]
    assert isinstance(last, ast.Expr | ast.Return) and last.value is not None
    return [*map(ast.dump, kept), ast.dump(last.value)]


def said(factory: ast.Module, kind: Kind, tensors: Sequence[str], form: str) -> list[str]:
    """`said_by` of the mod inside its factory, the module that `source` writes."""
    (make,) = factory.body
    functions = [node for node in ast.walk(make) if isinstance(node, ast.FunctionDef)]
    if form in JOINED and kind == "mask":
        parts = [f.body[0] for f in functions if f.name.startswith("mask_mod_")]
        results = [part.value for part in parts if isinstance(part, ast.Return) and part.value is not None]
        whole = results[0]
        for result in results[1:]:
            whole = ast.BinOp(whole, JOINED[form](), result)
        return [ast.dump(whole)]
    wanted = "forward" if form == "module" else f"{kind}_mod"
    (mod,) = (f for f in functions if f.name == wanted)
    held = len(tensors) if form in ("module", "method") else 0
    return said_by(mod.body[held:])


def code_of(mod: Callable[..., Any]) -> CodeType | None:
    """The code of a mod of any form by `compile_mod`; it names the file with the mod's source. None if it has none."""
    if isinstance(mod, functools.partial):
        mod = mod.func
    mod = getattr(mod, "forward", mod)
    if getattr(mod, "__name__", "") in ("and_mask", "or_mask"):
        mod = inspect.getclosurevars(mod).nonlocals["mask_mods"][0]
    code = getattr(mod, "__code__", None)
    return code if isinstance(code, CodeType) else None
