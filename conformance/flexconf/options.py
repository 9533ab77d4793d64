"""What the command lines' options have in common."""

from __future__ import annotations

import math
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def finite(value: float | None) -> float | None:
    """A number that is one. Some versions of click take "nan" for at least whatever `min` says.

    Raises typer.BadParameter, which names the option.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of anything; give a finite one")
    return value
