"""Fingerprints: the digests of every output, LSE, rendered text and PTX of one environment, kept in `golden/`.

The bits depend on the versions, so there is one file for each environment. If a bit changes while all versions stay the
same, something else has changed and must be found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexconf import subjects
from flexconf.errors import InputError
from flexconf.gate import files, rows
from flexconf.gate.bundle import Bundle
from flexconf.golden import folder as goldens
from flexconf.machine.files import write as write_file
from flexconf.runs.expectations import Expectation
from flexconf.verdict.outcome import Outcome, Symptom, merge

FORMAT = 1
_KEPT = ("out", "lse", "kernel", "ptx")
_ON_A_GPU = ("torch", "triton", "nvidia-cutlass-dsl", "flash-attn-4")
_ON_A_CPU = ("torch", "nvidia-cutlass-dsl")
_SHORT = {"nvidia-cutlass-dsl": "dsl", "flash-attn-4": "fa"}


@dataclass(frozen=True)
class Fingerprint:
    """The digests of one environment. `environment` is what the bits depend on; `results` is by "case on subject".

    A right result has the digests {out, lse, kernel, ptx}. One whose only error is the base of the LSE has {outcome} in
    addition. Any other failure has {"known defect"} or {outcome} alone.
    """

    environment: Mapping[str, str]
    results: Mapping[str, Mapping[str, str]]

    @property
    def slug(self) -> str:
        """The file's name without its suffix, such as "nvidia-h200-driver580.95-cuda13.0-torch2.13.0-..."."""
        return "-".join(_plain(f"{_SHORT.get(name, name)}{version}") for name, version in self._named())

    def _named(self) -> list[tuple[str, str]]:
        machine = {"gpu", "cpu"}
        return [("" if name in machine else name, text or "none") for name, text in self.environment.items()]

    def text(self) -> str:
        """The text of the file."""
        facts = {"format": FORMAT, "environment": dict(self.environment), "results": dict(self.results)}
        return files.canonical(facts)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")


def of(bundle: Bundle) -> Fingerprint:
    """The fingerprint of a bundle.

    Raises InputError if the bundle has problems, a planted fault or no result, or if it has results of a GPU subject
    and does not state its GPU.
    """
    if bundle.problems:
        raise InputError(f"{bundle.side.path} is not to be relied on: {bundle.problems[0]}")
    if bundle.side.environment.get("planted"):
        raise InputError(f"{bundle.side.path} was recorded with a planted fault; it is no fingerprint of anything")
    if not bundle.side.environment["gpus"] and any(subjects.get(s).needs_gpu for _, s in bundle.records):
        raise InputError(f"{bundle.side.path} does not say on which GPU it was recorded")
    results: dict[str, dict[str, str]] = {}
    for (case, subject), record in sorted(bundle.records.items()):
        merged = merge(record.attempts)
        if merged is None:
            continue
        results[f"{case} on {subject}"] = _kept(merged, _defect(bundle, case, subject))
    if not results:
        raise InputError(f"{bundle.side.path} holds no result")
    return Fingerprint(environment_of(bundle.side.environment), results)


def _kept(merged: Outcome, defect: Expectation | None) -> dict[str, str]:
    """The digests of a right result, or of one whose only error is the base of the LSE; else how the result fails.

    A known defect is kept by its name, without digests or outcome. Some defects read memory that is not the subject's
    own, so they differ from run to run.
    """
    if merged.ok or merged.symptom is Symptom.WRONG_BASE:
        kept = {name: merged.digests[name] for name in _KEPT if name in merged.digests}
        return kept if merged.ok else {**kept, "outcome": f"{merged.stage}/{merged.symptom}"}
    if defect is not None:
        return {"known defect": defect.repro.name}
    return {"outcome": f"{merged.stage}/{merged.symptom}"}


def _defect(bundle: Bundle, case: str, subject: str) -> Expectation | None:
    planned = next((c for c in bundle.cases if c.case == case), None)
    return rows.explained(rows.half(bundle, planned, subject, rows.in_force(bundle, subject)))


def environment_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """What the bits depend on: GPU, driver, CUDA and packages; without a GPU, the CPU's model and packages."""
    packages, gpus = facts["packages"], facts["gpus"]
    if not gpus:
        return {"cpu": f"cpu {facts['cpu']}", **{name: packages.get(name) or "" for name in _ON_A_CPU}}
    return {
        "gpu": gpus[0]["name"],
        "driver": gpus[0]["driver"],
        "cuda": facts.get("cuda") or "",
        **{name: packages.get(name) or "" for name in _ON_A_GPU},
    }


def write(folder: Path, found: Fingerprint) -> Path:
    """Write a fingerprint into the folder and its manifest. Raises InputError if it lacks a must-pass case."""
    asked = {name.partition(" on ")[0] for name in found.results}
    absent = [case.name for case in goldens.must_pass() if case.name not in asked]
    if absent:
        raise InputError(f"the bundle has no result of {absent[0]} and {len(absent) - 1} more of cases/mustpass.txt")
    goldens.read_manifest(folder)  # raises before anything is written if this is no folder of goldens
    place = folder / goldens.FINGERPRINTS
    place.mkdir(exist_ok=True)
    path = place / f"{found.slug}.json"
    write_file(path, found.text())
    goldens.adopt(folder, f"{goldens.FINGERPRINTS}/{path.name}")
    return path


def check(folder: Path, found: Fingerprint) -> list[str]:
    """A sentence for each result that differs from the kept fingerprint of the same environment.

    Raises InputError if no fingerprint of it is kept, if the kept one has another format, or if the two have no result
    in common.
    """
    path = folder / goldens.FINGERPRINTS / f"{found.slug}.json"
    if not path.is_file():
        raise InputError(f"{path} is not there: nothing is kept of this environment; --write keeps it")
    data = files.read_json(path)
    if data.get("format") != FORMAT or not isinstance(data.get("results"), dict):
        raise InputError(f"{path}: format {data.get('format')}, and this is format {FORMAT}")
    kept: Mapping[str, Mapping[str, str]] = data["results"]
    common = kept.keys() & found.results.keys()
    if not common:
        raise InputError(f"{path}: it has no result in common with the bundle; nothing can be compared")
    differing = [f"{name}: not kept" for name in sorted(found.results.keys() - kept.keys())]
    differing += [f"{name}: kept, and not in the bundle" for name in sorted(kept.keys() - found.results.keys())]
    for name in sorted(common):
        old, new = kept[name], found.results[name]
        changed = [what for what in sorted(old.keys() | new.keys()) if old.get(what) != new.get(what)]
        if changed:
            differing.append(f"{name}: {', '.join(changed)}: other bits than are kept")
    return differing
