"""How every case of the catalogue ended in a release of torch, kept as a file beside the catalogue.

A file `cases/releases/<subject>-<version>.json` is written from the results of one run: `flexconf releases --record`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import Version

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import environment, files
from flexconf.runs import expectations
from flexconf.verdict.outcome import Outcome, Symptom

_FORMAT = 1


@dataclass(frozen=True)
class RecordedRun:
    """The outcomes of one run of the catalogue.

    `outcomes` are pairs (the digest of the case, "stage/symptom") by the name of the case. `packages` are the versions
    that decide what the subject does.
    """

    subject: str
    packages: Mapping[str, str]
    outcomes: Mapping[str, tuple[str, str]]

    @property
    def torch(self) -> str:
        """The version of torch, without its build."""
        return Version(self.packages["torch"]).base_version

    @property
    def release(self) -> str:
        """The release of torch, such as "2.13"."""
        return ".".join(self.torch.split(".")[:2])

    def of(self, cases: Iterable[Case]) -> dict[str, str]:
        """ "stage/symptom" by name, of those `cases` that were run as they are today."""
        found = {}
        for case in cases:
            digest, outcome = self.outcomes.get(case.name, ("", ""))
            if digest == case.digest():
                found[case.name] = outcome
        return found

    def failing(self, cases: Iterable[Case]) -> dict[str, str]:
        """ "stage/symptom" by name, of those of `of` that did not come out right."""
        return {name: outcome for name, outcome in self.of(cases).items() if not is_right(outcome)}


def is_right(outcome: str) -> bool:
    """Whether "stage/symptom" is the end of a case that came out right."""
    return outcome.endswith(f"/{Symptom.OK}")


def blamed(subject: str, case: Case, outcome: str) -> tuple[str, ...]:
    """The clauses that `case` breaks where it ends with `outcome`.

    They are those that the known defects of `subject` cite which claim the case and describe the outcome, of whatever
    release, or else all that the case cites; but not those that the outcome keeps, as `breaks` tells.
    """
    known = [e for e in expectations.load(subject) if e.claims(case.name) and outcome in e.outcomes]
    cited = tuple(dict.fromkeys(number for e in known for number in e.clauses))
    return tuple(number for number in cited or case.clauses if breaks(number, outcome))


def breaks(clause: str, outcome: str) -> bool:
    """Whether "stage/symptom" may break a clause that is cited for it. A refusal keeps L7.7, which asks for one."""
    return clause != "L7.7" or not outcome.endswith(f"/{Symptom.REFUSED}")


def folder() -> Path:
    """The folder of the recordings."""
    return catalogue.folder() / "releases"


@cache
def load() -> tuple[RecordedRun, ...]:
    """All recordings, by release and subject. Raises InputError if a file cannot be read or is none."""
    found = [_read(path) for path in sorted(folder().glob("*.json"))]
    return tuple(sorted(found, key=lambda r: (Version(r.torch), r.subject)))


def record(results: Path) -> Path:
    """Keeps the outcomes of `results`, which `flexconf run --results` wrote in this environment. Returns the new file.

    Raises InputError if the file cannot be read, or if it holds outcomes of several subjects, of cases that are not in
    the catalogue, or of none of its cases.
    """
    known = {case.name: case for case in catalogue.load()}
    try:
        lines = results.read_bytes()
    except OSError as error:
        raise InputError(f"{results}: cannot be read: {error.strerror}") from None
    outcomes = [Outcome.from_json(line) for _, line in files.records(lines, results)]
    names = {outcome.subject for outcome in outcomes}
    if len(names) != 1:
        raise InputError(f"{results}: outcomes of {', '.join(sorted(names)) or 'no subject'}; one run has one subject")
    subject = subjects.get(names.pop())
    strange = [o.case for o in outcomes if o.case not in known or known[o.case].digest() != o.case_digest]
    if strange:
        raise InputError(f"{results}: {strange[0]!r} is no case of the catalogue as it is; run the catalogue again")
    versions = environment.read().packages
    data = {
        "format": _FORMAT,
        "subject": subject.name,
        "packages": {name: versions[name] for name in subject.packages},
        "outcomes": {o.case: [o.case_digest, f"{o.stage}/{o.symptom}"] for o in outcomes},
    }
    version = Version(str(data["packages"]["torch"])).base_version  # type: ignore[index]
    path = folder() / f"{subject.name}-{version}.json"
    text = json.dumps(data, indent=1, allow_nan=False)
    try:
        # One line a case.
        files.write(path, text.replace("[\n   ", "[").replace('",\n   "', '", "').replace('"\n  ]', '"]') + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    load.cache_clear()
    return path


def _read(path: Path) -> RecordedRun:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        outcomes = {case: (str(digest), str(outcome)) for case, (digest, outcome) in data["outcomes"].items()}
        found = RecordedRun(str(data["subject"]), dict(data["packages"]), outcomes)
        if data["format"] != _FORMAT or path.name != f"{found.subject}-{found.torch}.json":
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no recording of outcomes; `flexconf releases --record` writes one") from error
