"""Selects the tests for a mutant: tests of every kind that reach the changed code, the most specific ones first.

Every test reaches the code that runs on import, so reaching it says nothing. For such code, a test is selected by the
prelude's functions and the PyTorch operations that it renders, and by the functions that read a constant.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

PRELUDE = "impl/flexflash/prelude.py"
_MOST = 400
"""The most tests for one mutant."""


@dataclass(frozen=True)
class Reach:
    """What the tests reach: `lines` {module: {line: tests}}, `seconds` {test: duration}, `uses` {test: names}.

    `uses` names the prelude's functions ("erf_core") and the operations ("erf.default") that a test renders.
    """

    lines: Mapping[str, Mapping[str, Sequence[str]]]
    seconds: Mapping[str, float]
    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def breadth(self) -> Counter[str]:
        """The number of lines that each test reaches."""
        return Counter(t for module in self.lines.values() for tests in module.values() for t in tests)

    def of_lines(self, module: str, numbers: Iterable[int]) -> set[str]:
        """The tests that reach any of these lines."""
        known = self.lines.get(module, {})
        return {t for number in numbers for t in known.get(str(number), ())}

    def of_names(self, names: set[str]) -> set[str]:
        """The tests that use any of these names."""
        return {test for test, used in self.uses.items() if not names.isdisjoint(used)}


@dataclass(frozen=True)
class Place:
    """The place of a mutant: module, lines, and the prelude's functions that it changes (None if unknown)."""

    module: str
    first: int
    last: int
    helpers: frozenset[str] | None = None


def tests_for(place: Place, sources: Mapping[str, str], reach: Reach, budget: float, seed: str) -> list[str]:
    """The tests to try, the shortest first. Their durations add up to at most `budget` seconds.

    If any test reaches the place, at least one is returned, whatever its duration. `sources` are the texts of all
    modules. `seed` orders tests that are equally specific.
    """
    tests = reach.of_lines(place.module, range(place.first, place.last + 1))
    if not tests:
        tests = reach.of_lines(place.module, _statement(sources[place.module], place.first))
    if not tests and _is_compiled(sources[place.module], place.first):
        # CuTe runs a text that it makes from the function. coverage.py sees no line of the function, only its callers.
        reached = reach.lines.get(place.module, {}).values()
        tests = {t for each in reached if len(each) < len(reach.seconds) for t in each}
    if len(tests) == len(reach.seconds):
        tests = _of_import(place, sources, reach) or tests
    return _within(_in_turn(tests, reach, seed), reach.seconds, budget)


def _of_import(place: Place, sources: Mapping[str, str], reach: Reach) -> set[str]:
    """The tests that depend on a statement that runs on import, judged by names."""
    if place.helpers is not None:
        return reach.of_names(set(place.helpers))
    statement = _enclosing(sources[place.module], place.first)
    if statement is None:
        return set()
    words = {
        w
        for n in ast.walk(statement)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
        for w in n.value.split()
    }
    found = reach.of_names(words)
    for name in _assigned(statement):
        for module, text in sources.items():
            found |= reach.of_lines(module, _lines_naming(text, name))
    return found if len(found) < len(reach.seconds) else set()


def _assigned(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def _lines_naming(text: str, name: str) -> list[int]:
    """The lines inside functions that use `name`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            inside = (n for statement in node.body for n in ast.walk(statement))
            found += [n.lineno for n in inside if isinstance(n, ast.Name) and n.id == name]
    return found


def _enclosing(text: str, line: int) -> ast.stmt | None:
    """The top-level statement that a line belongs to. Returns None if there is none."""
    for node in ast.parse(text).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if first <= line <= (node.end_lineno or first):
            return node
    return None


def _statement(text: str, line: int) -> Sequence[int]:
    """The first line of the innermost statement at `line`. A test that reaches this line reaches the whole statement.

    For the head of a function, returns the lines of its body: each caller of the function uses its default values.
    """
    best: ast.stmt | None = None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            best = node  # ast.walk visits inner statements later
    if best is None:
        return [line]
    if isinstance(best, ast.FunctionDef):
        return range(best.body[0].lineno, (best.end_lineno or best.lineno) + 1)
    return [best.lineno]


def _is_compiled(text: str, line: int) -> bool:
    """Whether `line` is in a function that CuTe compiles."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            return any("cute." in ast.unparse(d) for d in node.decorator_list)
    return False


def _in_turn(tests: set[str], reach: Reach, seed: str) -> list[str]:
    """One test of each test function in turn, so that a function with many parameters does not crowd out the others."""
    functions: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda t: random.Random(t + seed).random()):
        functions[re.sub(r"\[.*", "", test, flags=re.DOTALL)].append(test)
    narrow = {name: min(reach.breadth[t] for t in group) for name, group in functions.items()}
    groups = sorted(functions, key=lambda name: (narrow[name], name))
    longest = max(map(len, functions.values()), default=0)
    return [functions[name][n] for n in range(longest) for name in groups if n < len(functions[name])]


def _within(order: Sequence[str], seconds: Mapping[str, float], budget: float) -> list[str]:
    chosen: list[str] = []
    spent = 0.0
    for test in order:
        if chosen and spent + seconds[test] > budget:
            continue
        chosen.append(test)
        spent += seconds[test]
        if len(chosen) >= _MOST:
            break
    return sorted(chosen, key=lambda t: seconds[t])


def changed_helpers(before: str, after: str) -> frozenset[str] | None:
    """The prelude's functions whose text, or the text of a function they call, differs. None if a text fails to run.

    `before` and `after` are texts of the prelude. The project wrote `before`; in `after`, cosmic-ray changed one place.
    """
    old, new = _helpers(before), _helpers(after)
    if old is None or new is None:
        return None
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    return frozenset(changed)


def _helpers(text: str) -> dict[str, str] | None:
    """{prelude function: its rendered text}. Returns None if `text` fails to run."""
    space: dict[str, Any] = {"__name__": "flexflash.prelude"}
    try:
        exec(compile(text, PRELUDE, "exec"), space)
        render: Callable[[set[str]], str] = space["render"]
        return {name: render({name}) for name in space["SOURCES"]}
    except Exception:  # whatever the change broke, any test notices it
        return None
