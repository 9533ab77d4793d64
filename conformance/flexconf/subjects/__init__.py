"""What can be tested. A subject is a way from a case's inputs to an output and its LSE."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.subjects.trial import Attend

_FLASH = ("torch", "nvidia-cutlass-dsl", "flash-attn-4")


@dataclass(frozen=True)
class Subject:
    """One subject. `packages` are those whose versions decide its results; `device` where it runs.

    `function` is "module:name" of its `Attend`, imported only where it runs. `device` "any" means a GPU if there is
    one.
    """

    name: str
    about: str
    device: Literal["cpu", "cuda", "any"]
    packages: tuple[str, ...]
    function: str

    @property
    def needs_gpu(self) -> bool:
        """Whether it cannot run without a GPU."""
        return self.device == "cuda"

    @property
    def is_reference(self) -> bool:
        """Whether it runs the text that the reference lowering renders."""
        return self.name.startswith("reference.")

    def load(self) -> Attend:
        """Its function."""
        module, _, name = self.function.partition(":")
        found: Attend = getattr(importlib.import_module(module), name)
        return found


SUBJECTS: dict[str, Subject] = {
    s.name: s
    for s in (
        Subject(
            "reference.host",
            "the reference lowering on the CPU: mods through the CuTe compiler, a plain softmax around them",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.reference:host",
        ),
        Subject(
            "reference.simt",
            "the same text in a plain CuTe kernel on the GPU, one thread a row",
            "cuda",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.reference:simt",
        ),
        Subject(
            "reference.fa4",
            "the same text in flash-attn-4",
            "cuda",
            _FLASH,
            "flexconf.subjects.reference:fa4",
        ),
        Subject(
            "torch-flash",
            "torch.compile(flex_attention), BACKEND FLASH",
            "cuda",
            _FLASH,
            "flexconf.subjects.torch_flex:flash",
        ),
        Subject(
            "torch-triton",
            "torch.compile(flex_attention), BACKEND TRITON",
            "cuda",
            ("torch", "triton"),
            "flexconf.subjects.torch_flex:triton",
        ),
        Subject(
            "torch-eager",
            "flex_attention without compilation",
            "any",
            ("torch",),
            "flexconf.subjects.torch_flex:eager",
        ),
    )
}


def get(name: str) -> Subject:
    """The subject of that name. Raises InputError."""
    if name not in SUBJECTS:
        raise InputError(f"unknown subject {name!r}; there are {', '.join(SUBJECTS)}")
    return SUBJECTS[name]
