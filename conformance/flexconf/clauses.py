"""The numbered clauses of `docs/lowering.md`, and which tests exercised them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from flexconf.errors import InputError

_GROUP = re.compile(r"^## (L\d+) (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^- \*\*(L\d+\.\d+)\*\* ((?:\[(?:S|C|X|GPU)\] ?)+)(.*)$")


@dataclass(frozen=True)
class Clause:
    """One clause: its number, kinds (S, C, X, GPU), and text as one line of Markdown."""

    number: str
    kinds: tuple[str, ...]
    text: str

    @property
    def title(self) -> str:
        """The first sentence."""
        return self.text.split(". ")[0].rstrip(".")

    @property
    def gpu_only(self) -> bool:
        """Whether only a GPU can check it."""
        return "GPU" in self.kinds


@dataclass(frozen=True)
class Citation:
    """What the tests say of one clause: the tests that cite it, by outcome."""

    clause: Clause
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """passed, failed, GPU-only, or not cited."""
        if self.failed:
            return "failed"
        if self.passed:
            return "passed"
        return "GPU-only" if self.clause.gpu_only else "not cited"


def groups() -> dict[str, str]:
    """What each group of clauses is about, such as {"L2": "Indexing"}, in order."""
    return {number: title.strip() for number, title in _GROUP.findall(_document().read_text(encoding="utf-8"))}


def load() -> list[Clause]:
    """Every clause, in order. Raises InputError when the document holds none."""
    path = _document()
    clauses: list[Clause] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = _ITEM.match(line)
        if found:
            kinds = tuple(re.findall(r"\[(\w+)\]", found[2]))
            clauses.append(Clause(found[1], kinds, found[3].strip()))
        elif clauses and line.startswith("  ") and line.strip():
            last = clauses[-1]
            clauses[-1] = Clause(last.number, last.kinds, f"{last.text} {line.strip()}")
    if not clauses:
        raise InputError(f"no clauses in {path}; it needs items such as `- **L1.1** [S] Text.`")
    return clauses


def _document() -> Traversable:
    packaged = resources.files("flexconf").joinpath("_docs/lowering.md")
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "docs" / "lowering.md"


def run_suite(arguments: Sequence[str] = ()) -> list[Citation]:
    """Run the suite under pytest and report each clause's citations.

    Raises InputError outside a checkout (the suite is not installed) and when pytest could not run.
    """
    suite = Path(__file__).parents[1] / "suite"
    if not suite.is_dir():
        raise InputError("the suite is not installed; run `flexconf clauses` from a checkout, with its `dev` extra")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "clauses.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "flexconf.pytest_plugin", str(suite)]
        command += [f"--clause-report={report}", *arguments]
        if importlib.util.find_spec("xdist") is not None:
            command += ["-n", "auto"]
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=suite.parents[1], env={**os.environ, "COLUMNS": "120"}
        )
        if not report.exists():
            last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["no output"]
            raise InputError(f"pytest could not run the suite: {last[0]}")
        return cite(json.loads(report.read_text()))


def cite(outcomes: Mapping[str, Mapping[str, str]]) -> list[Citation]:
    """Citations from `{clause: {test: outcome}}`. Raises InputError for a clause that does not exist."""
    clauses = load()
    unknown = sorted(set(outcomes) - {c.number for c in clauses})
    if unknown:
        raise InputError(f"a test cites {unknown[0]}, which docs/lowering.md does not have")
    result = []
    for clause in clauses:
        tests = outcomes.get(clause.number, {})
        by = {o: tuple(sorted(t for t, got in tests.items() if got == o)) for o in ("passed", "failed", "skipped")}
        result.append(Citation(clause, by["passed"], by["failed"], by["skipped"]))
    return result
