"""Writes files atomically, and appends records to files of JSON lines.

A record is one line. If the disk is full, `append` raises InputError and tries to remove the half-written record. If
that fails, the next record continues the same line. Readers use `records`, which rejects such a line and names it.
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
"""The suffix of a file that is being written. A killed process leaves such a file behind."""

_AGAIN = "make room, or name another place"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. When the context ends without an exception, that file replaces `path`.

    After an exception the temporary file is removed and `path` is unchanged.
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
    """Writes `text` to `path` atomically, in UTF-8. Raises OSError."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data` to `path` as JSON, atomically. Raises OSError, and ValueError for NaN or an infinity."""
    write(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def append(handle: int, record: bytes, path: Path, then: str = _AGAIN) -> None:
    r"""Appends `record` to a file that is opened with O_APPEND.

    `record` ends in "\n" and contains no other "\n". It is written in one call if the system allows; a partial write is
    continued. Raises InputError if the rest cannot be written; the message ends with `then`. In that case the written
    part is cut off again, unless another process has appended to the file since.
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
    """Appends `record` to the file at `path`, as `append` does. Creates the file if it does not exist.

    Raises InputError if the file cannot be opened or written; the message ends with `then`.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; {then}") from None
    try:
        append(handle, record, path, then)
    finally:
        os.close(handle)


def _cut(handle: int, half: bytes) -> None:
    """Cuts `half`, the written part of a record, off the end of the file if the file still ends with it."""
    with contextlib.suppress(OSError):
        end = os.fstat(handle).st_size
        if os.pread(handle, len(half), end - len(half)) == half:
            os.ftruncate(handle, end - len(half))


def records(data: bytes, path: Path, then: str = _AGAIN, before: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Yields (line number, record) for each line of `data`.

    `data` is a part of the file `path` that follows its first `before` lines. Text after the last "\n" is ignored.
    Raises InputError for a line that is not a JSON object, such as half a record or two records in one line. The
    message names the file and the line, and ends with `then`.
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
    """Creates the folder `path` if it does not exist.

    Raises InputError if that fails; the message ends with `elsewhere`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be a folder: {error.strerror}; {elsewhere}") from None
