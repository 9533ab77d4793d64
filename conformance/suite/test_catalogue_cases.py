"""The whole catalogue on the reference lowering: every case, certified per element. The same as `flexconf run`."""

from __future__ import annotations

import pytest

from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.runs.judging import judge
from flexconf.subjects import trial


def _cases() -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.clause(*case.clauses)] if case.clauses else [])
        for case in catalogue.load()
    ]


@pytest.mark.parametrize("case", _cases())
def test_case(case: Case) -> None:
    result = judge(case, trial.run_case(case))
    assert result.passed, result.why
