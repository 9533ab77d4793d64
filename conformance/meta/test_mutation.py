"""Which tests a mutant is tried with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flexflash import prelude

sys.path.insert(0, str(Path(__file__).parents[1] / "mutation"))

import mutating
import selecting
from selecting import Place, Reach

MODULE = "impl/flexflash/m.py"
TEXT = """\
SMALL = 2.0**-126
OTHER = 1


def read(x):
    return x + SMALL


def unread(x):
    return x


@spell("erf.default")
def emit(x):
    return (
        x
    )


@cute.jit
def compiled(x):
    return x


def calls(x):
    return compiled(x)


def long(
    x,
    y=1,
):
    # Says something.
    return x + y
"""
TESTS = ["a.py::f[1]", "a.py::f[2]", "a.py::f[3]", "a.py::g", "a.py::h"]
LINES = {
    **{str(n): TESTS for n in (1, 2, 5, 9, 13, 14, 20, 21, 25, 29)},
    "6": ["a.py::f[1]", "a.py::g"],
    "10": TESTS[:3],
    "15": ["a.py::h"],
    "26": ["a.py::g"],
    "34": ["a.py::f[2]"],
}
REACH = Reach({MODULE: LINES}, dict.fromkeys(TESTS, 1.0), {"a.py::h": ["erf.default", "erf_core"], "a.py::g": ["erfc"]})


def chosen(first: int, last: int = 0, budget: float = 9.0, helpers: frozenset[str] | None = None) -> list[str]:
    found = selecting.tests_for(Place(MODULE, first, last or first, helpers), {MODULE: TEXT}, REACH, budget, "seed")
    return sorted(found)


def test_those_that_reach_the_line_or_its_statement() -> None:
    assert chosen(6) == ["a.py::f[1]", "a.py::g"]
    assert chosen(16) == chosen(15) == ["a.py::h"], "a line within a statement is reached with it"
    assert chosen(22) == ["a.py::f[1]", "a.py::f[2]", "a.py::f[3]", "a.py::g", "a.py::h"], "CuTe compiles it"
    assert chosen(31) == ["a.py::f[2]"], "a default value belongs to who calls the function"
    assert selecting.tests_for(Place(MODULE, 27, 27), {MODULE: TEXT}, REACH, 9.0, "") == []


def test_on_import_those_that_name_what_is_made() -> None:
    assert chosen(1) == ["a.py::f[1]", "a.py::g"], "the constant is read in line 6"
    assert chosen(13) == ["a.py::h"], "the operation is spelt by who renders it"
    assert chosen(2) == sorted(TESTS), "nobody names it: anybody may notice"
    assert chosen(2, helpers=frozenset({"erfc"})) == ["a.py::g"]
    assert chosen(2, helpers=frozenset()) == sorted(TESTS)


def test_the_budget_is_spent_on_every_function_before_any_parameter_is_tried_twice() -> None:
    assert len(chosen(2, budget=3.0)) == 3 and {t.partition("[")[0] for t in chosen(2, budget=3.0)} == {
        "a.py::f", "a.py::g", "a.py::h",
    }  # fmt: skip
    assert len(chosen(10, budget=0.5)) == 1, "one at least"


def test_the_helpers_that_a_change_of_the_prelude_reaches() -> None:
    text = Path(prelude.__file__).read_text()
    assert selecting.changed_helpers(text, text) == frozenset()
    changed = selecting.changed_helpers(text, text.replace("_SMALL32 = (0.12837917", "_SMALL32 = (1.12837917"))
    assert changed == {"erf_core", "erf", "erfc"}
    assert selecting.changed_helpers(text, text.replace("import math", "import moth")) is None


@pytest.mark.parametrize(
    "arguments",
    [["--budget", "nan"], ["--budget", "0"], ["--least", "nan"], ["--least", "1.1"], ["--sample", "0"]],
    ids=" ".join,
)
def test_a_number_that_makes_no_sense(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        mutating.main([*arguments, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--budget is above 0 and finite, --least from 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", '{"lines": {}, "sec'),
        ("map.json", '{"lines": {}, "seconds": {}}'),
        ("map.json", "[]"),
        ("sample.json", '{"size": 300, "seed": 1, "mutants": [{"module": "m.py"}]}'),
        ("sample.json", '{"size": 30, "seed": 1, "mutants": []}'),
        ("results.jsonl", '{"ident": "m.py:1"}\n'),
        ("results.jsonl", '{"ident": "m.p'),
    ],
)
def test_a_broken_file_is_named(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "map.json").write_text('{"lines": {}, "seconds": {}, "uses": {}}')
    (tmp_path / "sample.json").write_text('{"size": 300, "seed": 1, "mutants": []}')
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        mutating.main(["--out", str(tmp_path)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert name in message and "name another --out" in message


def test_where_a_file_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit) as stopped:
        mutating.main(["--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "out") in message and "name a folder for --out" in message
