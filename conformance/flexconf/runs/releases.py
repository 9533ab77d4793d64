"""Which clause of docs/lowering.md holds in which release of torch: data, and what can be computed from data.

`cases/releases/clauses.toml` states what was read in the sources, one entry for a clause and some releases. For a
clause without an entry, the recorded outcomes of the cases that cite it decide, or else the known defects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from packaging.specifiers import SpecifierSet

from flexconf.cases import catalogue, clauses
from flexconf.cases.clauses import Clause
from flexconf.errors import InputError
from flexconf.runs import expectations, recordings, toml_entries
from flexconf.runs.expectations import Expectation
from flexconf.runs.toml_entries import TomlEntry
from flexflash.releases import TORCH, of

HOLDS: Final = "holds"
BROKEN: Final = "does not hold"
ABSENT: Final = "does not apply"
UNKNOWN: Final = "not examined"
STATES: Final = (HOLDS, BROKEN, ABSENT, UNKNOWN)
SUBJECTS: Final = ("torch-codegen", "torch-flash")
"""The subjects that run PyTorch's FLASH lowering."""

_KEYS = ("clause", "releases", "state", "why", "read", "measured")
_REQUIRED = ("clause", "releases", "state", "why")


@dataclass(frozen=True)
class Reading:
    """A place in torch's source: the file below torch/, a text that stands there, and its line by release."""

    file: str
    text: str
    lines: Mapping[str, int]


@dataclass(frozen=True)
class Statement:
    """What holds of a clause in some releases.

    `why` is a sentence. The evidence is `read`, places in the source, and `measured`, names of cases with their
    outcomes or paths of tests. `defects` are the known defects that cite the clause, as "subject: name of the repro".
    """

    clause: str
    releases: tuple[str, ...]
    state: str
    why: str
    read: tuple[Reading, ...] = ()
    measured: tuple[str, ...] = ()
    defects: tuple[str, ...] = ()


def require(release: str) -> str:
    """The release, such as "2.13", that `release`, such as "2.13.0+cu130", belongs to. Raises InputError if none."""
    found = release_of(release)
    if found is None:
        raise InputError(f"torch {release} is unknown: it is none of {', '.join(TORCH)}, which the table has")
    return found


def release_of(version: str) -> str | None:
    """The release, such as "2.13", that `version` belongs to. Returns None if the table does not have it."""
    found = of(version)
    return found.name if found is not None else None


@cache
def table() -> dict[str, dict[str, Statement]]:
    """The statement by clause, in document order, and by release. Raises InputError if a file of it is wrong."""
    read = _by_place(_stated())
    return {
        clause.number: {release: read.get((clause.number, release)) or _measured(clause, release) for release in TORCH}
        for clause in clauses.load()
    }


def grouped(clause: str, names: Sequence[str] = tuple(TORCH)) -> list[Statement]:
    """The statements about a clause in the releases `names`. What is the same in several stands once, with them all."""
    found: list[Statement] = []
    for release in names:
        new = table()[clause][release]
        for i, old in enumerate(found):
            if (old.state, old.why, old.measured, old.defects) == (new.state, new.why, new.measured, new.defects):
                found[i] = _joined(old, new, release)
                break
        else:
            found.append(_joined(None, new, release))
    return found


def outcomes(release: str) -> dict[str, tuple[str, dict[str, int]]]:
    """(version of torch, number of cases by "stage/symptom") by subject, of the recordings of `release`."""
    counted = {}
    for recording in recordings.load():
        if recording.release == release:
            ended = ["ok" if recordings.is_right(o) else o for o in recording.of(catalogue.load()).values()]
            counted[recording.subject] = recording.torch, {o: ended.count(o) for o in sorted(set(ended))}
    return counted


def to_json(names: Sequence[str]) -> dict[str, Any]:
    """The whole table of the releases `names`, as plain JSON values."""
    return {
        "releases": {
            name: {
                "read": TORCH[name].read,
                "eligibility": [asdict(rule) for rule in TORCH[name].rules],
                "outcomes": {s: {"torch": v, "cases": counted} for s, (v, counted) in outcomes(name).items()},
            }
            for name in names
        },
        "clauses": {number: {name: _row_json(row[name]) for name in names} for number, row in table().items()},
    }


def _row_json(statement: Statement) -> dict[str, Any]:
    data = asdict(statement)
    return {key: data[key] for key in ("state", "why", "read", "measured", "defects")}


