"""The records of a fuzzing run on disk: `run.json` identifies the run, and every example is one line of JSON.

Every driver appends to a file of its own. If a process is killed, the records written so far stay, and at most the last
line of a file is incomplete. A full disk ends the run and leaves no half record. Records are never rewritten.
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
    """One example that ran.

    `ident` is driver/round/index. `case` is the digest of the case. `graph` comes from its outline. `keys` are its
    coverage keys, empty if it is discarded. `ratio` is the largest error over its bound, None if nothing was compared
    or the ratio is not finite. `why` is the reason of "discarded", the id of the finding that explains a "duplicate",
    or the observation of "failed". `toml` is the case as TOML, if it failed, is a duplicate, or came close to its
    bound. `shrinking` means that the example was run to shrink a failure. `mute` means that every compared result, if
    any, had to be 0, NaN or infinite.
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
        """The record as one line of JSON, without empty optional fields."""
        plain = {k: v for k, v in asdict(self).items() if not (k in ("why", "shrinking", "toml", "mute") and not v)}
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The record of a parsed line. Raises KeyError or TypeError if a field is missing or unknown."""
        return cls(**{**data, "keys": tuple(data["keys"])})

    @property
    def place(self) -> tuple[int, int, int]:
        """(driver, round, index)."""
        driver, turn, index = map(int, self.ident.split("/"))
        return driver, turn, index


class RecordWriter:
    """Appends the records of one driver."""

    def __init__(self, folder: Path, driver: int) -> None:
        self._path = folder / _FILE.format(driver)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Record) -> None:
        """Append one record. Raises InputError if it cannot be written."""
        append(self._file, record.to_line(), self._path, "make room; the same command goes on")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Reader:
    """Reads the records that the drivers append, a piece at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[int, int]] = {}  # bytes and lines of each file

    def new(self) -> Iterator[Record]:
        """The records that were not read before. An incomplete last line is left for the next call.

        Raises InputError for a damaged record; the message names the file and the line.
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
    """The files of records, sorted by driver."""
    return sorted(path for path in folder.glob("records-*.jsonl") if _FILES.fullmatch(path.name))


def repair(folder: Path) -> None:
    """Cut off the incomplete last line of each file. No driver may write meanwhile."""
    for path in files(folder):
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole != len(text):
            os.truncate(path, whole)


def next_rounds(records: Iterator[Record]) -> dict[int, int]:
    """The round after the last one on record, by driver."""
    rounds: dict[int, int] = {}
    for record in records:
        driver, turn, _ = record.place
        rounds[driver] = max(rounds.get(driver, 0), turn + 1)
    return rounds


@dataclass(frozen=True)
class RunIdentity:
    """Identifies the run of a folder: a folder never mixes records of different identities.

    `packages` are the versions of the subject's packages. `gpus` are the GPUs with their drivers, () for a CPU subject.
    `plant` names a planted fault, "" if there is none. `facts` describe the machine; they are not compared.
    `capability` is the compute capability that was asked for; None for the subject's own choice.
    """

    subject: str
    seed: int
    python: str
    packages: Mapping[str, str | None]
    gpus: tuple[str, ...]
    plant: str = ""
    format: int = FORMAT
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    capability: str | None = None

    @classmethod
    def here(cls, subject: str, seed: int, capability: str | None = None) -> RunIdentity:
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
            capability,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. The key `capability` is there only if one was asked for."""
        plain = asdict(self)
        if self.capability is None:
            del plain["capability"]
        return plain

    def differs(self, other: RunIdentity) -> str:
        """How `other`, the identity on disk, differs from this one. Returns "" if they are equal."""
        if other.format != self.format:
            return f"was written in format {other.format}, not {self.format}"
        if other.subject != self.subject:
            return f"holds a run of {other.subject}, not {self.subject}"
        if other.seed != self.seed:
            return f"holds a run with --seed {other.seed}, not {self.seed}"
        if other.plant != self.plant:
            return f"holds a run with {tampering.ENVIRONMENT}={other.plant or '(unset)'}, not {self.plant or '(unset)'}"
        if other.capability != self.capability:
            return f"holds a run for compute capability {other.capability or '(the default)'}, not {self.capability}"
        if other.python != self.python:
            return f"holds a run on Python {other.python}, not {self.python}"
        for name in sorted({*self.packages, *other.packages}):
            if self.packages.get(name) != other.packages.get(name):
                return f"holds a run with {name} {other.packages.get(name)}, not {self.packages.get(name)}"
        return f"holds a run on {other.gpus or 'no GPU'}, not {self.gpus or 'no GPU'}" if other != self else ""


def claim(folder: Path, identity: RunIdentity) -> None:
    """Make a folder for `identity`, or check that an existing folder has this identity.

    Raises InputError if the folder has another identity, is damaged, or cannot be used.
    """
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
        write_json(path, identity.to_json())
    except OSError as error:
        raise InputError(f"{folder} cannot be used: {error.strerror}; name another with --out") from None


def read_identity(folder: Path) -> RunIdentity:
    """The identity of the run in a folder. Raises InputError if there is none or it is damaged."""
    path = folder / _RUN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return RunIdentity(**{**data, "gpus": tuple(data["gpus"])})
    except FileNotFoundError:
        raise InputError(f"{folder} is no folder of `flexconf fuzz`: it has no {_RUN}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged: {str(error)[:80]}; name another folder with --out") from None


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other run writes to it. Raises InputError if another run holds it."""
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder} is in use by another run; name another folder with --out") from None
        yield
