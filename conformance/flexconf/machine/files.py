"""How anything is written to disk: a file that is whole or not there, and records that are appended.

A record is one line. A full disk ends in a clear error, never in half a record that the next one is glued to unseen:
readers take `records`, which refuses what is no whole line of JSON and says where it stands.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flexconf.errors import InputError

PART = ".part"
"""The end of the name of a file that is being written; a killed process leaves it."""

_AGAIN = "make room, or name another place"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes the place of `path` when the context ends well.

    Otherwise it is removed, and `path` is what it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, atomically. Raises OSError."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file of JSON atomically. Raises OSError, and ValueError for what JSON has no number for."""
    write(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def append(handle: int, record: bytes, path: Path, then: str = _AGAIN) -> None:
    r"""Append `record`, which ends in "\n" and has no other, to a file opened with O_APPEND; in one write if it goes.

    A write that stops short is gone on with. Raises InputError, which ends with `then`, where the rest cannot be
    written; what is there of the record is cut off again if nothing was appended meanwhile.
    """
    assert record.endswith(b"\n") and record.count(b"\n") == 1, "a record is one line"
    done = 0
    try:
        while done < len(record):
            done += os.write(handle, record[done:])
    except OSError as error:
        if done:
            _cut(handle, record[:done])
        raise InputError(f"{path}: cannot be written: {error.strerror}; {then}") from None


def append_to(path: Path, record: bytes, then: str = _AGAIN) -> None:
    """`append` to the file of that path, which is made if it is not there. Raises InputError."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; {then}") from None
    try:
        append(handle, record, path, then)
    finally:
        os.close(handle)


def _cut(handle: int, half: bytes) -> None:
    """Take the first half of a record off the end of a file, if it is the end."""
    with contextlib.suppress(OSError):
        end = os.fstat(handle).st_size
        if os.pread(handle, len(half), end - len(half)) == half:
            os.ftruncate(handle, end - len(half))


def records(data: bytes, path: Path, then: str = _AGAIN, before: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""(line, record) of each record in `data`, which ends with a line's end, after `before` lines of the file `path`.

    Raises InputError, which names the file and the line and ends with `then`, for a line that is no object of JSON:
    half a record, or two that stand in one line.
    """
    for line, text in enumerate(data.split(b"\n")[:-1], before + 1):
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("it holds no record")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {line}: damaged: {str(error)[:80]}; {then}") from None
        yield line, found


def make_folder(path: Path, elsewhere: str) -> None:
    """Make the folder, if it is not there. Raises InputError, which says `elsewhere`, where none can be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be a folder: {error.strerror}; {elsewhere}") from None
