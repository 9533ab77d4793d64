"""Outputs that a run keeps: one safetensors file per case and subject, to compare the results of two processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexconf.errors import InputError
from flexconf.machine.files import replacing


def path(folder: Path, case: str, subject: str) -> Path:
    """The file that keeps the result of `case` on `subject`."""
    return folder / f"{case}.{subject}.safetensors"


def save(folder: Path, case: str, subject: str, tensors: Mapping[str, Tensor]) -> None:
    """Writes the named `tensors` to the file of `case` and `subject`, atomically."""
    target = path(folder, case, subject)
    with replacing(target) as partial:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial)


def load(folder: Path, case: str, subject: str) -> dict[str, Tensor]:
    """The tensors that were saved, by name, on the CPU. Raises InputError if there is no file, or it is damaged."""
    target = path(folder, case, subject)
    if not target.is_file():
        raise InputError(f"nothing is kept of {case} on {subject} in {folder}")
    try:
        found: dict[str, Tensor] = load_file(target)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{target}: damaged: {error}") from None
    return found
