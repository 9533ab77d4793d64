"""Read a bundle and find everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flexconf.errors import InputError
from flexconf.gate import files, plan, record
from flexconf.gate.bundle import FORMAT, Bundle, BundleRecord
from flexconf.gate.files import Attempts, Key
from flexconf.gate.model import Evidence, Side
from flexconf.gate.plan import RecordingPlan

_UNKNOWN = RecordingPlan("", "", {}, {}, (), (), {})


def read(root: Path) -> Bundle:
    """The bundle in a folder. Its `problems` are sentences, each of which names the file that is wrong.

    Raises InputError if the folder holds no bundle, or one of another format.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; flexconf gate record makes a bundle")
    if not (root / files.PLAN).is_file() and not (root / files.SEAL).is_file():
        raise InputError(f"{root} is no bundle: it has neither {files.PLAN} nor {files.SEAL}")
    problems, sealed = _seal(root)
    begun = _plan(root, sealed, problems)
    attempts = files.read_attempts(root / files.RESULTS)
    problems += attempts.problems
    if begun is not _UNKNOWN:
        problems += _consistent(begun, attempts)
    texts = _kernels(root, problems)
    digest = files.sha256(root / files.SEAL) if sealed is not None else ""
    side = Side(
        path=str(root),
        label=begun.label,
        recorded=begun.begun,
        digest=digest,
        environment=begun.environment,
        results=sum(map(len, attempts.found.values())),
    )
    return Bundle(
        side=side,
        cases=begun.cases,
        subjects=begun.subjects,
        skips=begun.skips,
        records={
            key: BundleRecord(tuple(outcomes), _evidence(root, key, texts, problems))
            for key, outcomes in attempts.found.items()
        },
        problems=tuple(dict.fromkeys(problems)),
        options=begun.options,
        rows=_rows(root),
    )


def _seal(root: Path) -> tuple[list[str], Mapping[str, str] | None]:
    """(problems of the files, {file: SHA-256} as bundle.json states, None if it cannot be relied on).

    Raises InputError if bundle.json has another format.
    """
    path = root / files.SEAL
    if not path.exists():
        return [f"{files.SEAL}: missing: the recording is not finished; record again into the same folder"], None
    try:
        data = files.read_json(path)
    except InputError as error:
        return [str(error)], None
    listed = data.get("files")
    if (
        sorted(data.keys() - {"shrunk"}) != ["complete", "files", "format"]
        or data["complete"] is not True
        or not isinstance(data["format"], int)
        or not isinstance(data.get("shrunk", ""), str)
        or not isinstance(listed, dict)
        or not all(isinstance(digest, str) for digest in listed.values())
        or path.read_text(encoding="utf-8") != files.canonical(data)
    ):
        return [f"{files.SEAL}: changed by hand, or damaged"], None
    if data["format"] != FORMAT:
        raise InputError(f"{path}: format {data['format']}, and this is format {FORMAT}")
    there = files.present(root)
    problems = [f"{name}: an extra file, which {files.SEAL} does not name" for name in there if name not in listed]
    problems.remove(f"{files.SEAL}: an extra file, which {files.SEAL} does not name")
    for name in (files.PLAN, files.RESULTS, files.KERNELS):
        if name not in listed:
            problems.append(f"{files.SEAL}: does not name {name}")
    for name, digest in sorted(listed.items()):
        if name not in there:
            problems.append(f"{name}: missing, and {files.SEAL} names it")
        elif there[name].is_symlink() or not there[name].is_file():
            problems.append(f"{name}: not a plain file")
        elif files.sha256(there[name]) != digest:
            problems.append(f"{name}: changed; its SHA-256 is not what {files.SEAL} says")
    return problems, listed


def _plan(root: Path, sealed: Mapping[str, str] | None, problems: list[str]) -> RecordingPlan:
    """The plan, or `_UNKNOWN` if it is damaged. Raises InputError if it is undamaged but has another format."""
    path = root / files.PLAN
    try:
        return plan.read(path)
    except InputError as error:
        # A file with changed bytes is damaged, whatever format it states.
        whole = path.is_file() and (not (root / files.SEAL).exists() or _same(path, sealed))
        if whole and ": format " in str(error):
            raise InputError(f"{root}: {error}") from None
        problems.append(str(error))
        return _UNKNOWN


def _same(path: Path, sealed: Mapping[str, str] | None) -> bool:
    return sealed is not None and sealed.get(path.name) == files.sha256(path)


def _consistent(begun: RecordingPlan, attempts: Attempts) -> list[str]:
    """The problems of the plan, and the contradictions between the plan and the results."""
    problems = []
    git: Any = begun.environment.get("git")
    if isinstance(git, Mapping) and git.get("changes"):
        problems.append(f"{files.PLAN}: {plan.DIRTY}")
    problems += record.foreign(begun, attempts.found)
    absent = [key for key in begun.asked() if key not in attempts.found]
    for case, subject in absent[:20]:
        problems.append(f"{files.RESULTS}: there is no result of {case} on {subject}, and the plan asks for it")
    if len(absent) > 20:
        problems.append(f"{files.RESULTS}: there are no results of {len(absent) - 20} more that the plan asks for")
    for subject in begun.skips:
        if subject not in begun.subjects:
            problems.append(f"{files.PLAN}: it skips {subject}, which is not among its subjects")
    return problems


def _kernels(root: Path, problems: list[str]) -> Mapping[str, str]:
    """{SHA-256: rendered text}, without the texts whose SHA-256 is another."""
    if not (root / files.KERNELS).exists():
        return {}  # an unfinished bundle has none; if a finished one has none, `_seal` reports it
    try:
        found = files.read_json(root / files.KERNELS)
    except InputError as error:
        problems.append(str(error))
        return {}
    whole = {d: t for d, t in found.items() if isinstance(t, str) and files.sha256_of(t) == d}
    if len(whole) < len(found):
        problems.append(f"{files.KERNELS}: {len(found) - len(whole)} texts are not what their SHA-256 says")
    return whole


def _evidence(root: Path, key: Key, texts: Mapping[str, str], problems: list[str]) -> Evidence:
    path = files.evidence(root, key)
    if not path.exists():
        return Evidence()
    name = path.relative_to(root).as_posix()
    try:
        found = files.read_json(path)
        shown = found.get("map")
        if shown is not None and not isinstance(shown, dict):
            raise InputError("map is no object")
        return Evidence(
            layer=str(found.get("layer", "")),
            sentence=str(found.get("sentence", "")),
            kernel=texts.get(str(found.get("kernel", "")), ""),
            repro=str(found.get("repro", "")),
            map=shown,
            worst=tuple(w for w in found.get("worst") or () if isinstance(w, dict)),
            log=str(found.get("log", "")),
        )
    except (InputError, TypeError) as error:
        problems.append(f"{name}: damaged: {error}")
        return Evidence()


def _rows(root: Path) -> Callable[[str, str], Mapping[str, Tensor] | None]:
    def rows(case: str, subject: str) -> Mapping[str, Tensor] | None:
        path = root / files.OUTPUTS / f"{case}.{subject}.safetensors"
        try:
            found: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError):
            return None  # no rows were kept; `_seal` reports a damaged file
        return found

    return rows
