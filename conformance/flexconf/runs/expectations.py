"""Known defects of a subject, as data: which cases show them, how, why, and for which versions and devices.

A file `cases/expectations/<subject>.toml` holds `[[expect]]` tables. An expectation turns a failure that it describes
into a known one. It never hides another failure of the same case, and it is reported when it no longer holds.

The file may also hold `[[crash]]` tables. Each says in words how outside software can crash. It has no case and no
repro, since an input that crashes outside software is not published, and it explains no failure.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from flexconf import subjects
from flexconf.cases import catalogue, clauses
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import environment
from flexconf.runs import toml_entries
from flexconf.runs.toml_entries import TomlEntry
from flexconf.verdict.outcome import Outcome, Stage, Symptom

__all__ = [
    "CRASHES", "NOT_RUN", "Crash", "Expectation", "crashes", "folder", "in_force", "load", "load_crashes", "load_text",
]  # fmt: skip

_KEYS = ("cases", "except", "outcomes", "reason", "link", "repro", "versions", "device", "flaky")
_CITED = re.compile(r"\bL\d+\.\d+\b")
_REQUIRED = ("cases", "outcomes", "reason", "repro", "versions")
CRASHES = ("illegal memory access", "end of the process", "no end")
NOT_RUN = "not run: crashes outside software"
_CRASH_KEYS = ("kind", "reason", "link", "versions", "device")
_CRASH_REQUIRED = ("kind", "reason", "versions")
# An input with such an outcome is not published: see Crash.
_UNPUBLISHED = (Symptom.ILLEGAL_ACCESS, Symptom.TIMEOUT)
# A case without a result is no known defect. A subject that returns no tensor may be one: output/missing.
_NO_DEFECTS = (Symptom.OK, Symptom.MISSING, *_UNPUBLISHED)
_OUTCOMES = (
    *(f"{stage}/{symptom}" for stage in Stage for symptom in Symptom if symptom not in _NO_DEFECTS),
    f"{Stage.OUTPUT}/{Symptom.MISSING}",
)


@dataclass(frozen=True)
class Expectation:
    """One known defect of `subject`.

    `cases` are names or globs of the cases that show the defect, and `but` of the exceptions among them. `outcomes` are
    the "stage/symptom" that they end with. `repro` is the smallest case that shows the defect. The expectation holds
    for `versions`, a PEP 440 specifier per package, and for compute capabilities that match the glob `device`; None
    means any device, the CPU included. For a subject that generates code for a chosen compute capability, `device` is
    about this one. If it is `flaky`, the cases may also pass.
    """

    subject: str
    cases: tuple[str, ...]
    outcomes: tuple[str, ...]
    reason: str
    repro: Case
    versions: Mapping[str, str]
    link: str | None = None
    device: str | None = None
    flaky: bool = False
    but: tuple[str, ...] = ()

    @property
    def clauses(self) -> tuple[str, ...]:
        """The numbers of the clauses that its reason cites."""
        return tuple(dict.fromkeys(_CITED.findall(self.reason)))

    def explains(self, case: str, outcome: Outcome) -> bool:
        """Whether a failure of the case counts as this known defect: it claims the case, and covers the outcome."""
        return self.claims(case) and self.covers(outcome)

    def claims(self, case: str) -> bool:
        """Whether the expectation is about the case of that name. Its own repro always counts."""
        return case == self.repro.name or (_matches(case, self.cases) and not _matches(case, self.but))

    def covers(self, outcome: Outcome) -> bool:
        """Whether the expectation describes `outcome`.

        If repeats of the case differ, it must describe every failure among them. If it is not `flaky`, none of the
        repeats may have passed.
        """
        if f"{outcome.stage}/{outcome.symptom}" in self.outcomes:
            return True
        if outcome.symptom is not Symptom.NONDETERMINISTIC:
            return False
        failing = {o for o in outcome.observed if not o.endswith(f"/{Symptom.OK}")}
        return failing <= {*self.outcomes} and (self.flaky or len(failing) == len(outcome.observed))

    def applies(self, packages: Mapping[str, str | None], capability: str | None) -> bool:
        """Whether the expectation is about these versions and this compute capability (None means no GPU)."""
        return not self.why_not(packages, capability)

    def why_not(self, packages: Mapping[str, str | None], capability: str | None) -> str:
        """The reason why it does not apply. Returns "" if it applies."""
        return _out_of_scope(self.versions, self.device, packages, capability)


@dataclass(frozen=True)
class Crash:
    """A crash of outside software: `subject` ends with `kind`, one of `CRASHES`, on an input that is not published.

    `reason` says in words which library crashes, and names the clause that the input falls under. It never shows the
    input. The entry holds for `versions` and for compute capabilities that match `device`, as an `Expectation` does.
    """

    subject: str
    kind: str
    reason: str
    versions: Mapping[str, str]
    link: str | None = None
    device: str | None = None

    def why_not(self, packages: Mapping[str, str | None], capability: str | None) -> str:
        """The reason why it does not apply. Returns "" if it applies."""
        return _out_of_scope(self.versions, self.device, packages, capability)

    def state(self) -> str:
        """Its state on this machine, in a few words: the reason why it does not apply, or else `NOT_RUN`."""
        return self.why_not(*here()) or NOT_RUN

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "subject": self.subject,
            "crash": self.kind,
            "reason": self.reason,
            "link": self.link,
            "versions": dict(self.versions),
            "device": self.device,
            "in_force": not self.why_not(*here()),
            "state": self.state(),
            "failed": False,
        }


def _out_of_scope(
    versions: Mapping[str, str], device: str | None, packages: Mapping[str, str | None], capability: str | None
) -> str:
    """The reason why `packages` and `capability` do not match `versions` and `device`. Returns "" if they match."""
    for package, specifier in versions.items():
        version = packages.get(package)
        if version is None:
            return f"{package} is not installed"
        if not SpecifierSet(specifier).contains(version, prereleases=True):
            return f"it is about {package} {specifier}, and here is {version}"
    if device is not None and (capability is None or not fnmatch.fnmatchcase(capability, device)):
        return f"it is about compute capability {device}, and here is {capability or 'no GPU'}"
    return ""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def folder() -> Path:
    """The folder of the files. It lies beside the catalogue."""
    return catalogue.folder() / "expectations"


@cache
def load(subject: str) -> tuple[Expectation, ...]:
    """All expectations of `subject`, in the order of its file. Returns () if there is no file.

    Raises InputError if the subject is unknown, or if the file cannot be read or is wrong.
    """
    found = _text_of(subject)
    return tuple(load_text(*found)) if found is not None else ()


@cache
def crashes(subject: str) -> tuple[Crash, ...]:
    """The crashes of outside software on `subject`, in the order of its file. Returns () if there is no file.

    Raises InputError if the subject is unknown, or if the file cannot be read or is wrong.
    """
    found = _text_of(subject)
    return tuple(load_crashes(*found)) if found is not None else ()


def _text_of(subject: str) -> tuple[str, str, str] | None:
    """(text, subject, path) of the subject's file. Returns None if there is no file.

    Raises InputError if the subject is unknown, or if the file cannot be read.
    """
    subjects.get(subject)
    path = folder() / f"{subject}.toml"
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8"), subject, str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def in_force(subject: str, capability: str | None = None) -> tuple[Expectation, ...]:
    """The expectations of `subject` that apply to the versions and the GPU of this machine.

    For a subject that has the option capability, they are those for `capability`; None means the subject's own choice.
    """
    packages, gpu = here()
    device = subjects.get(subject).capability(capability) or gpu
    return tuple(e for e in load(subject) if e.applies(packages, device))


@cache
def here() -> tuple[Mapping[str, str | None], str | None]:
    """(package versions, compute capability of the first GPU or None) of this machine."""
    facts = environment.read()
    return facts.packages, facts.gpus[0].compute_capability if facts.gpus else None


def load_text(text: str, subject: str, origin: str) -> list[Expectation]:
    """The expectations in a TOML text. `origin` names the text in messages. Raises InputError if it is wrong."""
    tables = toml_entries.load_text(text, "expect", "an expectation", origin, beside=("crash",))
    found = [_read(entry, subject) for entry in tables]
    repros = [e.repro.name for e in found]
    for name in repros:
        if repros.count(name) > 1:
            raise InputError(f"{origin}: two repros are named {name!r}")
    return found


def load_crashes(text: str, subject: str, origin: str) -> list[Crash]:
    """The crashes in a TOML text. `origin` names the text in messages. Raises InputError if it is wrong."""
    tables = toml_entries.load_text(text, "crash", "a crash", origin, beside=("expect",))
    return [_read_crash(entry, subject) for entry in tables]


def _read_crash(entry: TomlEntry, subject: str) -> Crash:
    for key in entry.table:
        if key in _KEYS and key not in _CRASH_KEYS:
            raise InputError(
                f"{entry.where}: a crash has no {key}: what crashes outside software is told in words, without an input"
            )
    entry.check_keys(_CRASH_KEYS, _CRASH_REQUIRED, "a crash")
    kind = entry.string("kind")
    if kind not in CRASHES:
        raise InputError(f"{entry.where}: unknown kind {kind!r}; {toml_entries.hint(kind, CRASHES, 'the kinds are')}")
    reason = entry.string("reason")
    if not any(f"({number})" in reason for number in _clauses()):
        raise InputError(f"{entry.where}: reason names no clause; it ends with the one concerned, such as (L7.4)")
    return Crash(
        subject=subject,
        kind=kind,
        reason=reason,
        versions=entry.versions(subjects.get(subject).packages, f"does not decide what {subject} does"),
        link=entry.string("link") if "link" in entry.table else None,
        device=entry.device(),
    )


@cache
def _clauses() -> frozenset[str]:
    return frozenset(clause.number for clause in clauses.load())


def _read(entry: TomlEntry, subject: str) -> Expectation:
    entry.check_keys(_KEYS, _REQUIRED, "an expectation")
    table = entry.table
    flaky = table.get("flaky", False)
    if not isinstance(flaky, bool):
        raise InputError(f"{entry.where}: flaky must be true or false, not {flaky!r}")
    return Expectation(
        subject=subject,
        cases=entry.strings("cases"),
        but=entry.strings("except") if "except" in table else (),
        outcomes=tuple(_outcome(entry, text) for text in entry.strings("outcomes")),
        reason=entry.string("reason"),
        repro=_repro(entry),
        versions=entry.versions(subjects.get(subject).packages, f"does not decide what {subject} does"),
        link=entry.string("link") if "link" in table else None,
        device=entry.device(),
        flaky=flaky,
    )


def _outcome(entry: TomlEntry, text: str) -> str:
    if text.partition("/")[2] in _UNPUBLISHED:
        raise InputError(
            f"{entry.where}: outcome {text!r}: an input that ends so is not published; say in words what crashed, in a "
            "[[crash]] table"
        )
    if text not in _OUTCOMES:
        close = difflib.get_close_matches(text, _OUTCOMES, 1)
        said = f"did you mean {close[0]!r}?" if close else "it is stage/symptom, as `flexconf run` counts them"
        raise InputError(f"{entry.where}: outcome {text!r} is none of a failure; {said}")
    return text


def _repro(entry: TomlEntry) -> Case:
    text = entry.table["repro"]
    if not isinstance(text, str):
        raise InputError(f"{entry.where}: repro must be a text that holds one case")
    cases = catalogue.load_text(text, f"{entry.where}: repro")
    if len(cases) != 1:
        raise InputError(f"{entry.where}: repro must hold one case, not {len(cases)}")
    if cases[0].expect != "ok":
        raise InputError(f"{entry.where}: repro must be a case that ought to pass, not one that expects a refusal")
    return cases[0]
