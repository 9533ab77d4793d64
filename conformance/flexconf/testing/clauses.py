"""Which tests exercise which clause of `docs/lowering.md`. `flexconf clauses` shows it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexconf.cases.clauses import Clause, load
from flexconf.errors import InputError


@dataclass(frozen=True)
class Citation:
    """One clause, with the tests that cite it by outcome."""

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


def run_suite(arguments: Sequence[str] = ()) -> list[Citation]:
    """Run the suite under pytest. Returns the citations of each clause.

    Raises InputError outside a checkout, where the suite is not installed, and if pytest cannot run the suite.
    """
    suite = Path(__file__).parents[2] / "suite"
    if not suite.is_dir():
        raise InputError("the suite is not installed; run `flexconf clauses` from a checkout, with its `dev` extra")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "clauses.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "flexconf.testing.plugin", str(suite)]
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
    """The citations of each clause from `{clause: {test: outcome}}`. Raises InputError for an unknown clause."""
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
