"""The files in the folder of a finding, except the case and the facts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flexconf import inputs, tampering
from flexconf import repro as repros
from flexconf.cases.case import Case
from flexconf.machine import environment
from flexconf.subjects import saved, trial
from flexconf.verdict import mismatch
from flexconf.verdict.outcome import Outcome

_REPRO_LIMIT = 300.0


def examine(case: Case, width: int, run: Callable[[Case, int, Path | None], Outcome]) -> tuple[Outcome, dict[str, str]]:
    """Run a failing case once more and keep its result. Returns (outcome, text of each file by name)."""
    with tempfile.TemporaryDirectory(prefix="flexconf-") as folder:
        outcome = run(case, width, Path(folder))
        files = {"environment.json": _environment(width), "kernel.py": _kernel(case)}
        files |= _mismatch(case, outcome, Path(folder), width)
    return outcome, files


def repro(case: Case, width: int, outcome: Outcome, run: bool) -> tuple[str, str]:
    """(text of repro.py, what it showed when it ran).

    The first script has simple inputs. If it runs and does not show the defect, the second has the case's own values.
    Without `run`, the first script is returned and not run.
    """
    said = "not run"
    text = ""
    for exact in (False, True):
        try:
            text = repros.render(case, outcome.subject, outcome, width=width, exact=exact)
        except Exception as error:  # a finding without a repro is better than none
            return f"# No repro: {type(error).__name__}: {error}\nraise SystemExit(2)\n", "could not be written"
        if not run:
            return text, said
        code, said = run_script(text)
        if code != repros.GONE:
            break
    return text, said


def run_script(text: str) -> tuple[int, str]:
    """Run a repro in a process of its own. Returns (exit code, its meaning in words)."""
    with tempfile.TemporaryDirectory(prefix="flexconf-") as folder:
        path = Path(folder) / "repro.py"
        path.write_text(text, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}
        try:
            ran = subprocess.run(
                [sys.executable, str(path)], capture_output=True, text=True, timeout=_REPRO_LIMIT, env=environment
            )
        except subprocess.TimeoutExpired:
            return repros.CANNOT_RUN, f"did not end within {_REPRO_LIMIT:g} s"
    last = (ran.stdout.strip() or ran.stderr.strip()).splitlines()[-1:] or [""]
    meaning = {repros.THERE: "shows the defect", repros.GONE: "does not show it", repros.CANNOT_RUN: "cannot be run"}
    return ran.returncode, f"{meaning.get(ran.returncode, f'exit code {ran.returncode}')}: {last[0][:200]}"


def _environment(width: int) -> str:
    facts = {
        **environment.read().to_json(),
        "vector_width": width,
        "planted": os.environ.get(tampering.ENVIRONMENT) or None,
    }
    return json.dumps(facts, indent=2) + "\n"


def _kernel(case: Case) -> str:
    """The kernel that the reference lowering renders. Rendering compiles nothing, so this process can do it."""
    import flexflash

    try:
        given = inputs.materialize(case)
        kernel = flexflash.lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale)
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return f"# The reference lowering renders nothing: {said}\n"
    return f"# What the reference lowering renders for this case.\n{kernel.text}"


def _mismatch(case: Case, outcome: Outcome, folder: Path, width: int) -> dict[str, str]:
    facts = {"outcome": outcome.to_json(), "counts": {}, "worst": []}
    picture = f"nothing was compared: {outcome.stage}/{outcome.symptom}: {outcome.message}\n"
    if saved.path(folder, case.name, outcome.subject).is_file():
        observed = saved.load(folder, case.name, outcome.subject)
        if "out" in observed:
            try:
                certified = trial.certify(inputs.materialize(case), trial.Options(vector_width=width))
                found = mismatch.of(observed, certified)
            except Exception as error:  # if the oracle itself fails, the finding is about the oracle and must be kept
                return {"mismatch.json": json.dumps(facts, indent=1) + "\n", "mismatch.txt": _no_map(error)}
            facts, picture = {**facts, **found.to_json()}, found.picture
    return {"mismatch.json": json.dumps(facts, indent=1) + "\n", "mismatch.txt": picture}


def _no_map(error: Exception) -> str:
    return f"no map: the oracle failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}\n"
