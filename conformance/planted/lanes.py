"""Faults that compute a value once, though it differs between lanes or between reads that only look alike."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flexconf.cases.case import BlockSpec, Capture
from flexflash import codegen, kernel
from flexflash.kernel import RenderedKernel
from flexflash.ops import Argument, Emitter, Value, Writer, values
from planted.fault import Fault
from planted.patching import Apply, attributes, entries, rendered, text, with_statement
from planted.witness import mask, problem, score


def _looking_at(places: slice) -> Any:
    """Make a result count as the same in all lanes if the arguments at `places` are."""

    def make(emit: Emitter) -> Emitter:
        def wrong(w: Writer, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype) -> Value:
            found = emit(w, args, kw, dtype)
            return dataclasses.replace(found, uniform=values.is_uniform(*args[places]))

        return wrong

    return make


def _forgotten(names: str, places: slice = slice(1)) -> Apply:
    return entries(names, _looking_at(places))


def _one_load_for_any_order() -> list[tuple[Any, str, Any]]:
    true = codegen._Call._load
    known: dict[tuple[Any, ...], Value] = {}

    def load(self: Any, access: Any, layout: Any) -> Value:
        key = (id(self.writer), access.position, *sorted(i.text for i in access.indices))
        if key not in known:
            known[key] = true(self, access, layout)
        return known[key]

    return [(codegen._Call, "_load", load)]


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors share a storage and differ at most in their storage offset."""
    same = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return same and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()


def _one_capture_for_slices() -> list[tuple[Any, str, Any]]:
    recorder: Any = importlib.import_module("flexflash.trace")._Recorder  # `flexflash.trace` is the function
    true = recorder._node

    def node(self: Any, tensor: torch.Tensor) -> Any:
        if id(tensor) not in self.nodes and type(tensor) is torch.Tensor and tensor.device.type != "meta":
            for other in self.captures:
                if _alike(tensor, other):
                    return true(self, other)
        return true(self, tensor)

    return [(recorder, "_node", node)]


def _one_buffer_for_slices() -> list[tuple[Any, str, Any]]:
    true = kernel._Buffers._position

    def position(self: Any, tensor: torch.Tensor, name: str) -> int:
        for known, other in enumerate(self.tensors):
            if _alike(tensor, other):
                return known
        return true(self, tensor, name)

    return [(kernel._Buffers, "_position", position)]


def _changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Apply:
    """Replace every capture by `change(capture)`, which has the same shape and dtype."""
    return rendered(lambda found: dataclasses.replace(found, captures=tuple(map(change, found.captures))))


def _magnitudes(tensor: torch.Tensor) -> torch.Tensor:
    signed = tensor.dtype not in (torch.bool, torch.uint8)
    return tensor.abs() if signed and (tensor.dtype.is_floating_point or tensor.numel()) else tensor


