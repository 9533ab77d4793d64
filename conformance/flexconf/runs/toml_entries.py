"""Entries of a TOML file that is nothing but a list of them: known defects, waivers. A mistake is one sentence."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from flexconf.errors import InputError

__all__ = ["Entry", "hint", "load_text"]

_DEVICE = re.compile(r"[0-9.*?\[\]]+")


class Entry:
    """One table, and `where` it stands, for messages. Its methods raise InputError."""

    def __init__(self, table: dict[str, Any], where: str) -> None:
        self.table = table
        self.where = where

    def check_keys(self, known: Sequence[str], required: Sequence[str], what: str) -> None:
        """Every key is known, and those required are there; `what` is what the entry is, with its article."""
        for key in self.table:
            if key not in known:
                raise InputError(f"{self.where}: unknown key {key!r}; {hint(key, known, 'the keys are')}")
        for key in required:
            if not self.table.get(key):
                raise InputError(f"{self.where}: {key} is missing; {what} has {', '.join(required)}")

    def string(self, key: str) -> str:
        """A text, in one line."""
        value = self.table[key]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.where}: {key} must be a text, not {value!r}")
        return " ".join(value.split())

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise InputError(f"{self.where}: {key} must be a list of texts, not {value!r}")
        return tuple(value)

    def versions(self, packages: Sequence[str], otherwise: str) -> dict[str, str]:
        """Specifiers by package, none where there is no such key; of a package that is not one, `otherwise` is said."""
        table = self.table.get("versions", {})
        if not isinstance(table, dict):
            raise InputError(f"{self.where}: versions must be a table, such as versions = {{ torch = '==2.13.*' }}")
        for package, specifier in table.items():
            if package not in packages:
                raise InputError(f"{self.where}: versions: {package!r} {otherwise}; {hint(package, packages, 'it is')}")
            self.specifier(f"versions: {package}", specifier)
        return dict(table)

    def specifier(self, what: str, value: object) -> str:
        """A PEP 440 specifier that says something."""
        try:
            if not str(SpecifierSet(value)) or not isinstance(value, str):  # type: ignore[arg-type]
                raise InvalidSpecifier
        except (InvalidSpecifier, TypeError, AttributeError):
            raise InputError(f"{self.where}: {what} = {value!r} is no specifier, such as '>=2.11,<2.14'") from None
        return value

    def device(self) -> str | None:
        """A glob of compute capabilities; None where there is no such key."""
        if "device" not in self.table:
            return None
        device = self.string("device")
        if not _DEVICE.fullmatch(device):
            raise InputError(f"{self.where}: device {device!r} must be a glob of compute capabilities, such as '9.*'")
        return device


def load_text(text: str, key: str, what: str, origin: str, beside: Sequence[str] = ()) -> list[Entry]:
    """The `[[key]]` tables of a text; `what` is what each is, with its article. Raises InputError.

    Tables of the keys `beside` may stand in the text too; they are left out.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        # A date that is none, such as the 31st of April, is a plain ValueError.
        raise InputError(f"{origin}: not valid TOML: {str(error) or 'nested too deeply'}") from None
    tables = data.pop(key, [])
    data = {name: value for name, value in data.items() if name not in beside}
    if data or not isinstance(tables, list):
        article = "an" if key[0] in "aeiou" else "a"
        there = ", ".join(data) or f"{key} = ..."
        raise InputError(f"{origin}: {what} is {article} [[{key}]] table; there is {there}")
    found = []
    for n, table in enumerate(tables, 1):
        where = f"{origin}: [[{key}]] {n}"
        if not isinstance(table, dict):
            raise InputError(f"{where}: must be a table")
        found.append(Entry(table, where))
    return found


def hint(text: str, choices: Sequence[str], otherwise: str) -> str:
    """What was meant, or what there is."""
    close = difflib.get_close_matches(text, choices, 1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(choices)}"
