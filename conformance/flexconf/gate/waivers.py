"""Waivers: failures that somebody has decided to ship, as data: of which cases, why, and until when.

A file holds `[[waiver]]` tables. A waiver excuses the rows it names and nothing else; it fails the gate when its day
has passed, and when what it excuses is no longer there.
"""

from __future__ import annotations

import datetime
import difflib
import fnmatch
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from flexconf import catalogue, environment, subjects
from flexconf.errors import InputError
from flexconf.gate import components
from flexconf.gate.model import Change, Effect, Row

__all__ = ["CHANGES", "FILE", "SLOWER", "Waiver", "default", "load", "load_text"]

FILE = "waivers.toml"
SLOWER = "slower"
CHANGES = (
    *(str(c) for c in Change if c not in (Change.IDENTICAL, Change.DRIFT, Change.FIXED, Change.MISSING)),
    SLOWER,
)
"""What can be waived. What is right needs no waiver, and a missing result cannot be excused: it is not known."""

_REQUIRED = ("name", "cases", "subjects", "changes", "reason", "link", "expires")
_KEYS = (*_REQUIRED, "versions", "device", "driver")
_DEVICE = re.compile(r"[0-9.*?\[\]]+")
_LINK = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Waiver:
    """One waiver: the rows of `cases` and `subjects` (names or globs) that show one of `changes` are excused.

    `expires` is the last day it holds. It is about candidates with `versions` (a package, a PEP 440 specifier), a
    compute capability that matches the glob `device`, and a `driver` within a specifier; "" and none for any.
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
        """Why it is not about a candidate of this environment, as a bundle has it; "" when it is."""
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
        """Whether it is about that case on that subject."""
        return _matches(case, self.cases) and _matches(subject, self.subjects)

    def excuses(self, row: Row) -> bool:
        """Whether `row` keeps the gate from passing in a way that this waiver is about."""
        return row.effect is not Effect.FINE and self.names(row.case, row.subject) and shown(row) in self.changes


def shown(row: Row) -> str:
    """What a waiver has to name to excuse `row`: its change, or "slower" where that is all that is wrong with it."""
    return SLOWER if row.change in (Change.IDENTICAL, Change.DRIFT) else str(row.change)


def _within(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def default() -> Path:
    """The file that is read when none is named: beside the catalogue."""
    return catalogue.folder() / FILE


def load(path: Path | None = None) -> tuple[Waiver, ...]:
    """The waivers of a file, by default `cases/waivers.toml`; none for an empty file. Raises InputError."""
    path = path if path is not None else default()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; an empty one says that nothing is waived") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return load_text(text, str(path))


def load_text(text: str, origin: str = "<text>") -> tuple[Waiver, ...]:
    """The waivers of one TOML text; `origin` names it in messages. Raises InputError."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        # A date that is none, such as the 31st of April, is a plain ValueError.
        raise InputError(f"{origin}: not valid TOML: {str(error) or 'nested too deeply'}") from None
    tables = data.pop("waiver", [])
    if data or not isinstance(tables, list):
        raise InputError(f"{origin}: a waiver is a [[waiver]] table; there is {', '.join(data) or 'waiver = ...'}")
    found = tuple(_Reader(table, f"{origin}: [[waiver]] {n}").read() for n, table in enumerate(tables, 1))
    names = [w.name for w in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{origin}: two waivers are named {name!r}")
    return found


@dataclass(frozen=True)
class _Reader:
    """One table, with what names it in messages."""

    table: Any
    where: str

    def read(self) -> Waiver:
        if not isinstance(self.table, dict):
            raise InputError(f"{self.where}: must be a table")
        for key in self.table:
            if key not in _KEYS:
                raise InputError(f"{self.where}: unknown key {key!r}; {_hint(key, _KEYS, 'the keys are')}")
        for key in _REQUIRED:
            if not self.table.get(key):
                raise InputError(f"{self.where}: {key} is missing; a waiver has {', '.join(_REQUIRED)}")
        link = self._string("link")
        if not _LINK.fullmatch(link):
            raise InputError(f"{self.where}: link {link!r} must be the address of an issue, such as https://...")
        return Waiver(
            name=self._string("name"),
            cases=self._strings("cases"),
            subjects=tuple(map(self._subject, self._strings("subjects"))),
            changes=tuple(map(self._change, self._strings("changes"))),
            reason=self._string("reason"),
            link=link,
            expires=self._date(),
            versions=self._versions(),
            device=self._device(),
            driver=self._specifier("driver", self._string("driver")) if "driver" in self.table else "",
        )

    def _string(self, key: str) -> str:
        value = self.table[key]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.where}: {key} must be a text, not {value!r}")
        return " ".join(value.split())

    def _strings(self, key: str) -> tuple[str, ...]:
        value = self.table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise InputError(f"{self.where}: {key} must be a list of texts, not {value!r}")
        return tuple(value)

    def _subject(self, pattern: str) -> str:
        if not fnmatch.filter(subjects.SUBJECTS, pattern):
            hint = _hint(pattern, [*subjects.SUBJECTS], "there are")
            raise InputError(f"{self.where}: {pattern!r} names no subject; {hint}")
        return pattern

    def _change(self, text: str) -> str:
        if text == Change.MISSING:
            raise InputError(f"{self.where}: a missing result cannot be waived; record the bundle again")
        if text not in CHANGES:
            hint = _hint(text, CHANGES, "a waiver is about")
            raise InputError(f"{self.where}: {text!r} is no change that can be waived; {hint}")
        return text

    def _date(self) -> datetime.date:
        value = self.table["expires"]
        if isinstance(value, datetime.datetime) or not isinstance(value, datetime.date):
            raise InputError(f"{self.where}: expires must be a date without quotes, such as 2030-01-31, not {value!r}")
        return value

    def _versions(self) -> dict[str, str]:
        table = self.table.get("versions", {})
        if not isinstance(table, dict):
            raise InputError(f"{self.where}: versions must be a table, such as versions = {{ torch = '==2.13.*' }}")
        for package, specifier in table.items():
            if package not in environment.PACKAGES:
                hint = _hint(package, environment.PACKAGES, "they are")
                raise InputError(f"{self.where}: versions: {package!r} is no package whose version is recorded; {hint}")
            self._specifier(f"versions: {package}", specifier)
        return dict(table)

    def _specifier(self, what: str, value: object) -> str:
        try:
            if not str(SpecifierSet(value)) or not isinstance(value, str):  # type: ignore[arg-type]
                raise InvalidSpecifier
        except (InvalidSpecifier, TypeError, AttributeError):
            raise InputError(f"{self.where}: {what} = {value!r} is no specifier, such as '>=2.11,<2.14'") from None
        return value

    def _device(self) -> str:
        if "device" not in self.table:
            return ""
        device = self._string("device")
        if not _DEVICE.fullmatch(device):
            raise InputError(f"{self.where}: device {device!r} must be a glob of compute capabilities, such as '9.*'")
        return device


def _hint(text: str, choices: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(text, choices, 1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(choices)}"
