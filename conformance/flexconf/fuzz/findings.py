"""Findings: the failures that fuzzing found, each in a folder of its own.

A finding has one signature: subject, stage, symptom, and the shape of the smallest graph that shows it (the operations
of the mods in order with their dtypes, without names and constants). A folder holds `finding.json`, `case.toml`,
`kernel.py` (the reference lowering's text), `mismatch.json` and `mismatch.txt`, `environment.json` and `repro.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flexconf.cases import catalogue
from flexconf.cases.case import BlockSpec, Case
from flexconf.errors import InputError
from flexconf.fuzz import outline
from flexconf.fuzz.outline import Outline
from flexconf.language import layouts
from flexconf.machine.files import write_json
from flexconf.verdict.outcome import Outcome, Stage, Symptom

__all__ = [
    "ROOT", "Finding", "FindingSignature", "close", "explaining", "family", "load", "load_all", "locate", "of", "save",
    "size", "traits",
]  # fmt: skip

ROOT = Path(".flexconf/fuzz")
"""Where `flexconf fuzz` puts the folders of its runs, one per subject."""

_FACTS = "finding.json"
_FOLDER = "findings"
_CAUSE = 9  # words of a message that tell its cause
_VALUES = (Stage.OUTPUT, Stage.LSE)
_WRONG = (Symptom.WRONG, Symptom.NONFINITE)


@dataclass(frozen=True)
class FindingSignature:
    """Identifies a finding: failures with equal signatures are one finding.

    `capability` is the compute capability that was asked for; None for the subject's own choice.
    """

    subject: str
    stage: str
    symptom: str
    shape: str
    capability: str | None = None

    @property
    def ident(self) -> str:
        """A short name, such as "output-wrong-1f3a5c7e"."""
        text = "\n".join(filter(None, (self.subject, self.stage, self.symptom, self.shape, self.capability)))
        return f"{self.stage}-{self.symptom}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Finding:
    """One finding.

    `case` and `digest` name its case, and `tokens` counts the tokens of the case's mods. `width` is the vector width at
    which it shows. `explains` holds sets of traits: a failure of the same `family` with all traits of one set counts as
    the same defect. `minimised`: the shrinking was completed. `confirmed`: the finding shows again in a fresh process.
    `found_at` is the record of its first failure, after `examples` examples and `seconds` of its driver. `repro` says
    what repro.py showed when it ran. `status` is "open" or "closed"; `reason` says why it was closed.
    `capability` is as in the signature.
    """

    ident: str
    subject: str
    stage: str
    symptom: str
    shape: str
    family: str
    message: str
    case: str
    digest: str
    width: int
    tokens: int
    explains: tuple[tuple[str, ...], ...]
    minimised: bool = True
    confirmed: bool = True
    found_at: str = ""
    examples: int = 0
    seconds: float = 0.0
    repro: str = "not run"
    status: str = "open"
    reason: str = ""
    capability: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the finding is open, that is, nobody has closed it."""
        return self.status == "open"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. The key `capability` is there only if one was asked for."""
        plain = asdict(self)
        if self.capability is None:
            del plain["capability"]
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of `to_json`. Raises TypeError or KeyError if a field is missing or unknown."""
        return cls(**{**data, "explains": tuple(tuple(one) for one in data["explains"])})


def family(outcome: Outcome) -> str:
    """The family of a failure, which shrinking preserves. Wrong values are one family; other failures go by cause."""
    if outcome.stage in _VALUES and outcome.symptom in _WRONG:
        return "wrong values"
    # The cause is the way a process ended, or the first words of an exception without quotations and numbers.
    said = outcome.message.partition(":")[0] if outcome.message.startswith("ended by") else outcome.message
    cause = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", " ", said)
    words = re.sub(r"[^A-Za-z ]+", " ", cause).split()
    return " ".join([f"{outcome.stage}/{outcome.symptom}", *words[:_CAUSE]])


