"""The plan of a recording: its cases, subjects, options and environment.

It is written before anything runs. A recording can be resumed only with an equal plan.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexconf import subjects, tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.gate import files
from flexconf.gate.bundle import FORMAT, Planned
from flexconf.gate.files import Key
from flexconf.machine import devices, environment

ON_A_GPU = ("reference.host", "reference.simt", "reference.fa4", "torch-flash", "torch-triton")
"""The subjects of a bundle by default. Those that cannot run here are skipped, and the plan states why."""

ALWAYS = "reference.host"
DIRTY = "recorded from a checkout with uncommitted changes"

_VOLATILE = ("cpus",)  # may differ when a recording is resumed: no result depends on the number of CPUs


@dataclass(frozen=True)
class RecordingPlan:
    """The content of plan.json. `options` has the keys repeats, timed, timings, allow_dirty and time_limit."""

    label: str
    begun: str
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    cases: tuple[Planned, ...]
    subjects: tuple[str, ...]
    skips: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    def asked(self) -> Iterator[Key]:
        """Every (case, subject) that needs a result. Only reference subjects get the cases that must be refused."""
        for subject in self.subjects:
            if subject not in self.skips:
                for case in self.cases:
                    if case.expect == "ok" or subjects.get(subject).is_reference:
                        yield case.case, subject

    @property
    def fault(self) -> str:
        """The planted fault that was active during the recording. Returns "" if there was none."""
        return str(self.environment.get("planted") or "")


def make(
    cases: Sequence[Case], names: Sequence[str] | None, label: str, options: Mapping[str, Any], allow_dirty: bool
) -> RecordingPlan:
    """The plan of a recording that begins now. `names` None means the default subjects.

    Raises InputError if nothing would be asked, if a subject is unknown, cannot run or is named twice, or if the
    checkout has uncommitted changes and `allow_dirty` is false.
    """
    if not cases:
        raise InputError("no cases to record; `flexconf cases` lists what there is")
    if names is None:
        skips = {name: why for name in ON_A_GPU if (why := subjects.get(name).why_not())}
        if len(skips) == len(ON_A_GPU):
            raise InputError(f"no subject can run here: {ALWAYS}: {skips[ALWAYS]}")
        names = ON_A_GPU
    else:
        for name in names:
            subjects.require(name)
        skips = {}
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise InputError(f"subject {twice[0]} is named twice")
    facts = {**environment.read().to_json(), "git": None, "planted": tampering.wanted()}
    facts["gpus"] = [dict(gpu) for gpu in facts["gpus"]]
    git = environment.checkout()
    if git is not None:
        facts["git"] = git.to_json()
        if git.changes and not allow_dirty:
            raise InputError(
                "this checkout has uncommitted changes, so that nobody could say what was recorded; "
                "commit them, or give --allow-dirty for a bundle to look at, which is never a PASS"
            )
    plan = RecordingPlan(
        label=label,
        begun=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        options={**options, "allow_dirty": allow_dirty},
        environment=facts,
        cases=tuple(_planned(case) for case in cases),
        subjects=tuple(names),
        skips=skips,
    )
    if not any(True for _ in plan.asked()):
        raise InputError("these cases state what the reference must refuse, which is not asked of these subjects")
    return plan


def _planned(case: Case) -> Planned:
    group = case.clauses[0].partition(".")[0] if case.clauses else ""
    return Planned(case.name, case.digest(), group, case.about, tuple(case.clauses), case.expect)


def read(path: Path) -> RecordingPlan:
    """The plan in a file. Raises InputError if the file is damaged or has another format."""
    data = files.read_json(path)
    if data.get("format") != FORMAT:
        raise InputError(f"{path.name}: format {data.get('format')}, and this is format {FORMAT}")
    try:
        plan = RecordingPlan(
            label=_text(data["label"]),
            begun=_text(data["begun"]),
            options=dict(data["options"]),
            environment=dict(data["environment"]),
            cases=tuple(Planned(**{**c, "clauses": tuple(c["clauses"])}) for c in data["cases"]),
            subjects=tuple(map(_text, data["subjects"])),
            skips={_text(name): _text(why) for name, why in data["skips"].items()},
        )
        for name in plan.subjects:
            subjects.get(name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path.name}: damaged: {type(error).__name__}: {str(error)[:100]}") from None
    return plan


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return value


def differences(there: RecordingPlan, here: RecordingPlan) -> list[str]:
    """Sentences on how the plan `here` differs from `there`, with which a folder was begun. [] if it can be resumed."""
    found = []
    before, now = ({c.case: c for c in plan.cases} for plan in (there, here))
    for name in sorted(before.keys() ^ now.keys()):
        found.append(f"case {name} is {'not ' if name not in now else ''}asked now")
    found += [f"case {name} has changed" for name in before if name in now and before[name] != now[name]]
    if there.subjects != here.subjects:
        found.append(f"its subjects are {', '.join(there.subjects)}, and now {', '.join(here.subjects)}")
    elif there.skips != here.skips:
        changed = [s for s in there.subjects if there.skips.get(s) != here.skips.get(s)]
        found.append(f"whether {changed[0]} can run here has changed")
    for what, old, new in (
        ("option", there.options, here.options),
        ("environment:", _flat(there.environment), _flat(here.environment)),
    ):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found.append(f"{what} {name} was {old.get(name)!r}, and is {new.get(name)!r}")
    if here.label and here.label != there.label:
        found.append(f"it is labelled {there.label!r}")
    return found


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if name in _VOLATILE:
            continue
        if isinstance(value, Mapping):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def lanes() -> int:
    """How many workers may time launches at once: one for each GPU, or one without a GPU."""
    return max(1, devices.count())
