"""How much Hypothesis does is a matter of $FLEXCONF_PROFILE."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from flexconf.testing import plugin, profiles


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = settings.default
    yield
    assert before is not None
    settings.register_profile("before", before)
    settings.load_profile("before")


@pytest.mark.parametrize(("name", "same"), [("dev", False), ("ci", True), ("gate", True), ("nightly", False)])
def test_a_profile_is_loaded_by_name(name: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(profiles.VARIABLE, name)
    assert profiles.load() == name
    assert settings.default.max_examples == profiles.EXAMPLES[name]
    assert settings.default.derandomize is same


def test_an_unknown_one_is_a_line_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(profiles.VARIABLE, "weekly")
    config: Any = SimpleNamespace(addinivalue_line=lambda *_: None)
    with pytest.raises(pytest.UsageError, match="'weekly'; the profiles are dev, ci, gate, nightly"):
        plugin.pytest_configure(config)
