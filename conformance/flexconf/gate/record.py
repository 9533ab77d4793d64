"""Record a bundle: run everything that the plan asks, in isolated workers. A killed recording can be resumed.

An attempt is done once its line is in results.jsonl. Its files are written before its line, so every line has its
files.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flexconf import subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.gate import evidence, files, plan
from flexconf.gate.attempt import Attempt, Attempted, attempt
from flexconf.gate.files import Key
from flexconf.gate.plan import RecordingPlan
from flexconf.gate.recording import TIMED, Recording
from flexconf.machine import caches
from flexconf.machine.files import write
from flexconf.subjects import Subject, ptx
from flexconf.verdict.outcome import Outcome
from flexconf.workers import pool, tasks
from flexconf.workers.pool import Crew, Last, Report

Work = Callable[[Attempt, Report], Attempted | Last[Attempted]]


def record(
    root: Path,
    cases: Sequence[Case],
    names: Sequence[str] | None = None,
    *,
    label: str = "",
    workers: int | None = None,
    repeats: int = 5,
    timings: bool = True,
    allow_dirty: bool = False,
    time_limit: float | None = None,
    work: Work = attempt,
    prepare: Callable[[Subject], None] = tasks.prepare_worker,
    on_begin: Callable[[Recording], None] = lambda recording: None,
    on_attempt: Callable[[Key, Outcome], None] = lambda key, outcome: None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Recording:
    """Record `cases` on the subjects `names` (None for the defaults) into the folder `root`, or resume there.

    `on_begin` gets the recording before anything runs; a resumed one already holds attempts. `on_step` gets the name of
    each step after the cases: "why", then "kernels". Tests replace `work` and `prepare`, the functions that workers
    run. Raises InputError if `plan.make` does, if two cases have the same name, or if the folder is finished, in use
    or damaged, holds other files, or was begun with another plan.
    """
    twice = [c.name for n, c in enumerate(cases) if c.name in {d.name for d in cases[:n]}]
    if twice:
        raise InputError(f"two cases are named {twice[0]!r}")
    options = {"repeats": repeats, "timings": timings, "timed": TIMED, "time_limit": time_limit}
    here = plan.make(cases, names, label, options, allow_dirty)
    tampering.announce()
    with _opened(root, here) as recording, caches.fresh() as variables:
        recording.cases = {c.name: c for c in cases}
        recording.on_attempt = on_attempt
        on_begin(recording)
        workers = workers or pool.default_workers()
        while todo := _todo(recording):
            # Launches are timed last, since times are valid only while nothing else runs.
            untimed = [key for key in todo if recording.wants(key) != "time"]
            for keys in _by_workers(untimed or todo):
                _ask(recording, keys, work, prepare, workers if untimed else plan.lanes(), variables)
        finish(recording, variables, on_step)
    return recording


def _todo(recording: Recording) -> list[Key]:
    return [key for key in recording.plan.asked() if recording.wants(key)]


def _by_workers(todo: Sequence[Key]) -> Iterator[list[Key]]:
    """The keys in groups that can share workers: those on a CPU, then those on a GPU.

    Sharing saves time, since a worker on a GPU takes longer to start than some subjects take for all their cases.
    """
    for on_cpu in (True, False):
        keys = [key for key in todo if (subjects.get(key[1]).device == "cpu") is on_cpu]
        if keys:
            yield keys


def _ask(
    recording: Recording,
    keys: Sequence[Key],
    work: Work,
    prepare: Callable[[Subject], None],
    workers: int,
    variables: Mapping[str, str],
) -> None:
    """Run one attempt at each of `keys`, and all further attempts at those that fail.

    Either all keys run on a CPU or all on a GPU.
    """
    asked = tuple(subjects.get(name) for name in dict.fromkeys(subject for _, subject in keys))
    timed = recording.wants(keys[0]) == "time"
    workers = 1 if timed and asked[0].device == "cpu" else workers
    with Crew(
        work,
        workers=workers,
        time_limit=recording.plan.options["time_limit"] or asked[0].time_limit,
        prepare=functools.partial(_prepare, prepare, asked),
        environments=_environments(asked[0], workers, variables),
    ) as crew:
        while keys:
            crew.run([recording.task(key) for key in keys], recording.take)
            keys = [key for key in keys if recording.wants(key) == "again"]


def _prepare(prepare: Callable[[Subject], None], asked: Sequence[Subject]) -> None:
    """In a worker, prepare every subject that it runs."""
    for subject in asked:
        prepare(subject)


def _environments(subject: Subject, workers: int, variables: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment variables of each worker. On a GPU they make it keep the PTX that it compiles."""
    started = subject.environments(workers, variables)
    if subject.device == "cpu":
        return started
    return [{**e, **ptx.variables(variables[caches.FOLDER], place)} for place, e in enumerate(started)]


