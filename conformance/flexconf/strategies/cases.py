"""Draws whole cases."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flexconf.cases.case import Case, used
from flexconf.language.modtext.syntax import LIMITS
from flexconf.strategies import expressions, foci, masks, problems
from flexconf.strategies import features as switches
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.features import Features
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term, result_dtype, written

if TYPE_CHECKING:
    from flexconf.subjects import Subject

_DEPTHS = (1, 2, 3, 4)  # of a score_mod's expressions; those of a mask_mod are in `masks`
_FAR = (("-300.0",), ("200.0",))  # offsets of a whole row from 0: without subtracting its maximum, the softmax fails
# If the scores of a row are far apart, the result depends on the largest only, and faults in the others stay unseen.
_FACTORS = (None, 0.0625, 0.015625, 0.0625)
_ROWS = ("q & 2 == 2", "q >= 0", "(q < 2) & (kv & 1 == 0)")  # the scores that become _LOWEST: whole rows or parts
_LOWEST = -(2.0**127) * 1.75  # float32 holds it, but not its product with log2(e)
_KINDS = (*[None] * 5, *["focus"] * 28, "far")
_LONG = 700  # characters of a score_mod above which no terms of one operation each are added


def vector_widths() -> SearchStrategy[int]:
    """The vector widths: keys that a mod processes at once."""
    return st.sampled_from((1, 2, 4, 8))


def narrow_widths() -> SearchStrategy[int]:
    """The vector widths that flash-attn-4 takes on compute capability 9.x."""
    return st.sampled_from((1, 2))


def for_subject(subject: Subject) -> tuple[SearchStrategy[Case], SearchStrategy[int]]:
    """The strategies of cases and of vector widths with which fuzzing tests `subject`."""
    return tiled_cases() if subject.tiled else cases(), narrow_widths() if subject.narrow else vector_widths()


def tiled_cases() -> SearchStrategy[Case]:
    """Cases that flash-attn-4 supports.

    Their blocks are parts of its tile of 128 queries by 128 keys, or are several tiles high. Dv is at most twice D.
    """
    return cases(queries=(128, 64, 256), keys=(128, 64, 32, 16)).map(_narrowed)


def _narrowed(case: Case) -> Case:
    problem = case.problem
    if problem.Dv <= 2 * problem.D:
        return case
    return _named(case.replace(problem=dataclasses.replace(problem, Dv=2 * problem.D)))


@st.composite
def cases(
    draw: Draw,
    features: Features | None = None,
    queries: Sequence[int] = masks.BLOCKS,
    keys: Sequence[int] = masks.BLOCKS,
) -> Case:
    """A legal case with the given features, or with a random subset of all features (swarm testing).

    `queries` and `keys` are the sizes that its blocks may have. Its name is "fuzz-" and the first twelve digits of its
    digest.
    """
    f = features if features is not None else draw(switches.features())
    problem = problems.problem(draw, f)
    scope = Scope(f, problem, "score")
    bare = draw(st.integers(0, 9)) > (6 if f.mask else 8)
    score = _score(draw, scope) if not bare else None
    around = Scope(f, problem, "mask", scope.captures, scope.values)
    mask = written(masks.mask(draw, around)) if f.mask else None
    # Texts that read an operand twice at every level can exceed the limits of a mod.
    assume(all(_within_limits(text) for text in (score, mask) if text is not None))
    block = masks.block(draw, around, mask, queries, keys)
    case = Case(
        "fuzz",
        score_mod=score,
        mask_mod=mask,
        captures=used(scope.captures, score, mask),
        problem=problem,
        block=block,
        seed=draw(st.integers(0, 3)),
    )
    return _named(case)


def _within_limits(text: str) -> bool:
    nodes = sum(isinstance(node, ast.expr | ast.stmt) for node in ast.walk(ast.parse(text)))
    return len(text) <= LIMITS.characters and nodes <= LIMITS.nodes


def _named(case: Case) -> Case:
    return case.replace(name=f"fuzz-{case.replace(name='fuzz').digest()[:12]}")


def _score(draw: Draw, scope: Scope) -> str:
    """The text of a score_mod, whose value is a float."""
    depth = one(draw, _DEPTHS)
    lines = []
    if draw(st.booleans()) and scope.features.variables:
        given = expressions.term(draw, scope, depth)
        lines.append(f"x = {given.text}")
        scope.variables.append(Term("x", given.dtype, given.lo, given.hi, given.special))
    found = expressions.moderate(draw, expressions.term(draw, scope, depth))
    if lines and not re.search(r"\bx\b", found.text):
        found = _sum(Term("x", *_described(scope.variables[0])), found)
    text = _as_score(draw, found)
    far = ""
    while len(text) < _LONG and (part := draw(_foci(scope))) is not None:
        if part in _FAR:
            far += f" + {part[0]}"
        else:
            text += "".join(f" + ({term})" for term in part)
    factor = one(draw, _FACTORS)
    text = (text if factor is None else f"({text}) * {factor}") + far
    if draw(st.integers(0, 31)) == 31:
        text = f"torch.where({one(draw, _ROWS)}, {_LOWEST!r}, {text})"
    return written("\n".join([*lines, text]))


@st.composite
def _foci(draw: Draw, scope: Scope) -> tuple[str, ...] | None:
    """Terms of one operation each that share their operands. Returns None if no more terms are to follow.

    The decision to stop is part of the same draw, so that Hypothesis can remove single draws when it shrinks.
    """
    kind = one(draw, _KINDS)
    if kind is None:
        return None
    if kind == "far":
        far: tuple[str, ...] = one(draw, _FAR)
        return far
    return tuple(term.text for term in foci.focus(draw, scope))


def _described(term: Term) -> tuple[str, float, float, bool]:
    return term.dtype, term.lo, term.hi, term.special


def _sum(x: Term, y: Term) -> Term:
    """`x + y`."""
    dtype = result_dtype("x + y", x.dtype, y.dtype)
    return Term(f"{x.text} + ({y.text})", dtype, x.lo + y.lo, x.hi + y.hi, x.special or y.special)


def _as_score(draw: Draw, x: Term) -> str:
    """The text of a score made of `x`: a bool chooses the score, an integer is added to it, a float may stand alone."""
    if x.dtype == "bool":
        return f"torch.where({x.text}, score, {one(draw, ('score * 0.5', '0.0', 'score * 2', '-inf'))})"
    if not x.is_float:
        return f"score + ({x.text})"
    if x.text == "score" or not draw(st.booleans()):
        return x.text
    return f"score + ({x.text})"
