"""How names, values and tables are spelt in TOML, which the standard library reads and does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def key(name: str) -> str:
    """A bare key, or a quoted one where the name has other characters."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def inline(table: Mapping[str, Any]) -> str:
    """An inline table; entries that are None are left out."""
    return "{ " + ", ".join(f"{name} = {value(v)}" for name, v in table.items() if v is not None) + " }"


def value(given: Any) -> str:
    """A bool, number, text, or list of them. Raises TypeError for anything else."""
    match given:
        case bool():
            return "true" if given else "false"
        case int() | float():
            return repr(given)
        case str() if "\n" in given and "'''" not in given:
            return f"'''\n{given}'''"
        case str():
            return json.dumps(given, ensure_ascii=False)
        case tuple() | list():
            return "[" + ", ".join(map(value, given)) + "]"
    raise TypeError(f"no TOML form of {given!r}")
