"""The pytest plugin: the `clause` marker, the report of exercised clauses, GPU tests, and counts of skips by reason.

GPU tests run their cases in a worker process. Each pytest process has one worker, on a GPU chosen round robin. A case
that breaks the CUDA context affects no other: the worker is replaced. Without a GPU, the tests are skipped and counted.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flexconf import tampering
from flexconf.errors import InputError
from flexconf.machine import caches, devices, files
from flexconf.testing import figures, profiles
from flexconf.workers import pool

if TYPE_CHECKING:
    from flexconf.workers.isolated import Isolated

_PROPERTY = "flexconf-clauses"
_FIGURES = "flexconf-figures"
_AT_A_TIME = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flexconf")
    group.addoption("--clause-report", metavar="FILE", help="write {clause: {test: outcome}} as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(*numbers): the clauses of docs/lowering.md that this test exercises")
    config.addinivalue_line("markers", "gpu(count=1): needs that many CUDA devices")
    config.addinivalue_line("markers", "slow: takes many seconds, and is begun early")
    try:
        profiles.load()
        tampering.revert_from_environment()
    except InputError as error:
        raise pytest.UsageError(str(error)) from None
    _share_the_cores()
    config.pluginmanager.register(_Clauses(config), "flexconf-clauses")
    if hasattr(config, "workerinput"):
        return
    # One set of compile caches for the session: xdist's workers inherit the environment of this process.
    stack = contextlib.ExitStack()
    os.environ.update(stack.enter_context(caches.fresh()))
    stack.callback(os.environ.pop, caches.FOLDER, None)
    config.add_cleanup(stack.close)
    # GPU cases take seconds, others milliseconds. In small chunks, no process gets many of the slow ones at the end.
    if getattr(config.option, "maxschedchunk", 0) is None and devices.count():
        config.option.maxschedchunk = _AT_A_TIME


def _share_the_cores() -> None:
    """Divide the cores among xdist's processes. By default torch starts one thread for each core in every process."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        import torch

        torch.set_num_threads(max(1, pool.default_workers() // processes))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Make `-n auto` start one process for each core that this process may use, not for each core of the machine."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # xdist reads it
    return pool.default_workers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Slow tests and GPU tests first, so that none of them starts last.
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slow", "gpu")])


def pytest_collection_finish() -> None:
    """Exclude torch, the compiler and thousands of collected tests from every later garbage collection."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("gpu")
    if mark is None:
        return
    needed = int(mark.kwargs.get("count", 1))
    if devices.count() == 0:
        pytest.skip(devices.why_none())
    if devices.count() < needed:
        pytest.skip(f"{needed} CUDA devices are needed, there is {devices.count()}")


@pytest.fixture(scope="session")
def gpu() -> Iterator[Isolated]:
    """The worker of this pytest process, on its own GPU."""
    from flexconf.workers.isolated import Isolated

    place = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    with Isolated(int(place) if place.isdecimal() else 0, prepare="reference.fa4") as isolated:
        yield isolated


class _Clauses:
    """Collects the outcomes of tests. With xdist, the reports of all workers reach the controller's instance."""

    def __init__(self, config: pytest.Config) -> None:
        self.path = config.getoption("--clause-report")
        self.outcomes: dict[str, dict[str, str]] = defaultdict(dict)
        self.skips: Counter[str] = Counter()
        self.figures: list[dict[str, Any]] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, None]:
        outcome = yield
        report = outcome.get_result()
        cited = sorted({number for mark in item.iter_markers("clause") for number in mark.args})
        report.user_properties.append((_PROPERTY, cited))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for name, cited in report.user_properties:
                if name == _FIGURES and isinstance(cited, (list, tuple)):
                    self.figures.extend(cited)
                if name == _PROPERTY and isinstance(cited, (list, tuple)):
                    for number in cited:
                        self.outcomes[str(number)][report.nodeid] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in figures.lines(self.figures):
            terminalreporter.write_line(line)
        for reason, count in sorted(self.skips.items()):
            terminalreporter.write_line(f"skipped {count}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.path and not hasattr(session.config, "workerinput"):
            files.write(Path(self.path), json.dumps(self.outcomes, indent=1, sort_keys=True))
