"""pytest: the `clause` marker, the report of which clauses were exercised, and a count of skips by reason."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "flexconf-clauses"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flexconf")
    group.addoption("--clause-report", metavar="FILE", help="write {clause: {test: outcome}} as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(*numbers): the clauses of docs/lowering.md that this test exercises")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.pluginmanager.register(_Clauses(config), "flexconf-clauses")


class _Clauses:
    """Collects outcomes. With xdist, the reports of the workers reach the controller's instance."""

    def __init__(self, config: pytest.Config) -> None:
        self.path = config.getoption("--clause-report")
        self.outcomes: dict[str, dict[str, str]] = defaultdict(dict)
        self.skips: Counter[str] = Counter()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, None]:
        outcome = yield
        report = outcome.get_result()
        cited = sorted({number for mark in item.iter_markers("clause") for number in mark.args})
        report.user_properties.append((_PROPERTY, cited))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for name, cited in report.user_properties:
                if name == _PROPERTY and isinstance(cited, (list, tuple)):
                    for number in cited:
                        self.outcomes[str(number)][report.nodeid] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for reason, count in sorted(self.skips.items()):
            terminalreporter.write_line(f"skipped {count}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.path and not hasattr(session.config, "workerinput"):
            whole = Path(f"{self.path}.{os.getpid()}")
            whole.write_text(json.dumps(self.outcomes, indent=1, sort_keys=True))
            whole.replace(self.path)
