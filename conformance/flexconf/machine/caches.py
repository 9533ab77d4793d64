"""Compile caches of one run: shared by its workers, seen by no other run.

A cache that outlives a run can hide what the run is for: a compiler that has changed. One folder a run, in which
several processes may compile at once (each of these caches writes to a temporary name and renames, and removes
nothing). The subject torch-codegen keeps what torch generates for it apart, call by call: see `torch_private`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = "FLEXCONF_CACHES"
"""The environment variable that names the folder to workers, and to runs within a run."""


def variables(folder: str | Path) -> dict[str, str]:
    """The environment that puts every compiler's cache under `folder`, and keeps torch from compiling in a pool."""
    root = Path(folder)
    return {
        FOLDER: str(root),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(root / "flash-attn-4"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        # The workers are the pool.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


@contextlib.contextmanager
def fresh() -> Iterator[dict[str, str]]:
    """The variables of a folder that lasts as long as the context; those of the enclosing run, within one."""
    enclosing = os.environ.get(FOLDER)
    if enclosing:
        yield variables(enclosing)
        return
    with tempfile.TemporaryDirectory(prefix="flexconf-caches-", ignore_cleanup_errors=True) as folder:
        yield variables(folder)
