"""Decides whether the flash backend may be used. The rules have an order; the first refusal wins (L1, L4)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from .errors import Ineligible, InputError

SCORE_MOD_PLACEHOLDERS = 5
MASK_MOD_PLACEHOLDERS = 4

UNAVAILABLE = "CUTE flash attention library is not available"
REQUIRES_GRAD = "Input buffers require gradients (not supported by flash attention)"
NO_MASKS = "NYI: Non-trivial mask graphs only supported on Hopper (SM90) for flash attention"


@dataclass(frozen=True)
class Profile:
    """What a launcher needs and supports, as data (L4.4).

    `package` is the module that must be importable. `mask_architectures` are the major compute capabilities that take
    non-trivial masks, or None if every device takes them. `mask_refusal` is the reason that is given on other devices.
    `approximates` says whether the launcher has a GPU's approximate instructions, which the kernel option fast_math
    uses. `widest_values` are pairs (major compute capability, largest Dv / D); on other devices any Dv is supported.
    `unavailable` is the reason that is given if `package` cannot be imported. `corrected` says whether the corrections
    and extensions of L4.2 and L4.3 apply: without them the mask graph's captures may require grad, any constant mask is
    trivial, and block lists do not count. `needs_full_lists` says whether a BlockMask with lists, but without full
    lists, is refused (L5.2); if not, empty full lists are passed.
    """

    name: str
    package: str
    mask_architectures: frozenset[int] | None
    mask_refusal: str = NO_MASKS
    approximates: bool = True
    widest_values: tuple[tuple[int, int], ...] = ()
    needs_full_lists: bool = False
    unavailable: str = UNAVAILABLE
    corrected: bool = True


# The rules of the source, PyTorch's own file, which allows masks on Hopper only. No launcher uses it.
SOURCE = Profile("source", "flash_attn.cute", frozenset({9}), needs_full_lists=True)
# flash-attn-4 4.0.0b36 takes a mask_mod with block lists on SM 9.x, 10.x and 11.x. On 12.0 an assertion fails, and 8.x
# has no score_mod. On SM 9.x, its own check lets head dims through that its kernels are not made for.
FLASH_ATTN_4 = Profile(
    "flash-attn-4",
    "flash_attn.cute",
    frozenset({9, 10, 11}),
    "flash-attn-4 takes a mask_mod with block lists on compute capability 9.x, 10.x and 11.x only",
    widest_values=((9, 2),),
)
HOST = Profile("host", "cutlass", None, approximates=False)
SIMT = Profile("simt", "cutlass", None)


@functools.cache
def _find(package: str) -> bool:
    importlib.invalidate_caches()
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def ensure_flash_available(package: str = "flash_attn.cute") -> bool:
    """Whether the import system can find `package`, without importing it (L1.1). An ImportError means no (L1.3).

    The parent package of a dotted name is imported. The answer is cached; after `ensure_flash_available.cache_clear()`,
    the same process looks again (L1.2).
    """
    return _find(package)


ensure_flash_available.cache_clear = _find.cache_clear  # type: ignore[attr-defined]


def input_buffers_require_grads(graph_module: GraphModule, num_mod_placeholders: int) -> bool:
    """Whether a capture (a placeholder after the first `num_mod_placeholders`) requires grad (L4.2).

    A placeholder without tensor metadata does not require grad.
    """
    captures = [*graph_module.graph.find_nodes(op="placeholder")][num_mod_placeholders:]
    metas = (n.meta.get("tensor_meta") for n in captures)
    return any(meta is not None and meta.requires_grad for meta in metas)


def is_trivial_mask_graph(graph_module: GraphModule) -> bool:
    """Whether a mask graph lets everything pass: four placeholders and `aten.full(True)` as output (L4.3).

    Raises InputError if the graph does not have exactly one output.
    """
    result = _constant_mask(graph_module)
    if result is None:
        return False
    return result.args[1] is True


def _constant_mask(graph_module: GraphModule) -> Node | None:
    """The `aten.full` that is the output of a mask graph with four placeholders, whatever its fill value is."""
    placeholders = [*graph_module.graph.find_nodes(op="placeholder")]
    outputs = [*graph_module.graph.find_nodes(op="output")]
    if len(outputs) != 1 or not isinstance(outputs[0].args[0], Node):
        raise InputError("a mask graph must have exactly one output")
    result = outputs[0].args[0]
    if len(placeholders) != MASK_MOD_PLACEHOLDERS or result.target is not torch.ops.aten.full.default:
        return None
    return result


@functools.cache
def _capability_of(device_index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device_index)


def _capability_on(device: torch.device) -> tuple[int, int]:
    """The compute capability of a CUDA device, cached per device (L4.4)."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _capability_of(index)


