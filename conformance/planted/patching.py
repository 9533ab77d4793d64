"""Puts faults into the lowering, which knows nothing of them.

Every change is undone when its block ends. A change whose target is not found fails with an AssertionError.
"""

from __future__ import annotations
import __future__

import ast
import dataclasses
import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import CodeType, ModuleType
from typing import Any
from unittest.mock import patch

import torch

from flexflash import kernel, ops, prelude
from flexflash.kernel import RenderedKernel
from flexflash.ops import table

Apply = Callable[[], AbstractContextManager[None]]


def attributes(changes: Callable[[], list[tuple[Any, str, Any]]]) -> Apply:
    """Replace attributes: `changes()` returns (owner, name, new value). It is called when the fault is switched on."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, value in changes():
                stack.enter_context(_code(owner, value) if name == "__code__" else patch.object(owner, name, value))
            yield

    return apply


def everywhere(owner: ModuleType, name: str, new: Any) -> list[tuple[Any, str, Any]]:
    """Changes for `attributes` that replace a function of `owner` in every module of the lowering that imported it."""
    true = getattr(owner, name)
    modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == owner.__name__.partition(".")[0]]
    found = [(m, name, new) for m in modules if vars(m).get(name) is true]
    assert (owner, name, new) in found
    return found


@contextmanager
def _code(function: Any, code: CodeType) -> Iterator[None]:
    # `patch.object` fails here: it takes an attribute that is not in __dict__ for inherited, and deletes the new value
    # at the end.
    true, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = true


def together(*applies: Apply) -> Apply:
    """Apply several changes at once."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for one in applies:
                stack.enter_context(one())
            yield

    return apply


def entries(names: str, make: Callable[[ops.Emitter], ops.Emitter]) -> Apply:
    """Replace entries of the operation table.

    `names` are overloads such as "add.Tensor add.Scalar". `make(emitter)` returns the new emitter of each.
    """

    @contextmanager
    def apply() -> Iterator[None]:
        changed = {}
        for name in names.split():
            packet, _, overload = name.partition(".")
            target = getattr(getattr(torch.ops.aten, packet), overload)
            known = ops.lookup(target)
            assert known is not None, f"{name} is not in the operation table"
            changed[target] = known._replace(emit=make(known.emit))
        with patch.dict(table._TABLE, changed):
            yield

    return apply


def mapping(table: Mapping[Any, Any], changes: Mapping[Any, Any]) -> Apply:
    """Replace values of a table; each key must be in it."""

    @contextmanager
    def apply() -> Iterator[None]:
        assert set(changes) <= set(table), f"{sorted(set(changes) - set(table))} are not in the table"
        with patch.dict(table, changes):
            yield

    return apply


def helper(name: str, old: str, new: str) -> Apply:
    """Rewrite the text of a prelude function: `old`, which must be there once, becomes `new`."""

    @contextmanager
    def apply() -> Iterator[None]:
        with patch.dict(prelude.SOURCES, {name: substituted(prelude.SOURCES[name], old, new)}):
            yield

    return apply


def substituted(text: str, old: str, new: str) -> str:
    """`text` with `old` replaced. Raises AssertionError unless `old` occurs once."""
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def rewritten(owner: ModuleType, name: str, *substitutions: tuple[str, str]) -> tuple[Any, str, Any]:
    """A change for `attributes` that rewrites the source of a module's function.

    `substitutions` are pairs (old, new); each `old` must occur once. The globals of the new function are the module's.
    """
    # The source comes from the module, not from the function: after a compilation, CuTe's decorator gives the function
    # another source.
    source = inspect.getsource(owner)
    found = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    first = min([found.lineno, *(d.lineno for d in found.decorator_list)])
    text = "\n".join(source.splitlines()[first - 1 : found.end_lineno]) + "\n"
    for old, new in substitutions:
        text = substituted(text, old, new)
    filename = f"<planted {name} {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    flags = __future__.annotations.compiler_flag
    made: dict[str, Any] = {}
    exec(compile(text, filename, "exec", flags, dont_inherit=True), vars(owner), made)
    return owner, name, made[name]


def recoded(owner: ModuleType, name: str, *substitutions: tuple[str, str]) -> tuple[Any, str, Any]:
    """As `rewritten`, but replaces the code of the function, so that modules that imported it have the fault too."""
    _, _, made = rewritten(owner, name, *substitutions)
    return getattr(owner, name), "__code__", made.__code__


def text(edit: Callable[[str, RenderedKernel], str]) -> Apply:
    """Rewrite every rendered text: `edit(text, kernel)` returns the new text, or `text` if there is nothing to edit."""
    return rendered(lambda found: dataclasses.replace(found, text=edit(found.text, found)))


def rendered(change: Callable[[RenderedKernel], RenderedKernel]) -> Apply:
    """Replace every rendered kernel by `change(kernel)`."""

    def changes() -> list[tuple[Any, str, Any]]:
        true = kernel.create_flex_flash_attention_kernel

        def create(*arguments: Any, **keywords: Any) -> RenderedKernel:
            return change(true(*arguments, **keywords))

        return [(kernel, "create_flex_flash_attention_kernel", create)]

    return attributes(changes)


def arguments(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Apply:
    """Replace the tensors, by name, that a rendered kernel is called with."""

    def changes() -> list[tuple[Any, str, Any]]:
        true = RenderedKernel.arguments

        def given(self: RenderedKernel, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            return change(true(self, *tensors))

        return [(RenderedKernel, "arguments", given)]

    return attributes(changes)


def in_mod(source: str, name: str, edit: Callable[[str], str]) -> str:
    """`source` with its function `name` ("score_mod" or "mask_mod") edited; `source` itself if it has no such function.

    `edit` gets the function's text from `def` to its end.
    """
    found = re.search(rf"^def {name}\(.*?(?=\n\n\n)", source, re.MULTILINE | re.DOTALL)
    if found is None:
        return source
    return source[: found.start()] + edit(found.group()) + source[found.end() :]


def with_statement(source: str, name: str, statement: str) -> str:
    """`source` with `statement` added as the first statement of its function `name`, if it has that function."""
    return in_mod(source, name, lambda mod: substituted(mod, "):\n", f"):\n    {statement}\n"))
