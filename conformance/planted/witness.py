"""Short ways to write the minimal cases that show a fault."""

from __future__ import annotations

from typing import Any

from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem

SMALL = Problem(B=1, H=1, Hkv=1, M=4, N=5, D=8, Dv=8)


def problem(**sizes: Any) -> Problem:
    """The problem `SMALL` with some of its fields replaced."""
    return Problem(**{**vars(SMALL), **sizes})


def score(text: str, *captures: Capture, at: Problem = SMALL, **more: Any) -> Case:
    """A case with a score_mod."""
    return Case("witness", score_mod=text, captures=captures, problem=at, **more)


def mask(text: str, *captures: Capture, at: Problem = SMALL, block: BlockSpec | None = None, **more: Any) -> Case:
    """A case with a mask_mod. By default one block covers the problem `SMALL`."""
    return Case("witness", mask_mod=text, captures=captures, problem=at, block=block or BlockSpec(q=8, kv=8), **more)


def plain(at: Problem, **more: Any) -> Case:
    """A case without mods."""
    return Case("witness", problem=at, **more)
