"""Draws terms with one focus each, so that every focus occurs often: an operation, a form, a promotion, a read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flexconf.strategies import expressions, forms, lanes, promotion, siblings
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term

_Focus = Callable[[Draw, Scope], Term | tuple[Term, ...] | None]
_FOCI: Mapping[str, tuple[_Focus, int]] = {
    "operation": (expressions.focus, 19),
    "form": (forms.forms, 10),
    "promoted": (promotion.promoted, 4),
    "compared": (promotion.compared, 2),
    "wide": (promotion.wide, 1),
    "divided": (promotion.divided, 1),
    "laned": (lanes.laned, 6),
    "permuted": (siblings.permuted, 1),
    "sliced": (siblings.sliced, 2),
}
_KINDS = tuple(kind for kind, (_, often) in _FOCI.items() for _ in range(often))


def focus(draw: Draw, scope: Scope) -> tuple[Term, ...]:
    """The terms of one focus, drawn by the weights in `_FOCI`: several if they share operands, () if the draw fails.

    The terms are kept small enough that they do not hide the expression to which they are added.
    """
    found = _FOCI[one(draw, _KINDS)][0](draw, scope)
    terms = () if found is None else (found,) if isinstance(found, Term) else found
    return tuple(expressions.small(draw, term) for term in terms)
