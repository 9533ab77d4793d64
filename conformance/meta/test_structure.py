"""The pages name files, functions and releases that exist; no class name has two meanings."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "structure.md"
HEADING = "Where is it decided?"
LEAST = 25
"""Questions that the table must answer."""

_LINK = re.compile(r"\[`([^`]+)`\]\(([^)]+)\)")
_CODE = re.compile(r"\[`[^`]+`\]\([^)]+\)|`[^`]+`")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _answers() -> dict[str, str]:
    """The table's second column by its first: {question: place}."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"## {HEADING}\n")
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {row[0].strip(): row[1].strip() for row in rows if row[0].strip() != "question"}


@cache
def _definitions(path: Path) -> frozenset[str]:
    """The functions, classes, methods, fields and module constants that a module defines, such as `Case.digest`."""
    found: set[str] = set()

    def read(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                found.add(prefix + node.name)
            elif isinstance(node, ast.ClassDef):
                found.add(prefix + node.name)
                read(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    read(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


def _problems(question: str, place: str) -> list[str]:
    """What is wrong with one answer. A name belongs to the last file that is named before it."""
    found: list[str] = []
    file: Path | None = None
    for code in _CODE.findall(place):
        if link := _LINK.fullmatch(code):
            file = (PAGE.parent / link[2]).resolve()
            if not file.is_file():
                found.append(f"{question} {link[2]} does not exist")
                file = None
            elif not file.as_posix().endswith(link[1]):
                found.append(f"{question} the link to {link[2]} is called {link[1]}")
        elif (text := code.strip("`")) and (ROOT / text).exists():
            continue
        elif not _NAME.fullmatch(text):
            found.append(f"{question} {text} is neither a path of the project nor a name")
        elif file is None:
            found.append(f"{question} no file is named before {text}")
        elif text not in _definitions(file):
            found.append(f"{question} {file.name} does not define {text}")
    return found if _CODE.search(place) else [f"{question} names no place"]


def test_every_file_and_name_of_the_table_exists() -> None:
    answers = _answers()
    assert len(answers) >= LEAST
    assert [line for question, place in answers.items() for line in _problems(question, place)] == []


def test_a_name_that_is_gone_is_noticed() -> None:
    link = "[`verdict/compare.py`](../conformance/flexconf/verdict/compare.py)"
    assert _problems("Q?", f"{link} `compare`, `Comparison.to_json`, `BASES`; `cases/mustpass.txt`") == []
    assert _problems("Q?", f"{link} `gone`") == ["Q? compare.py does not define gone"]
    assert _problems("Q?", f"{link} `Comparison.gone`") == ["Q? compare.py does not define Comparison.gone"]
    assert _problems("Q?", "`compare`") == ["Q? no file is named before compare"]
    assert _problems("Q?", "`cases/gone.txt`") == ["Q? cases/gone.txt is neither a path of the project nor a name"]
    assert _problems("Q?", "[`gone.py`](../gone.py)") == ["Q? ../gone.py does not exist"]
    assert _problems("Q?", link.replace("[`verdict", "[`gate")) == [
        "Q? the link to ../conformance/flexconf/verdict/compare.py is called gate/compare.py"
    ]
    assert _problems("Q?", "somewhere") == ["Q? names no place"]


def test_the_readme_leads_there_first() -> None:
    _, _, then = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where to go next\n\n")
    assert then.startswith("- [Where is ... decided?](docs/structure.md#where-is-it-decided)")


def test_the_changes_begin_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    released = re.findall(r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == version


def test_no_class_name_has_two_meanings() -> None:
    """`flexflash.InputError` is a lowering's refusal, `flexconf.errors.InputError` the harness's error line."""
    places: dict[str, list[str]] = {}
    for room in ("impl", "conformance"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 100, "classes read"
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert [*twice] == ["InputError"], twice
