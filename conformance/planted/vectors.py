"""Faults of short vectors and their reductions (L7.8)."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from flexconf.cases.case import Capture
from flexflash import unroll
from planted.fault import Fault
from planted.patching import attributes, mapping
from planted.witness import score

_aten = torch.ops.aten


def _last_left_out() -> list[tuple[Any, str, Any]]:
    true = unroll._Unrolling._folded

    def folded(self: Any, node: Node, given: list[Node], dtype: torch.dtype, length: int) -> Node:
        return true(self, node, given[:-1] or given, dtype, length)

    return [(unroll._Unrolling, "_folded", folded)]


def _narrow() -> list[tuple[Any, str, Any]]:
    true = unroll._Unrolling._as

    def same(self: Any, node: Node, dtype: torch.dtype, user: Node) -> Node:
        own = node.meta["val"].dtype
        kept = dtype is torch.int64 and own is torch.int8
        return true(self, true(self, node, own, user) if kept else node, own if kept else dtype, user)

    def emit(self: Any, target: Any, args: tuple[Any, ...], gives: torch.dtype, user: Node, **kwargs: Any) -> Node:
        own = {a.meta["val"].dtype for a in args if isinstance(a, Node)}
        return made(self, target, args, torch.int8 if own == {torch.int8} else gives, user, **kwargs)

    made = unroll._Unrolling._emit
    return [(unroll._Unrolling, "_as", same), (unroll._Unrolling, "_emit", emit)]


def _first_element() -> list[tuple[Any, str, Any]]:
    true = unroll._Unrolling._integer
    return [(unroll._Unrolling, "_integer", lambda self, number, user: true(self, 0, user))]


def _mean_of_eight() -> list[tuple[Any, str, Any]]:
    true = unroll._Unrolling._folded

    def folded(self: Any, node: Node, given: list[Node], dtype: torch.dtype, length: int) -> Node:
        return true(self, node, given, dtype, unroll.LONGEST)

    return [(unroll._Unrolling, "_folded", folded)]


def _outer_dimension() -> list[tuple[Any, str, Any]]:
    true = unroll._Unrolling._reduced

    def reduced(self: Any, node: Node) -> list[Node]:
        shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
        if len(shape) == 2 and shape[0] == shape[1] and node.args[1] in ([-1], -1):
            before, node.args = node.args, (node.args[0], [0], *node.args[2:])
            try:
                return true(self, node)
            finally:
                node.args = before
        return true(self, node)

    return [(unroll._Unrolling, "_reduced", reduced)]


VECTORS = (
    Fault(
        "vector-last-element-left-out",
        "code generator",
        "A reduction of a vector leaves out the last element.",
        attributes(_last_left_out),
        score("score + t[kv].sum(-1)", Capture("t", ("N", 3))),
    ),
    Fault(
        "vector-any-is-all",
        "code generator",
        "any of a vector of bools is computed as all.",
        mapping(unroll._FOLDED, {_aten.any.dim: _aten.bitwise_and.Tensor, _aten.any.dims: _aten.bitwise_and.Tensor}),
        score("score + 4 * (t[kv] > 0).any(-1)", Capture("t", ("N", 3))),
    ),
    Fault(
        "vector-sum-of-int8-wraps",
        "code generator",
        "The sum of an int8 vector is computed in int8, where PyTorch computes in int64.",
        attributes(_narrow),
        score("score + t[kv].sum(-1)", Capture("t", ("N", 4), "int8", "constant(100)")),
    ),
    Fault(
        "vector-of-first-elements",
        "code generator",
        "Every element of a vector reads the first element of the capture's last dimension.",
        attributes(_first_element),
        score("score + t[kv].sum(-1)", Capture("t", ("N", 3))),
    ),
    Fault(
        "vector-mean-of-eight",
        "code generator",
        "The mean of a vector divides by the longest length and not by its own.",
        attributes(_mean_of_eight),
        score("score + t[kv].mean(-1)", Capture("t", ("N", 3), "float32", "constant(5)")),
    ),
    Fault(
        "vector-reduced-along-the-first",
        "code generator",
        "A square vector of vectors is reduced along its first dimension, whichever one the mod names.",
        attributes(_outer_dimension),
        score("score + t[kv].sum(-1).amax(-1)", Capture("t", ("N", 2, 2))),
        found_by="the catalogue",
    ),
)
