"""Terms of one thing each, all of which an example sees often: an operation, an argument form, a promotion, a read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st

from flexconf.strategies import expressions, forms, lanes, promotion, siblings
from flexconf.strategies.expressions import Draw
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term

_FOCI: Mapping[str, tuple[Callable[[Draw, Scope], Term | None], int]] = {
    "operation": (expressions.focus, 15),
    "form": (forms.form, 11),
    "promoted": (promotion.promoted, 4),
    "compared": (promotion.compared, 2),
    "divided": (promotion.divided, 1),
    "laned": (lanes.laned, 5),
    "permuted": (siblings.permuted, 1),
    "sliced": (siblings.sliced, 2),
}
_KINDS = tuple(kind for kind, (_, often) in _FOCI.items() for _ in range(often))


def focus(draw: Draw, scope: Scope) -> Term | None:
    """One of them, as often as its kind needs; None where the draw gives nothing."""
    return _FOCI[draw(st.sampled_from(_KINDS))][0](draw, scope)
