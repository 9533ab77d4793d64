"""The recorded outcome of every case on the subjects that need no GPU. `python conformance/meta/outcomes.py` records.

Some of these subjects take minutes for the catalogue. So the tests run only new and changed cases. For the other cases
they read the outcome that a run of the whole catalogue had, with the versions that the file names. reference.host is
not recorded: the suite runs every case on it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / "impl"), str(ROOT / "conformance")]

import typer
from packaging.version import Version

from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cli.options import enter
from flexconf.errors import InputError
from flexconf.machine import environment, files
from flexconf.runs import expectations, review, run
from flexconf.runs.judging import Result
from flexconf.verdict.outcome import Outcome, Stage, Symptom

FOLDER = Path(__file__).parent / "data" / "outcomes"
SUBJECTS = tuple(s.name for s in subjects.SUBJECTS.values() if not s.needs_gpu and s.name != "reference.host")
AGAIN = "python conformance/meta/outcomes.py"


@dataclass(frozen=True)
class Recorded:
    """A file's content: the packages' versions, and for each case its `key`, "stage/symptom" and compared elements."""

    versions: Mapping[str, str]
    cases: Mapping[str, tuple[str, str, int]]

    def holds(self, case: Case, subject: str) -> bool:
        """Whether the file has an outcome for this case, unchanged."""
        return case.name in self.cases and self.cases[case.name][0] == key(case, subject)

    def outcome(self, case: Case, subject: str) -> Outcome:
        """The recorded outcome of a case for which `holds` is true."""
        _, ended, elements = self.cases[case.name]
        stage, _, symptom = ended.partition("/")
        compared = {"elements": elements, "excluded_elements": 0, "empty": not elements} if symptom == "ok" else None
        said = f"as recorded; `flexconf run {case.name} --subject {subject}` shows it"
        return Outcome(case.name, case.digest(), subject, Stage(stage), Symptom(symptom), said, compared)


def key(case: Case, subject: str) -> str:
    """Identifies the case and, for reference subjects, its rendered text. Only versions also influence the outcome."""
    rendered = _rendered(case) if subjects.get(subject).is_reference else ""
    return hashlib.sha256(f"{case.digest()}\n{rendered}".encode()).hexdigest()[:16]


def asked() -> list[Case]:
    """The cases that must pass. The reference refuses the other cases before the subjects' layers differ."""
    return [case for case in catalogue.load() if case.expect == "ok"]


def read(subject: str) -> Recorded:
    """The recorded outcomes of `subject`. Raises InputError for a file that is absent or incomplete."""
    path = FOLDER / f"{subject}.txt"
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        count, *versions = head.removeprefix("# ").split(", ")
        fields = [line.split() for line in lines]
        cases = {name: (its_key, ended, int(elements)) for name, its_key, ended, elements in fields}
        found = Recorded(dict(v.split() for v in versions), cases)  # type: ignore[arg-type, misc]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; `{AGAIN}` writes it") from None
    if count != f"{len(cases)} cases":
        raise InputError(f"{path}: it says {count} and holds {len(cases)}; `{AGAIN}` writes it")
    return found


def versions(subject: str) -> dict[str, str]:
    """The public versions, on this machine, of the packages that `subject` depends on."""
    here = environment.read().packages
    found = {name: here.get(name) for name in subjects.get(subject).packages}
    return {name: Version(version).public for name, version in found.items() if version is not None}


def unexplained(results: Sequence[Result], subject: str) -> list[str]:
    """A line for each result that is neither right nor a known defect, and for each known defect that did not occur."""
    file = f"cases/expectations/{subject}.toml"
    then = "mend it, or" if subjects.get(subject).is_reference else "find its cause, and"
    wrong = [
        f"{r.case.name} on {subject}: {r.why}; {then} state it with a repro in {file} (docs/expectations.md)"
        for r in results
        if not r.passed
    ]
    names = [case.name for case in catalogue.load()]
    return wrong + review.review(expectations.in_force(subject), results, names).lines


def write(subject: str) -> list[str]:
    """Runs the whole catalogue on `subject` and writes its file. Returns the lines of `unexplained`."""
    results: list[Result] = []
    cases = asked()
    run.run(cases, subject=subject, expectations=expectations.in_force(subject), on_result=results.append)
    by_name = {r.case.name: r for r in results}
    head = ", ".join([f"# {len(cases)} cases", *(f"{n} {v}" for n, v in versions(subject).items())])
    FOLDER.mkdir(parents=True, exist_ok=True)
    files.write(
        FOLDER / f"{subject}.txt", "".join(f"{x}\n" for x in [head, *(_line(by_name[c.name], subject) for c in cases)])
    )
    return unexplained(results, subject)


def _line(result: Result, subject: str) -> str:
    o = result.outcome
    elements = (o.comparison or {}).get("elements", 0)
    return f"{result.case.name} {key(result.case, subject)} {o.stage}/{o.symptom} {elements}"


def _rendered(case: Case) -> str:
    import flexflash

    given = inputs.materialize(case)
    try:
        return flexflash.lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale).text
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def record(names: Annotated[list[str] | None, typer.Argument(help="Subjects; by default all.")] = None) -> None:
    """Run the catalogue on subjects that need no GPU, and record the outcomes. Exit code 1 for unexplained outcomes."""
    for name in names or SUBJECTS:
        if name not in SUBJECTS:
            raise InputError(f"nothing is recorded of {name!r}, but of {', '.join(SUBJECTS)}")
    lines = [line for name in names or SUBJECTS for line in write(name)]
    print("\n".join(lines))
    raise SystemExit(int(bool(lines)))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(record)
    enter(app, AGAIN)