def shape(seen: Outline, case: Case) -> str:
    """The shape of a case's graph: its operations in order, then its reads by kind of index."""
    dtypes = {c.name: f"{c.dtype}/{len(c.shape)}" for c in case.captures}
    reads = [f"read:{dtypes.get(r.capture, '?')}[{','.join(r.kinds)}]" for r in seen.reads]
    return f"{case.kind}: {' '.join([*map(str, seen.operations), *reads]) or 'identity'}"


def traits(case: Case, width: int, seen: Outline) -> tuple[str, ...]:
    """The traits in which a case differs from a plain one, sorted. A defect that it shows can depend on any of them."""
    p, block = case.problem, case.block
    found = {f"op {o}" for o in seen.operations}
    for read in seen.reads:
        found |= {f"index {kind}" for kind in read.kinds if kind not in ("none", "variable")}
    for capture in case.captures:
        layout = layouts.parse(capture.layout)
        found |= {f"capture {capture.dtype}", f"capture of rank {min(len(capture.shape), 2)}"}
        if layout.kind != "contiguous":
            found.add(f"strides {layout.kind}")
    plain = {
        "mask_mod": case.mask_mod is not None,
        "vector": width > 1,
        "gqa": p.Hkv != p.H,
        "heads": p.H > 1,
        "batch": p.B > 1,
        "no elements": 0 in (p.B, p.M, p.N),
        "blocks of queries": block.q < p.M,
        "blocks of keys": block.kv < p.N,
        # A failure at a size of 1, or at a head dim that few kernels take, need not show at other sizes.
        "degenerate sizes": 1 in (p.M, p.N) or min(p.D, p.Dv) < 16,
        "Dv": p.Dv != p.D,
        "scale": p.scale is not None,
        "capture in both mods": bool(seen.shared),
        "capture read twice": bool(seen.repeated),
        "several captures": len(case.captures) > 1,
        "blocks broadcast": block.broadcast,
        "requires grad": any(c.requires_grad for c in case.captures),
        f"blocks {block.kind}": block.kind != BlockSpec().kind,
        f"pattern {block.pattern}": block.pattern is not None,
        f"layout {p.layout}": p.layout != "contiguous",
        f"qkv {p.qkv}": p.qkv != "normal",
        f"dtype {p.dtype}": p.dtype != "bfloat16",
    }
    return tuple(sorted(found | {name for name, holds in plain.items() if holds}))


def size(case: Case, width: int) -> tuple[int, ...]:
    """A sort key, smaller for cases that are easier to read: fewer tokens, captures and traits, then small problems."""
    p = case.problem
    seen = outline.of_case(case)
    rank = sum(len(c.shape) for c in case.captures)
    return (
        outline.tokens(case),
        len(case.captures),
        len(traits(case, width, seen)),
        rank,
        (p.B + 1) * (p.M + 1) * (p.N + 1) * p.H,
        p.D + p.Dv,
        width,
        len(case.to_toml()),
    )


def explaining(findings: Iterable[Finding], kind: str, having: Sequence[str]) -> Finding | None:
    """The first finding of family `kind` that explains a failure with these traits. Returns None if none does."""
    there = set(having)
    for finding in findings:
        if finding.family == kind and any(there.issuperset(one) for one in finding.explains):
            return finding
    return None


def of(case: Case, width: int, outcome: Outcome, kind: str | None = None) -> Finding:
    """The finding for a failure. `kind` is its family, if it cannot be told from `outcome`, for example for a flake."""
    seen = outline.of_case(case)
    signature = FindingSignature(
        outcome.subject, str(outcome.stage), str(outcome.symptom), shape(seen, case), outcome.capability
    )
    return Finding(
        ident=signature.ident,
        subject=signature.subject,
        stage=signature.stage,
        symptom=signature.symptom,
        shape=signature.shape,
        family=kind if kind is not None else family(outcome),
        message=outcome.message,
        case=case.name,
        digest=case.digest(),
        width=width,
        tokens=outline.tokens(case),
        explains=(traits(case, width, seen),),
        capability=signature.capability,
    )


# -------------------------------------------------------------------------------------------------------- on disk