def _joined(old: Statement | None, new: Statement, release: str) -> Statement:
    reading = tuple(Reading(r.file, r.text, {release: r.lines[release]}) for r in new.read if release in r.lines)
    kept: dict[tuple[str, str], dict[str, int]] = {}
    for r in (*(old.read if old else ()), *reading):
        kept.setdefault((r.file, r.text), {}).update(r.lines)
    releases = (*(old.releases if old else ()), release)
    read = tuple(Reading(file, text, lines) for (file, text), lines in kept.items())
    return Statement(new.clause, releases, new.state, new.why, read, new.measured, new.defects)


def _by_place(statements: Iterable[Statement]) -> dict[tuple[str, str], Statement]:
    found: dict[tuple[str, str], Statement] = {}
    for statement in statements:
        for release in statement.releases:
            if (statement.clause, release) in found:
                raise InputError(f"{_path()}: two entries state {statement.clause} of torch {release}")
            found[statement.clause, release] = Statement(
                statement.clause,
                (release,),
                statement.state,
                statement.why,
                statement.read,
                statement.measured,
                _defects(statement.clause, release),
            )
    return found


def _measured(clause: Clause, release: str) -> Statement:
    """The statement that the recorded outcomes of the cases that cite a clause make, or the known defects."""
    defects = _defects(clause.number, release)
    ran, broken = 0, []
    for recording in recordings.load():
        if recording.release != release:
            continue
        citing = [case for case in catalogue.load() if clause.number in case.clauses and case.expect == "ok"]
        ran += len(recording.of(citing))
        everything = {case.name: case for case in catalogue.load()}
        broken += [
            f"{name}: {outcome}"
            for name, outcome in recording.failing(everything.values()).items()
            if clause.number in recordings.blamed(recording.subject, everything[name], outcome)
        ]
    if broken:
        state, why = BROKEN, f"{_cases(len(broken))} did not come out right"
    elif defects:
        also = f", though {_cases(ran)} on it came out right in the recordings" if ran else ""
        state, why = BROKEN, f"There are known defects{also}"
    elif ran:
        state, why = HOLDS, f"{_cases(ran)} on it came out right, and none did not"
    else:
        state, why = UNKNOWN, "No case that cites it was run"
    return Statement(clause.number, (release,), state, why, (), tuple(broken), defects)


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _defects(clause: str, release: str) -> tuple[str, ...]:
    return tuple(
        f"{subject}: {e.repro.name}"
        for subject in SUBJECTS
        for e in expectations.load(subject)
        if clause in e.clauses and _about(e, TORCH[release].read)
        if any(recordings.breaks(clause, outcome) for outcome in e.outcomes)
    )


def _about(expectation: Expectation, version: str) -> bool:
    return SpecifierSet(expectation.versions.get("torch", "")).contains(version)


def _path() -> Path:
    return recordings.folder() / "clauses.toml"


def _stated() -> list[Statement]:
    path = _path()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return load_text(text, str(path))


def load_text(text: str, origin: str) -> list[Statement]:
    """The statements in a TOML text. `origin` names the text in messages. Raises InputError if it is wrong."""
    known = {clause.number for clause in clauses.load()}
    return [_read(entry, known) for entry in toml_entries.load_text(text, "statement", "a statement", origin)]


def _read(entry: TomlEntry, known: set[str]) -> Statement:
    entry.check_keys(_KEYS, _REQUIRED, "a statement")
    clause, state = entry.string("clause"), entry.string("state")
    if clause not in known:
        raise InputError(f"{entry.where}: {clause!r} is no clause of docs/lowering.md")
    if state not in STATES:
        raise InputError(f"{entry.where}: state {state!r}; {toml_entries.hint(state, STATES, 'the states are')}")
    releases = entry.strings("releases")
    for release in releases:
        if release not in TORCH:
            raise InputError(f"{entry.where}: torch {release!r} is none of {', '.join(TORCH)}")
    read = tuple(_reading(entry, place, releases) for place in entry.table.get("read", []))
    measured = entry.strings("measured") if "measured" in entry.table else ()
    if state in (HOLDS, BROKEN) and not measured:
        bare = [release for release in releases if not any(release in reading.lines for reading in read)]
        if bare:
            raise InputError(f"{entry.where}: {clause} of torch {bare[0]} has no evidence: nothing read, none measured")
    return Statement(clause, releases, state, entry.string("why"), read, measured)


def _reading(entry: TomlEntry, place: object, releases: Sequence[str]) -> Reading:
    if isinstance(place, dict) and set(place) == {"file", "text", "lines"}:
        file, text, lines = place["file"], place["text"], place["lines"]
        rightly = isinstance(file, str) and isinstance(text, str) and isinstance(lines, dict) and lines
        if rightly and all(r in releases and isinstance(n, int) and n > 0 for r, n in lines.items()):
            return Reading(file, text, dict(lines))
    raise InputError(
        f"{entry.where}: read is a list of tables with file, text and lines, the line by its release: {place!r}"
    )
