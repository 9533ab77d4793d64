"""The folder of goldens: `manifest.json`, `cases/<name>.safetensors` and `fingerprints/<environment>.json`.

The manifest names every file with its SHA-256, and each golden with the digests of its case and inputs. It holds no
versions and no times, so that every machine writes the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.golden import entry as entries
from flexconf.golden.entry import Golden
from flexconf.machine import files
from flexconf.machine.files import replacing
from flexconf.runs import expectations

MANIFEST, CASES, SUFFIX = "manifest.json", "cases", ".safetensors"
FINGERPRINTS = "fingerprints"
_WRITTEN = ("README.md", "regenerate.py")
ORACLE = "math64, version 1"
"""The version of the oracle. Raise it by hand if the oracle's results change on purpose."""


@dataclass
class GoldenDiff:
    """The comparison of new goldens with the folder.

    `compared` counts goldens and `elements` their values. `differences` has one entry for each case that differs.
    `problems` are sentences about the folder as it stands.
    """

    compared: int = 0
    elements: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether at least one golden was compared, none differs, and the folder has no problem."""
        return self.compared > 0 and not self.differences and not self.problems


def default() -> Path:
    """The default folder: beside the catalogue in a checkout, else `golden` of the current folder.

    An installed package has no goldens.
    """
    cases = catalogue.folder()
    return cases.parent / "golden" if cases.name == "cases" else Path("golden")


def must_pass() -> list[Case]:
    """The cases of `cases/mustpass.txt`. Raises InputError if one is unknown, named twice or expects a refusal."""
    known = {case.name: case for case in catalogue.load()}
    names = catalogue.listed("mustpass.txt")
    for name in names:
        if name not in known:
            raise InputError(f"cases/mustpass.txt: there is no case {name!r} in the catalogue")
        if names.count(name) > 1:
            raise InputError(f"cases/mustpass.txt names {name!r} twice")
        if known[name].expect != "ok":
            raise InputError(f"cases/mustpass.txt: {name!r} expects {known[name].expect}; there is nothing to keep")
    return [known[name] for name in names]


def generate(
    cases: Iterable[Case], on_case: Callable[[str], None] = lambda name: None, *, cross_check: bool = True
) -> dict[str, Golden]:
    """The goldens of `cases` by name.

    With `cross_check`, raises InputError if math64 and the plain oracle disagree about a case: no golden may be kept.
    """
    found: dict[str, Golden] = {}
    against = []
    for case in cases:
        entry, certified, given = entries.compute(case)
        if cross_check:
            said = entries.disagreement(certified, given)
            if said:
                against.append(f"{case.name}: {said}")
        found[case.name] = entry
        on_case(case.name)
    if against:
        raise InputError(f"the oracles disagree about {len(against)} cases, and nothing is written: {against[0]}")
    return found


def ask_triton(cases: Sequence[Case]) -> str:
    """Check Triton flex attention against the same bounds, if it can run here. Returns the result as a sentence.

    Raises InputError if a case fails and no expectation explains it.
    """
    from flexconf import subjects
    from flexconf.runs import judging, run
    from flexconf.subjects.trial import Options
    from flexconf.verdict import triton_opinion

    name = "torch-triton"
    absent = subjects.get(name).why_not()
    if absent:
        return f"Triton was not asked: {absent}"
    results: list[judging.Result] = []
    known = expectations.in_force(name)
    run.run(list(cases), subject=name, options=Options(tile=triton_opinion.TILE), on_result=results.append)
    judged = [judging.judge(r.case, r.outcome, known) for r in results]
    wrong = [r for r in judged if not r.passed]
    if wrong:
        raise InputError(
            f"Triton disagrees in {len(wrong)} of {len(judged)} cases, and nothing is written: "
            f"{wrong[0].case.name}: {wrong[0].why}"
        )
    return f"Triton agrees in {len(judged)} cases ({sum(r.expectation is not None for r in judged)} known defects)"


def write(folder: Path, goldens: Mapping[str, Golden]) -> None:
    """Replace the goldens of the folder by `goldens`. All new files are written before the old ones are replaced."""
    files.make_folder(folder, "name another with --folder")
    new, old, place = folder / f".{CASES}.new", folder / f".{CASES}.old", folder / CASES
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    manifest: dict[str, Any] = {"format": entries.FORMAT, "oracle": ORACLE, "goldens": {}, "others": _others(folder)}
    for name in sorted(goldens):
        data = goldens[name].to_bytes()
        (new / f"{name}{SUFFIX}").write_bytes(data)
        manifest["goldens"][name] = _facts(goldens[name], data)
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(_text(manifest), encoding="utf-8")
        # Between these steps the manifest does not match the files. `verify` reports that if the process is killed.
        if place.exists():
            place.rename(old)
        new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _text(manifest: Mapping[str, Any]) -> str:
    """The canonical text of a manifest. Any other text shows that the file was edited, if only in its whitespace."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def _others(folder: Path) -> dict[str, str]:
    """The SHA-256 of each hand-written file (`_WRITTEN`) and of each file among the fingerprints, by name."""
    names = [n for n in _WRITTEN if (folder / n).is_file()]
    found = (folder / FINGERPRINTS).rglob("*")
    names += sorted(p.relative_to(folder).as_posix() for p in found if p.is_file() or p.is_symlink())
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names if (folder / n).is_file()}


