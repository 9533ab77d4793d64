"""Outputs that a run keeps: a safetensors file a case and subject, so that results of two processes can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexconf.errors import InputError
from flexconf.machine.files import replacing


def path(folder: Path, case: str, subject: str) -> Path:
    """Where the result of `case` on `subject` is kept."""
    return folder / f"{case}.{subject}.safetensors"


def save(folder: Path, case: str, subject: str, tensors: Mapping[str, Tensor]) -> None:
    """Write out and lse, atomically."""
    target = path(folder, case, subject)
    with replacing(target) as partial:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial)


def load(folder: Path, case: str, subject: str) -> dict[str, Tensor]:
    """What was kept, on the CPU. Raises InputError when there is nothing, or it is damaged."""
    target = path(folder, case, subject)
    if not target.is_file():
        raise InputError(f"nothing is kept of {case} on {subject} in {folder}")
    try:
        found: dict[str, Tensor] = load_file(target)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{target}: damaged: {error}") from None
    return found
