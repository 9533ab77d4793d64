"""Runs tasks that may kill their process, in spawned workers with a time limit.

A signal, an exit, a hang or an exception inside a task becomes the result of that task and does not affect others: the
worker is replaced, and the other tasks go on. Every worker has a pipe of its own, which outlives the worker. So the
last stage that a task announced is known however the task died, and workers share no lock that a dying process could
hold.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import resource
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

from flexconf.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Report: TypeAlias = Callable[[str], None]

DEFAULT_TIME_LIMIT = 60.0
_START_LIMIT = 300.0
_DEATH_LIMIT = 30.0
_WAKE = 1.0
_TAIL = 400
_LOG = 20_000


@dataclass(frozen=True)
class Lost:
    """How a task ended without a result.

    `how`: "signal SIGSEGV", "exit code 1", "time limit of 60 s" or the name of an exception. `kind`: signal, exit,
    timeout or exception. `stage`: the last stage that the task announced, or "" if it announced none. `detail`: the
    exception's text, or else the end of the task's stdout and stderr, as one line. `error`: the exception, if there is
    one and it can be pickled. `log`: a longer end of the task's stdout and stderr, as written.
    """

    kind: str
    how: str
    stage: str
    detail: str
    error: BaseException | None = None
    log: str = ""


def describe(lost: Lost) -> str:
    """One sentence: how the task ended, in which stage, and the end of its output."""
    at = f" during {lost.stage}" if lost.stage else ""
    said = f": {lost.detail}" if lost.detail else ""
    return f"ended by {lost.how}{at}{said}" if lost.kind != "exception" else f"{lost.how}{at}{said}"


def is_illegal_access(lost: Lost) -> bool:
    """Whether the task died of an illegal memory access, on the CPU or on the GPU."""
    return lost.how in ("signal SIGSEGV", "signal SIGBUS") or "illegal memory access" in lost.detail


def default_workers() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Last(Generic[R]):
    """A task returns `Last(result)` if its process must not be used again, for example after a permanent CUDA error."""

    result: R


def run_many(
    payloads: Sequence[T],
    function: Callable[[T, Report], R | Last[R]],
    *,
    workers: int,
    time_limit: float = DEFAULT_TIME_LIMIT,
    on_result: Callable[[T, R | Lost], None],
    prepare: Callable[[], None] | None = None,
    environments: Sequence[Mapping[str, str]] = (),
) -> None:
    """Runs `function(payload, report)` for every payload, and passes each result or Lost to `on_result` as it comes.

    It uses a `Crew` for this one list of payloads. The arguments and errors are those of `Crew` and `Crew.run`.
    """
    with Crew(function, workers=workers, time_limit=time_limit, prepare=prepare, environments=environments) as crew:
        crew.run(payloads, on_result)


class Crew(Generic[T, R]):
    """A context manager that has worker processes, for any number of lists of payloads.

    `function(payload, report)` and `prepare` must be module-level functions. `prepare` runs once in every new worker,
    and `report(stage)` announces a stage. `time_limit` is the wall-clock limit per task, in seconds. Worker n, and
    every worker that replaces it, starts with the variables of `environments[n % len(environments)]` set; they assign
    its GPU. Workers start when they are first needed. Raises ValueError for fewer than 1 worker.
    """

    def __init__(
        self,
        function: Callable[[T, Report], R | Last[R]],
        *,
        workers: int,
        time_limit: float = DEFAULT_TIME_LIMIT,
        prepare: Callable[[], None] | None = None,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._folder = tempfile.TemporaryDirectory(prefix="flexconf-")
        self._start = (function, prepare, time_limit)
        self._environments = environments or ({},)
        self._places: list[_Worker | None] = [None] * workers
        self._dying: list[_Worker] = []

    def __enter__(self) -> Crew[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, payloads: Sequence[T], on_result: Callable[[T, R | Lost], None]) -> None:
        """Runs every payload, and calls `on_result` once for each, in this process, with its result or a Lost.

        Raises InputError if a worker cannot start: then the installation is broken, and no task is to blame. After an
        exception the crew is closed.
        """
        waiting = deque(range(len(payloads)))
        try:
            while waiting or any(w.task is not None for w in self._crew()):
                self._recruit(len(waiting) + sum(w.task is not None for w in self._crew()))
                for worker in self._crew():
                    if worker.prepared and worker.task is None and waiting:
                        index = waiting.popleft()
                        worker.assign(index, payloads[index])
                soonest = min(w.deadline for w in self._crew()) - time.monotonic()
                wait([x for w in self._crew() for x in w.handles()], max(0.0, min(_WAKE, soonest)))
                for worker in self._crew():
                    for index, ended in worker.collect():
                        on_result(payloads[index], ended)
                    if worker.gone:
                        waiting.extendleft(worker.unbegun())
                        self._dismiss(worker)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills all workers, and removes their logs."""
        for worker in self._crew():
            self._dismiss(worker)
        deadline = time.monotonic() + _DEATH_LIMIT
        for worker in self._dying:
            worker.bury(max(0.0, deadline - time.monotonic()))
        self._dying.clear()
        self._folder.cleanup()

    def _crew(self) -> list[_Worker]:
        return [w for w in self._places if w is not None]

    def _recruit(self, needed: int) -> None:
        for place, worker in enumerate(self._places):
            if worker is None and len(self._crew()) < needed:
                environment = self._environments[place % len(self._environments)]
                self._places[place] = _Worker(Path(self._folder.name), *self._start, environment)

    def _dismiss(self, worker: _Worker) -> None:
        # A process that is killed while its kernel runs on a GPU takes a while to die. The others need not wait for it.
        self._places[self._places.index(worker)] = None
        worker.stop()
        self._dying = [w for w in self._dying if not w.bury(0.0)]
        if not worker.bury(0.0):
            self._dying.append(worker)


