"""Turns short vectors into scalars (L7.8): each element of a vector becomes a node of its own, each reduction a chain.

A mod may index a capture with fewer indices than it has dimensions, compute with the vector that this gives, and
reduce it: `(pos[q] - pos[kv]).pow(2).sum(-1)`. After this pass, the graph has scalar calls alone, from the first
element to the last. A graph without vectors stays as it is.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from . import ops
from .errors import UnsupportedOperation
from .trace import ModGraph, annotate, unsupported

LONGEST = 8
"""The largest number of elements of a vector."""

_aten = torch.ops.aten
_FOLDED: dict[Any, Any] = {
    _aten.sum.dim_IntList: _aten.add.Tensor,
    _aten.mean.dim: _aten.add.Tensor,
    _aten.prod.dim_int: _aten.mul.Tensor,
    _aten.amax.default: _aten.maximum.default,
    _aten.amin.default: _aten.minimum.default,
    _aten.any.dim: _aten.bitwise_or.Tensor,
    _aten.any.dims: _aten.bitwise_or.Tensor,
    _aten.all.dim: _aten.bitwise_and.Tensor,
    _aten.all.dims: _aten.bitwise_and.Tensor,
}
"""The reductions, and the operation of two elements that each is a chain of."""

_LOGICAL = frozenset((_aten.any.dim, _aten.any.dims, _aten.all.dim, _aten.all.dims))
_WHOLE = frozenset(getattr(_aten, name).default for name in ("sum", "mean", "prod", "any", "all", "max", "min"))
_MOVED = frozenset(
    (
        _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.default, _aten.squeeze.dims, _aten.view.default,
        _aten._unsafe_view.default, _aten.reshape.default, _aten.expand.default, _aten.permute.default,
        _aten.transpose.int, _aten.t.default, _aten.select.int, _aten.slice.Tensor, _aten.clone.default,
        _aten.stack.default, _aten.cat.default, _aten.flip.default,
    )
)  # fmt: skip
"""Operations that move elements, and change none."""


def unrolled(graph: ModGraph) -> ModGraph:
    """`graph` without vectors. Raises UnsupportedOperation for a vector of more than LONGEST elements, for a reduction
    without a dimension, and for other operations that combine the elements of a vector."""
    if not any(map(_takes_a_vector, graph.graph_module.graph.nodes)):
        return graph
    made = _Unrolling(graph).run()
    return replace(graph, graph_module=GraphModule(torch.nn.Module(), made, class_name=f"{graph.kind}_mod"))


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _takes_a_vector(node: Node) -> bool:
    if node.op != "call_function":
        return False
    given = node.all_input_nodes
    if node.target is _aten.index.Tensor:
        given = [n for n in node.args[1] if isinstance(n, Node)]  # type: ignore[union-attr]
    return any(_shape(n) for n in given)


class _Unrolling:
    def __init__(self, graph: ModGraph) -> None:
        self.kind = graph.kind
        self.old = graph.graph_module.graph
        self.new = Graph()
        self.found: dict[Node, list[Node]] = {}  # the elements of a node, in row-major order
        self.reads: dict[Node, tuple[Node, list[Node]]] = {}  # captures and parts of them: (capture, indices)

    def run(self) -> Graph:
        for node in self.old.nodes:
            if node.op == "placeholder":
                copy = self.new.node_copy(node)
                self.found[node] = [copy]
                if _shape(node):
                    self.reads[node] = (node, [])
            elif node.op == "output":
                (result,) = node.args
                self.new.output(self.elements(result, node)[0])
            else:
                self._call(node)
        self.new.eliminate_dead_code()
        return self.new

    def elements(self, node: Node, user: Node) -> list[Node]:
        """The elements of `node`, which `user` takes."""
        if node not in self.reads:
            return self.found[node]
        if node in self.found and node.op != "placeholder":
            return self.found[node]
        capture, indices = self.reads[node]
        self._check_length(node, user)
        outer = _broadcast(*(_shape(i) for i in indices))
        given = [self._spread(i, outer, user) for i in indices]
        inner = _shape(capture)[len(indices) :]
        source, dtype = self.found[capture][0], capture.meta["val"].dtype
        result = []
        for place in range(math.prod(outer)):
            for rest in itertools.product(*(range(int(size)) for size in inner)):
                at_ = [index[place] for index in given] + [self._integer(n, user) for n in rest]
                result.append(self._emit(_aten.index.Tensor, (source, at_), dtype, user))
        if node.op != "placeholder":
            self.found[node] = result
        return result

    def _spread(self, node: Node, shape: Sequence[int], user: Node) -> list[Node]:
        """The elements of `node`, broadcast to `shape`."""
        given = self.elements(node, user)
        places = torch.arange(len(given)).reshape(_shape(node)).expand(tuple(shape)).flatten()
        return [given[n] for n in places.tolist()]

    def _call(self, node: Node) -> None:
        target = node.target
        if target is _aten.index.Tensor:
            self._index(node)
        elif target in _WHOLE and _takes_a_vector(node):
            raise self._refused(node, "reduces a whole tensor; give a short dimension, such as sum(-1) (L7.8)")
        elif target in _FOLDED:
            self.found[node] = self._reduced(node)
        elif target in _MOVED and (_takes_a_vector(node) or _shape(node)):
            self.found[node] = self._moved(node)
        elif _takes_a_vector(node) or _shape(node):
            self.found[node] = self._each(node)
        else:
            self.found[node] = [self.new.node_copy(node, lambda n: self.found[n][0])]

    def _index(self, node: Node) -> None:
        base, indices = node.args
        assert isinstance(base, Node) and isinstance(indices, (list, tuple))
        if not all(isinstance(i, Node) for i in indices):
            raise self._refused(node, "skips a dimension; index every dimension with one scalar")
        if base in self.reads:
            capture, before = self.reads[base]
            dtype = capture.meta["val"].dtype
            if dtype not in ops.CUTE_NAMES:
                raise self._refused(node, f"reads `{capture.target}` of {dtype}, which CuTe mods do not have")
            # A vector of indices in one part and other indices in the next do not broadcast together in PyTorch.
            if any(_shape(i) for i in before):
                raise self._refused(node, "indexes a vector that was read by a vector; give all indices at once")
            self.reads[node] = (capture, [*before, *indices])  # type: ignore[list-item, unused-ignore]
            if not _shape(node):
                self.found[node] = self.elements(node, node)
            return
        numbers = [self._constant(i) for i in indices]  # type: ignore[arg-type]
        if any(n is None for n in numbers):
            raise self._refused(node, "indexes a computed vector at a place that is not constant (L7.8)")
        given = self.elements(base, node)
        places = torch.arange(len(given)).reshape(_shape(base))[tuple(numbers)]
        self.found[node] = [given[n] for n in places.flatten().tolist()]

    def _constant(self, node: Node) -> int | None:
        number = node.args[1] if node.target is _aten.full.default and not _shape(node) else None
        return number if isinstance(number, int) else None

    def _moved(self, node: Node) -> list[Node]:
        """The elements of a view or copy. The same call on the places of the elements says where each comes from."""
        given: list[Node] = []

        def places(argument: Any) -> Any:
            if isinstance(argument, Node):
                own = self.elements(argument, node)
                given.extend(own)
                return torch.arange(len(given) - len(own), len(given)).reshape(_shape(argument))
            return [places(a) for a in argument] if isinstance(argument, (list, tuple)) else argument

        args = [places(a) for a in node.args]
        kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}
        self._check_length(node, node)
        target: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
        return [given[n] for n in target(*args, **kwargs).flatten().tolist()]

    def _each(self, node: Node) -> list[Node]:
        """The elements of a pointwise call on vectors."""
        if ops.lookup(node.target) is None:
            raise self._refused(node, "has no CuTe spelling")
        self._check_length(node, node)
        shape, dtype = _shape(node), node.meta["val"].dtype
        common = self._promoted(node)

        def spread(argument: Any) -> Any:
            if not isinstance(argument, Node):
                return argument
            own = self._spread(argument, shape, node)
            source = argument.meta["val"].dtype
            if common is None or source in (common, torch.bool):
                return own
            return [self._emit(_aten._to_copy.default, (n,), common, node, dtype=common) for n in own]

        args = [spread(a) for a in node.args]
        kwargs = {k: spread(a) for k, a in node.kwargs.items()}

        def at_place(argument: Any, place: int) -> Any:
            own = isinstance(argument, list) and argument and isinstance(argument[0], Node)
            return argument[place] if own else argument

        return [
            self._emit(
                node.target,
                tuple(at_place(a, place) for a in args),
                dtype,
                node,
                **{k: at_place(a, place) for k, a in kwargs.items()},
            )
            for place in range(math.prod(shape))
        ]

    def _promoted(self, node: Node) -> torch.dtype | None:
        """The dtype to which the operands are converted, if it is another one for vectors than for their elements.

        A vector's dtype wins over a scalar's of the same kind: float16 beside a float32 scalar stays float16.
        """
        given = [n.meta["val"] for n in node.all_input_nodes]
        scalars = [torch.empty((), dtype=v.dtype, device="meta") for v in given]
        if len(given) < 2:
            return None
        wide, plain = (functools.reduce(_common, tensors) for tensors in (given, scalars))
        return wide.dtype if wide.dtype is not plain.dtype else None

    def _reduced(self, node: Node) -> list[Node]:
        source = node.args[0]
        assert isinstance(source, Node)
        shape, dtype = _shape(source), node.meta["val"].dtype
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if dims is None or dims == []:
            raise self._refused(node, "reduces a whole tensor; give a short dimension, such as sum(-1) (L7.8)")
        if not shape:
            raise self._refused(node, "reduces a scalar, which has no dimension")
        named: list[Any] = [*dims] if isinstance(dims, (list, tuple)) else [dims]
        reduced: list[int] = sorted({int(d) % len(shape) for d in named})
        length = math.prod(shape[d] for d in reduced)
        if not 0 < length <= LONGEST:
            raise self._refused(node, f"reduces {length} elements; a mod reduces 1 to {LONGEST} (L7.8)")
        given = self.elements(source, node)
        kept = [d for d in range(len(shape)) if d not in reduced]
        places = torch.arange(len(given)).reshape(shape).permute(*kept, *reduced).reshape(-1, length)
        return [self._folded(node, [given[n] for n in row], dtype, length) for row in places.tolist()]

    def _folded(self, node: Node, given: list[Node], dtype: torch.dtype, length: int) -> Node:
        """The chain of one reduction, from the first element to the last."""
        target = node.target
        logical = target in _LOGICAL
        inner = torch.bool if logical else dtype
        converted = [self._as(n, inner, node) for n in given]
        result = functools.reduce(lambda a, b: self._emit(_FOLDED[target], (a, b), inner, node), converted)
        if target is _aten.mean.dim:
            result = self._emit(_aten.div.Tensor, (result, length), dtype, node)
        return self._as(result, dtype, node)

    def _as(self, node: Node, dtype: torch.dtype, user: Node) -> Node:
        if node.meta["val"].dtype is dtype:
            return node
        return self._emit(_aten._to_copy.default, (node,), dtype, user, dtype=dtype)

    def _integer(self, number: int, user: Node) -> Node:
        return self._emit(_aten.full.default, ([], number), torch.int64, user)

    def _emit(self, target: Any, args: tuple[Any, ...], gives: torch.dtype, user: Node, **kwargs: Any) -> Node:
        node = self.new.call_function(target, args, kwargs)
        annotate(node, torch.empty((), dtype=gives, device="meta"))
        node.meta |= {key: user.meta[key] for key in ("where", "part_of") if key in user.meta}
        return node

    def _check_length(self, node: Node, user: Node) -> None:
        count = math.prod(map(int, _shape(node)))
        if not 0 < count <= LONGEST:
            what = "takes" if node is not user else "gives"
            raise self._refused(
                user,
                f"{what} a tensor of shape {list(_shape(node))}; a vector in a mod has 1 to {LONGEST} elements (L7.8)",
            )

    def _refused(self, node: Node, why: str) -> UnsupportedOperation:
        return unsupported(node, self.kind, why)


def _broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call, unused-ignore]


def _common(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.empty(_broadcast(a.shape, b.shape), dtype=torch.result_type(a, b), device="meta")
