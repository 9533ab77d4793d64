"""Reads cases from TOML files, and selects cases by name."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from flexconf.cases.block import BlockSpec
from flexconf.cases.case import Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError

__all__ = ["folder", "load", "load_text", "select"]

_CASE_KEYS = (
    "about", "source", "score_mod", "mask_mod", "captures", "problem", "block", "form", "seed", "clauses",
    "expect", "reason_contains",
)  # fmt: skip
_SHAPE_KEYS = ("about", "problem", "block", "clauses", "applies")
_FIRST = ("score_mods.toml", "mask_mods.toml", "combinations.toml")
_SHAPES = "shapes.toml"
_NO_CASES = ("waivers.toml",)
"""TOML files in the folder of the catalogue that hold no cases."""


def folder() -> Path:
    """The folder of the catalogue: `_cases` in the installed package, or `cases` in the checkout.

    Raises InputError if neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "_cases", package.parents[1] / "cases"
    for candidate in (installed, checkout):
        if (candidate / _FIRST[0]).is_file():
            return candidate
    raise InputError(f"the catalogue was found neither in {installed} nor in {checkout}")


def listed(name: str) -> list[str]:
    """The case names in a list of the catalogue, such as "mustpass.txt".

    A list has one name per line; "#" begins a comment. Raises InputError if the list is missing or empty.
    """
    path = folder() / name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    names = [found for line in lines if (found := line.partition("#")[0].strip())]
    if not names:
        raise InputError(f"{path}: names no case")
    return names


def load(paths: Iterable[str | Path] | None = None) -> list[Case]:
    """The cases of the files and folders `paths` (default: the catalogue), in the order of the files.

    A folder stands for its `*.toml` files and those of its `regressions` folder. A file called `shapes.toml` derives
    cases from the cases of the other files: `alibi@gqa4` is `alibi` on the problem `gqa4`. Derived cases come last.
    Raises InputError, which names the file, table and key.
    """
    if paths is None:
        return list(_packaged())
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files.extend(_files(path))
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return _load(files)


@cache
def _packaged() -> tuple[Case, ...]:
    return tuple(_load(_files(folder())))


def _files(root: Path) -> list[Path]:
    found = {path.name: path for path in sorted(root.glob("*.toml")) if path.name not in _NO_CASES}
    first = [found.pop(name) for name in _FIRST if name in found]
    shapes = [found.pop(_SHAPES)] if _SHAPES in found else []
    return [*first, *found.values(), *sorted((root / "regressions").glob("*.toml")), *shapes]


def _load(files: Sequence[Path]) -> list[Case]:
    cases: dict[str, Case] = {}
    shapes: list[tuple[Path, str]] = []
    for path in files:
        text = _read(path)
        if path.name == _SHAPES:
            shapes.append((path, text))
        else:
            _add(cases, load_text(text, str(path)), str(path))
    for path, text in shapes:
        _add(cases, _derive(text, str(path), dict(cases)), str(path))
    return list(cases.values())


def _add(cases: dict[str, Case], more: Iterable[Case], origin: str) -> None:
    for case in more:
        if case.name in cases:
            raise InputError(f"{origin}: [{case.name}]: there is another case of this name")
        cases[case.name] = case


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def load_text(text: str, origin: str = "<text>") -> list[Case]:
    """The cases of one TOML text. `origin` names the text in error messages. Raises InputError.

    >>> (case,) = load_text('[half]\\nscore_mod = "score * 0.5"\\nproblem = { D = 128 }')
    >>> case.name, case.kind, case.problem.Dv
    ('half', 'score_mod', 128)
    """
    return [_case(name, table, f"{origin}: [{name}]") for name, table in _tables(text, origin)]


