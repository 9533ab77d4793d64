"""Conformance and differential tests for the flex flash lowering, as a library; `flexconf --help` is the command.

The public names, each imported when it is first asked for, since PyTorch and the compilers take seconds:

>>> import flexconf
>>> case = flexconf.Case("half", score_mod="score * 0.5", problem=flexconf.Problem(B=1, H=1, Hkv=1, M=8, N=8, D=16))
>>> flexconf.run_case(case, "reference.host").symptom.value
'ok'

`Case`, `Problem`, `Capture`, `BlockSpec`: what a case is. `load` and `select`: the catalogue. `run_case` runs one case
in this process, `run` many of them in isolated workers. `certify` gives the float64 result and its bounds, and
`compare` holds an output against them. `Outcome` is what comes out. `InputError` is every bad input's exception.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexconf.cases.case import BlockSpec, Capture, Case
    from flexconf.cases.catalogue import load, select
    from flexconf.cases.problem import Problem
    from flexconf.errors import InputError
    from flexconf.runs.run import run
    from flexconf.subjects.trial import certify, run_case
    from flexconf.verdict.compare import compare
    from flexconf.verdict.outcome import Outcome

_WHERE = {
    "BlockSpec": "cases.case",
    "Capture": "cases.case",
    "Case": "cases.case",
    "InputError": "errors",
    "Outcome": "verdict.outcome",
    "Problem": "cases.problem",
    "certify": "subjects.trial",
    "compare": "verdict.compare",
    "load": "cases.catalogue",
    "run": "runs.run",
    "run_case": "subjects.trial",
    "select": "cases.catalogue",
}

__all__ = [
    "BlockSpec", "Capture", "Case", "InputError", "Outcome", "Problem", "certify", "compare", "load", "run", "run_case",
    "select",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_WHERE[name]}"), name)