class _Worker:
    """A worker process, its pipe, and its current task."""

    def __init__(
        self,
        folder: Path,
        function: Callable[[Any, Report], Any],
        prepare: Callable[[], None] | None,
        time_limit: float,
        environment: Mapping[str, str],
    ) -> None:
        context = multiprocessing.get_context("spawn")
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        self.log = Path(name)
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, name, function, prepare), daemon=True, name="flexconf-worker"
        )
        self.time_limit = time_limit
        self.environment = environment
        self.prepared = False
        self.gone = False
        self.task: int | None = None
        self.begun = False
        self.stage = ""
        self.offset = 0
        self.deadline = time.monotonic() + _START_LIMIT
        with _uninterrupted(), _environment(environment):
            self.process.start()
        theirs.close()

    def handles(self) -> list[Connection | int]:
        """The handles to wait for. One of them becomes ready when `collect` has something to do."""
        return [self.connection, self.process.sentinel]

    def assign(self, index: int, payload: object) -> None:
        """Gives the worker a task. The task's time limit counts from now."""
        self.task, self.begun, self.stage = index, False, ""
        self.offset = self.log.stat().st_size
        self.deadline = time.monotonic() + self.time_limit
        with contextlib.suppress(BrokenPipeError):  # the worker died while idle; `unbegun` returns the task
            self.connection.send(payload)

    def collect(self) -> Iterator[tuple[int, Any]]:
        """Reads the worker's messages and checks whether it is dead or late.

        Yields (index of the task, result or Lost) if the task has ended. Raises InputError if the worker could not
        start.
        """
        dead = not self.process.is_alive()  # checked first: a dead worker's messages are then all in the pipe
        closed = False
        while not closed and self.connection.poll():
            try:
                kind, content = self.connection.recv()
            except (EOFError, OSError):
                closed = True
                break
            except Exception as error:  # a result that can be pickled but not unpickled
                kind, content = "failed", (type(error).__name__, str(error), None)
            yield from self._message(kind, content)
        if not (dead or closed):
            if time.monotonic() > self.deadline:
                yield from self._late()
            return
        self.process.join(10.0)
        yield from self._ended(_cause(self.process.exitcode))

    def _message(self, kind: str, content: Any) -> Iterator[tuple[int, Any]]:
        match kind:
            case "prepared":
                self.prepared, self.deadline = True, math.inf
            case "unprepared":
                raise InputError(f"a worker could not start: {content}")
            case "begun":
                self.begun = True
            case "stage":
                self.stage = content
            case "done":
                yield self._close(content)
            case "failed":
                name, text, error = content
                yield self._close(Lost("exception", name, self.stage, " ".join(text.split()), error))

    def _late(self) -> Iterator[tuple[int, Any]]:
        self.process.kill()
        yield from self._ended(("timeout", f"time limit of {self.time_limit:g} s"))

    def _ended(self, cause: tuple[str, str]) -> Iterator[tuple[int, Any]]:
        self.gone = True
        if not self.prepared:
            said = self._last_words()
            raise InputError(f"a worker could not start: {cause[1]}{': ' if said else ''}{said}")
        if self.task is not None and (self.begun or cause[0] == "timeout"):
            yield self._close(Lost(*cause, self.stage, self._last_words(), log=self._written()[-_LOG:]))

    def _close(self, ended: object) -> tuple[int, Any]:
        assert self.task is not None
        index, self.task, self.deadline = self.task, None, math.inf
        return index, ended

    def unbegun(self) -> list[int]:
        """The indices of tasks that a dead worker was given but never began: at most one."""
        return [self.task] if self.task is not None else []

    def _last_words(self) -> str:
        return " ".join(self._written()[-_TAIL:].split())

    def _written(self) -> str:
        """The text that the worker has written to stdout and stderr since it was given its task."""
        with self.log.open("rb") as file:
            file.seek(self.offset)
            return file.read().decode(errors="replace")

    def stop(self) -> None:
        """Kills the worker if it is alive, and closes the pipe."""
        self.process.kill()
        self.connection.close()

    def bury(self, patience: float) -> bool:
        """Waits up to `patience` seconds for the worker's death. Returns whether it is dead."""
        self.process.join(patience)
        return not self.process.is_alive()


def _cause(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return "signal", f"signal {signal.Signals(-code).name}"
        return "signal", f"signal {-code}"
    return "exit", f"exit code {code}"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Makes a process that starts in the context ignore Ctrl-C from its first instruction. The parent ends it.

    Works in the main thread only; in another thread it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for a process that starts in the context, and restores this process's afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(
    connection: Connection, log: str, function: Callable[[Any, Report], Any], prepare: Callable[[], None] | None
) -> None:
    """The main function of a worker. Its output goes to a file, so a dying compiler prints nothing on the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        if prepare is not None:
            prepare()
    except BaseException as error:
        connection.send(("unprepared", f"{type(error).__name__}: {' '.join(str(error).split())}"))
        return
    connection.send(("prepared", None))
    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        connection.send(("begun", None))
        try:
            result = function(payload, lambda stage: connection.send(("stage", stage)))
            last = isinstance(result, Last)
            message = pickle.dumps(("done", result.result if isinstance(result, Last) else result))
        except BaseException as error:
            last = False
            message = pickle.dumps(("failed", (type(error).__name__, str(error), _portable(error))))
        connection.send_bytes(message)
        if last:
            # Nothing in this process can be trusted, not even its exit handlers.
            os._exit(0)


def _portable(error: BaseException) -> BaseException | None:
    """`error` if it can be pickled and unpickled, else None."""
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else None
    except Exception:
        return None