def _tables(text: str, origin: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{origin}: not valid TOML: {str(error) or 'nested too deeply'}") from None
    for name, table in data.items():
        if not isinstance(table, dict):
            raise InputError(f"{origin}: {name} stands outside a table; every case is a [name] table")
    return list(data.items())


def _keys(table: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(allowed)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a string, not {value!r}")
    return value.strip() if value is not None else None


def _strings(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {key} must be a list of strings, not {value!r}")
    return tuple(value)


def _table(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be a table, such as {key} = {{ ... }}")
    return value


def _case(name: str, table: Mapping[str, Any], where: str) -> Case:
    _keys(table, _CASE_KEYS, where)
    try:
        captures = []
        for capture, spec in _table(table, "captures", where).items():
            if not isinstance(spec, str):
                raise InputError(f"capture {capture!r} must be a string 'SHAPE:DTYPE[:VALUES[:LAYOUT]]'")
            captures.append(Capture.parse(f"{capture}={spec}"))
        return Case(
            name=name,
            about=_text(table, "about", where) or "",
            score_mod=_text(table, "score_mod", where),
            mask_mod=_text(table, "mask_mod", where),
            captures=tuple(captures),
            problem=_problem(_table(table, "problem", where), Problem(), where),
            block=_block(_table(table, "block", where), BlockSpec(), where),
            form=_text(table, "form", where) or "function",
            seed=table.get("seed", _seed(name)),
            clauses=_strings(table, "clauses", where),
            source=_text(table, "source", where),
            expect=_text(table, "expect", where) or "ok",
            reason_contains=_text(table, "reason_contains", where),
        )
    except InputError as error:
        raise _located(error, where) from None


def _located(error: InputError, where: str) -> InputError:
    message = str(error)
    return error if message.startswith(where) else InputError(f"{where}: {message}")


def _seed(name: str) -> int:
    """The default seed of a case. It is computed from the name, so that different cases have different values."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _problem(table: Mapping[str, Any], base: Problem, where: str) -> Problem:
    """`base` with the fields of `table`. D alone sets Dv too, and H alone sets Hkv too, if both are equal in `base`."""
    names = [field.name for field in fields(Problem)]
    _keys(table, names, f"{where}: problem")
    values = {name: getattr(base, name) for name in names} | dict(table)
    if "D" in table and "Dv" not in table and base.Dv == base.D:
        values["Dv"] = values["D"]
    if "H" in table and "Hkv" not in table and base.Hkv == base.H:
        values["Hkv"] = values["H"]
    return Problem(**values)


def _block(table: Mapping[str, Any], base: BlockSpec, where: str) -> BlockSpec:
    names = [field.name for field in fields(BlockSpec)]
    _keys(table, names, f"{where}: block")
    values = {name: getattr(base, name) for name in names} | {key: _frozen(value) for key, value in table.items()}
    return BlockSpec(**values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _derive(text: str, origin: str, cases: Mapping[str, Case]) -> list[Case]:
    derived = []
    for shape, table in _tables(text, origin):
        where = f"{origin}: [{shape}]"
        _keys(table, _SHAPE_KEYS, where)
        about = _text(table, "about", where) or ""
        clauses = _strings(table, "clauses", where)
        for name in _strings(table, "applies", where):
            base = cases.get(name)
            if base is None:
                raise InputError(f"{where}: applies: {_unknown(name, cases)}")
            try:
                derived.append(
                    base.replace(
                        name=f"{name}@{shape}",
                        about=f"{base.about} {about}".strip(),
                        problem=_problem(_table(table, "problem", where), base.problem, where),
                        block=_block(_table(table, "block", where), base.block, where),
                        clauses=tuple(dict.fromkeys((*base.clauses, *clauses))),
                    )
                )
            except InputError as error:
                raise _located(error, f"{where}: applies {name!r}") from None
    return derived


def _unknown(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 3, 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "`flexconf cases` lists the names"
    return f"no case is called {name!r}; {hint}"


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose name matches one of the shell patterns `patterns`; all cases if there is no pattern.

    The cases keep their order, and each is selected once. Raises InputError, with close matches, if a pattern matches
    no name.
    """
    if not patterns:
        return list(cases)
    chosen: set[str] = set()
    for pattern in patterns:
        matching = [case.name for case in cases if fnmatch.fnmatchcase(case.name, pattern)]
        if not matching:
            raise InputError(_unknown(pattern, [case.name for case in cases]))
        chosen.update(matching)
    return [case for case in cases if case.name in chosen]
