"""Finds the results of a mod that reach its output only through smooth operations: without a jump or a pole.

A quotient of whole numbers may be exact, and a later operation may depend on that: `floor(q / 3)`, `d / 7 == 1`,
`sqrt(1 - d / 7)`. If no such operation follows, the last bit of the quotient does not matter. Then it may be computed
in a cheaper way that stays within its error bound.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.fx import Graph, Node

_SMOOTH: Final = (
    "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar mul.Tensor mul.Scalar neg.default abs.default "
    "minimum.default maximum.default fmin.default fmax.default clamp.default clamp.Tensor clamp_min.default "
    "clamp_max.default clamp_min.Tensor clamp_max.Tensor relu.default hardtanh.default leaky_relu.default "
    "exp.default exp2.default expm1.default tanh.default sigmoid.default silu.default gelu.default erf.default "
    "erfc.default softplus.default elu.default sin.default cos.default atan.default asinh.default clone.default"
)
_ANYWHERE: Final = frozenset(
    getattr(getattr(torch.ops.aten, name.partition(".")[0]), name.partition(".")[2]) for name in _SMOOTH.split()
)
"""Operations that are continuous, and finite for finite arguments, in all of their arguments."""

_aten: Any = torch.ops.aten
_IN_PLACES: Final[dict[Any, frozenset[int]]] = {
    _aten.where.self: frozenset({1, 2}),
    _aten.masked_fill.Scalar: frozenset({0}),
    _aten.masked_fill.Tensor: frozenset({0, 2}),
    _aten.div.Tensor: frozenset({0}),
    _aten.div.Scalar: frozenset({0}),
}
"""Operations that are so only in the arguments at these positions."""


def smooth_nodes(graph: Graph) -> frozenset[Node]:
    """The nodes of a mod's graph whose value reaches the output through smooth operations alone."""
    smooth: set[Node] = set()
    for node in reversed(graph.nodes):
        if all(_passes(node, user, smooth) for user in node.users):
            smooth.add(node)
    return frozenset(smooth)


def _passes(node: Node, user: Node, smooth: set[Node]) -> bool:
    if user.op == "output":
        return True
    if user not in smooth:
        return False
    if user.target in _ANYWHERE:
        return True
    if user.target is _aten._to_copy.default:
        return bool(user.meta["val"].dtype.is_floating_point)
    if user.target in (_aten.pow.Tensor_Scalar,):
        return user.args[1] in (1, 2, 3)
    places = _IN_PLACES.get(user.target)
    return places is not None and all(i in places for i, argument in enumerate(user.args) if argument is node)
