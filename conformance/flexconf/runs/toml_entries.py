"""Reads a TOML file that is a list of entries, such as known defects or waivers. An error message is one sentence."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from flexconf.errors import InputError

__all__ = ["TomlEntry", "hint", "load_text"]

_DEVICE = re.compile(r"[0-9.*?\[\]]+")


class TomlEntry:
    """One table. `where` names its place in messages. All methods raise InputError if the table is wrong."""

    def __init__(self, table: dict[str, Any], where: str) -> None:
        self.table = table
        self.where = where

    def check_keys(self, known: Sequence[str], required: Sequence[str], what: str) -> None:
        """Checks that every key is known, and that the required ones are there and not empty.

        `what` names the kind of entry in messages, with its article.
        """
        for key in self.table:
            if key not in known:
                raise InputError(f"{self.where}: unknown key {key!r}; {hint(key, known, 'the keys are')}")
        for key in required:
            if not self.table.get(key):
                raise InputError(f"{self.where}: {key} is missing; {what} has {', '.join(required)}")

    def string(self, key: str) -> str:
        """The text of `key`, joined into one line."""
        value = self.table[key]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.where}: {key} must be a text, not {value!r}")
        return " ".join(value.split())

    def strings(self, key: str) -> tuple[str, ...]:
        """The list of texts of `key`."""
        value = self.table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise InputError(f"{self.where}: {key} must be a list of texts, not {value!r}")
        return tuple(value)

    def versions(self, packages: Sequence[str], otherwise: str) -> dict[str, str]:
        """The PEP 440 specifiers of the key `versions` by package. Returns {} if the key is absent.

        Raises InputError for a package that is not one of `packages`; `otherwise` is its reason in the message.
        """
        table = self.table.get("versions", {})
        if not isinstance(table, dict):
            raise InputError(f"{self.where}: versions must be a table, such as versions = {{ torch = '==2.13.*' }}")
        for package, specifier in table.items():
            if package not in packages:
                raise InputError(f"{self.where}: versions: {package!r} {otherwise}; {hint(package, packages, 'it is')}")
            self.specifier(f"versions: {package}", specifier)
        return dict(table)

    def specifier(self, what: str, value: object) -> str:
        """Returns `value` if it is a PEP 440 specifier and not empty. `what` names it in messages."""
        try:
            if not str(SpecifierSet(value)) or not isinstance(value, str):  # type: ignore[arg-type]
                raise InvalidSpecifier
        except (InvalidSpecifier, TypeError, AttributeError):
            raise InputError(f"{self.where}: {what} = {value!r} is no specifier, such as '>=2.11,<2.14'") from None
        return value

    def device(self) -> str | None:
        """The glob of compute capabilities of the key `device`. Returns None if the key is absent."""
        if "device" not in self.table:
            return None
        device = self.string("device")
        if not _DEVICE.fullmatch(device):
            raise InputError(f"{self.where}: device {device!r} must be a glob of compute capabilities, such as '9.*'")
        return device


def load_text(text: str, key: str, what: str, origin: str, beside: Sequence[str] = ()) -> list[TomlEntry]:
    """The `[[key]]` tables of a TOML text. `what` names the kind of entry in messages, with its article.

    The text may also hold tables with the keys `beside`, which are ignored. Raises InputError if the text is not valid
    TOML or holds anything else. `origin` names the text in messages.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        # An impossible date, such as the 31st of April, raises a plain ValueError.
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
        found.append(TomlEntry(table, where))
    return found


def hint(text: str, choices: Sequence[str], otherwise: str) -> str:
    """A question with the closest of `choices`, or, if none is close, `otherwise` and all `choices`."""
    close = difflib.get_close_matches(text, choices, 1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(choices)}"
