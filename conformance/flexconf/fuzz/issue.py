"""A finding as the text of an issue, for the project whose defect it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexconf.errors import InputError
from flexconf.fuzz import findings
from flexconf.fuzz.findings import Finding
from flexconf.verdict.outcome import Symptom

_PRIVATE = (Symptom.ILLEGAL_ACCESS, Symptom.CRASH, Symptom.TIMEOUT, Symptom.OUT_OF_MEMORY)
_ELEMENTS = 5


def text(run: Path, finding: Finding) -> str:
    """Markdown: what happens, what is right, the versions, and a script that stands alone.

    `run` is the folder of the fuzzing run. Of the machine it says the GPU, its driver and the versions of packages, and
    nothing else. Raises InputError if a file of the finding is missing or damaged.
    """
    folder = findings.folder_of(run, finding.ident)
    case = findings.case_of(run, finding)
    facts, seen = _json(folder / "environment.json"), _json(folder / "mismatch.json")
    mods = [f"{kind}: `{mod}`" for kind, mod in (("score_mod", case.score_mod), ("mask_mod", case.mask_mod)) if mod]
    code = "" if finding.capability is None else f" for compute capability {finding.capability}"
    lines = [
        f"# {finding.subject}{code}: {finding.stage} {finding.symptom}: {' '.join(finding.message.split())[:120]}",
        "",
    ]
    if finding.symptom in _PRIVATE:
        lines += [
            "<!-- This may end a process or hang a GPU. Ask the maintainers how they want to receive it before you "
            "post the script in public. -->",
            "",
        ]
    lines += ["## What happens", "", finding.message or f"{finding.stage}/{finding.symptom}", "", *mods]
    if not finding.minimised:
        lines += ["", "The case may be larger than it need be: shrinking was cut short."]
    if not finding.confirmed:
        lines += ["", "It did not show again in a fresh process, so it does not happen every time."]
    lines += _elements(seen)
    lines += ["## Versions", "", *_versions(facts), ""]
    lines += [f"## Script (when it was kept: {finding.repro})", "", "Exit code 1 while the defect is there.", ""]
    lines += ["```python", _read(folder / "repro.py").rstrip(), "```", ""]
    lines += [f"Found by flexflash-conformance, finding {finding.ident}, case digest {finding.digest[:16]}.", ""]
    return "\n".join(lines)


def _elements(seen: dict[str, Any]) -> list[str]:
    """A table of the worst elements, nothing where none was compared."""
    worst = seen.get("worst") or []
    if not worst:
        return [""]
    rows = [
        f"| {w['tensor']}{w['index']} | {w['observed']} | {w['expected']} | {w['bound']} |" for w in worst[:_ELEMENTS]
    ]
    head = ["| element | observed | expected (float64) | largest error of a correct result |", "|---|---|---|---|"]
    return ["", "## What is right", "", *head, *rows, ""]


def _versions(facts: dict[str, Any]) -> list[str]:
    found = [f"- Python {facts.get('python')}"]
    found += [f"- {name} {version}" for name, version in sorted((facts.get("packages") or {}).items()) if version]
    gpus = {f"- {gpu['name']}, driver {gpu['driver']}" for gpu in facts.get("gpus") or []}
    return found + sorted(gpus)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}; `flexconf findings rerun` needs case.toml alone") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: must hold an object")
    return found
