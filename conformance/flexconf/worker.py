"""Work that may take its process down, in spawned workers with a time limit.

A signal, an exit, a hang or an exception inside a task is that task's result and nothing else's: the worker is
replaced and the other tasks go on. The last stage that a task announced survives it, in a small file.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from pebble import ProcessExpired, ProcessPool

T = TypeVar("T")
R = TypeVar("R")
Report: TypeAlias = Callable[[str], None]

DEFAULT_TIME_LIMIT = 60.0
_TAIL = 400


@dataclass(frozen=True)
class Lost:
    """How a task ended without a result.

    `how`: "signal SIGSEGV", "exit code 1", "time limit of 60 s" or an exception's name; `kind`: signal, exit, timeout
    or exception. `stage`: the last that the task announced, or "" when it announced none. `detail`: the end of what
    the worker wrote to stderr, or the exception's text, as one line. `error`: the exception, where there is one.
    """

    kind: str
    how: str
    stage: str
    detail: str
    error: BaseException | None = None


@dataclass(frozen=True)
class Task(Generic[T]):
    """One unit of work and its position in the list it came from."""

    index: int
    payload: T


def default_workers() -> int:
    """The number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_many(
    payloads: Sequence[T],
    function: Callable[[T, Report], R],
    *,
    workers: int,
    time_limit: float = DEFAULT_TIME_LIMIT,
    on_result: Callable[[T, R | Lost], None],
    prepare: Callable[[], None] | None = None,
) -> None:
    """Run `function(payload, report)` for every payload and hand each result, or a Lost, to `on_result` as it comes.

    `function` and `prepare` are module-level functions; `prepare` runs once in every new worker. `report(stage)`
    announces a stage. `time_limit` is in seconds a task. `on_result` runs in the calling process, once a payload.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if not payloads:
        return
    with tempfile.TemporaryDirectory(prefix="flexconf-") as folder:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPool(
            max_workers=min(workers, len(payloads)),
            context=context,
            initializer=_start,
            initargs=(folder, prepare),
        )
        try:
            _drain(pool, payloads, function, time_limit, on_result, Path(folder))
        except BaseException:
            pool.stop()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.close()  # type: ignore[no-untyped-call]
            pool.join()


def _drain(
    pool: ProcessPool,
    payloads: Sequence[T],
    function: Callable[[T, Report], R],
    time_limit: float,
    on_result: Callable[[T, R | Lost], None],
    folder: Path,
) -> None:
    pending: dict[Future[R], Task[T]] = {}
    for index, payload in enumerate(payloads):
        future: Future[R] = pool.schedule(_run, args=(function, payload, index, str(folder)), timeout=time_limit)
        pending[future] = Task(index, payload)
    while pending:
        # Waking up now and then lets a Ctrl-C through.
        done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            task = pending.pop(future)
            ended: R | Lost = _result(future, task.index, time_limit, folder)
            on_result(task.payload, ended)


def _result(future: Future[R], index: int, time_limit: float, folder: Path) -> R | Lost:
    note = folder / f"task-{index}"
    stage, worker = "", ""
    if note.exists():
        worker, _, stage = note.read_text().partition(" ")
    log = folder / f"stderr-{worker}"
    tail = log.read_text(errors="replace")[-_TAIL:] if worker and log.exists() else ""
    tail = " ".join(tail.split())
    try:
        return future.result()
    except FutureTimeoutError:
        return Lost("timeout", f"time limit of {time_limit:g} s", stage, tail)
    except ProcessExpired as expired:
        code = expired.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return Lost("signal", f"signal {signal.Signals(-code).name}", stage, tail)
        return Lost("exit", f"exit code {code}", stage, tail)
    except Exception as error:
        return Lost("exception", type(error).__name__, stage, " ".join(str(error).split()), error)


def _start(folder: str, prepare: Callable[[], None] | None) -> None:
    """In a new worker: its output goes to a file of its own, so that a dying compiler cannot spoil the screen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    log = os.open(os.path.join(folder, f"stderr-{os.getpid()}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if prepare is not None:
        prepare()


def _run(function: Callable[[T, Report], R], payload: T, index: int, folder: str) -> R:
    note = os.path.join(folder, f"task-{index}")

    def report(stage: str) -> None:
        with open(note, "w") as file:
            file.write(f"{os.getpid()} {stage}")

    report("")
    return function(payload, report)


def describe(lost: Lost) -> str:
    """One sentence: how it ended, where, and the last words."""
    at = f" during {lost.stage}" if lost.stage else ""
    said = f": {lost.detail}" if lost.detail else ""
    return f"ended by {lost.how}{at}{said}" if lost.kind != "exception" else f"{lost.how}{at}{said}"


def is_illegal_access(lost: Lost) -> bool:
    """Whether the task died of touching memory that is not its own."""
    return lost.how in ("signal SIGSEGV", "signal SIGBUS") or "illegal memory access" in lost.detail