def _scalars_in_half(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() or not tensor.dtype.is_floating_point:
        return tensor
    return tensor.to(torch.bfloat16).to(tensor.dtype)


def _of_the_first(axis: int, name: str) -> Any:
    """Evaluate the mask_mod with index 0 of `axis` for all, if one block mask serves all indices of that axis."""

    def edit(source: str, found: RenderedKernel) -> str:
        shared = bool(found.block_lists) and found.block_lists[0].shape[axis] == 1 < found.output_size[axis]
        return with_statement(source, "mask_mod", f"{name} = cute.zeros_like({name})") if shared else source

    return edit


_HEADS = 16


def _folded_heads(source: str, found: RenderedKernel) -> str:
    return with_statement(source, "score_mod", f"h_idx = h_idx % {_HEADS}") if "def score_mod" in source else source


_TABLE = Capture("t", (16,))
_BASE = Capture("base", (2, "N"))
_FIRST, _LAST = (Capture(n, ("N",), layout=f"{n}_of(base)") for n in ("first", "last"))
_BROADCAST = BlockSpec(q=8, kv=8, broadcast=True)
_COMPARISONS = " ".join(
    f"{name}.{form}" for name in ("lt", "le", "gt", "ge", "eq", "ne") for form in ("Tensor", "Scalar")
)


def _lane(name: str, about: str, apply: Apply, index: str) -> Fault:
    return Fault(name, "code generator", about, apply, score(f"t[{index}]", _TABLE), width=2)


LANES = (
    _lane("lanes-of-a-condition-forgotten", "The result of where counts as the same in all lanes if its branches "
                                            "are, whatever the condition.",
          _forgotten("where.self", slice(1, 3)), "torch.where(kv % 2 == 0, q, 3)"),
    _lane("lanes-of-a-branch-forgotten", "The result of where counts as the same in all lanes if its condition is, "
                                         "whatever the branches.",
          _forgotten("where.self"), "torch.where(q < 2, kv, 3)"),
    _lane("lanes-of-bounds-forgotten", "The result of clamp counts as the same in all lanes if its input is, "
                                       "whatever the bounds.",
          _forgotten("clamp.default clamp.Tensor clamp_min.Tensor clamp_max.Tensor minimum.default maximum.default"),
          "torch.clamp(q, max=kv)"),
    _lane("lanes-of-a-divisor-forgotten", "A quotient or remainder counts as the same in all lanes if its dividend "
                                          "is, whatever the divisor.",
          _forgotten("remainder.Tensor floor_divide.default fmod.Tensor div.Tensor_mode"), "q % (kv + 1)"),
    _lane("lanes-of-a-shift-forgotten", "A shift counts as the same in all lanes if the shifted value is, whatever "
                                        "the amount.",
          _forgotten("bitwise_left_shift.Tensor bitwise_right_shift.Tensor __lshift__.Tensor __rshift__.Tensor"),
          "q << (kv & 1)"),
    _lane("lanes-of-bits-forgotten", "&, | and ^ count as the same in all lanes if the first operand is, whatever "
                                     "the second.",
          _forgotten("bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor"), "q ^ kv"),
    _lane("lanes-of-a-comparison-forgotten", "A comparison counts as the same in all lanes if its left operand is, "
                                             "whatever the right one.",
          _forgotten(_COMPARISONS), "(q < kv).to(torch.int32)"),
    _lane("lanes-of-a-sum-forgotten", "A sum or difference counts as the same in all lanes if its first operand "
                                      "is, whatever the second.",
          _forgotten("add.Tensor sub.Tensor"), "q + kv"),
    _lane("lanes-of-a-product-forgotten", "A product counts as the same in all lanes if its first operand is, "
                                          "whatever the second.",
          _forgotten("mul.Tensor"), "q * kv"),
    Fault("permuted-indices-are-one-load", "captures",
          "Loads are looked up by the capture and its indices in any order: t[q, kv] and t[kv, q] become one load.",
          attributes(_one_load_for_any_order), score("t[q, kv] - t[kv, q]", Capture("t", (8, 8)))),
    Fault("slices-merged-in-a-mod", "captures",
          "Captures of a mod are told apart by storage, shape and strides: two slices with different offsets "
          "become one.",
          attributes(_one_capture_for_slices), score("first[kv] - last[kv]", _BASE, _FIRST, _LAST)),
    Fault("slices-merged-across-mods", "captures",
          "Captures of the two mods are told apart only by storage, shape and strides.",
          attributes(_one_buffer_for_slices),
          mask("last[kv] > 0", _BASE, _FIRST, _LAST, score_mod="first[kv] * 1.0")),
    Fault("sign-of-captures-lost", "captures", "A value read from a capture counts as non-negative.",
          _changed(_magnitudes), score("score * t[kv]", Capture("t", ("N",), values="constant(-1)"))),
    Fault("zero-dim-captures-in-half", "captures", "A 0-dim float capture is passed as bfloat16.",
          _changed(_scalars_in_half), score("score * c", Capture("c", (), values="constant(1.01)"))),
    Fault("broadcast-mask-of-batch-0", "block lists",
          "If one block mask serves all batches, the mask_mod of batch 0 is used for all of them.",
          text(_of_the_first(0, "b_idx")), mask("kv > b", at=problem(B=2), block=_BROADCAST)),
    Fault("broadcast-mask-of-head-0", "block lists",
          "If one block mask serves all heads, the mask_mod of head 0 is used for all of them.",
          text(_of_the_first(1, "h_idx")), mask("kv > h", at=problem(H=2, Hkv=2), block=_BROADCAST)),
    Fault("heads-in-four-bits", "code generator", "With more than 16 heads, the score_mod receives h % 16 as h.",
          text(_folded_heads), score("score + h", at=problem(H=17, Hkv=17))),
)  # fmt: skip
