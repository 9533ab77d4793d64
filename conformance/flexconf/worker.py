"""Work that may take its process down, in spawned workers with a time limit.

A signal, an exit, a hang or an exception inside a task is that task's result and nothing else's: the worker is
replaced and the other tasks go on. Every worker has a pipe of its own, which outlives it: the last stage that a task
announced is known however it died, and no lock is shared that a dying process could hold.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from flexconf.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Report: TypeAlias = Callable[[str], None]

DEFAULT_TIME_LIMIT = 60.0
_START_LIMIT = 300.0
_WAKE = 1.0
_TAIL = 400


@dataclass(frozen=True)
class Lost:
    """How a task ended without a result.

    `how`: "signal SIGSEGV", "exit code 1", "time limit of 60 s" or an exception's name; `kind`: signal, exit, timeout
    or exception. `stage`: the last that the task announced, or "" when it announced none. `detail`: the end of what
    the task wrote to stdout and stderr, or the exception's text, as one line. `error`: the exception, where there is
    one that can be pickled.
    """

    kind: str
    how: str
    stage: str
    detail: str
    error: BaseException | None = None


def describe(lost: Lost) -> str:
    """One sentence: how it ended, where, and the last words."""
    at = f" during {lost.stage}" if lost.stage else ""
    said = f": {lost.detail}" if lost.detail else ""
    return f"ended by {lost.how}{at}{said}" if lost.kind != "exception" else f"{lost.how}{at}{said}"


def is_illegal_access(lost: Lost) -> bool:
    """Whether the task died of touching memory that is not its own."""
    return lost.how in ("signal SIGSEGV", "signal SIGBUS") or "illegal memory access" in lost.detail


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
    announces a stage. `time_limit` is in seconds of wall clock a task. `on_result` runs in the calling process, once
    a payload. Raises InputError when a worker cannot start, which is the installation's fault and no task's.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    waiting = deque(range(len(payloads)))
    crew: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="flexconf-") as folder:
        try:
            while waiting or any(w.task is not None for w in crew):
                for _ in range(len(crew), min(workers, len(waiting) + sum(w.task is not None for w in crew))):
                    crew.append(_Worker(Path(folder), function, prepare, time_limit))
                for worker in crew:
                    if worker.prepared and worker.task is None and waiting:
                        index = waiting.popleft()
                        worker.assign(index, payloads[index])
                soonest = min(w.deadline for w in crew) - time.monotonic()
                wait([x for w in crew for x in w.handles()], max(0.0, min(_WAKE, soonest)))
                for worker in list(crew):
                    for index, ended in worker.attend():
                        on_result(payloads[index], ended)
                    if worker.gone:
                        worker.stop()
                        crew.remove(worker)
                        waiting.extendleft(worker.unbegun())
        finally:
            for worker in crew:
                worker.stop()


class _Worker:
    """A process, its pipe, and the task that it is at."""

    def __init__(
        self,
        folder: Path,
        function: Callable[[Any, Report], Any],
        prepare: Callable[[], None] | None,
        time_limit: float,
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
        self.prepared = False
        self.gone = False
        self.task: int | None = None
        self.begun = False
        self.stage = ""
        self.offset = 0
        self.deadline = time.monotonic() + _START_LIMIT
        with _uninterrupted():
            self.process.start()
        theirs.close()

    def handles(self) -> list[Connection | int]:
        """What becomes ready when there is something to attend to."""
        return [self.connection, self.process.sentinel]

    def assign(self, index: int, payload: object) -> None:
        """Give it a task; its time runs from now."""
        self.task, self.begun, self.stage = index, False, ""
        self.offset = self.log.stat().st_size
        self.deadline = time.monotonic() + self.time_limit
        with contextlib.suppress(BrokenPipeError):  # it died while idle; `unbegun` gives the task back
            self.connection.send(payload)

    def attend(self) -> Iterator[tuple[int, Any]]:
        """Read what it has sent, and see whether it is dead or late; yields its task's result, if it ended."""
        dead = not self.process.is_alive()  # asked first: what it sent before it died is then in the pipe
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
            yield self._close(Lost(*cause, self.stage, self._last_words()))

    def _close(self, ended: object) -> tuple[int, Any]:
        assert self.task is not None
        index, self.task, self.deadline = self.task, None, math.inf
        return index, ended

    def unbegun(self) -> list[int]:
        """The task that a dead worker was given but never saw."""
        return [self.task] if self.task is not None else []

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.offset)
            text = file.read().decode(errors="replace")
        return " ".join(text[-_TAIL:].split())

    def stop(self) -> None:
        """Kill it, if it lives, and let go of it."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _cause(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return "signal", f"signal {signal.Signals(-code).name}"
        return "signal", f"signal {-code}"
    return "exit", f"exit code {code}"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process started here ignores Ctrl-C from its first instruction; its parent decides when it stops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(
    connection: Connection, log: str, function: Callable[[Any, Report], Any], prepare: Callable[[], None] | None
) -> None:
    """The life of a worker. Its output goes to a file, so that a dying compiler cannot spoil the screen."""
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
            message = pickle.dumps(("done", function(payload, lambda stage: connection.send(("stage", stage)))))
        except BaseException as error:
            message = pickle.dumps(("failed", (type(error).__name__, str(error), _portable(error))))
        connection.send_bytes(message)


def _portable(error: BaseException) -> BaseException | None:
    """The exception, when it survives the way to another process."""
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else None
    except Exception:
        return None
