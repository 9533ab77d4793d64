"""The PTX of the kernels that a subject runs, as its SHA-256, where the CuTe DSL hands it out.

The DSL does so when it is told to in the environment (`variables`). flash-attn-4's cache on disk holds no PTX: whoever
compiles a kernel notes its digest beside the cache before the kernel is in it, for those who load it from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flexconf.machine import caches, files

_NOTES = "ptx"


def variables(folder: str | Path, place: int) -> dict[str, str]:
    """The environment in which worker `place` of a run with its caches in `folder` keeps PTX.

    The DSL writes it to a file named after the kernel's types and reads it back. Many kernels have one name, so that
    two workers must not share a folder.
    """
    dumps = Path(folder) / f"ptx-{place}"
    dumps.mkdir(exist_ok=True)
    # The second is what older versions know.
    return {"CUTE_DSL_KEEP": "ptx", "CUTE_DSL_KEEP_PTX": "1", "CUTE_DSL_DUMP_DIR": str(dumps)}


def of(compiled: object) -> str:
    """The digest of the PTX of what `cute.compile` returned; "" where it has none."""
    text = getattr(compiled, "__ptx__", None)
    # Of a function that has no kernel, the DSL has the path of a file that is not there.
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) and ".entry" in text else ""


def named(digests: Iterable[str]) -> dict[str, str]:
    """What kernels with these digests add to an outcome's: {"ptx": digest}, or {} unless that of each is known."""
    found = sorted({*digests})
    if not found or "" in found:
        return {}
    return {"ptx": found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()}


class Watched:
    """A cache of kernels, as flash-attn-4 uses its own, that remembers whose PTX it has handed out in `digests`."""

    def __init__(self, cache: Any, notes: Path | None) -> None:
        self.digests: dict[Any, str] = {}
        self._cache, self._notes = cache, notes

    def __contains__(self, key: object) -> bool:
        return key in self._cache

    def __getitem__(self, key: object) -> Any:
        kernel = self._cache[key]
        self.digests[key] = of(kernel) or self._noted(key)
        return kernel

    def __setitem__(self, key: object, kernel: object) -> None:
        self.digests[key] = of(kernel)
        self._note(key, self.digests[key])
        self._cache[key] = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def _place(self, key: object) -> Path | None:
        return None if self._notes is None else self._notes / hashlib.sha256(repr(key).encode()).hexdigest()

    def _noted(self, key: object) -> str:
        place = self._place(key)
        return place.read_text(encoding="ascii") if place is not None and place.exists() else ""

    def _note(self, key: object, digest: str) -> None:
        place = self._place(key)
        if place is None or not digest:
            return
        place.parent.mkdir(exist_ok=True)
        files.write(place, digest)


@contextlib.contextmanager
def of_flash_attn() -> Iterator[Mapping[Any, str]]:
    """{flash-attn-4's key: digest of its PTX, "" for none} of the forward kernels that are launched in the context.

    Empty where there is no flash-attn-4, or one that keeps its kernels elsewhere.
    """
    try:
        from flash_attn.cute.interface import _flash_attn_fwd
    except ImportError:  # whoever calls it says so
        _flash_attn_fwd = None
    cache = getattr(_flash_attn_fwd, "compile_cache", None)
    if cache is None:
        yield {}
        return
    folder = os.environ.get(caches.FOLDER)
    watched = Watched(cache, Path(folder) / _NOTES if folder else None)
    _flash_attn_fwd.compile_cache = watched
    try:
        yield watched.digests
    finally:
        _flash_attn_fwd.compile_cache = cache
