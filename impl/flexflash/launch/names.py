"""The names of CuTe DSL that a rendered text uses, looked up in the installed one before anything is compiled."""

from __future__ import annotations

import ast
import functools
from importlib import metadata
from typing import Final

import cutlass
import cutlass.cute as cute

from ..errors import LacksName

OLDEST: Final = "4.8.0"
"""The oldest nvidia-cutlass-dsl for which rendered text is right.

4.5 lacks cute.math.abs and ten more. 4.6 and 4.7 have every name, but there the negative of an Int8, Int16 or Uint8
is an Int32, and the negative of 0.0 is 0.0. The compiler of 4.7.1 ends the process on some valid kernels.
"""

_ROOTS: Final = {"cutlass": cutlass, "cute": cute}


def used(text: str) -> list[str]:
    """The dotted names in `text` that begin with `cute.` or `cutlass.`, sorted, each once and as long as it stands."""
    tree = ast.parse(text)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = (_dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in inner)
    return sorted({name for name in found if name is not None})


def lacking(names: list[str]) -> list[str]:
    """Those of `names` that the installed CuTe DSL does not have."""
    return [name for name in names if not _resolves(name)]


@functools.lru_cache(maxsize=256)
def require(text: str) -> None:
    """Raises LacksName if the installed CuTe DSL lacks a name that the rendered `text` uses."""
    absent = lacking(used(text))
    if absent:
        raise LacksName(
            f"nvidia-cutlass-dsl {metadata.version('nvidia-cutlass-dsl')} has no {', '.join(absent)}, which this "
            f"kernel uses; it needs {OLDEST} or a newer release that has it"
        )


def _dotted(node: ast.expr) -> str | None:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in _ROOTS:
        return None
    return ".".join((node.id, *reversed(parts)))


def _resolves(name: str) -> bool:
    root, *parts = name.split(".")
    thing = _ROOTS[root]
    for part in parts:
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True
