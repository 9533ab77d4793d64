"""Waivers: failures that somebody has decided to ship, as data: which cases, why, and until when.

A file holds `[[waiver]]` tables. A waiver excuses the rows that it names and no others. It fails the gate if its last
day has passed (expired), or if no row needs it any more (stale).
"""

from __future__ import annotations

import datetime
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.errors import InputError
from flexconf.gate import components
from flexconf.gate.model import Change, Effect, Row
from flexconf.machine import environment
from flexconf.runs import toml_entries
from flexconf.runs.toml_entries import TomlEntry, hint

__all__ = ["CHANGES", "FILE", "SLOWER", "Waiver", "default", "load", "load_text"]

FILE = "waivers.toml"
SLOWER = "slower"
CHANGES = (
    *(str(c) for c in Change if c not in (Change.IDENTICAL, Change.DRIFT, Change.FIXED, Change.MISSING)),
    SLOWER,
)
"""The changes that can be waived.

A right result needs no waiver. A missing result cannot be waived, since nothing is known of it.
"""

_REQUIRED = ("name", "cases", "subjects", "changes", "reason", "link", "expires")
_KEYS = (*_REQUIRED, "versions", "device", "driver")
_LINK = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Waiver:
    """One waiver. It excuses the rows of `cases` on `subjects` (names or globs) that show one of `changes`.

    `expires` is the last day on which it holds. It applies to candidates with these `versions` ({package: PEP 440
    specifier}), a compute capability that matches the glob `device`, and a `driver` within that specifier. An empty
    field accepts any value.
    """

    name: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    changes: tuple[str, ...]
    reason: str
    link: str
    expires: datetime.date
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    driver: str = ""

    def expired(self, today: datetime.date) -> bool:
        """Whether its last day has passed."""
        return today > self.expires

    def why_not(self, environment: Mapping[str, Any]) -> str:
        """Why it does not apply to a candidate with this environment, as a bundle states it. Returns "" if it does."""
        packages, capability = components.packages(environment), components.capability(environment)
        for package, specifier in self.versions.items():
            version = packages.get(package)
            if version is None:
                return f"{package} is not installed"
            if not _within(version, specifier):
                return f"it is about {package} {specifier}, and the candidate has {version}"
        if self.device and (capability is None or not fnmatch.fnmatchcase(capability, self.device)):
            return f"it is about compute capability {self.device}, and the candidate has {capability or 'no GPU'}"
        driver = components.flatten(environment)["driver"]
        if self.driver and not (driver and all(_within(d, self.driver) for d in driver.split(", "))):
            return f"it is about driver {self.driver}, and the candidate has {driver or 'none'}"
        return ""

    def names(self, case: str, subject: str) -> bool:
        """Whether it names that case and that subject."""
        return _matches(case, self.cases) and _matches(subject, self.subjects)

    def excuses(self, row: Row) -> bool:
        """Whether `row` is not fine, and this waiver names its case, its subject and its change."""
        return row.effect is not Effect.FINE and self.names(row.case, row.subject) and shown(row) in self.changes


def shown(row: Row) -> str:
    """The change that a waiver must name to excuse `row`: its change, or "slower" if it fails only for its time."""
    return SLOWER if row.change in (Change.IDENTICAL, Change.DRIFT) else str(row.change)


def _within(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def default() -> Path:
    """The file that is read by default: `waivers.toml` beside the catalogue."""
    return catalogue.folder() / FILE


def load(path: Path | None = None) -> tuple[Waiver, ...]:
    """The waivers in a file, by default `cases/waivers.toml`. An empty file has none.

    Raises InputError if the file is missing, cannot be read or is invalid.
    """
    path = path if path is not None else default()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; an empty one says that nothing is waived") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return load_text(text, str(path))


def load_text(text: str, origin: str = "<text>") -> tuple[Waiver, ...]:
    """The waivers in a TOML text. `origin` names it in messages. Raises InputError if it is invalid."""
    found = tuple(_read(entry) for entry in toml_entries.load_text(text, "waiver", "a waiver", origin))
    names = [w.name for w in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{origin}: two waivers are named {name!r}")
    return found


def _read(entry: TomlEntry) -> Waiver:
    entry.check_keys(_KEYS, _REQUIRED, "a waiver")
    link = entry.string("link")
    if not _LINK.fullmatch(link):
        raise InputError(f"{entry.where}: link {link!r} must be the address of an issue, such as https://...")
    return Waiver(
        name=entry.string("name"),
        cases=entry.strings("cases"),
        subjects=tuple(_subject(entry, pattern) for pattern in entry.strings("subjects")),
        changes=tuple(_change(entry, text) for text in entry.strings("changes")),
        reason=entry.string("reason"),
        link=link,
        expires=_date(entry),
        versions=entry.versions(environment.PACKAGES, "is no package whose version is recorded"),
        device=entry.device() or "",
        driver=entry.specifier("driver", entry.string("driver")) if "driver" in entry.table else "",
    )


def _subject(entry: TomlEntry, pattern: str) -> str:
    if not fnmatch.filter(subjects.SUBJECTS, pattern):
        raise InputError(
            f"{entry.where}: {pattern!r} names no subject; {hint(pattern, [*subjects.SUBJECTS], 'there are')}"
        )
    return pattern


def _change(entry: TomlEntry, text: str) -> str:
    if text == Change.MISSING:
        raise InputError(f"{entry.where}: a missing result cannot be waived; record the bundle again")
    if text not in CHANGES:
        said = hint(text, CHANGES, "a waiver is about")
        raise InputError(f"{entry.where}: {text!r} is no change that can be waived; {said}")
    return text


def _date(entry: TomlEntry) -> datetime.date:
    value = entry.table["expires"]
    if isinstance(value, datetime.datetime) or not isinstance(value, datetime.date):
        raise InputError(f"{entry.where}: expires must be a date without quotes, such as 2030-01-31, not {value!r}")
    return value