def refused_head_dims(head_dim: int, value_dim: int, device: torch.device, profile: Profile) -> str:
    """Why `profile` refuses D = `head_dim` with Dv = `value_dim` on `device` (L4.4). Returns "" if it takes them."""
    if device.type != "cuda" or not profile.widest_values:
        return ""
    major, _ = _capability_on(device)
    for architecture, times in profile.widest_values:
        if architecture == major and value_dim > times * head_dim:
            return (
                f"{profile.name} is supported on compute capability {major}.x with values up to {times} times as wide "
                f"as queries and keys, not with head dims {head_dim} and {value_dim}"
            )
    return ""


def supports_nontrivial_mask_graphs(device: torch.device, profile: Profile = SOURCE) -> bool:
    """Whether `profile` allows a non-trivial mask on `device`. The capability is cached per device (L4.4)."""
    if profile.mask_architectures is None:
        return True
    if device.type != "cuda":
        return False
    return _capability_on(device)[0] in profile.mask_architectures


supports_nontrivial_mask_graphs.cache_clear = _capability_of.cache_clear  # type: ignore[attr-defined]


def can_use_flex_flash_attention(
    score_graph: GraphModule,
    mask_graph: GraphModule,
    *,
    num_score_mod_placeholders: int = SCORE_MOD_PLACEHOLDERS,
    device: torch.device,
    profile: Profile = SOURCE,
    sparse_lists: bool = False,
) -> tuple[bool, str]:
    """Applies the rules of L4.1 in order. Returns (usable, reason); `reason` is "" if usable.

    `sparse_lists` says that the lists of the block mask leave blocks out. Such a mask counts as non-trivial even if
    its mask_mod is trivial (L4.3), except for a `profile` that is not corrected.
    """
    if not ensure_flash_available(profile.package):
        return False, profile.unavailable
    if input_buffers_require_grads(score_graph, num_score_mod_placeholders):
        return False, REQUIRES_GRAD
    if profile.corrected and input_buffers_require_grads(mask_graph, MASK_MOD_PLACEHOLDERS):
        return False, REQUIRES_GRAD
    non_trivial = needs_block_mask(mask_graph, sparse_lists) if profile.corrected else not _constant_mask(mask_graph)
    if not non_trivial:
        return True, ""
    if not supports_nontrivial_mask_graphs(device, profile):
        return False, profile.mask_refusal
    return True, ""


def needs_block_mask(mask_graph: GraphModule, sparse_lists: bool) -> bool:
    """Whether the kernel must walk block lists: the mask is not trivial, or the lists leave blocks out (L4.3)."""
    return sparse_lists or not is_trivial_mask_graph(mask_graph)


def use_flex_flash_attention(
    score_graph: GraphModule,
    mask_graph: GraphModule,
    kernel_options: Mapping[str, object],
    *,
    num_score_mod_placeholders: int = SCORE_MOD_PLACEHOLDERS,
    device: torch.device,
    profile: Profile = SOURCE,
    sparse_lists: bool = False,
) -> bool:
    """Returns True if `kernel_options["force_flash"]` is set and the flash backend may be used (L4.5).

    Raises Ineligible, a RuntimeError with the reason, if it is set but the backend may not be used. Returns False if
    it is not set.
    """
    forced = bool(kernel_options.get("force_flash", False))
    usable, reason = can_use_flex_flash_attention(
        score_graph,
        mask_graph,
        num_score_mod_placeholders=num_score_mod_placeholders,
        device=device,
        profile=profile,
        sparse_lists=sparse_lists,
    )
    if forced and not usable:
        raise Ineligible(f"force_flash=True but flash attention cannot be used: {reason}")
    return forced and usable
