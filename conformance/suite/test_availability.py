"""L1: is the backend there? Asked of the import system, without importing it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexflash.eligibility import ensure_flash_available


@pytest.fixture(autouse=True)
def _fresh_answers() -> Iterator[None]:
    ensure_flash_available.cache_clear()  # type: ignore[attr-defined]
    yield
    ensure_flash_available.cache_clear()  # type: ignore[attr-defined]


def _install(folder: Path, package: str) -> None:
    inner = folder / package / "cute"
    inner.mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("raise AssertionError('probing must not import the backend')\n")


@pytest.mark.clause("L1.1")
def test_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "pretend_flash")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ensure_flash_available("pretend_flash.cute")
    assert "pretend_flash.cute" not in sys.modules


@pytest.mark.clause("L1.2")
def test_answer_is_cached_until_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not ensure_flash_available("later_flash.cute")
    _install(tmp_path, "later_flash")
    assert not ensure_flash_available("later_flash.cute"), "the first answer is kept"
    ensure_flash_available.cache_clear()  # type: ignore[attr-defined]
    assert ensure_flash_available("later_flash.cute"), "a package installed meanwhile is seen"


@pytest.mark.clause("L1.3")
@pytest.mark.parametrize("error", [ImportError, ModuleNotFoundError])
def test_import_error_means_unavailable(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise error(f"broken installation of {name}")

    monkeypatch.setattr(importlib.util, "find_spec", refuse)
    assert not ensure_flash_available("flash_attn.cute")


@pytest.mark.clause("L1.3")
def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(name: str) -> None:
        raise OSError("disk")

    monkeypatch.setattr(importlib.util, "find_spec", explode)
    with pytest.raises(OSError, match="disk"):
        ensure_flash_available("flash_attn.cute")
