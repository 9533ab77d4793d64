"""The files of a bundle: their names, their canonical text, and the attempts in results.jsonl."""

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
"""(case, subject). The subject's name has no suffix for a planted fault."""


def canonical(data: object) -> str:
    """The canonical JSON text of `data`. Any other text shows that the file was edited, if only in its whitespace."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def line(data: object) -> str:
    """`data` as one line of JSON."""
    return json.dumps(data, sort_keys=True) + "\n"


def seal(root: Path, shrunk: str = "") -> None:
    """Finish a bundle: write bundle.json, which names every file with its SHA-256.

    `shrunk` is the digest of the full bundle if this one is a small form, else "".
    """
    listed = {name: sha256(path) for name, path in present(root).items()}
    facts = {"format": FORMAT, "complete": True, "files": listed}
    write(root / SEAL, canonical({**facts, "shrunk": shrunk} if shrunk else facts))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def present(root: Path) -> dict[str, Path]:
    """Every file under `root` by its path in the bundle, symbolic links and special files included."""
    return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_symlink() or not p.is_dir()}


def is_part(name: str) -> bool:
    """Whether `name` is a half-written file, which a killed recording leaves."""
    last = name.rpartition("/")[2]
    return last.endswith(PART)


def evidence(root: Path, key: Key) -> Path:
    """The path of the evidence file of a failure."""
    return root / EVIDENCE / f"{key[0]}.{key[1]}.json"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError, which names the file, if it is missing, damaged or no object."""
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
    """The content of results.jsonl: `found` are outcomes by key in the order of attempts, `problems` are sentences.

    `size` counts the bytes of the file, `whole` the bytes of its complete lines. They differ if the last line has no
    newline, which a killed recording can leave. Such a line gives no outcome.
    """

    found: dict[Key, list[Outcome]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    whole: int = 0
    size: int = 0


def read_attempts(path: Path) -> Attempts:
    """The attempts in a results.jsonl. A missing or damaged file is reported in `problems`; nothing is raised."""
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
