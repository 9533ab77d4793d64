"""What can be tested. A subject is a way from a case's inputs to an output and its LSE."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flexconf import devices
from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.case import Case
    from flexconf.inputs import Inputs
    from flexconf.outcome import Outcome
    from flexconf.subjects.trial import Attend, Options

_FLASH = ("torch", "nvidia-cutlass-dsl", "flash-attn-4")


@dataclass(frozen=True)
class Subject:
    """One subject. `packages` are those whose versions decide its results; `device` where it runs.

    `function` is "module:name" of its `Attend`, imported only where it runs, `imports` what takes long to import and is
    no part of a case's time. `device` "any" means a GPU if there is one. `also` is "module:name" of a function that
    says why it cannot run for another reason than a missing package or GPU, "" when it can. `approximates`: whether it
    takes the option fast_math. `cases` and `widths` are "module:function" of the strategies that fuzzing draws from;
    `limited`: what the rendered text is run by refuses some of it, which is no failure of the lowering.
    """

    name: str
    about: str
    device: Literal["cpu", "cuda", "any"]
    packages: tuple[str, ...]
    function: str
    imports: tuple[str, ...] = ()
    life: str = "flexconf.subjects.trial:run_case"
    also: str = ""
    approximates: bool = False
    cases: str = "flexconf.strategies:cases"
    widths: str = "flexconf.strategies:vector_widths"
    limited: bool = False

    def check(self, options: Options | None) -> None:
        """Raises InputError for options that it has not: fast_math, torch-triton's tile, torch-codegen's stand-ins."""
        if options is not None and options.tile is not None and self.name != "torch-triton":
            raise InputError(f"a tile is chosen for torch-triton alone, not for {self.name}")
        if options is not None and options.stand_ins and self.name != "torch-codegen":
            raise InputError(f"functions are stood in for in torch-codegen alone, not in {self.name}")
        if options is not None and options.fast_math and not self.approximates:
            having = " and ".join(s.name for s in SUBJECTS.values() if s.approximates)
            raise InputError(
                f"fast_math is an option of {having}, not of {self.name}: it means approximate instructions of a GPU "
                "in the text that the reference renders"
            )

    @property
    def needs_gpu(self) -> bool:
        """Whether it cannot run without a GPU."""
        return self.device == "cuda"

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU here."""
        return self.device == "cuda" or (self.device == "any" and devices.count() > 0)

    @property
    def is_reference(self) -> bool:
        """Whether it runs the text that the reference lowering renders."""
        return self.name.startswith("reference.")

    def why_not(self) -> str:
        """Why it cannot run here; "" when it can."""
        absent = [name for name in self.packages if not _installed(name)]
        if absent:
            return f"{absent[0]} is not installed"
        why: str = _named(self.also)() if self.also else ""
        if why:
            return why
        return devices.why_none() if self.needs_gpu and not devices.count() else ""

    def load(self) -> Attend:
        """Its function, and all that it takes to call it."""
        for name in self.imports:
            importlib.import_module(name)
        found: Attend = _named(self.function)
        return found

    def run(
        self,
        case: Case,
        options: Options | None,
        report: Callable[[str], None],
        keep: Path | None = None,
        given: Inputs | None = None,
    ) -> Outcome:
        """The outcome of a case, in this process; `given` are its inputs, on the CPU, for mods that are no text."""
        outcome: Outcome = _named(self.life)(case, self.name, options, report, keep=keep, given=given)
        return outcome


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.cache
def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


SUBJECTS: dict[str, Subject] = {
    s.name: s
    for s in (
        Subject(
            "reference.mods",
            "the rendered mods alone, on the CPU: scores in, scores out",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.reference:host",
            ("flexflash.launch.host",),
            "flexconf.subjects.mods:run_case",
        ),
        Subject(
            "reference.host",
            "the reference lowering on the CPU: mods through the CuTe compiler, a plain softmax around them",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.reference:host",
            ("flexflash.launch.host",),
        ),
        Subject(
            "reference.simt",
            "the same text in a plain CuTe kernel on the GPU, one thread a row",
            "cuda",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.reference:simt",
            ("flexflash.launch.simt",),
            approximates=True,
        ),
        Subject(
            "reference.fa4",
            "the same text in flash-attn-4",
            "cuda",
            _FLASH,
            "flexconf.subjects.reference:fa4",
            ("flexflash.launch.fa4", "flash_attn.cute.interface"),
            approximates=True,
            cases="flexconf.strategies:tiled_cases",
            widths="flexconf.strategies:narrow_widths",
            limited=True,
        ),
        Subject(
            "torch-flash",
            "torch.compile(flex_attention), BACKEND FLASH",
            "cuda",
            _FLASH,
            "flexconf.subjects.torch_flex:flash",
            ("flash_attn.cute.interface", "torch._dynamo"),
            cases="flexconf.strategies:tiled_cases",
        ),
        Subject(
            "torch-codegen",
            "the mods that BACKEND FLASH generates, compiled and run on the CPU, a plain softmax around them",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            "flexconf.subjects.torch_codegen:codegen",
            ("flexflash.launch.host", "torch._dynamo", "torch._inductor.compile_fx"),
            also="flexconf.subjects.torch_private:why_not",
        ),
        Subject(
            "torch-triton",
            "torch.compile(flex_attention), BACKEND TRITON",
            "cuda",
            ("torch", "triton"),
            "flexconf.subjects.torch_flex:triton",
            ("triton", "torch._dynamo"),
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


def require(name: str) -> Subject:
    """The subject of that name. Raises InputError when there is none, or it cannot run here."""
    subject = get(name)
    why = subject.why_not()
    if why:
        raise InputError(f"subject {name} cannot run here: {why}; `flexconf subjects` shows which can")
    return subject
