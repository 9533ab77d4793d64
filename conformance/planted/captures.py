"""Faults of captures: their indices, their order, their identity and their strides."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from typing import Any

import sympy
import torch

from flexconf.cases.case import Capture
from flexflash import codegen, indexing, kernel
from flexflash.indexing import FixedLayout, Identity, Indexer
from flexflash.kernel import RenderedKernel
from flexflash.ops import Value
from planted import corrections
from planted.fault import Fault
from planted.patching import attributes, in_mod, rendered, text
from planted.witness import mask, problem, score

_SQUARE = problem(N=4)


def _weighted(weights: Any) -> Any:
    """Replace the indexer by one that multiplies the indices by `weights(layout)`."""

    def change() -> list[tuple[Any, str, Any]]:
        def factory(layout: FixedLayout) -> Indexer:
            def indexer(index: Sequence[sympy.Expr]) -> sympy.Expr:
                terms = zip(index, weights(layout), strict=True)
                return sum((int(w) * Identity(i) for i, w in terms), sympy.Integer(0))

            return indexer

        return [(indexing, "_colexicographic", factory)]

    return attributes(change)


def _strides(layout: FixedLayout) -> list[Any]:
    return list(layout.stride)


def _row_major(layout: FixedLayout) -> list[Any]:
    return list(indexing.contiguous_strides(layout.size))


def _without_first_size(layout: FixedLayout) -> list[Any]:
    weights, runner = [1, *layout.size[:1]], 1
    for extent in layout.size[1:-1]:
        runner *= extent
        weights.append(runner)
    return weights[: len(layout.size)]


def _not_wrapped() -> list[tuple[Any, str, Any]]:
    true = codegen._Call._wrapped

    def wrapped(self: Any, index: Value, *rest: Any) -> Any:
        return true(self, dataclasses.replace(index, nonnegative=True), *rest)

    return [(codegen._Call, "_wrapped", wrapped)]


def _wrapped_by_first_size() -> list[tuple[Any, str, Any]]:
    true = codegen._Call._wrapped

    def wrapped(self: Any, index: Value, extent: Any, dtype: torch.dtype, buffer: str, at: int) -> Any:
        if index.constant is None:
            extent = self.layouts[list(self.names).index(buffer)].size[0]
        return true(self, index, extent, dtype, buffer, at)

    return [(codegen._Call, "_wrapped", wrapped)]


def _constants_clamped() -> list[tuple[Any, str, Any]]:
    true = codegen._Call._wrapped

    def wrapped(self: Any, index: Value, *rest: Any) -> Any:
        found = true(self, index, *rest)
        return 0 if index.constant is not None and index.constant < 0 else found

    return [(codegen._Call, "_wrapped", wrapped)]


def _reversed(source: str, _: RenderedKernel) -> str:
    return re.sub(r"aux_tensors=\[(.*)\],", lambda m: f"aux_tensors=[{', '.join(reversed(m[1].split(', ')))}],", source)


def _numbered_alone(source: str, _: RenderedKernel) -> str:
    def edit(mod: str) -> str:
        positions = sorted({int(n) for n in re.findall(r"aux_tensors\[(\d+)\]", mod)})
        return re.sub(r"aux_tensors\[(\d+)\]", lambda m: f"aux_tensors[{positions.index(int(m[1]))}]", mod)

    return in_mod(source, "mask_mod", edit)


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    same = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return same and a.dtype == b.dtype and a.numel() == b.numel() and a.dim() == b.dim()


def _one_buffer_a_storage() -> list[tuple[Any, str, Any]]:
    true = kernel._Buffers._position

    def position(self: Any, tensor: torch.Tensor, name: str) -> int:
        for known, other in enumerate(self.tensors):
            if _same_memory(tensor, other):
                return known
        return true(self, tensor, name)

    return [(kernel._Buffers, "_position", position)]


def _one_lift_a_storage() -> list[tuple[Any, str, Any]]:
    recorder: Any = importlib.import_module("flexflash.trace")._Recorder  # `flexflash.trace` is the function
    true = recorder._node

    def node(self: Any, tensor: torch.Tensor) -> Any:
        if id(tensor) not in self.nodes and tensor.device.type != "meta":
            for other in self.captures:
                if _same_memory(tensor, other) and tensor.shape == other.shape:
                    return true(self, other)
        return true(self, tensor)

    return [(recorder, "_node", node)]


def _taken_for_contiguous(found: RenderedKernel) -> RenderedKernel:
    return dataclasses.replace(found, captures=tuple(contiguous_view(t) for t in found.captures))


def contiguous_view(tensor: torch.Tensor) -> torch.Tensor:
    """The memory from `tensor`'s first element on, read as if `tensor` were contiguous.

    Returns `tensor` itself if that would leave its storage.
    """
    room = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if tensor.numel() > room:
        return tensor
    strides = tuple(int(s) for s in indexing.contiguous_strides(tuple(tensor.shape)))
    return tensor.detach().as_strided(tuple(tensor.shape), strides, tensor.storage_offset())


def _one_element_on(found: RenderedKernel) -> RenderedKernel:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim() or tensor.shape[0] < 2 or not tensor.stride(0):
            return tensor
        return tensor.detach().as_strided(tensor.shape, (*tensor.stride(),), tensor.storage_offset() + 1)

    return dataclasses.replace(found, captures=tuple(moved(t) for t in found.captures))


_BIAS = Capture("bias", ("M", "N"))

CAPTURES = (
    Fault(
        "index-width-by-elements",
        "captures",
        "An index has 64 bits if the capture has more than 2^31 elements, but not if only its strides span as many.",
        attributes(lambda: [(FixedLayout, "reaches", lambda self, limit: int(self.numel) > limit)]),
        score("score * 0.0 + t[h + 1, 0]", Capture("t", (3, 1), "int8", "list(1, 2, 3)", "strided(1073741824, 1)"),
              at=problem(H=2, Hkv=2)),
        found_by="the catalogue",
    ),
    Fault(
        "lexicographic-index",
        "captures",
        "A linear index counts row by row, as PyTorch does, but CuTe counts column by column.",
        _weighted(_row_major),
        score("bias[q, kv]", _BIAS),
    ),
    Fault(
        "strides-for-sizes",
        "captures",
        "A linear index is computed from the tensor's strides, which CuTe then applies once more.",
        _weighted(_strides),
        score("bias[q, kv]", _BIAS),
    ),
    Fault(
        "third-weight-without-first-size",
        "captures",
        "The weight of the third dimension is the second size instead of the product of the first two.",
        _weighted(_without_first_size),
        score("t[b, q, kv]", Capture("t", (2, "M", "N"))),
    ),
    Fault(
        "indexer-docstring",
        "captures",
        "The linear index is what the docstring of the source says (1*b + 2*q), not what its code does (b + size0*q).",
        lambda: corrections.reverted("indexer-docstring"),
        score("bias[q, kv]", _BIAS),
    ),
    Fault(
        "negative-index-not-wrapped",
        "captures",
        "A negative index does not count from the end and reads before the tensor.",
        attributes(_not_wrapped),
        score("t[-kv]", Capture("t", ("N",))),
    ),
    Fault(
        "negative-index-wrapped-by-first-size",
        "captures",
        "A negative index counts from the end of the first dimension, whichever dimension it indexes.",
        attributes(_wrapped_by_first_size),
        score("t[q, -kv]", Capture("t", (8, "N"))),
    ),
    Fault(
        "negative-constant-index-clamped",
        "captures",
        "A constant negative index reads element 0.",
        attributes(_constants_clamped),
        score("t[-1]", Capture("t", ("N",))),
    ),
    Fault(
        "capture-order-reversed",
        "captures",
        "The captures are passed in the order of their last use, but the mod unpacks them in the order of their "
        "first use.",
        text(_reversed),
        score("t[q] - u[q]", Capture("t", ("M",)), Capture("u", ("M",))),
    ),
    Fault(
        "mask-captures-numbered-alone",
        "captures",
        "The mask_mod numbers its captures from 0, although it shares one list with the score_mod.",
        text(_numbered_alone),
        mask("u[q]", Capture("t", ("M",), "bool", "bits"), Capture("u", ("M",), "bool", "bits"),
             score_mod="t[kv] * 1.0", at=_SQUARE),
    ),
    Fault(
        "views-merged-across-mods",
        "captures",
        "Captures of the two mods are told apart only by their memory: a view and its transpose become one.",
        attributes(_one_buffer_a_storage),
        mask("t[q, kv] > 0", Capture("u", ("M", "N")), Capture("t", ("M", "N"), layout="transpose_of(u)"),
             score_mod="u[q, kv]", at=_SQUARE),
    ),
    Fault(
        "views-merged-in-a-mod",
        "captures",
        "A tensor whose memory is already captured is not captured again, although its strides differ.",
        attributes(_one_lift_a_storage),
        score("u[q, kv] * t[q, kv]", Capture("u", ("M", "N")), Capture("t", ("M", "N"), layout="transpose_of(u)"),
              at=_SQUARE),
    ),
    Fault(
        "capture-strides-ignored",
        "captures",
        "A capture is read as if it were contiguous.",
        rendered(_taken_for_contiguous),
        score("t[kv]", Capture("t", ("N",), layout="stepped")),
    ),
    Fault(
        "capture-one-element-on",
        "captures",
        "The pointer to a capture is one element too far.",
        rendered(_one_element_on),
        score("t[kv]", Capture("t", ("N",))),
    ),
)  # fmt: skip
