"""Runs tests in a copy of the project, with and without a change, and says which of them a change made fail.

A test command that cannot run at all must never look like a killed mutant. So the tests have to pass in the unchanged
copy first (`check`), and of pytest's exit codes only 1 is taken for a failure of tests without a second look.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COPIED = ("impl", "conformance", "cases", "docs", "pyproject.toml", "README.md")
SETUP_LIMIT = 600.0  # seconds, for the tests of the unchanged copy


class Unusable(Exception):
    """A file of `--out` is damaged, or tests fail before anything is changed."""


@dataclass(frozen=True)
class PytestEnd:
    """How a test command ended: its exit code, None if it did not end in time; and the last line that it printed."""

    code: int | None
    last: str


def copied(folder: Path) -> Path:
    """Copies the project to `folder`."""
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def environment(copy: Path) -> dict[str, str]:
    """The environment of the tests of a copy. What the caller's PYTHONPATH names is found behind the copy's folders."""
    own = [str(p) for p in (copy / "impl", copy / "conformance", copy / "conformance/suite", HERE)]
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*own, given] if given else own)
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


def run(tests: Sequence[str], limit: float) -> PytestEnd:
    """Runs the tests in the current folder, until one fails or `limit` seconds are over."""
    Path("tests.txt").write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "@tests.txt"]
    said = Path("said.txt")
    with (
        said.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that the tests started
            code = None
    lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
    return PytestEnd(code, lines[-1][-200:] if lines else "")


def check(tests: Sequence[str]) -> str | None:
    """Why mutants cannot be tried here: the tests do not pass in the unchanged copy. Returns None if they do."""
    ended = run(tests, SETUP_LIMIT)
    if ended.code == 0:
        return None
    return f"the tests have to pass before anything is changed; {_described(ended)}"


def outcome(tests: Sequence[str], limit: float) -> str | None:
    """The outcome of the change that is applied now: "killed" if a test fails or never ends, else "survived".

    Returns None if that is not known yet: pytest could not collect the tests (2, 4), or a signal ended it. The change
    may be the cause, a broken import for example, or the machine. Raises Unusable for any other exit code.
    """
    ended = run(tests, limit)
    if ended.code == 0:
        return "survived"
    if ended.code in (None, 1):
        return "killed"
    if ended.code in (2, 4) or (ended.code < 0 and ended.code != -signal.SIGKILL):
        return None
    raise Unusable(f"a mutant cannot be tried; {_described(ended)}")


def _described(ended: PytestEnd) -> str:
    how = "did not end in time" if ended.code is None else f"ended with {ended.code}"
    return f"pytest {how}: {ended.last}"
