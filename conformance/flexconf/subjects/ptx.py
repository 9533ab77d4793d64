"""The SHA-256 of the PTX of the kernels that a subject runs, if the CuTe DSL keeps the PTX.

The environment variables of `variables` make the DSL keep it. flash-attn-4's cache on disk holds no PTX. So a process
that compiles a kernel writes the PTX digest to a file beside that cache before it puts the kernel into the cache. A
process that loads the kernel from the cache reads the digest from that file.
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
    """The environment variables that make worker `place` keep PTX, in a run whose compile caches are in `folder`.

    The DSL writes the PTX to a file named after the kernel's types, and reads it back. Many kernels have the same file
    name, so two workers must not share a folder. This function creates the worker's folder.
    """
    dumps = Path(folder) / f"ptx-{place}"
    dumps.mkdir(exist_ok=True)
    # Older versions of the DSL know CUTE_DSL_KEEP_PTX only.
    return {"CUTE_DSL_KEEP": "ptx", "CUTE_DSL_KEEP_PTX": "1", "CUTE_DSL_DUMP_DIR": str(dumps)}


def of(compiled: object) -> str:
    """The digest of the PTX of `compiled`, a result of `cute.compile`. Returns "" if it has no PTX."""
    text = getattr(compiled, "__ptx__", None)
    # For a function without a kernel, the DSL gives the path of a file that does not exist.
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) and ".entry" in text else ""


def named(digests: Iterable[str]) -> dict[str, str]:
    """{"ptx": digest} for an outcome: the digest if `digests` are all equal, else a hash of the different ones.

    Returns {} if `digests` is empty or contains "", an unknown digest.
    """
    found = sorted({*digests})
    if not found or "" in found:
        return {}
    return {"ptx": found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()}


class Watched:
    """Wraps flash-attn-4's cache of kernels. `digests` maps the key of every kernel used to its PTX digest, or ""."""

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
    """Yields a dict that maps flash-attn-4's cache key of each forward kernel used in the context to its PTX digest.

    The digest is "" if it is unknown. The dict stays empty without flash-attn-4, or with a version that keeps its
    kernels elsewhere.
    """
    try:
        from flash_attn.cute.interface import _flash_attn_fwd
    except ImportError:  # the launch reports that it is missing
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
