"""What a fuzzing run has done, on disk: `run.json` says what it is a run of, one JSON line an example says the rest.

Every driver appends to a file of its own, a record in one write: whatever is killed, whenever, the records that were
written stay, and at most the last line of a file is cut. A full disk ends the run, and leaves no half of a record.
Nothing is ever rewritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from flexconf import subjects, tampering
from flexconf.errors import InputError
from flexconf.machine import environment
from flexconf.machine.files import append, records, write_json

FORMAT = 1

_RUN = "run.json"
_LOCK = "lock"
_FILE = "records-{:03d}.jsonl"
_ELSEWHERE = "move the folder away, or name another with --out"
_FILES = re.compile(r"records-(\d{3})\.jsonl")

Verdict = Literal["ok", "failed", "duplicate", "discarded"]


@dataclass(frozen=True)
class Record:
    """One executed example.

    `ident` is driver/round/index, `graph` that of its outline, `ratio` its largest error over its bound (None when
    nothing was compared). A verdict "discarded" has its reason in `why`, "duplicate" the finding that explains it,
    "failed" what was observed; a failed one also carries its case as TOML. `shrinking`: it was tried to make a failure
    smaller. `mute`: what was compared of it, if anything, had to be 0, NaN or infinite.
    """

    ident: str
    case: str
    width: int
    graph: str
    stage: str
    symptom: str
    verdict: Verdict
    ratio: float | None
    keys: tuple[str, ...]
    seconds: float
    why: str = ""
    shrinking: bool = False
    toml: str = ""
    mute: bool = False

    def to_line(self) -> bytes:
        """One line of JSON."""
        plain = {k: v for k, v in asdict(self).items() if not (k in ("why", "shrinking", "toml", "mute") and not v)}
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The inverse of `to_line`, of what the line says. Raises KeyError or TypeError."""
        return cls(**{**data, "keys": tuple(data["keys"])})

    @property
    def place(self) -> tuple[int, int, int]:
        """(driver, round, index)."""
        driver, turn, index = map(int, self.ident.split("/"))
        return driver, turn, index


class Writer:
    """Appends the records of one driver."""

    def __init__(self, folder: Path, driver: int) -> None:
        self._path = folder / _FILE.format(driver)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Record) -> None:
        """Append one record. Raises InputError where the disk does not take it."""
        append(self._file, record.to_line(), self._path, "make room; the same command goes on")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Reader:
    """Reads what drivers append, in pieces, as often as asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[int, int]] = {}  # bytes and lines of each file

    def new(self) -> Iterator[Record]:
        """The records that were not read before; a line that is being written is left for the next time.

        Raises InputError, which names the file and the line, for a damaged record.
        """
        for path in files(self._folder):
            offset, lines = self._read.get(path.name, (0, 0))
            with path.open("rb") as file:
                file.seek(offset)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path.name] = offset + len(whole), lines + whole.count(b"\n")
            for line, data in records(whole, path, _ELSEWHERE, lines):
                try:
                    yield Record.from_json(data)
                except (KeyError, TypeError) as error:
                    raise InputError(f"{path}: line {line}: damaged: {str(error)[:80]}; {_ELSEWHERE}") from None


def files(folder: Path) -> list[Path]:
    """The files of records, by driver."""
    return sorted(path for path in folder.glob("records-*.jsonl") if _FILES.fullmatch(path.name))


def repair(folder: Path) -> None:
    """Cut off a last line that was not written whole. Only while nobody writes."""
    for path in files(folder):
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole != len(text):
            os.truncate(path, whole)


def next_rounds(records: Iterator[Record]) -> dict[int, int]:
    """By driver, the first round of which nothing is recorded."""
    rounds: dict[int, int] = {}
    for record in records:
        driver, turn, _ = record.place
        rounds[driver] = max(rounds.get(driver, 0), turn + 1)
    return rounds


@dataclass(frozen=True)
class Identity:
    """What the records of a folder are about; records of another are never mixed with them.

    `plant` names a planted fault, "" for none.
    """

    subject: str
    seed: int
    python: str
    packages: Mapping[str, str | None]
    gpus: tuple[str, ...]
    plant: str = ""
    format: int = FORMAT
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def here(cls, subject: str, seed: int) -> Identity:
        """The identity of a run that starts now. Raises InputError for an unknown subject."""
        facts = environment.read()
        packages = {name: facts.packages.get(name) for name in subjects.get(subject).packages}
        gpus = tuple(f"{gpu.name} {gpu.driver}" for gpu in facts.gpus) if subjects.get(subject).device != "cpu" else ()
        return cls(
            subject,
            seed,
            facts.python,
            packages,
            gpus,
            os.environ.get(tampering.ENVIRONMENT, ""),
            FORMAT,
            facts.to_json(),
        )

    def differs(self, other: Identity) -> str:
        """What of `other`, which is on disk, stands against this; "" for nothing."""
        if other.format != self.format:
            return f"was written in format {other.format}, not {self.format}"
        if other.subject != self.subject:
            return f"holds a run of {other.subject}, not {self.subject}"
        if other.seed != self.seed:
            return f"holds a run with --seed {other.seed}, not {self.seed}"
        if other.plant != self.plant:
            return f"holds a run with {tampering.ENVIRONMENT}={other.plant or '(unset)'}, not {self.plant or '(unset)'}"
        if other.python != self.python:
            return f"holds a run on Python {other.python}, not {self.python}"
        for name in sorted({*self.packages, *other.packages}):
            if self.packages.get(name) != other.packages.get(name):
                return f"holds a run with {name} {other.packages.get(name)}, not {self.packages.get(name)}"
        return f"holds a run on {other.gpus or 'no GPU'}, not {self.gpus or 'no GPU'}" if other != self else ""


def claim(folder: Path, identity: Identity) -> None:
    """Make the folder one of `identity`, or see that it is. Raises InputError for another's, or one that is damaged."""
    path = folder / _RUN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            theirs = read_identity(folder)
            why = identity.differs(theirs)
            if why:
                hint = f"--seed {theirs.seed} continues it, --out" if theirs.seed != identity.seed else "--out"
                raise InputError(f"{folder} {why}; {hint} ANOTHER_FOLDER starts a new one")
            return
        if files(folder):
            raise InputError(f"{folder} has records but no {_RUN}; name another folder with --out")
        write_json(path, asdict(identity))
    except OSError as error:
        raise InputError(f"{folder} cannot be used: {error.strerror}; name another with --out") from None


def read_identity(folder: Path) -> Identity:
    """What the folder is a run of. Raises InputError."""
    path = folder / _RUN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Identity(**{**data, "gpus": tuple(data["gpus"])})
    except FileNotFoundError:
        raise InputError(f"{folder} is no folder of `flexconf fuzz`: it has no {_RUN}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged: {str(error)[:80]}; name another folder with --out") from None


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """No other run writes here meanwhile. Raises InputError when one does."""
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder} is in use by another run; name another folder with --out") from None
        yield
