"""Runs single cases in one isolated worker that is kept: for test sessions, fuzzing, attribution and verification."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from flexconf import subjects
from flexconf.cases.case import Case
from flexconf.machine import caches
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome
from flexconf.workers.pool import Crew, Last, Lost, Report
from flexconf.workers.tasks import CaseTask, of_lost, prepare_worker, run_task

Task = Callable[[CaseTask, Report], Outcome | Last[Outcome]]


class Isolated:
    """A context manager that has one worker process, and replaces it when a case breaks it.

    If there are GPUs, the worker sees only GPU `place` modulo their number. `prepare` is the subject that the worker
    loads when it starts. `task` is the function that the worker runs; tests replace it.
    """

    def __init__(
        self,
        place: int = 0,
        time_limit: float | None = None,
        prepare: str = "reference.host",
        task: Task = run_task,
    ) -> None:
        self._caches = caches.fresh()
        anywhere = subjects.get("torch-eager")  # it runs on a GPU if there is one, else on a CPU
        chosen = anywhere.environments(place + 1, self._caches.__enter__())[place]
        self._crew: Crew[CaseTask, Outcome] = Crew(
            task,
            workers=1,
            time_limit=time_limit or anywhere.time_limit,
            prepare=functools.partial(prepare_worker, subjects.get(prepare)),
            environments=[chosen],
        )

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.close()
        self._caches.__exit__(kind, error, trace)

    def run(self, case: Case, subject: str, options: Options | None = None, keep: Path | None = None) -> Outcome:
        """The outcome of one case, however it ended.

        Raises InputError if the subject is unknown, or if the worker cannot start.
        """
        task = CaseTask(case, subjects.get(subject), options, keep)
        ended: list[Outcome | Lost] = []
        self._crew.run([task], lambda _, result: ended.append(result))
        (result,) = ended
        return of_lost(task, result) if isinstance(result, Lost) else result
