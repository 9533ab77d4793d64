"""What breaks a GPU case ends that case only: it is recorded as what it was, and its neighbours never notice."""

from __future__ import annotations

import functools
import os
import signal

import pytest
import torch

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.inputs import Inputs
from flexconf.machine import caches
from flexconf.subjects import trial
from flexconf.subjects.trial import Attended, Options, StageClock
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Last, Lost, Report
from flexconf.workers.tasks import CaseTask, of_lost, prepare_worker, run_task

NEIGHBOURS = 50
WORKERS = 8
LIMIT = 40.0


def _illegal(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """What torch raises of an illegal memory access; none is made."""
    clock.enter("launch")
    torch.zeros(8, device="cuda")
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _endless(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """A kernel that waits for more than a minute, which is longer than the limit."""
    clock.enter("launch")
    torch.cuda._sleep(1 << 37)
    torch.cuda.synchronize()
    raise AssertionError("it ended")


def _greedy(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """200 GB."""
    clock.enter("launch")
    return Attended(torch.empty(200 << 30, dtype=torch.uint8, device="cuda"), None)


def _killed(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """As by the kernel's out-of-memory killer."""
    clock.enter("launch")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def work(task: CaseTask, report: Report) -> Outcome | Last[Outcome]:
    """In the worker: the case, or what its name asks for."""
    bad = {"illegal": _illegal, "endless": _endless, "greedy": _greedy, "killed": _killed}.get(task.case.name)
    if bad is None:
        return run_task(task, report)
    outcome = trial.run_on(task.case, task.subject, task.options, report, attend=bad)
    # After a real one the context is broken: the worker's last case.
    return Last(outcome) if trial.is_broken() or outcome.symptom is Symptom.ILLEGAL_ACCESS else outcome


@pytest.mark.slow
@pytest.mark.gpu
def test_each_is_recorded_as_what_it_was_and_its_neighbours_never_notice() -> None:
    good = [c for c in catalogue.load() if c.expect == "ok"][: 2 * NEIGHBOURS : 2]
    bad = [good[0].replace(name=name) for name in ("illegal", "endless", "greedy", "killed")]
    order: list[Case] = [*good[:6], *bad, *good[6:]]  # the bad ones early, so that the rest runs beside them
    subject = "torch-eager"  # no compilation: this is about processes
    ended: dict[str, Outcome] = {}

    def take(task: CaseTask, result: Outcome | Lost) -> None:
        assert task.case.name not in ended, "recorded twice"
        ended[task.case.name] = of_lost(task, result) if isinstance(result, Lost) else result

    with caches.fresh() as variables:
        pool.run_many(
            [CaseTask(case, subjects.get(subject)) for case in order],
            work,
            workers=WORKERS,
            time_limit=LIMIT,
            on_result=take,
            prepare=functools.partial(prepare_worker, subjects.get(subject)),
            environments=subjects.get(subject).environments(WORKERS, variables),
        )
    assert len(ended) == NEIGHBOURS + len(bad), "nothing is lost"
    seen = {name: (ended[name].stage, ended[name].symptom) for name in ("illegal", "endless", "greedy", "killed")}
    assert seen == {
        "illegal": (Stage.LAUNCH, Symptom.ILLEGAL_ACCESS),
        "endless": (Stage.LAUNCH, Symptom.TIMEOUT),
        "greedy": (Stage.LAUNCH, Symptom.OUT_OF_MEMORY),
        "killed": (Stage.LAUNCH, Symptom.CRASH),
    }
    assert "SIGKILL" in ended["killed"].message
    harmed = [
        f"{case.name}: {ended[case.name].stage}/{ended[case.name].symptom}: {ended[case.name].message}"
        for case in good
        if ended[case.name].symptom in (Symptom.CRASH, Symptom.ILLEGAL_ACCESS, Symptom.TIMEOUT, Symptom.OUT_OF_MEMORY)
    ]
    assert not harmed
    assert sum(outcome.ok for outcome in ended.values()) >= NEIGHBOURS * 9 // 10