def adopt(folder: Path, name: str) -> None:
    """Add a file that was written, such as a fingerprint, to the manifest. The rest of the manifest stays.

    Raises InputError if the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    manifest["others"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    files.write(folder / MANIFEST, _text(manifest))


def _facts(entry: Golden, data: bytes) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "case_digest": entry.case_digest,
        "inputs": dict(sorted(entry.inputs.items())),
        "elements": entry.elements,
        "rows": int(entry.tensors["rows"].shape[0]),
    }


def verify(folder: Path) -> list[str]:
    """A sentence for each problem of the folder as it stands. No golden is computed."""
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        return [str(error)]
    listed, problems = manifest["goldens"], []
    others = _others(folder)
    for name in sorted(manifest["others"].keys() | others.keys()):
        if manifest["others"].get(name) != others.get(name):
            problems.append(f"{name}: changed, missing or new; flexconf golden regenerate takes it into the manifest")
    wanted = {case.name: case for case in must_pass()}
    present = {p.name for p in (folder / CASES).iterdir()} if (folder / CASES).is_dir() else set()
    for name in sorted(listed.keys() - wanted.keys()):
        problems.append(f"{MANIFEST}: {name!r} is not in cases/mustpass.txt")
    for name in sorted(wanted.keys() - listed.keys()):
        problems.append(f"{MANIFEST}: the golden of {name!r} is missing; regenerate")
    for extra in sorted(present - {f"{name}{SUFFIX}" for name in listed}):
        problems.append(f"{CASES}/{extra}: an extra file, which the manifest does not name")
    for name in sorted(listed):
        file = f"{CASES}/{name}{SUFFIX}"
        if f"{name}{SUFFIX}" not in present:
            problems.append(f"{file}: missing, and the manifest names it")
            continue
        data = (folder / file).read_bytes()
        if hashlib.sha256(data).hexdigest() != listed[name].get("sha256"):
            problems.append(f"{file}: changed; its SHA-256 is not the manifest's")
            continue
        try:
            found = entries.of_bytes(data, file)
        except InputError as error:
            problems.append(str(error))
            continue
        if found.case != name:
            problems.append(f"{file}: holds the golden of {found.case!r}")
        elif _facts(found, data) != listed[name]:
            problems.append(f"{MANIFEST}: what it says of {name!r} is not what the file holds")
        elif name in wanted and found.case_digest != wanted[name].digest():
            problems.append(f"{file}: is about another version of the case {name!r}; regenerate")
    allowed = {MANIFEST, CASES, *_WRITTEN, FINGERPRINTS, "__pycache__"}
    problems += [f"{p.name}: an extra file" for p in sorted(folder.iterdir()) if p.name not in allowed]
    return problems


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises InputError if it is missing, damaged or edited, or has another format or oracle version."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        if found["format"] != entries.FORMAT or not all(isinstance(v, dict) for v in found["goldens"].values()):
            raise InputError(f"{path}: format {found['format']}, and this is format {entries.FORMAT}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; flexconf golden regenerate makes it") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}: {str(error)[:100]}") from None
    if sorted(found) != ["format", "goldens", "oracle", "others"] or not isinstance(found["others"], dict):
        raise InputError(f"{path}: damaged: its keys are {', '.join(sorted(found))}")
    if text != _text(found):
        raise InputError(f"{path}: changed by hand; flexconf golden regenerate writes it")
    if found["oracle"] != ORACLE:
        raise InputError(f"{path}: made by {found['oracle']}, and this is {ORACLE}; regenerate")
    return dict(found)


def read(folder: Path, name: str) -> Golden:
    """The golden of the case `name`. Raises InputError if it cannot be read."""
    path = folder / CASES / f"{name}{SUFFIX}"
    try:
        return entries.of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def compare(folder: Path, goldens: Mapping[str, Golden]) -> GoldenDiff:
    """Compare new goldens with the folder."""
    found = GoldenDiff(problems=verify(folder))
    for name, new in sorted(goldens.items()):
        try:
            old = read(folder, name)
        except InputError as error:
            found.differences.append({"case": name, "why": str(error), "changed": {}})
            continue
        found.compared += 1
        found.elements += new.elements
        changed = entries.difference(old, new)
        if changed or old.to_bytes() != new.to_bytes():
            found.differences.append(changed or {"case": name, "why": "the file's bytes changed", "changed": {}})
    return found
