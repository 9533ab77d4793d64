"""The files of a bundle: their names, the one text of each, and the stream of attempts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexconf.errors import InputError
from flexconf.gate.bundle import FORMAT
from flexconf.machine.files import PART, write
from flexconf.tampering import split
from flexconf.verdict.outcome import Outcome

PLAN, RESULTS, KERNELS, SEAL = "plan.json", "results.jsonl", "kernels.json", "bundle.json"
OUTPUTS, EVIDENCE, LOGS = "outputs", "evidence", "logs"
FOLDERS = (OUTPUTS, EVIDENCE, LOGS)

Key = tuple[str, str]
"""(case, subject): the subject's own name, without the fault that may be planted."""


def canonical(data: object) -> str:
    """The one text of some JSON, so that a byte that does not matter matters too."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def line(data: object) -> str:
    """The one line of some JSON."""
    return json.dumps(data, sort_keys=True) + "\n"


def seal(root: Path, shrunk: str = "") -> None:
    """Name every file, which makes a bundle finished; `shrunk` is the digest of what it is the small form of."""
    listed = {name: sha256(path) for name, path in present(root).items()}
    facts = {"format": FORMAT, "complete": True, "files": listed}
    write(root / SEAL, canonical({**facts, "shrunk": shrunk} if shrunk else facts))


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(text: str) -> str:
    """Of a text, as it is written."""
    return hashlib.sha256(text.encode()).hexdigest()


def present(root: Path) -> dict[str, Path]:
    """Every file under `root` by its path in the bundle, links and the like included."""
    return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_symlink() or not p.is_dir()}


def is_part(name: str) -> bool:
    """Whether a killed recording left it half-written."""
    last = name.rpartition("/")[2]
    return last.endswith(PART)


def evidence(root: Path, key: Key) -> Path:
    """Where the evidence of a failure is."""
    return root / EVIDENCE / f"{key[0]}.{key[1]}.json"


def read_json(path: Path) -> dict[str, Any]:
    """An object that `canonical` wrote. Raises InputError, naming the file."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path.name}: missing") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name}: damaged: {type(error).__name__}: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path.name}: damaged: it holds no object")
    return found


@dataclass
class Attempts:
    """What results.jsonl says: outcomes by key in order of attempt, what is wrong with it, and its whole lines' bytes.

    A last line without its end is no line: a killed recording leaves one.
    """

    found: dict[Key, list[Outcome]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    whole: int = 0
    size: int = 0


def read_attempts(path: Path) -> Attempts:
    """The attempts of a results.jsonl, which may be missing. Damage is told in `problems`."""
    read = Attempts()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        read.problems.append(f"{RESULTS}: missing")
        return read
    except OSError as error:
        read.problems.append(f"{RESULTS}: cannot be read: {error.strerror}")
        return read
    read.size, read.whole = len(data), data.rfind(b"\n") + 1
    numbered: dict[Key, dict[int, Outcome]] = {}
    for number, text in enumerate(data[: read.whole].split(b"\n")[:-1], 1):
        try:
            attempt, outcome = _of_line(text)
        except InputError as error:
            read.problems.append(f"{RESULTS}: line {number}: {error}")
            continue
        seen = numbered.setdefault((outcome.case, split(outcome.subject)[0]), {})
        if attempt in seen:
            read.problems.append(f"{RESULTS}: line {number}: attempt {attempt} of {_named(outcome)} is there twice")
            continue
        seen[attempt] = outcome
    if read.whole != read.size:
        read.problems.append(f"{RESULTS}: its last line is cut off")
    for key, seen in numbered.items():
        gap = next((n for n in range(1, max(seen) + 1) if n not in seen), 0)
        if gap:
            read.problems.append(
                f"{RESULTS}: attempt {gap} of {key[0]} on {key[1]} is missing, and {max(seen)} is there"
            )
        read.found[key] = [seen[n] for n in sorted(seen)]
    return read


def _of_line(text: bytes) -> tuple[int, Outcome]:
    try:
        data: Mapping[str, Any] = json.loads(text)
        attempt = data["attempt"]
        outcome = data["outcome"]
        if sorted(data) != ["attempt", "outcome"] or not isinstance(attempt, int) or attempt < 1:
            raise ValueError("no numbered attempt")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"damaged: {type(error).__name__}: {str(error)[:100]}") from None
    return attempt, Outcome.from_json(outcome)


def _named(outcome: Outcome) -> str:
    return f"{outcome.case} on {outcome.subject}"
