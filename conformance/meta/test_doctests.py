"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = {"flexconf": ROOT / "conformance", "flexflash": ROOT / "impl"}


def _modules() -> list[str]:
    """Every module with an example, found in its text, so that nothing is imported to collect tests."""
    found = []
    for package, root in ROOTS.items():
        for path in sorted((root / package).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                found.append(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
    return found


def test_there_are_examples() -> None:
    assert {"flexconf", "flexflash.indexing"} <= set(_modules())


@pytest.mark.parametrize("name", _modules())
def test_examples(name: str) -> None:
    ran = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert ran.attempted > 0 == ran.failed
