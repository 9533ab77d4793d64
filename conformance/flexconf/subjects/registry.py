"""The subjects: everything that can be tested.

A subject turns a case's inputs into an output and its LSE; `reference.mods` turns scores into scores.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flexconf.errors import InputError
from flexconf.machine import devices

if TYPE_CHECKING:
    from flexconf.cases.case import Case
    from flexconf.inputs import Inputs
    from flexconf.subjects.trial import Attend, Judge, Options
    from flexconf.verdict.outcome import Outcome

_FLASH = ("torch", "nvidia-cutlass-dsl", "flash-attn-4")


# A subject's modules are imported only where it runs: importing flash-attn-4, triton and the compilers takes seconds.


def _attention() -> Judge:
    from flexconf.subjects.trial import attention

    return attention


def _scores() -> Judge:
    from flexconf.subjects.mods import judge

    return judge


def _mods() -> Attend:
    from flexconf.subjects.mods import modify

    return modify


def _host() -> Attend:
    from flexconf.subjects.reference import host

    return host


def _simt() -> Attend:
    from flexconf.subjects.reference import simt

    return simt


def _fa4() -> Attend:
    from flexconf.subjects.reference import fa4

    return fa4


def _codegen() -> Attend:
    from flexconf.subjects import codegen_probe
    from flexconf.subjects.torch_codegen import codegen

    codegen_probe.require()
    return codegen


def _torch_flash() -> Attend:
    from flexconf.subjects.torch_flex import flash

    return flash


def _torch_triton() -> Attend:
    from flexconf.subjects.torch_flex import triton

    return triton


def _torch_eager() -> Attend:
    from flexconf.subjects.torch_flex import eager

    return eager


CPU_TIME_LIMIT = 60.0
"""Seconds for a case on a CPU."""

GPU_TIME_LIMIT = 180.0
"""Seconds for a case on a GPU. It is long, since several processes may compile kernels at once."""


@dataclass(frozen=True)
class Subject:
    """One subject: what it is, and how it is run, judged, isolated and timed.

    `packages` are the packages whose versions decide its results. `device` is where it runs; "any" means a GPU if there
    is one. `attend` imports and returns the subject's `Attend`, and may raise InputError if it cannot run with these
    packages. `imports` names modules that take long to import. A worker does both before its first case, so they are
    not part of a case's time. `judge` imports and returns the `Judge` of its results. `approximates`: the subject has
    the option fast_math; `chooses_tile`: it has the option tile; `stands_in`: functions of CuTe may be replaced in it.
    `capabilities`: the compute capabilities that it generates code for, the first one by default; () for a subject
    without the option capability. `tiled`: it takes only problems that fit flash-attn-4's tiles, and fuzzing draws only
    those. `narrow`: fuzzing draws only the vector widths that flash-attn-4 takes. `backend_refuses`: its backend
    rejects some kernels at compile or launch, which is no failure of the lowering.
    """

    name: str
    about: str
    device: Literal["cpu", "cuda", "any"]
    packages: tuple[str, ...]
    attend: Callable[[], Attend]
    imports: tuple[str, ...] = ()
    judge: Callable[[], Judge] = _attention
    approximates: bool = False
    chooses_tile: bool = False
    stands_in: bool = False
    capabilities: tuple[str, ...] = ()
    tiled: bool = False
    narrow: bool = False
    backend_refuses: bool = False

    def check(self, options: Options | None) -> None:
        """Raises InputError if `options` sets an option that the subject does not have.

        A tile needs `chooses_tile`, stand-ins need `stands_in`, and fast_math needs `approximates`. A vector width must
        be 1, 2, 4 or 8. A compute capability must be one of `capabilities`.
        """
        if options is not None and options.vector_width not in (None, 1, 2, 4, 8):
            raise InputError(f"vector width must be 1, 2, 4 or 8, not {options.vector_width}")
        if options is not None and options.capability is not None and options.capability not in self.capabilities:
            if self.capabilities:
                there = " or ".join(self.capabilities)
                raise InputError(
                    f"{self.name} generates code for compute capability {there}, not for {options.capability}"
                )
            having = " and ".join(s.name for s in SUBJECTS.values() if s.capabilities)
            raise InputError(f"a compute capability is chosen for {having} alone, not for {self.name}")
        if options is not None and options.tile is not None and not self.chooses_tile:
            having = " and ".join(s.name for s in SUBJECTS.values() if s.chooses_tile)
            raise InputError(f"a tile is chosen for {having} alone, not for {self.name}")
        if options is not None and options.stand_ins and not self.stands_in:
            having = " and ".join(s.name for s in SUBJECTS.values() if s.stands_in)
            raise InputError(f"functions are stood in for in {having} alone, not in {self.name}")
        if options is not None and options.fast_math and not self.approximates:
            having = " and ".join(s.name for s in SUBJECTS.values() if s.approximates)
            raise InputError(
                f"fast_math is an option of {having}, not of {self.name}: it means approximate instructions of a GPU "
                "in the text that the reference renders"
            )

    def capability(self, asked: str | None) -> str | None:
        """The compute capability that it generates code for: `asked`, or else its own choice.

        Returns None if it does not have this option.
        """
        return asked or (self.capabilities[0] if self.capabilities else None)

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
        """The reason why it cannot run here. Returns "" if none is known without running something; see `load`."""
        absent = [name for name in self.packages if not _installed(name)]
        if absent:
            return f"{absent[0]} is not installed"
        return devices.why_none() if self.needs_gpu and not devices.count() else ""

    @property
    def time_limit(self) -> float:
        """The default time limit of a case, in seconds."""
        return CPU_TIME_LIMIT if self.device == "cpu" else GPU_TIME_LIMIT

    def environments(self, workers: int, variables: Mapping[str, str]) -> list[dict[str, str]]:
        """The environment variables that each of `workers` worker processes starts with.

        They are `variables` (the run's compile caches), and one GPU, chosen round robin. A subject that runs on a CPU
        only gets no GPU; the list then has one entry, which all workers share.
        """
        if self.device == "cpu":
            return [dict(variables)]
        return [{**variables, **devices.assign(place)} for place in range(workers)]

    def load(self) -> Attend:
        """Imports everything that a run needs, and returns the subject's `Attend`.

        Raises InputError if the subject cannot run with the installed packages, which takes a probe to know.
        """
        for name in self.imports:
            importlib.import_module(name)
        return self.attend()

    def run(
        self,
        case: Case,
        options: Options | None,
        report: Callable[[str], None],
        keep: Path | None = None,
        given: Inputs | None = None,
    ) -> Outcome:
        """Runs a case in this process and returns its outcome.

        `report` is called with each stage as it begins. `keep` is a folder that receives the results. `given` are the
        case's inputs, on the CPU, for mods that are Python functions without a text in the case.
        """
        from flexconf.subjects.trial import run_on

        return run_on(case, self, options, report, keep=keep, given=given)


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
            _mods,
            ("flexflash.launch.host",),
            judge=_scores,
        ),
        Subject(
            "reference.host",
            "the reference lowering on the CPU: mods through the CuTe compiler, a plain softmax around them",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            _host,
            ("flexflash.launch.host",),
        ),
        Subject(
            "reference.simt",
            "the same text in a plain CuTe kernel on the GPU, one thread a row",
            "cuda",
            ("torch", "nvidia-cutlass-dsl"),
            _simt,
            ("flexflash.launch.simt",),
            approximates=True,
        ),
        Subject(
            "reference.fa4",
            "the same text in flash-attn-4",
            "cuda",
            _FLASH,
            _fa4,
            ("flexflash.launch.fa4", "flash_attn.cute.interface"),
            approximates=True,
            tiled=True,
            narrow=True,
            backend_refuses=True,
        ),
        Subject(
            "torch-flash",
            "torch.compile(flex_attention), BACKEND FLASH",
            "cuda",
            _FLASH,
            _torch_flash,
            ("flash_attn.cute.interface", "torch._dynamo"),
            tiled=True,
        ),
        Subject(
            "torch-codegen",
            "the mods that BACKEND FLASH generates, compiled and run on the CPU, a plain softmax around them",
            "cpu",
            ("torch", "nvidia-cutlass-dsl"),
            _codegen,
            ("flexflash.launch.host", "torch._dynamo"),
            stands_in=True,
            capabilities=("9.0", "10.0"),
        ),
        Subject(
            "torch-triton",
            "torch.compile(flex_attention), BACKEND TRITON",
            "cuda",
            ("torch", "triton"),
            _torch_triton,
            ("triton", "torch._dynamo"),
            chooses_tile=True,
        ),
        Subject(
            "torch-eager",
            "flex_attention without compilation",
            "any",
            ("torch",),
            _torch_eager,
        ),
    )
}


def get(name: str) -> Subject:
    """The subject called `name`. Raises InputError if there is none."""
    if name not in SUBJECTS:
        raise InputError(f"unknown subject {name!r}; there are {', '.join(SUBJECTS)}")
    return SUBJECTS[name]


def require(subject: str | Subject) -> Subject:
    """The subject, or the subject of that name. Raises InputError if there is none, or if it cannot run here."""
    if isinstance(subject, str):
        subject = get(subject)
    why = subject.why_not()
    if why:
        raise InputError(f"subject {subject.name} cannot run here: {why}; `flexconf subjects` shows which can")
    return subject
