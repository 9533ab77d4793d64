"""The compile caches of one run. All its workers share them, and no other run sees them.

A cache that outlives a run could hide a change of the compiler, and to find such a change is what runs are for. So each
run has one folder of its own. Several processes may compile into it at once: each of these caches writes to a temporary
name, renames the file, and removes nothing. The subject torch-codegen keeps torch's generated modules in a separate
folder per call; see `torch_private`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = "FLEXCONF_CACHES"
"""The environment variable that tells workers, and runs within a run, where the folder is."""


def variables(folder: str | Path) -> dict[str, str]:
    """The environment variables that put every compiler's cache under `folder`.

    They also make torch compile in its own process instead of a pool.
    """
    root = Path(folder)
    return {
        FOLDER: str(root),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(root / "flash-attn-4"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        # The workers already compile in parallel.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


@contextlib.contextmanager
def fresh() -> Iterator[dict[str, str]]:
    """The `variables` of a new folder, which is removed when the context ends.

    Within another run, they are those of that run's folder.
    """
    enclosing = os.environ.get(FOLDER)
    if enclosing:
        yield variables(enclosing)
        return
    with tempfile.TemporaryDirectory(prefix="flexconf-caches-", ignore_cleanup_errors=True) as folder:
        yield variables(folder)
