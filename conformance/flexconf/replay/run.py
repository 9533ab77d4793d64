"""Runs recorded kernels, and says where the outcome differs from the outcome on the recording machine's CPU.

The kernel's text runs as it is, in flash-attn-4 on a GPU, or in the reference's host launcher on a CPU. torch's helper
functions come from the bundle, so the installed torch generates nothing: it only holds the tensors.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexconf.errors import InputError
from flexconf.replay import bundle, kernel_text
from flexconf.replay.bundle import KernelBundle, RecordedCase
from flexconf.runs import expectations, judging
from flexconf.runs import run as runner
from flexconf.subjects import Subject, require
from flexconf.verdict.outcome import Outcome

if TYPE_CHECKING:
    from flexconf.inputs import Inputs
    from flexconf.subjects.trial import Attend, Attended, Options, StageClock

FA4, HOST = "torch-replay", "torch-replay.host"
LAUNCHERS = {"fa4": FA4, "host": HOST}
_KERNEL_OF_FA4 = "reference.fa4"
_LIKE = {"fa4": _KERNEL_OF_FA4, "host": "reference.host"}
"""The subject that runs its kernels by the same launcher: it needs the same packages and the same device."""


@dataclass(frozen=True)
class Difference:
    """A case whose outcome here is of another kind than on the recording machine.

    `explained` is the reason of the known defect of flash-attn-4 that covers it, or "".
    """

    case: str
    recorded: Outcome
    here: Outcome
    explained: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "case": self.case,
            "recorded": self.recorded.to_json(),
            "here": self.here.to_json(),
            "explained": self.explained,
        }


@dataclass(frozen=True)
class Replayed:
    """A replay: how many cases agree, by kind of outcome, and every difference.

    `not_run` has the reason for each case of the bundle that has no kernel. `elements` is the number of elements that
    were compared here, and `seconds` the wall time.
    """

    agree: Mapping[str, int]
    differences: tuple[Difference, ...]
    not_run: Mapping[str, str]
    elements: int
    seconds: float
    workers: int
    outcomes: Mapping[str, Outcome]

    @property
    def ok(self) -> bool:
        """Whether at least one element was compared here, and every difference is explained."""
        return self.elements > 0 and all(d.explained for d in self.differences)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.ok,
            "cases": len(self.outcomes),
            "agree": dict(self.agree),
            "differences": [d.to_json() for d in self.differences],
            "not_run": dict(self.not_run),
            "elements": self.elements,
            "seconds": self.seconds,
            "workers": self.workers,
        }


def kind(outcome: Outcome) -> str:
    """The kind of an outcome: "right", "wrong", or the stage and the symptom of one that gave no result."""
    if outcome.ok:
        return "right"
    if outcome.comparison is not None:
        return "wrong"
    return f"{outcome.stage}/{outcome.symptom}"


def replay(
    folder: Path,
    *,
    launcher: str = "fa4",
    patterns: Sequence[str] = (),
    workers: int | None = None,
    time_limit: float | None = None,
    on_result: Callable[[Outcome], None] = lambda outcome: None,
) -> Replayed:
    """Runs the kernels of the bundle in `folder` whose cases match `patterns`; all of them by default.

    Raises InputError for a bad bundle, for a launcher that cannot run here, and if nothing is left to run.
    """
    from flexconf.cases import catalogue

    if launcher not in LAUNCHERS:
        raise InputError(f"unknown launcher {launcher!r}; there are {', '.join(LAUNCHERS)}")
    kept = bundle.read(folder)
    chosen = catalogue.select([r.case for r in kept.recorded.values()], list(patterns))
    with_kernel = [case for case in chosen if kept.recorded[case.name].text]
    if not with_kernel:
        raise InputError(f"{folder}: none of the {len(chosen)} cases has a kernel; {kept.recorded[chosen[0].name].why}")
    results: list[judging.Result] = []

    def take(result: judging.Result) -> None:
        results.append(result)
        on_result(result.outcome)

    summary = runner.run(
        with_kernel,
        subject=subject(folder, launcher),
        workers=workers,
        time_limit=time_limit,
        on_result=take,
    )
    bad = [r.outcome.bad_input for r in results if r.outcome.bad_input]
    if bad:
        raise InputError(bad[0])
    known = expectations.in_force(_KERNEL_OF_FA4) if launcher == "fa4" else ()
    outcomes = {r.case.name: r.outcome for r in results}
    differences, agree = [], Counter[str]()
    for result in sorted(results, key=lambda r: r.case.name):
        before = kept.recorded[result.case.name].outcome
        if kind(before) == kind(result.outcome):
            agree[kind(before)] += 1
            continue
        of_kernel = judging.judge(result.case, replace(result.outcome, subject=_KERNEL_OF_FA4), known).expectation
        reason = of_kernel.reason if of_kernel is not None else ""
        differences.append(Difference(result.case.name, before, result.outcome, reason))
    not_run = {case.name: kept.recorded[case.name].why for case in chosen if not kept.recorded[case.name].text}
    figures = (summary.elements, summary.seconds, summary.workers)
    return Replayed(dict(agree), tuple(differences), not_run, *figures, outcomes)


def subject(folder: Path, launcher: str) -> Subject:
    """The kernels of a bundle as a subject."""
    return replace(
        require(_LIKE[launcher]),
        name=LAUNCHERS[launcher],
        about=f"the kernels recorded in {folder}",
        attend=functools.partial(_attending, folder.absolute(), launcher),
        approximates=False,
    )


@functools.lru_cache(maxsize=1)
def _bundle(folder: Path) -> KernelBundle:
    return bundle.read(folder)


def _attending(folder: Path, launcher: str) -> Attend:
    return functools.partial(_attend, _bundle(folder), launcher)


def _attend(kept: KernelBundle, launcher: str, given: Inputs, clock: StageClock, options: Options) -> Attended:
    from flexconf.subjects.canary import Canary
    from flexconf.subjects.trial import Attended

    recorded = kept.recorded[given.case.name]
    where = f"the recorded case {given.case.name!r}"
    if dict(recorded.inputs) != given.digests:
        raise InputError(f"{where}: the inputs made here have other digests than those recorded; nothing can be said")
    clock.enter("render")
    results = {a.of: a for a in recorded.arguments if a.of in ("out", "lse")}
    if results.keys() != {"out", "lse"}:
        raise InputError(f"{where}: the call has no output or no LSE; record the bundle again")
    like = {"out": given.q, "lse": given.q.new_empty(0, dtype=torch.float32)}
    guarded = {of: Canary.around(a.shape, a.stride, 0.0, like[of]) for of, a in results.items()}

    def launch(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        arguments = _arguments(recorded, given, {"out": out, "lse": lse}, where)
        with _running(kept.helpers, launcher, clock) as load:
            load(recorded.text)(*arguments)
        return out, lse

    launch(guarded["out"].tensor, guarded["lse"].tensor)
    clock.enter("launch")
    trespassed = [of for of, canary in guarded.items() if not canary.intact()]
    return Attended(
        out=guarded["out"].tensor,
        lse=guarded["lse"].tensor,
        again=lambda: launch(*(torch.empty_like(guarded[of].tensor) for of in ("out", "lse"))),
        digests={"kernel": bundle.digest(recorded.text)},
        trespass=f"memory around {' and '.join(trespassed)} was written" if trespassed else "",
    )


def _arguments(recorded: RecordedCase, given: Inputs, results: Mapping[str, Tensor], where: str) -> list[object]:
    inputs = {"q": given.q, "k": given.k, "v": given.v, **{f"capture:{n}": t for n, t in given.captures.items()}}
    found: list[object] = []
    for a in recorded.arguments:
        if a.of == "stream":
            found.append(torch.cuda.current_stream().cuda_stream if given.q.is_cuda else 0)
        elif a.of in results:
            found.append(results[a.of])
        elif a.of in inputs:
            found.append(a.view(where, inputs[a.of]))
        elif a.of == "value":
            found.append(a.tensor(where, given.q.device))
        else:
            raise InputError(f"{where}: argument {a.name} is of {a.of!r}, which the case does not have")
    return found


@contextlib.contextmanager
def _running(helpers: str, launcher: str, clock: StageClock) -> Iterator[Callable[[str], Callable[..., None]]]:
    """Yields a function that makes a checked text's main function. The text finds torch's helpers of the bundle."""
    from flexconf.subjects import torch_codegen, torch_private
    from flexconf.subjects.trial import Refused, raised_by
    from flexflash.launch import module

    def load(text: str) -> Callable[..., None]:
        name = kernel_text.check_kernel(text)
        main: Callable[..., None] = getattr(module.load(text), name)
        return main

    kernel_text.check_helpers(helpers)
    clock.enter("compile")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_instead(kernel_text.HELPERS, module.load(helpers)))
        if launcher == "host":
            stack.enter_context(torch_private.stand_ins(torch_codegen.on_host(clock)))
        try:
            yield load
        except (AssertionError, NotImplementedError, ValueError) as error:
            if launcher != "fa4" or not raised_by(error, "flash_attn.cute."):
                raise
            raise Refused("compile", f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _instead(name: str, ours: types.ModuleType) -> Iterator[None]:
    """Puts `ours` in the place of a module. A parent that the installed torch lacks becomes an empty module."""
    parents = [name.rsplit(".", n)[0] for n in range(name.count("."), 0, -1)]
    made = []
    for parent in parents:
        try:
            importlib.import_module(parent)
        except ImportError:
            sys.modules[parent] = types.ModuleType(parent)
            made.append(parent)
    theirs = sys.modules.get(name)
    sys.modules[name] = ours
    try:
        yield
    finally:
        for n in (name, *made):
            del sys.modules[n]
        if theirs is not None:
            sys.modules[name] = theirs
