"""Records the kernels that the torch here generates, with the outcome of each on this machine's CPU."""

from __future__ import annotations

import functools
import importlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flexconf import subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.inputs import Inputs
from flexconf.machine import caches, environment
from flexconf.replay import kernel_text
from flexconf.replay.bundle import Argument, KernelBundle, RecordedCase, described
from flexconf.verdict.outcome import Outcome
from flexconf.workers import pool
from flexconf.workers.pool import Last, Lost, Report
from flexconf.workers.tasks import CaseTask, of_lost, prepare_worker

if TYPE_CHECKING:
    from flexconf.subjects.torch_private import Generated
    from flexconf.subjects.trial import Attended, Options, StageClock

SUBJECT = "torch-codegen"


@dataclass(frozen=True)
class _Case:
    """What a worker returns for one case."""

    outcome: Outcome
    inputs: Mapping[str, str]
    text: str
    arguments: tuple[Argument, ...]
    why: str


def record(
    cases: Sequence[Case],
    *,
    workers: int | None = None,
    time_limit: float | None = None,
    on_result: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[KernelBundle, float]:
    """Runs `cases` on torch-codegen in isolated workers. Returns the bundle, and the seconds that it took.

    Cases that state what the reference must refuse are left out. Raises InputError if no case is left, or if
    torch-codegen cannot run here.
    """
    what = subjects.require(SUBJECT)
    asked = [case for case in cases if case.expect == "ok"]
    if not asked:
        raise InputError("no cases to record; `flexconf cases` lists what there is")
    tampering.announce()
    recorded: dict[str, RecordedCase] = {}
    started = time.perf_counter()

    def take(task: CaseTask, ended: _Case | Lost) -> None:
        if isinstance(ended, Lost):
            outcome = of_lost(task, ended)
            recorded[task.case.name] = RecordedCase(
                task.case, {}, outcome, why=f"no kernel was kept: {outcome.message}"
            )
        else:
            outcome = ended.outcome
            call = (ended.text, ended.arguments, ended.why)
            recorded[task.case.name] = RecordedCase(task.case, ended.inputs, outcome, *call)
        on_result(outcome)

    with caches.fresh() as variables:
        pool.run_many(
            [CaseTask(case, what) for case in asked],
            _record_task,
            workers=workers or pool.default_workers(),
            time_limit=time_limit or what.time_limit,
            on_result=take,
            prepare=functools.partial(prepare_worker, what),
            environments=what.environments(workers or pool.default_workers(), variables),
        )
    lost = [case.name for case in asked if case.name not in recorded]
    if lost:
        raise InputError(f"{len(lost)} cases were never run, {lost[0]!r} first; nothing is written")
    helpers = inspect.getsource(importlib.import_module(kernel_text.HELPERS))
    versions = environment.read().packages
    return KernelBundle(versions, helpers, recorded), time.perf_counter() - started


def _record_task(task: CaseTask, report: Report) -> _Case | Last[_Case]:
    from flexconf.subjects import trial
    from flexconf.subjects.torch_private import Generated

    generated, seen = Generated(), list[Inputs]()
    outcome = trial.run_on(
        task.case, task.subject, task.options, report, attend=functools.partial(_attend, generated, seen)
    )
    digests = seen[0].digests if seen else {}
    try:
        text, arguments = _call(task.case.name, generated, seen)
    except InputError as error:
        return _Case(outcome, digests, "", (), str(error))
    return _Case(outcome, digests, text, arguments, "")


def _attend(generated: Generated, seen: list[Inputs], given: Inputs, clock: StageClock, options: Options) -> Attended:
    from flexconf.subjects import torch_codegen

    seen.append(given)
    return torch_codegen.codegen(given, clock, options, generated)


def _call(name: str, generated: Generated, seen: Sequence[Inputs]) -> tuple[str, tuple[Argument, ...]]:
    """The text of the one kernel, and its arguments. Raises InputError, with the reason, if it cannot run elsewhere."""
    if len(generated.kernels) != 1:
        raise InputError(f"torch rendered {len(generated.kernels) or 'no'} kernels")
    if not generated.arguments:
        raise InputError("torch rendered a kernel and never called it")
    (text,) = generated.kernels
    kernel_text.check_kernel(text, f"the kernel of {name!r}")
    for result, filled in generated.results.items():
        returned = {"out": generated.out, "lse": generated.lse}[result]
        if returned is None and generated.out is not None:
            raise InputError(f"torch returns no {result}, and a replay would")
        if returned is not None and not _equal(returned, filled):
            raise InputError(f"torch changes the {result} after the kernel, which a replay would not do")
    return text, tuple(described(n, value, seen[0], generated.results) for n, value in generated.arguments.items())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)))
