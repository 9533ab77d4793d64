"""How faults are put into the lowering, which knows nothing of them: every change is undone, every match asserted."""

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
    """Replace attributes: `changes()` gives (owner, name, new value), asked for when the fault is switched on."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, value in changes():
                stack.enter_context(_code(owner, value) if name == "__code__" else patch.object(owner, name, value))
            yield

    return apply


def everywhere(owner: ModuleType, name: str, new: Any) -> list[tuple[Any, str, Any]]:
    """Changes for `attributes`: a function of `owner` replaced in every module of the lowering that has imported it."""
    true = getattr(owner, name)
    modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == owner.__name__.partition(".")[0]]
    found = [(m, name, new) for m in modules if vars(m).get(name) is true]
    assert (owner, name, new) in found
    return found


@contextmanager
def _code(function: Any, code: CodeType) -> Iterator[None]:
    # `patch` takes an attribute that is not in __dict__ for inherited, and deletes what it has set.
    true, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = true


def together(*applies: Apply) -> Apply:
    """Several changes at once."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for one in applies:
                stack.enter_context(one())
            yield

    return apply


def entries(names: str, make: Callable[[ops.Emitter], ops.Emitter]) -> Apply:
    """Replace entries of the operation table: `names` as "add.Tensor add.Scalar", `make(emitter)` gives the new one."""

    @contextmanager
    def apply() -> Iterator[None]:
        changed = {}
        for name in names.split():
            packet, _, overload = name.partition(".")
            target = getattr(getattr(torch.ops.aten, packet), overload)
            known = ops.lookup(target)
            assert known is not None, f"{name} is not in the operation table"
            changed[target] = (known[0], make(known[1]))
        with patch.dict(table._TABLE, changed):
            yield

    return apply


def mapping(table: Mapping[Any, Any], changes: Mapping[Any, Any]) -> Apply:
    """Replace values of a table; each key must be there."""

    @contextmanager
    def apply() -> Iterator[None]:
        assert set(changes) <= set(table), f"{sorted(set(changes) - set(table))} are not in the table"
        with patch.dict(table, changes):
            yield

    return apply


def helper(name: str, old: str, new: str) -> Apply:
    """Rewrite a function of the prelude."""

    @contextmanager
    def apply() -> Iterator[None]:
        with patch.dict(prelude.SOURCES, {name: substituted(prelude.SOURCES[name], old, new)}):
            yield

    return apply


def substituted(text: str, old: str, new: str) -> str:
    """`text` with `old` replaced. Raises AssertionError unless it is there once."""
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def rewritten(owner: ModuleType, name: str, *substitutions: tuple[str, str]) -> tuple[Any, str, Any]:
    """A change for `attributes`: a module's function with its source rewritten, each `old` being there once.

    The new function's globals are the module's.
    """
    # Not the function's own idea of its source: CuTe's decorator gives another one after a compilation.
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
    """As `rewritten`, for everyone who has imported the function by its name already: its code is replaced."""
    _, _, made = rewritten(owner, name, *substitutions)
    return getattr(owner, name), "__code__", made.__code__


def text(edit: Callable[[str, RenderedKernel], str]) -> Apply:
    """Rewrite every rendered text: `edit(text, kernel)` gives the new one, or the old one where it does not apply."""
    return rendered(lambda found: dataclasses.replace(found, text=edit(found.text, found)))


def rendered(change: Callable[[RenderedKernel], RenderedKernel]) -> Apply:
    """Replace every rendered kernel."""

    def changes() -> list[tuple[Any, str, Any]]:
        true = kernel.create_flex_flash_attention_kernel

        def create(*arguments: Any, **keywords: Any) -> RenderedKernel:
            return change(true(*arguments, **keywords))

        return [(kernel, "create_flex_flash_attention_kernel", create)]

    return attributes(changes)


def arguments(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Apply:
    """Replace what a rendered kernel is called with."""

    def changes() -> list[tuple[Any, str, Any]]:
        true = RenderedKernel.arguments

        def given(self: RenderedKernel, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            return change(true(self, *tensors))

        return [(RenderedKernel, "arguments", given)]

    return attributes(changes)


def in_mod(source: str, name: str, edit: Callable[[str], str]) -> str:
    """`source` with the function `name` edited, if it is there: "score_mod" or "mask_mod", from `def` to its end."""
    found = re.search(rf"^def {name}\(.*?(?=\n\n\n)", source, re.MULTILINE | re.DOTALL)
    if found is None:
        return source
    return source[: found.start()] + edit(found.group()) + source[found.end() :]


def with_statement(source: str, name: str, statement: str) -> str:
    """`source` with `statement` as the first one of the function `name`, if it is there."""
    return in_mod(source, name, lambda mod: substituted(mod, "):\n", f"):\n    {statement}\n"))
