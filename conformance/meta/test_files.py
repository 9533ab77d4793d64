"""How records and files are written: whole, or with a clear error; a reader takes no two records for one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzed
import pytest

from flexconf import subjects
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.fuzz import stream
from flexconf.fuzz.driver import Driver
from flexconf.fuzz.judged import Broken
from flexconf.fuzz.plan import Plan
from flexconf.gate import recording
from flexconf.machine import files
from flexconf.runs import run
from flexconf.sanitize import run as sanitizing
from flexconf.sanitize import target
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import tasks
from planted import detection

OUTCOME = Outcome("c", "d", "reference.host", Stage.OUTPUT, Symptom.OK, "fine")
FOUND = detection.Detection("a fault", 1, 9.0, False, 5, 9.0)
RECORD = stream.Record("0/0/0", "digest", 2, "graph", "output", "ok", "ok", 0.5, ("key",), 0.1)


class Disk:
    """A disk that takes `each` bytes a write, and `room` bytes in all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: int, room: int = 1 << 30) -> None:
        self.each, self.room, self._write = each, room, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        """As os.write."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(handle, data[: min(self.each, self.room)])
        self.room -= done
        return done


def _by_run(path: Path) -> None:
    writer = run._Stream(path)
    try:
        writer.write(OUTCOME)
        writer.write(OUTCOME)
    finally:
        writer.close()


def _by_fuzzing(path: Path) -> None:
    writer = stream.RecordWriter(path.parent, 0)
    try:
        writer.write(RECORD)
        writer.write(RECORD)
    finally:
        writer.close()


def _twice(once: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        once(path)
        once(path)

    return write


WRITERS: dict[str, Callable[[Path], None]] = {
    "run --results": _by_run,
    "fuzz": _by_fuzzing,
    "sanitize": _twice(lambda path: target._say(path, {"event": "begin", "case": "c", "log": 0})),
    "gate record": _twice(lambda path: recording.append(path, 1, OUTCOME)),
    "planted": _twice(lambda path: detection._append(path, FOUND)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_stops_short_is_gone_on_with(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count of os.write is looked at by everything that appends."""
    path = tmp_path / "records-000.jsonl"
    Disk(monkeypatch, each=7)
    WRITERS[name](path)
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 3 and lines[2] == b"" and lines[0] == lines[1] and json.loads(lines[0])


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_clear_error_and_leaves_whole_records(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second record does not fit: its first half is taken back, so that the next is not glued to it."""
    path = tmp_path / "records-000.jsonl"
    disk = Disk(monkeypatch, each=1 << 20)
    WRITERS[name](path)
    whole = path.read_bytes()
    path.unlink()
    disk.room = len(whole) // 2 + 20
    with pytest.raises(InputError, match=r"records-000.jsonl: cannot be written: No space left on device; "):
        WRITERS[name](path)
    assert path.read_bytes() == whole[: len(whole) // 2]


def test_a_full_disk_ends_fuzzing_and_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InThisProcess:
        def run(self, case: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome:
            return fuzzed.right(tasks.CaseTask(case, subjects.get(subject), options), lambda stage: None)

    plan = Plan("torch-eager", tmp_path, 60, drawn=("fuzzed:cases", "fuzzed:widths"), check_repro=False)
    Disk(monkeypatch, each=1 << 20, room=700)
    with pytest.raises(Broken, match="No space left on device; make room"):
        Driver(plan, 0, InThisProcess(), until=float("inf")).drive()
    assert all(r.verdict == "ok" for r in stream.Reader(tmp_path).new())


@pytest.mark.parametrize("half", [1, 30, -2])
def test_two_records_in_a_line_are_refused_with_the_file_and_the_line(half: int, tmp_path: Path) -> None:
    """Whatever half of a record was left by whoever wrote it, no reader takes it and the next for one."""
    line = RECORD.to_line()
    place = tmp_path / "records-000.jsonl"
    place.write_bytes(line * 2 + line[:half] + line)
    with pytest.raises(InputError, match=r"records-000.jsonl: line 3: damaged"):
        list(stream.Reader(tmp_path).new())

    line = json.dumps(vars(FOUND)).encode() + b"\n"
    (tmp_path / detection.RESULTS).write_bytes(line + line[:half] + line)
    with pytest.raises(InputError, match=r"detections.jsonl: line 2: damaged"):
        detection.results(tmp_path)

    target._say(tmp_path / "events", {"event": "begin", "case": "c", "log": 0})
    line = (tmp_path / "events").read_bytes()
    (tmp_path / "events").write_bytes(line[:half] + line)
    with pytest.raises(InputError, match="events: line 1: damaged"):
        sanitizing._events(tmp_path / "events")


def test_what_is_read_in_pieces_is_counted_in_lines_of_the_file(tmp_path: Path) -> None:
    reader, place = stream.Reader(tmp_path), tmp_path / "records-000.jsonl"
    place.write_bytes(RECORD.to_line() * 2 + b'{"ident"')
    assert len(list(reader.new())) == 2
    place.write_bytes(RECORD.to_line() * 3 + b"[]\n")
    with pytest.raises(InputError, match="line 4: damaged: it holds no record"):
        list(reader.new())


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    """What fails while it is written leaves neither half a file nor what is in its place."""
    path = tmp_path / "f.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_file_where_a_folder_should_be_is_one_clear_error(tmp_path: Path) -> None:
    place = tmp_path / "a-file"
    place.write_text("", encoding="utf-8")
    from flexconf.golden import folder as goldens
    from planted import detection

    with pytest.raises(InputError, match="a-file cannot be a folder: File exists; name another with --folder"):
        goldens.write(place, {})
    with pytest.raises(InputError, match="a-file cannot be a folder: File exists; name another with --out"):
        detection.detect_all(["c-division"], [1], place, limit=1.0, shrink=0.0)
    assert place.read_text(encoding="utf-8") == ""