@contextlib.contextmanager
def _opened(root: Path, here: RecordingPlan) -> Iterator[Recording]:
    """The recording in a new or existing folder, locked for this process.

    Raises InputError if another process holds the lock, or if the folder cannot be used.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{root} cannot be recorded into: {error.strerror}; name a new folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{root}: another process is recording there") from None
        yield _found(root, here)
    finally:
        os.close(handle)


def _found(root: Path, here: RecordingPlan) -> Recording:
    if (root / files.SEAL).exists():
        raise InputError(f"{root} is already finished; name another folder")
    there = files.present(root)
    for name, path in there.items():
        if files.is_part(name):
            path.unlink()
    if not (root / files.PLAN).exists():
        left = [name for name in there if not files.is_part(name)]
        if left:
            raise InputError(f"{root} holds {left[0]} and no {files.PLAN}; name a new folder")
        for folder in files.FOLDERS:
            (root / folder).mkdir(exist_ok=True)
        write(root / files.PLAN, files.canonical(here.to_json()))
        return Recording(root, here, {})
    try:
        begun = plan.read(root / files.PLAN)
    except InputError as error:
        raise InputError(f"{root}: {error}; name a new folder") from None
    differing = plan.differences(begun, here)
    if differing:
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise InputError(f"{root} was begun with something else: {differing[0]}{more}; name a new folder")
    for folder in files.FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    results = root / files.RESULTS
    read = files.read_attempts(results)
    if read.whole != read.size:
        os.truncate(results, read.whole)
        read = files.read_attempts(results)
    wrong = [p for p in read.problems if results.exists()] + foreign(begun, read.found)
    if wrong:
        raise InputError(f"{root}: {wrong[0]}; name a new folder")
    return Recording(root, begun, {}, read.found, sum(map(len, read.found.values())))


def foreign(begun: RecordingPlan, found: Mapping[Key, Sequence[Outcome]]) -> list[str]:
    """A sentence for each result that the plan does not ask for, or that has another case version or subject."""
    digests = {c.case: c.digest for c in begun.cases}
    asked, problems = set(begun.asked()), []
    for key, outcomes in found.items():
        if key not in asked:
            problems.append(f"{files.RESULTS}: {key[0]} on {key[1]} is not in the plan")
            continue
        label = tampering.labelled(key[1], begun.fault) if begun.fault else key[1]
        for number, outcome in enumerate(outcomes, 1):
            if outcome.case_digest != digests[key[0]]:
                problems.append(
                    f"{files.RESULTS}: attempt {number} of {key[0]} on {key[1]} is about another version of the case"
                )
            if outcome.subject != label:
                problems.append(
                    f"{files.RESULTS}: attempt {number} of {key[0]} is of {outcome.subject}, not of {label}"
                )
    return problems


def finish(recording: Recording, variables: Mapping[str, str], on_step: Callable[[str], None]) -> None:
    """Write the evidence and the kernels, which need all results, and then the seal."""
    on_step("why")
    evidence.explain(recording)
    on_step("kernels")
    write(recording.root / files.KERNELS, files.canonical(evidence.kernels(recording, variables)))
    for name, path in files.present(recording.root).items():
        if files.is_part(name):
            path.unlink()
    files.seal(recording.root)
