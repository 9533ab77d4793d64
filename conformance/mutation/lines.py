"""A pytest plugin that records which lines of impl/flexflash each test reaches, what it renders, and how long it takes.

The environment variable FLEXCONF_MUTATION_MAP names the file that it writes. Code that runs on import counts as reached
by every test.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

_collector = coverage.Coverage(source=["impl/flexflash"], data_file=None)
_seconds: dict[str, float] = defaultdict(float)
_passed: set[str] = set()
_uses: dict[str, set[str]] = defaultdict(set)
_running = [""]


class _Asked(dict[Any, Any]):
    """The table of operations. It records the operations that the running test looks up."""

    def get(self, target: Any, default: Any = None) -> Any:
        _uses[_running[0]].add(str(target).removeprefix("aten."))
        return super().get(target, default)


def pytest_configure(config: pytest.Config) -> None:
    _collector.start()
    from flexflash import prelude
    from flexflash.ops import table

    def render(names: set[str]) -> str:
        _uses[_running[0]] |= names
        return rendered(names)

    rendered, prelude.render = prelude.render, render
    table._TABLE = _Asked(table._TABLE)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, None]:
    _collector.switch_context(item.nodeid)
    _running[0] = item.nodeid
    yield
    _running[0] = ""
    _collector.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _collector.stop()
    if exitstatus:
        return
    data = _collector.get_data()
    lines: dict[str, dict[str, list[str]]] = {}
    root = Path.cwd()
    for name in data.measured_files():
        module = str(Path(name).relative_to(root))
        lines[module] = {}
        for line, contexts in data.contexts_by_lineno(name).items():
            tests = sorted(_passed) if "" in contexts else sorted(set(contexts) & _passed)
            if tests:
                lines[module][str(line)] = tests
    path = Path(os.environ["FLEXCONF_MUTATION_MAP"])
    part = path.with_suffix(".part")
    seconds = {t: round(_seconds[t], 3) for t in sorted(_passed)}
    uses = {t: sorted(_uses[t]) for t in sorted(_passed)}
    part.write_text(json.dumps({"lines": lines, "seconds": seconds, "uses": uses}))
    part.replace(path)
