"""A bundle's folder while it is being recorded: the attempts it holds, and those still to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexconf import subjects
from flexconf.cases.case import Case
from flexconf.gate import files
from flexconf.gate.attempt import Attempt, Attempted
from flexconf.gate.files import Key
from flexconf.gate.plan import RecordingPlan
from flexconf.machine.files import append_to, write
from flexconf.runs import judging
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome, merge
from flexconf.workers import tasks
from flexconf.workers.pool import Lost
from flexconf.workers.tasks import CaseTask

TIMED = 9
"""Timed launches of a case."""
AGAIN = 2
"""Further attempts at a case after the first that failed."""


@dataclass
class Recording:
    """A folder being recorded. `seen` holds its attempts so far, `resumed` counts those that were there at the start.

    `on_attempt` is called with the key and the outcome of every attempt that ends.
    """

    root: Path
    plan: RecordingPlan
    cases: Mapping[str, Case]
    seen: dict[Key, list[Outcome]] = field(default_factory=dict)
    resumed: int = 0
    on_attempt: Callable[[Key, Outcome], None] = lambda key, outcome: None

    def failed(self, key: Key) -> bool:
        """Whether an attempt is not as its case expects, or the attempts differ."""
        seen = self.seen.get(key, [])
        case = self.cases[key[0]]
        merged = merge(seen)
        return merged is not None and not all(judging.judge(case, o).passed for o in [*seen, merged])

    def wants(self, key: Key) -> str:
        """The attempt that `key` needs next: "run", "again" after a failure, "time", or "" if it needs none."""
        seen = self.seen.get(key, [])
        if not seen:
            return "run"
        first = next((n for n, o in enumerate(seen) if not judging.judge(self.cases[key[0]], o).passed), None)
        if first is not None:
            return "again" if len(seen) < first + 1 + AGAIN else ""
        timed = bool(self.plan.options["timings"]) and self.cases[key[0]].expect == "ok"
        return "time" if timed and len(seen) < 2 else ""

    def task(self, key: Key) -> Attempt:
        """The next attempt at `key`. Only the first attempt keeps rows."""
        number = len(self.seen.get(key, [])) + 1
        options = Options(repeats=int(self.plan.options["repeats"]), timed=TIMED if self.wants(key) == "time" else 0)
        rows = self.root / files.OUTPUTS / f"{key[0]}.{key[1]}.safetensors" if number == 1 else None
        return Attempt(CaseTask(self.cases[key[0]], subjects.get(key[1]), options), number, rows)

    def take(self, what: Attempt, ended: Attempted | Lost) -> None:
        """Store an attempt: its files first, then its line in results.jsonl."""
        key = (what.task.case.name, what.task.subject.name)
        if isinstance(ended, Lost):
            if ended.log:
                write(self.root / files.LOGS / f"{key[0]}.{key[1]}.{what.number}.txt", ended.log)
            ended = Attempted(tasks.of_lost(what.task, ended))
        place = files.evidence(self.root, key)
        if ended.map is not None and not place.exists():
            facts = {"case": key[0], "subject": key[1], "map": ended.map, "worst": list(ended.worst)}
            write(place, files.canonical(facts))
        append(self.root / files.RESULTS, what.number, ended.outcome)
        self.seen.setdefault(key, []).append(ended.outcome)
        self.on_attempt(key, ended.outcome)


def append(path: Path, number: int, outcome: Outcome) -> None:
    """Append an attempt's line. Raises InputError if it cannot be written, such as on a full disk."""
    record = files.line({"attempt": number, "outcome": outcome.to_json()}).encode()
    append_to(path, record, "make room and record again, it goes on where it was")


def facts(path: Path) -> dict[str, Any]:
    """The JSON object in an evidence file. Returns {} if the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
