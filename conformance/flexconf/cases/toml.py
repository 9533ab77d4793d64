"""Writes names, values and tables in TOML. The standard library reads TOML but does not write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def key(name: str) -> str:
    """`name` as a TOML key, quoted if it needs quotes.

    >>> print(key("alibi"), key("alibi@gqa4"))
    alibi "alibi@gqa4"
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def inline(table: Mapping[str, Any]) -> str:
    """`table` as an inline table. Entries that are None are left out.

    >>> inline({"kind": "lists", "pattern": None, "full": [[1], [3, 0]]})
    '{ kind = "lists", full = [[1], [3, 0]] }'
    """
    return "{ " + ", ".join(f"{name} = {value(v)}" for name, v in table.items() if v is not None) + " }"


def value(given: Any) -> str:
    """A bool, number, string, or list of these in TOML. Raises TypeError for any other value.

    >>> value(("q", True, 0.5))
    '["q", true, 0.5]'
    >>> print(value("d = q - kv\\nscore + d"))
    '''
    d = q - kv
    score + d'''
    """
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
