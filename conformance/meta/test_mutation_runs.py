"""How the tests of a mutant are run, and which of their ends count as a kill."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "mutation"))

import mutating
import running
from mutating import Mutant
from running import Unusable
from selecting import Reach

TEST = """\
import os, pytest, signal, time
import code_under_test


def test_right():
    assert code_under_test.ONE == 1


def test_wrong():
    assert code_under_test.ONE == 2


def test_endless():
    time.sleep(30)


def test_out_of_memory():
    os.kill(os.getpid(), signal.SIGKILL)


def test_crash():
    os.kill(os.getpid(), signal.SIGTERM)


def test_stops():
    pytest.exit("no more", returncode=5)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one module and tests of it, as the current folder."""
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "code_under_test.py").write_text("ONE = 1\n")
    (tmp_path / "test_it.py").write_text(TEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


def test_the_callers_python_path_stays_behind_the_copys_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where packages are reached by it, no test can be imported without it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/packages", "/more"]))
    path = running.environment(tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert path[-2:] == ["/packages", "/more"]
    assert path[:3] == [str(tmp_path / part) for part in ("impl", "conformance", "conformance/suite")]
    monkeypatch.setenv("PYTHONPATH", "")
    assert "" not in running.environment(tmp_path)["PYTHONPATH"].split(os.pathsep), "it would be the current folder"


@pytest.mark.parametrize(("name", "found"), [("right", "survived"), ("wrong", "killed"), ("crash", None)])
def test_the_end_of_the_tests_is_the_outcome(name: str, found: str | None, project: Path) -> None:
    assert running.outcome([f"test_it.py::test_{name}"], 60) == found


def test_tests_that_never_end_are_a_kill(project: Path) -> None:
    assert running.outcome(["test_it.py::test_endless"], 3) == "killed"


@pytest.mark.parametrize(
    ("name", "message"), [("stops", "ended with 5: .*no more"), ("out_of_memory", "ended with -9: ")]
)
def test_tests_that_cannot_run_are_no_kill(name: str, message: str, project: Path) -> None:
    with pytest.raises(Unusable, match=f"a mutant cannot be tried; pytest {message}"):
        running.outcome([f"test_it.py::test_{name}"], 60)


@pytest.mark.parametrize("code", [3, 5, 17])
def test_no_other_exit_code_is_a_kill(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run", lambda tests, limit: running.PytestEnd(code, "said"))
    with pytest.raises(Unusable, match=f"ended with {code}: said"):
        running.outcome(["t"], 1)


def test_a_broken_import_is_not_known_to_be_the_mutants_yet(project: Path) -> None:
    (project / "code_under_test.py").write_text("ONE = 1 / 0\n")
    assert running.outcome(["test_it.py"], 60) is None
    assert running.outcome(["test_it.py::test_right"], 60) is None


def test_an_unchanged_copy_is_right_or_says_what_is_wrong(project: Path) -> None:
    assert running.check(["test_it.py::test_right"]) is None
    said = running.check(["test_it.py::test_wrong"])
    assert said is not None and said.startswith(
        "the tests have to pass before anything is changed; pytest ended with 1"
    )
    assert "\n" not in said


def _mutant(module: str = "code_under_test.py") -> Mutant:
    return Mutant(module, "core/NumberReplacer", 0, (1, 6), (1, 7), "", {})


def test_a_change_that_breaks_an_import_is_a_kill_if_the_tests_run_without_it(project: Path) -> None:
    pytest.importorskip("cosmic_ray", reason="cosmic-ray makes the change; it is installed for mutation testing alone")
    text = "ONE = 1\nassert ONE == 1\n"
    (project / "code_under_test.py").write_text(text)
    tried = mutating._try(_mutant(), ["test_it.py::test_right"], 1.0)
    assert tried.outcome == "killed"
    assert "\n-ONE = 1\n" in tried.diff
    assert (project / "code_under_test.py").read_text() == text, "and the change is undone"
    with pytest.raises(Unusable, match=r"code_under_test\.py:1:6:.* ended with 4: "):
        mutating._try(_mutant(), ["test_it.py::test_that_is_not_there"], 1.0)


def test_the_first_tests_are_the_quickest_of_each_file() -> None:
    tests = ["a.py::slow", "a.py::quick", "b.py::only"]
    reach = Reach({}, dict(zip(tests, (3.0, 1.0, 2.0), strict=True)))
    assert mutating.quickest(reach, tests) == ["a.py::quick", "b.py::only"]


def test_where_the_unchanged_copy_fails_no_mutant_is_tried(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is not there ends pytest as a broken machine does: 300 of 300 were once "killed" so."""
    module, test = "impl/flexflash/numbers.py", "conformance/suite/test_numbers.py::test_that_is_not_there"
    (tmp_path / "map.json").write_text(
        json.dumps({"lines": {module: {"11": [test]}}, "seconds": {test: 1.0}, "uses": {}})
    )
    mutants = [asdict(Mutant(module, "core/NumberReplacer", n, (11, 19), (11, 20), "", {})) for n in range(3)]
    (tmp_path / "sample.json").write_text(json.dumps({"size": 3, "seed": 1, "mutants": mutants}))
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    with pytest.raises(SystemExit) as stopped:
        mutating.main(["--sample", "3", "--workers", "1", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if ": error: " in line]
    assert "the tests have to pass before anything is changed; pytest ended with 4: " in error
    assert mutating.results(tmp_path) == []
    assert [*(tmp_path / "copies").iterdir()] == [], "no copy of the project stays"
