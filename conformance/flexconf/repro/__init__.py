"""Renders a finding as a standalone script, ready to be pasted into an issue.

If possible, the script needs only torch and the library at fault. It then computes the float64 reference itself, one
score at a time, from the same source of the mods, and compares with a bound from the oracle. Otherwise it runs the case
through this project. It exits with 1 while the defect is there, 0 when it is gone, 2 when it cannot run.
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
"""The templates by subject. For any other subject, the script runs the case through this project."""


def render(case: Case, subject: str, outcome: Outcome, *, width: int | None = None, exact: bool = False) -> str:
    """The text of a script that shows the failure `outcome` of `case` on `subject`.

    With `exact`, the tensors hold the case's own values. Otherwise large tensors hold values in the same range that
    short arithmetic makes. `width` is the vector width, for subjects that can be given one. Raises InputError if the
    inputs of the case cannot be made.
    """
    return TEMPLATES.get(subject, reference.project)(case, subject, outcome, width, exact)
