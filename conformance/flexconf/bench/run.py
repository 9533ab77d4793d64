"""Run a bench in a worker, so that a provider that ends its process does not lose the results of the others."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flexconf import subjects
from flexconf.bench.clock import keep_code
from flexconf.bench.record import FAILED, BenchRecording, Measurement, Settings, merged
from flexconf.bench.workloads import Workload
from flexconf.machine import caches, devices, environment
from flexconf.runs import expectations
from flexconf.verdict.outcome import Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Crew, Last, Lost, Report

TIME_LIMIT = 400.0
_PHASES = ("compile", "time", "check", "graph")


@dataclass(frozen=True)
class Task:
    """One workload with its providers, as it is sent to a worker."""

    workload: Workload
    providers: tuple[str, ...]
    settings: Settings
    without_graph: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProviderBroken:
    """The process of a task can no longer be used. `provider` caused that during `phase`."""

    provider: str
    phase: str
    message: str


Function = Callable[[Task, Report], list[Measurement] | ProviderBroken | Last[list[Measurement] | ProviderBroken]]


def run(
    tasks: Sequence[Task],
    settings: Settings,
    *,
    on_workload: Callable[[Workload, Sequence[Measurement]], None] = lambda workload, measurements: None,
    on_progress: Callable[[BenchRecording], None] = lambda recording: None,
    on_stage: Callable[[str], None] = lambda stage: None,
    function: Function | None = None,
    prepare: Callable[[], None] | None = None,
    time_limit: float = TIME_LIMIT,
) -> BenchRecording:
    """Measure the tasks one after the other. `on_workload` gets the measurements of each workload when it ends.

    `on_progress` gets the recording so far. A provider that ends its process, or leaves the device unusable, is
    `failed`, and the workload is measured again without it. `time_limit` is in seconds for one workload. In tests,
    `function` and `prepare` replace the functions that the worker runs.
    """
    recording = start(tasks, settings)
    prepare = prepare if function is not None else prepare_worker
    with tempfile.TemporaryDirectory(prefix="flexconf-bench-", ignore_cleanup_errors=True) as folder:
        # Empty caches, so that compile times are those of a cold start.
        own = {"FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "0", **keep_code(folder)}
        variables = caches.variables(folder) | own | devices.assign(0)
        with Crew(
            function or run_task, workers=1, time_limit=time_limit, prepare=prepare, environments=[variables]
        ) as crew:
            for task in tasks:
                on_stage(task.workload.name)
                parts = [_workload(task, crew) for _ in range(task.settings.processes)]
                found = [merged(of_one) for of_one in zip(*parts, strict=True)]
                recording = dataclasses.replace(recording, measurements=[*recording.measurements, *found])
                on_workload(task.workload, found)
                on_progress(recording)
    recording = dataclasses.replace(recording, finished=True)
    on_progress(recording)
    return recording


def start(tasks: Sequence[Task], settings: Settings) -> BenchRecording:
    """A recording without measurements."""
    sizes = ("B", "H", "Hkv", "M", "N", "D", "dtype", "about")
    return BenchRecording(
        settings=settings,
        environment=environment.read().to_json(),
        workloads={t.workload.name: {s: getattr(t.workload, s) for s in sizes} for t in tasks},
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        finished=False,
    )


def _workload(task: Task, crew: Crew[Task, Any]) -> list[Measurement]:
    """Measure one workload. If a provider breaks the process, measure again without it, or without its CUDA graph."""
    failed: dict[str, Measurement] = {}
    while True:
        left = tuple(name for name in task.providers if name not in failed)
        if not left:
            return [failed[name] for name in task.providers]
        ended: list[list[Measurement] | ProviderBroken | Lost] = []
        crew.run([dataclasses.replace(task, providers=left)], functools.partial(_keep, ended))
        result = ended[0]
        if isinstance(result, list):
            every = failed | {m.provider: m for m in result}
            return [every[name] for name in task.providers]
        broken = _blame(result)
        if broken.phase == "graph" and broken.provider not in task.without_graph:
            task = dataclasses.replace(task, without_graph=(*task.without_graph, broken.provider))
            continue
        # If the cause is not one of the providers, all of them have failed.
        for name in (broken.provider,) if broken.provider in left else left:
            failed[name] = Measurement(task.workload.name, name, FAILED, f"{broken.phase}: {broken.message}")


def _keep(ended: list[Any], task: Task, result: object) -> None:
    ended.append(result)


def _blame(ended: ProviderBroken | Lost) -> ProviderBroken:
    if isinstance(ended, ProviderBroken):
        return ended
    phase, _, provider = ended.stage.partition(" ")
    message = pool.describe(dataclasses.replace(ended, stage=""))
    return (
        ProviderBroken(provider, phase, message)
        if phase in _PHASES
        else ProviderBroken("", ended.stage or "start", message)
    )


def prepare_worker() -> None:
    """Import slow modules and create the CUDA context, so that no compile time includes them."""
    import importlib.util

    import torch

    for name in ("torch._dynamo", "torch._inductor.compile_fx", "triton.testing", "cutlass.cute", "flexflash"):
        importlib.import_module(name)
    if importlib.util.find_spec("flash_attn") is not None:
        importlib.import_module("flash_attn.cute.interface")
    warm = torch.randn(1024, 1024, device="cuda")
    (warm @ warm).sum().item()


def _has_another_base(provider: str) -> bool:
    """Whether another base of the LSE is a known defect, here, of the subject with that name."""
    if provider not in subjects.SUBJECTS:
        return False
    return any(f"{Stage.LSE}/{Symptom.WRONG_BASE}" in e.outcomes for e in expectations.in_force(provider))


def run_task(
    task: Task, report: Report
) -> list[Measurement] | ProviderBroken | Last[list[Measurement] | ProviderBroken]:
    """In a worker, measure one workload. A process that a provider broke is not used again."""
    import torch

    from flexconf.bench.clock import DeviceTimer
    from flexconf.bench.measure import Poisoned, measure
    from flexconf.bench.providers import PROVIDERS
    from flexconf.bench.workloads import build

    report("inputs")
    # Kernels and memory of the last workload must not affect this one.
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    wide = torch.cuda.get_device_capability()[0] in (10, 11)
    known = tuple(name for name in task.providers if _has_another_base(name))
    built = build(task.workload, "cuda", (256, 128) if wide else (128, 128))
    chosen = [PROVIDERS[name] for name in task.providers]
    try:
        found = measure(built, chosen, DeviceTimer(), task.settings, report, task.without_graph, known)
        return Last(found) if task.settings.processes > 1 else found
    except Poisoned as error:
        return Last(ProviderBroken(error.provider, error.phase, str(error)))