def folder_of(run: Path, ident: str) -> Path:
    """The folder of a finding in the folder of a run."""
    return run / _FOLDER / ident


def save(run: Path, finding: Finding, case: Case, files: Mapping[str, str]) -> bool:
    """Write the folder of a finding in one step.

    Returns False if there is a finding with the same signature; that finding then also explains what this one explains.
    Otherwise returns True, and closes every open finding of the family that this smaller one covers.
    """
    target = folder_of(run, finding.ident)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{finding.ident}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, text in {**files, "case.toml": case.to_toml()}.items():
        (partial / name).write_text(text, encoding="utf-8")
    write_json(partial / _FACTS, finding.to_json())
    try:
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():
            raise InputError(f"{target} cannot be written: {error.strerror}; is the disk full?") from None
        there = load(target)
        more = tuple(one for one in finding.explains if one not in there.explains)
        if more:
            update(run, replace(there, explains=(*there.explains, *more)))
        return False
    for other in load_all(run):
        if other.ident == finding.ident or not other.is_open or other.family != finding.family:
            continue
        if any(set(mine) <= set(theirs) for mine in finding.explains for theirs in other.explains):
            update(run, replace(other, status="closed", reason=f"superseded by {finding.ident}, which is smaller"))
    return True


def update(run: Path, finding: Finding) -> None:
    """Replace the `finding.json` of a finding, atomically."""
    write_json(folder_of(run, finding.ident) / _FACTS, finding.to_json())


def load(folder: Path) -> Finding:
    """The finding in a folder. Raises InputError if its `finding.json` is missing or damaged."""
    path = folder / _FACTS
    try:
        return Finding.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a finding: {type(error).__name__}: {str(error)[:80]}") from None


def load_all(run: Path) -> list[Finding]:
    """The findings in the folder of a run, sorted by id. Raises InputError if one is damaged."""
    root = run / _FOLDER
    found = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []
    return [load(path) for path in found]


def case_of(run: Path, finding: Finding) -> Case:
    """The case of a finding. Raises InputError if its `case.toml` does not hold exactly one valid case."""
    path = folder_of(run, finding.ident) / "case.toml"
    cases = catalogue.load([path])
    if len(cases) != 1:
        raise InputError(f"{path}: must hold one case, not {len(cases)}")
    return cases[0]


def runs(root: Path | None = None) -> list[Path]:
    """The folders of runs in `root`, or `root` alone if it is the folder of a run. `root` defaults to `ROOT`."""
    root = root if root is not None else ROOT
    if (root / "run.json").is_file():
        return [root]
    return sorted(path.parent for path in root.glob("*/run.json"))


def locate(ident: str, root: Path | None = None) -> tuple[Path, Finding]:
    """(folder of the run, finding) for an id or its beginning. Raises InputError if none matches, or several do."""
    everything = [(run, finding) for run in runs(root) for finding in load_all(run)]
    found = [(run, finding) for run, finding in everything if finding.ident == ident]
    found = found or [(run, finding) for run, finding in everything if finding.ident.startswith(ident)]
    if not found:
        there = ", ".join(finding.ident for _, finding in everything[:5]) or "none"
        raise InputError(f"no finding {ident!r} in {root or ROOT}; there are: {there}; --in names another folder")
    if len(found) > 1:
        raise InputError(f"{ident!r} names {len(found)} findings, such as {found[0][1].ident} and {found[1][1].ident}")
    return found[0]


def close(run: Path, finding: Finding, reason: str) -> Finding:
    """Close a finding. It still explains failures like it. Raises InputError if the reason is empty."""
    reason = " ".join(reason.split())
    if not reason:
        raise InputError("a finding is closed with --reason TEXT: what it was, or where it is reported")
    closed = replace(finding, status="closed", reason=reason)
    update(run, closed)
    return closed


def discard_parts(run: Path) -> None:
    """Remove the folders that a killed run did not finish writing. No driver may write meanwhile."""
    root = run / _FOLDER
    for path in root.glob(".*.part") if root.is_dir() else ():
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
