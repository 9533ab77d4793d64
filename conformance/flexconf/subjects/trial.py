"""Runs one case on one subject in this process: inputs, the subject's function, the oracle, the comparison."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from flexconf import inputs, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.inputs import Inputs
from flexconf.oracles import eager, math64
from flexconf.oracles.math64 import Certified
from flexconf.subjects import Subject, get, saved
from flexconf.verdict import compare
from flexconf.verdict.compare import Comparison
from flexconf.verdict.outcome import Outcome, Stage, Symptom

R = TypeVar("R")

_DELAY = 2_000_000
"""The first delay of `gpu_seconds`, in GPU cycles: about a millisecond."""
_LONGEST_DELAY = 200_000_000

_WANTS_GPU = ("Torch not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs are available")
_OUT_OF_BOUNDS = ("illegal memory access", "ILLEGAL_ADDRESS", "misaligned address", "MISALIGNED_ADDRESS")


@dataclass(frozen=True)
class Options:
    """How to run a case.

    `vector_width`: the number of keys that a mod handles at once, 1, 2, 4 or 8; None for the subject's own choice.
    `fast_math`: the kernel option of that name; it has its own bound. `repeats`: the number of launches, which must all
    agree bit for bit (L9.3). `timed`: the number of further launches that are timed, if the result is right. `tile`:
    the queries and keys of a tile of torch-triton; None for torch's own choice. `stand_ins`: torch-codegen uses the
    reference's functions in place of CuTe's functions of the same name; attribution compares it with other subjects.
    `capability`: the compute capability that torch-codegen generates for, such as "10.0"; None for its own choice.
    """

    vector_width: int | None = None
    fast_math: bool = False
    repeats: int = 1
    timed: int = 0
    tile: tuple[int, int] | None = None
    stand_ins: bool = False
    capability: str | None = None


@dataclass(frozen=True)
class Attended:
    """The results of a subject: `out` and `lse`, or the `scores` of `reference.mods`; None if it did not return one.

    `again` runs the subject once more, into new tensors. `digests` identify what it ran. `trespass` says that memory
    outside the output or the LSE was written, or that the output has wrong strides; it is "" if neither is so.
    """

    out: Tensor | None
    lse: Tensor | None
    again: Callable[[], tuple[Tensor | None, Tensor | None]] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    trespass: str = ""
    scores: Tensor | None = None

    def on_cpu(self) -> dict[str, Tensor]:
        """The returned tensors by name (out, lse, scores), detached and on the CPU."""
        named = (("out", self.out), ("lse", self.lse), ("scores", self.scores))
        return {name: tensor.detach().cpu() for name, tensor in named if tensor is not None}


class Attend(Protocol):
    """A subject's function from inputs to an output (B, H, M, Dv) and an LSE (B, H, M), or to scores (B, H, M, N).

    It enters its stages on the clock. Raises Refused.
    """

    def __call__(self, given: Inputs, clock: StageClock, options: Options) -> Attended: ...


class Judge(Protocol):
    """Runs the oracle on inputs on the CPU, and returns the function that compares a subject's results with it.

    That function takes `Attended.on_cpu()`. Raises InputError and Unjudged, as `certify` does.
    """

    def __call__(self, exact: Inputs, options: Options) -> Callable[[Mapping[str, Tensor]], Comparison]: ...


class Refused(Exception):
    """The subject refuses the case at `stage`. The message is its reason."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class StageClock:
    """Measures the seconds spent in each stage. It also calls `listener` with each stage as it begins."""

    def __init__(self, listener: Callable[[str], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.stage: str | None = None
        self._since = 0.0
        self._listener = listener

    def enter(self, stage: str) -> None:
        """Closes the running stage and begins `stage`. A stage that is entered again adds to its seconds."""
        self.close()
        self.stage, self._since = stage, time.perf_counter()
        if self._listener is not None:
            self._listener(stage)

    def close(self) -> None:
        """Closes the running stage."""
        if self.stage is not None:
            spent = time.perf_counter() - self._since
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + spent
            self.stage = None


def run_case(
    case: Case,
    subject: str = "reference.host",
    options: Options | None = None,
    stage: Callable[[str], None] | None = None,
    *,
    attend: Attend | None = None,
    given: Inputs | None = None,
    keep: Path | None = None,
) -> Outcome:
    """Runs `case` on `subject` and compares the result with the float64 oracle, element by element.

    `stage` is called with each stage as it begins (inputs, oracle, trace, eligibility, render, compile, launch,
    output), so that the parent knows where a process died. If the case expects a result, the oracle runs first: a mod
    that PyTorch refuses is a bad input, and no subject runs it. `attend` replaces the subject's own function, for tests
    that plant a fault. `given` are the case's inputs, on the CPU, for mods that are Python functions without a text in
    the case. `keep` is a folder that receives the results. A refusal is an outcome. Raises InputError for a bad input
    and for an option that the subject does not have; defects of the harness raise too.
    """
    return run_on(case, get(subject), options, stage, attend=attend, given=given, keep=keep)


def run_on(
    case: Case,
    what: Subject,
    options: Options | None = None,
    stage: Callable[[str], None] | None = None,
    *,
    attend: Attend | None = None,
    given: Inputs | None = None,
    keep: Path | None = None,
) -> Outcome:
    """`run_case` on a subject itself."""
    options = options if options is not None else Options()
    what.check(options)
    subject = tampering.labelled(what.name)
    clock = StageClock(stage)
    clock.enter("inputs")
    exact = given if given is not None else inputs.materialize(case)
    theirs = inputs.materialize(case, "cuda") if what.on_gpu else exact

    def ended(where: str, symptom: Symptom, message: str, digests: Mapping[str, str]) -> Outcome:
        clock.close()
        known = {s.value for s in Stage}
        at = Stage(where if where in known else "launch")
        return Outcome(
            case.name,
            case.digest(),
            subject,
            at,
            symptom,
            message,
            None,
            clock.seconds,
            {**exact.digests, **digests},
            capability=options.capability,
        )

    comparing: Callable[[Mapping[str, Tensor]], Comparison] | None = None
    if case.expect == "ok":
        clock.enter("oracle")
        try:
            comparing = what.judge()(exact, options)
        except Unjudged:
            if not what.is_reference:
                raise
            # The lowering's own refusal names the operation and its line, which helps more. If the lowering does not
            # refuse, Unjudged is raised below.
    digests: Mapping[str, str] = {}
    try:
        attended = (attend if attend is not None else what.load())(theirs, clock, options)
        digests = attended.digests
        clock.enter("launch")
        _wait(theirs)
        flake = _repeat(attended, options.repeats)
    except Refused as refusal:
        return ended(refusal.stage, Symptom.REFUSED, str(refusal), digests)
    except InputError:
        raise  # the subject was given something that it cannot judge, which says nothing about the lowering
    except Exception as error:  # compilers' own exceptions have no common base
        if not what.on_gpu and any(sign in str(error) for sign in _WANTS_GPU):
            raise InputError(
                f"case {case.name!r}: {what.name} runs on a CPU here, and this case makes it ask for a GPU; without "
                "one, nothing can be said of it"
            ) from error
        return ended(clock.stage or "launch", *error_symptom(error), digests)
    returned = attended.on_cpu()
    # An outcome records no digest of scores.
    digests = {**digests, **{name: inputs.digest(t) for name, t in returned.items() if name != "scores"}}
    if keep is not None:
        saved.save(keep, case.name, subject, returned)
    if attended.trespass:
        return ended("output", Symptom.WRONG, attended.trespass, digests)
    if flake:
        return ended("output", Symptom.NONDETERMINISTIC, flake, digests)
    if comparing is None:
        clock.enter("oracle")
        comparing = what.judge()(exact, options)
    clock.enter("output")
    comparison = comparing(returned)
    clock.close()
    launches = _time(attended, options.timed, theirs) if comparison.symptom == "ok" else ()
    in_lse = comparison.worst is not None and comparison.worst["tensor"] == "lse"
    return Outcome(
        case=case.name,
        case_digest=case.digest(),
        subject=subject,
        stage=Stage.LSE if in_lse else Stage.OUTPUT,
        symptom=Symptom(comparison.symptom),
        message=comparison.reason,
        comparison=comparison.to_json(),
        timings=clock.seconds,
        digests={**exact.digests, **digests},
        launches=launches,
        capability=options.capability,
    )


def attention(exact: Inputs, options: Options) -> Callable[[Mapping[str, Tensor]], Comparison]:
    """The Judge of every subject that computes an attention: compares the output and the LSE."""
    certified = certify(exact, options)
    return lambda returned: compare.compare(returned.get("out"), returned.get("lse"), certified)


class Unjudged(InputError):
    """The mods use an operation without an error model, so no result can be judged."""


def certify(exact: Inputs, options: Options) -> Certified:
    """The results that a run with `options` may return for inputs on the CPU, by the float64 oracle.

    Raises InputError if PyTorch does not run the mods, if a mask_mod does not return bool, or if the block lists are
    invalid. Raises Unjudged if an operation has no error model.
    """

    def oracle() -> Certified:
        return math64.attention(
            exact.q,
            exact.k,
            exact.v,
            score_mod=exact.score_mod,
            mask_mod=exact.mask_mod,
            block_mask=exact.block_mask,
            scale=exact.scale,
            fast_math=options.fast_math,
        )

    return asked(exact, oracle)


def asked(exact: Inputs, oracle: Callable[[], R]) -> R:
    """Returns `oracle()`. An exception that the case is to blame for becomes an InputError, as in `certify`."""
    try:
        return oracle()
    except (math64.BlockListError, math64.ModResultError) as error:
        raise InputError(f"case {exact.case.name!r}: {error}") from None
    except Exception as error:
        eager.require(exact)
        if isinstance(error, math64.UnmodelledOperation):
            raise Unjudged(f"case {exact.case.name!r}: {error}, so no result of it can be judged") from None
        raise


def is_broken() -> bool:
    """Whether the CUDA context of this process has a permanent error, so that nothing more can run in it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def raised_by(error: BaseException, package: str) -> bool:
    """Whether the innermost frame of `error` is in a module whose name begins with `package`, such as "flash_attn."."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith(package)


def single_threaded() -> None:
    """Makes torch use one thread: the workers share the cores, and float32 sums keep one order."""
    torch.set_num_threads(1)


def _wait(given: Inputs) -> None:
    if given.q.is_cuda:
        torch.cuda.synchronize(given.q.device)


def _repeat(attended: Attended, repeats: int) -> str:
    """Launches again until there are `repeats` launches, and says how one differs from the first.

    Returns "" if none differs, or if the subject cannot launch again.
    """
    if repeats > 1 and attended.again is None:
        return ""
    for n in range(2, repeats + 1):
        assert attended.again is not None
        for name, first, other in zip(("out", "lse"), (attended.out, attended.lse), attended.again(), strict=True):
            if first is None or other is None:
                continue
            if first.shape != other.shape or first.dtype != other.dtype:
                return f"launch {n} of {repeats} gave {name} another shape or dtype"
            differs = _bits(first) != _bits(other)
            if bool(differs.any()):
                return f"launch {n} of {repeats} differs from the first in {int(differs.sum())} elements of {name}"
    return ""


def _time(attended: Attended, launches: int, given: Inputs) -> tuple[float, ...]:
    """The seconds of each of `launches` launches into new tensors. Returns () if the subject cannot launch again.

    On a GPU it is GPU time: the CPU's part of a launch takes longer than most cases' kernels, and depends on the load
    of the CPU.
    """
    if attended.again is None:
        return ()
    if given.q.is_cuda:
        return gpu_seconds(attended.again, launches)
    seconds = []
    for _ in range(launches):
        since = time.perf_counter()
        attended.again()
        seconds.append(time.perf_counter() - since)
    return tuple(seconds)


def gpu_seconds(again: Callable[[], object], launches: int) -> tuple[float, ...]:
    """The GPU seconds of each of `launches` calls of `again`, on the current stream of the current device.

    They are measured between two CUDA events. A delay keeps the GPU busy until the CPU has enqueued everything between
    the events; if the GPU reaches the first event earlier, the call is repeated with a longer delay. If a subject waits
    for the GPU itself, no delay is long enough, and the measured time includes the work of the CPU.
    """
    cycles, seconds = _DELAY, list[float]()
    while len(seconds) < launches:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
        before.record()
        again()
        after.record()
        begun = before.query()  # type: ignore[no-untyped-call]
        after.synchronize()
        if begun and cycles < _LONGEST_DELAY:
            cycles *= 4
            continue
        seconds.append(before.elapsed_time(after) / 1e3)
    return tuple(seconds)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def error_symptom(error: Exception) -> tuple[Symptom, str]:
    """(symptom, message) of an exception that a subject raised."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())  # CuTe colours its errors
    message = f"{type(error).__name__}: {text[:500]}"
    if isinstance(error, torch.OutOfMemoryError):
        return Symptom.OUT_OF_MEMORY, message
    if any(sign in text for sign in _OUT_OF_BOUNDS):
        return Symptom.ILLEGAL_ACCESS, message
    return Symptom.CRASH, message
