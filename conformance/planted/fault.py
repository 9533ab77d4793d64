"""The class of a planted fault."""

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

    `about` is a sentence about the real bug that the fault stands for. `apply` returns a context manager; the lowering
    has the fault while its block runs. `witness` is a minimal case that shows the fault, at vector width `width`, after
    the cases of `before` have run in the same process. `found_by` is "" if fuzzing finds the fault. Else it names the
    finder: "the catalogue", or a test if the oracle allows the fault's results, since a GPU may give them too.
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
        """The subject that shows the fault."""
        return "reference.simt" if self.layer == "simt" else "reference.host"
