"""What a planted fault is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from flexconf.cases.case import Case

Layer = Literal["operations", "code generator", "captures", "template", "block lists", "launcher", "simt", "harness"]
LAYERS: tuple[Layer, ...] = (
    "operations", "code generator", "captures", "template", "block lists", "launcher", "simt", "harness",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    `about` is a sentence on the real bug that it stands for. `apply` makes the context in which the lowering has it.
    `witness` is a minimal case that shows it, at vector width `width`, after `before` have run in the same process.
    `found_by`: what finds it where fuzzing does not, "" for most: "the catalogue", or a test where the oracle allows
    what the fault does, since a GPU may do it too.
    """

    name: str
    layer: Layer
    about: str
    apply: Callable[[], AbstractContextManager[None]]
    witness: Case
    width: int = 1
    before: tuple[Case, ...] = ()
    found_by: str = ""

    @property
    def subject(self) -> str:
        """The subject that shows it."""
        return "reference.simt" if self.layer == "simt" else "reference.host"
