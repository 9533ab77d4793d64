"""A finding as a standalone script: only torch and the library at fault, ready to be pasted into an issue.

The script computes float64 attention itself, one score at a time, with the same source of the mods, and compares with
a bound that the oracle gave. It exits 1 while the defect is there, 0 when it is gone, 2 when it cannot be run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flexconf.cases.case import Case
from flexconf.repro import production, reference
from flexconf.verdict.outcome import Outcome

__all__ = ["CANNOT_RUN", "GONE", "THERE", "render"]

THERE, GONE, CANNOT_RUN = 1, 0, 2

Template = Callable[[Case, str, Outcome, "int | None", bool], str]

TEMPLATES: Mapping[str, Template] = {
    "torch-flash": production.flash,
    "torch-triton": production.triton,
    "torch-eager": production.eager,
    "torch-codegen": production.codegen,
    "reference.fa4": reference.fa4,
}
"""By subject; for any other the script runs the case through the project."""


def render(case: Case, subject: str, outcome: Outcome, *, width: int | None = None, exact: bool = False) -> str:
    """The text of the script for what `outcome` says of `case` on `subject`.

    With `exact`, tensors hold the case's own values; otherwise values of simple arithmetic in the same range take their
    place where those are many. `width` is the vector width of a subject that can be told. Raises InputError.
    """
    return TEMPLATES.get(subject, reference.project)(case, subject, outcome, width, exact)
