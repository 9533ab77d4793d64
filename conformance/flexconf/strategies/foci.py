"""Terms of one thing each, all of which an example sees often: an operation, an argument form, a promotion, a read."""

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
    """One of them, as often as its kind needs; several terms where they share their operands, none where a draw fails.

    Each is kept where it does not drown what it is added to.
    """
    found = _FOCI[one(draw, _KINDS)][0](draw, scope)
    terms = () if found is None else (found,) if isinstance(found, Term) else found
    return tuple(expressions.small(draw, term) for term in terms)
