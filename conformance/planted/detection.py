"""Measures how soon the fuzzer finds each planted fault, and how small it makes the case."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexconf import tampering
from flexconf.cases import catalogue
from flexconf.errors import InputError
from flexconf.fuzz import engine
from flexconf.fuzz.findings import Finding
from flexconf.fuzz.plan import Plan
from flexconf.machine.files import append_to, make_folder, records, write_json
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome
from flexconf.workers.isolated import Isolated
from flexconf.workers.pool import Report
from flexconf.workers.tasks import CaseTask, run_task
from planted.catalogue import FAULTS
from planted.fault import Fault

RESULTS = "detections.jsonl"
SUMMARY = "detections.json"


@dataclass(frozen=True)
class Detection:
    """The result of fuzzing for one fault with one seed.

    `examples` and `seconds` count until the first failure, or for the whole session if there was no failure in `limit`
    seconds. `tokens` counts the tokens of the mods of the smallest case, and `shape` describes its graph. `symptom` is
    "stage/symptom". `minimised` says that shrinking came to its end.
    """

    fault: str
    seed: int
    limit: float
    found: bool
    examples: int
    seconds: float
    tokens: int | None = None
    shape: str = ""
    symptom: str = ""
    minimised: bool = False
    confirmed: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Detection:
        """The inverse of `dataclasses.asdict`. Raises TypeError if `data` has other fields."""
        return cls(**data)


class Interrupted(Exception):
    """The fuzzer itself failed, or the case fails without the fault too: nothing is known about the fault."""


def through_simt(task: CaseTask, report: Report) -> Outcome:
    """Run a case, in a worker, through the rows of the simt kernel, in a loop on the CPU."""
    from flexconf.subjects import reference, trial
    from flexflash.launch.simt import SimtLauncher

    width = task.options.vector_width if task.options is not None else None
    attend = reference.through(lambda on_stage: SimtLauncher(width, on_stage))
    return trial.run_on(task.case, task.subject, task.options, report, attend=attend, keep=task.keep)


def detect(fault: Fault, seed: int, folder: Path, *, limit: float, shrink: float) -> Detection:
    """Fuzz with `fault` planted until the first finding, for at most `limit` seconds.

    Shrinking the case may take `shrink` more seconds. The run's records stay in `folder`, which must be new. Raises
    Interrupted if the fuzzer failed, or if the case fails without the fault too.
    """
    plan = Plan(
        subject="reference.host",
        folder=folder,
        seconds=limit,
        workers=1,
        seed=seed,
        shrink_seconds=shrink,
        stop_after=1,
        task=through_simt if fault.layer == "simt" else run_task,
        check_repro=False,
    )
    with tampering.in_workers(fault.name):
        report = engine.fuzz(plan)
    if report.broken and not report.new:
        raise Interrupted(report.broken[0].splitlines()[0])
    if not report.new:
        return Detection(fault.name, seed, limit, False, report.now.examples, round(report.seconds, 1))
    first = min(report.new, key=lambda f: f.examples)
    healthy = _without_the_fault(first, plan)
    # An open outcome is no failure: too few elements were certain. With the fault, the case did fail.
    if not healthy.ok and not healthy.open:
        raise Interrupted(f"{first.case} fails without the fault too: {healthy.message}; mend that first")
    return Detection(
        fault=fault.name,
        seed=seed,
        limit=limit,
        found=True,
        examples=first.examples,
        seconds=round(first.seconds, 1),
        tokens=first.tokens,
        shape=first.shape,
        symptom=f"{first.stage}/{first.symptom}",
        minimised=first.minimised,
        confirmed=first.confirmed,
    )


def _without_the_fault(found: Finding, plan: Plan) -> Outcome:
    """The outcome of the finding's case without the fault. A case that fails without it too must not count."""
    place = plan.folder / "findings" / found.ident / "case.toml"
    (case,) = catalogue.load([place])
    with Isolated(task=plan.task) as isolated:
        return isolated.run(case, plan.subject, Options(vector_width=found.width))


def detect_all(
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    limit: float,
    shrink: float,
    on_detection: Callable[[Detection], None] = lambda detection: None,
) -> list[Detection]:
    """Fuzz for every fault with every seed, unless `folder` already has that result for this `limit`.

    Returns all results of `folder` for `names`, `seeds` and `limit`, and writes their summary. Several processes may
    share a folder if they are given different names. If the fuzzer fails, the other faults still run; at the end,
    InputError is raised.
    """
    faults = [FAULTS[tampering.get(name).name] for name in names]
    broken = []
    make_folder(folder, "name another with --out")
    for seed in seeds:
        for fault in faults:
            if any((d.fault, d.seed, d.limit) == (fault.name, seed, limit) for d in results(folder)):
                continue
            run = _fresh(folder / fault.name, seed)
            try:
                detection = detect(fault, seed, run, limit=limit, shrink=shrink)
            except Interrupted as error:
                broken.append(f"{fault.name}, seed {seed}: {error}")
                continue
            _append(folder / RESULTS, detection)
            on_detection(detection)
    wanted = [d for d in results(folder) if d.fault in names and d.seed in seeds and d.limit == limit]
    write_json(folder / SUMMARY, {"faults": summary(wanted), "median": overall(wanted)})
    if broken:
        raise InputError(f"the fuzzer failed {len(broken)} times; {broken[0]}; the same command tries these again")
    return wanted


def _fresh(folder: Path, seed: int) -> Path:
    """A folder that no run has used. A killed run is not continued, since its clock is lost."""
    n = 0
    while (path := folder / f"seed{seed}-{n}").exists():
        n += 1
    return path.absolute()


def results(folder: Path) -> list[Detection]:
    """The results that the folder has. Raises InputError if the file is damaged."""
    path = folder / RESULTS
    if not path.exists():
        return []
    elsewhere = "name another folder with --out"
    data, found = path.read_bytes(), []
    for line, record in records(data, path, elsewhere):
        try:
            found.append(Detection.from_json(record))
        except TypeError as error:
            raise InputError(f"{path}: line {line}: damaged: {str(error)[:80]}; {elsewhere}") from None
    if data and not data.endswith(b"\n"):
        raise InputError(f"{path}: damaged: its last line is cut off; {elsewhere}")
    return found


def _append(path: Path, detection: Detection) -> None:
    record = json.dumps(asdict(detection), allow_nan=False).encode() + b"\n"
    append_to(path, record, "make room; the same command goes on")


def summary(detections: Iterable[Detection]) -> dict[str, dict[str, Any]]:
    """For each fault, how often it was found, and the medians over the seeds that found it."""
    by_fault: dict[str, list[Detection]] = {}
    for d in detections:
        by_fault.setdefault(d.fault, []).append(d)
    return {name: {"layer": FAULTS[name].layer, **_medians(seen)} for name, seen in by_fault.items()}


def overall(detections: Sequence[Detection]) -> dict[str, Any]:
    """The same figures as `summary`, over all faults and seeds."""
    return _medians(detections)


def _medians(detections: Sequence[Detection]) -> dict[str, Any]:
    found = [d for d in detections if d.found]
    tokens = [d.tokens for d in found if d.tokens is not None]
    return {
        "seeds": len(detections),
        "found": len(found),
        "examples": statistics.median(d.examples for d in found) if found else None,
        "most_examples": max((d.examples for d in found), default=None),
        "seconds": statistics.median(d.seconds for d in found) if found else None,
        "most_seconds": max((d.seconds for d in found), default=None),
        "tokens": statistics.median(tokens) if tokens else None,
        "minimised": sum(d.minimised for d in found),
    }
