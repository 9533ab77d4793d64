"""Lowers tensors and mods to a RenderedKernel: checks, eligibility, captures, text (L5, L6)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.attention.flex_attention import BlockMask

from . import eligibility, prelude, template
from .checks import check_block_mask, check_captures, check_scale, check_tensors
from .codegen import RESERVED, ModBody, generate
from .eligibility import Profile
from .errors import BlockMaskUnsupported, Ineligible, InputError
from .indexing import FixedLayout, infer_dense_strides, patch_fixed_layout_indexer_for_cutedsl
from .trace import Mod, ModGraph, trace

ENTRY = "flex_flash_attention"
OPTIONS = frozenset({"force_flash", "SCORE_MOD_VEC_SIZE", "fast_math"})

CAPTURING_WIDTH = 2
"""The vector width of a score_mod in a kernel with captures.

Two lanes are right on every GPU, and never slower than the one lane that flash-attn-4 takes by itself (L6.5).
"""


class Launcher(Protocol):
    """Runs a rendered kernel. It gives the text an attention entry point and nothing else (L6.4)."""

    profile: Profile

    def run(self, kernel: RenderedKernel, arguments: Mapping[str, torch.Tensor]) -> None:
        """Fill `arguments["OUT"]` and `arguments["LSE"]` in place (L9.1)."""


@dataclass(frozen=True)
class RenderedKernel:
    """A rendered text, and the data that its entry is called with.

    `captures` are the captured tensors in the order of aux_tensors, `buffers` their names in the text. `block_lists`
    are kv_num_blocks, kv_indices, full_kv_num_blocks and full_kv_indices if the text walks them, else ().
    `output_size`, `output_stride` and `lse_size` are in elements (L5.1). `fast_math` is the kernel option.
    """

    text: str
    scale: float
    buffers: tuple[str, ...]
    captures: tuple[torch.Tensor, ...] = field(repr=False)
    block_lists: tuple[torch.Tensor, ...] = field(repr=False)
    block_size: tuple[int, int] | None
    output_size: tuple[int, ...]
    output_stride: tuple[int, ...]
    lse_size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    score_graph: ModGraph = field(repr=False)
    mask_graph: ModGraph = field(repr=False)
    fast_math: bool = False

    def check_cpu(self) -> None:
        """Raises InputError if the kernel was lowered with fast_math: no CPU has its approximate instructions."""
        if self.fast_math:
            raise InputError("this kernel was lowered with fast_math, whose approximate instructions no CPU has")

    @property
    def digest(self) -> str:
        """sha256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def allocate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """New tensors (output, LSE), filled with the values for nothing to attend to: 0 and -inf (L8.2, L9.4)."""
        output = torch.empty_strided(self.output_size, self.output_stride, dtype=self.dtype, device=self.device)
        lse = torch.empty(self.lse_size, dtype=torch.float32, device=self.device)
        return output.zero_(), lse.fill_(-math.inf)

    def arguments(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The tensors that the text's entry takes, by name."""
        lists = dict(zip(template.BLOCK_LISTS, self.block_lists, strict=True)) if self.block_lists else {}
        named = dict(zip(self.buffers, self.captures, strict=True))
        return {"Q": q, "K": k, "V": v, "OUT": out, "LSE": lse, **lists, **named}


def lower(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    score_mod: Mod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    kernel_options: Mapping[str, object] | None = None,
    *,
    profile: Profile = eligibility.HOST,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> RenderedKernel:
    """Lower a FlexAttention call to kernel text.

    `q` is (B, H, M, D), `k` (B, Hkv, N, D), `v` (B, Hkv, N, Dv), all float16 or all bfloat16, with any strides. `scale`
    defaults to 1/sqrt(D).
    `kernel_options` may have `SCORE_MOD_VEC_SIZE` (1, 2, 4 or 8), which sets `score_mod.__vec_size__`. Without it, a
    score_mod in a kernel with captures gets `CAPTURING_WIDTH`; without captures, the launcher chooses the width.
    `fast_math` (default False) uses approximate instructions of the GPU for tanh, division, exp, log and sqrt; no CPU
    has them. The text mentions fast_math only if it is set.
    `force_flash` is accepted, but `lower` always behaves as if it were set.
    `on_stage` is called with "trace", "eligibility" and "render" as each of them begins.
    Raises InputError for malformed input (L5.5), TraceError, Ineligible (L4.5), BlockMaskUnsupported (L5.2),
    UnsupportedOperation (L7.7), TemplateError (L5.3).
    """
    options = _checked_options(kernel_options)
    if options.get("fast_math") and not profile.approximates:
        raise InputError(
            f"fast_math means approximate instructions of a GPU, which the {profile.name} profile has not; "
            "use it with the simt or flash-attn-4 launcher, or leave it out"
        )
    check_tensors(q, k, v)
    if block_mask is not None:
        check_block_mask(block_mask, q, k)
    scale = check_scale(scale, q.shape[-1])
    on_stage("trace")
    score_graph = trace(score_mod, "score", q.device)
    mask_graph = trace(block_mask.mask_mod if block_mask is not None else None, "mask", q.device)
    on_stage("eligibility")
    sparse = block_mask is not None and _leaves_something_out(block_mask, k.shape[2])
    _, reason = eligibility.can_use_flex_flash_attention(
        score_graph.graph_module, mask_graph.graph_module, device=q.device, profile=profile, sparse_lists=sparse
    )
    reason = reason or eligibility.refused_head_dims(q.shape[3], v.shape[3], q.device, profile)
    if reason:
        raise Ineligible(f"force_flash=True but flash attention cannot be used: {reason}")
    for graph in (score_graph, mask_graph):
        check_captures(dict(zip(graph.names, graph.captures, strict=True)), q.device)
    on_stage("render")
    return create_flex_flash_attention_kernel(
        q,
        k,
        v,
        block_mask,
        scale,
        options,
        score_graph=score_graph,
        mask_graph=mask_graph,
        sparse_lists=sparse,
        needs_full_lists=profile.needs_full_lists,
    )


def create_flex_flash_attention_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: BlockMask | None,
    scale: float,
    kernel_options: Mapping[str, object],
    *,
    score_graph: ModGraph,
    mask_graph: ModGraph,
    sparse_lists: bool,
    needs_full_lists: bool = False,
) -> RenderedKernel:
    """Create the one kernel, without autotuning (L5.3), for inputs that are already checked and eligible.

    Raises BlockMaskUnsupported if block lists are needed, the full-block lists are missing, and `needs_full_lists`
    (L5.2).
    """
    batch, heads, length, _ = query.shape
    size = (batch, heads, length, value.shape[-1])
    walks_lists = eligibility.needs_block_mask(mask_graph.graph_module, sparse_lists)
    lists: tuple[torch.Tensor, ...] = ()
    block_size: tuple[int, int] | None = None
    if walks_lists:
        assert block_mask is not None
        if block_mask.full_kv_num_blocks is None and needs_full_lists:
            raise BlockMaskUnsupported(
                "Flash attention with block mask but without full blocks is not supported yet: "
                "give the BlockMask full_kv_num_blocks and full_kv_indices (empty ones will do)"
            )
        lists = tuple(_block_lists(block_mask, key.shape[2]))
        block_size = (int(block_mask.BLOCK_SIZE[0]), int(block_mask.BLOCK_SIZE[1]))
    graphs = {"score_mod": score_graph, "mask_mod": mask_graph}
    wanted = {
        "score_mod": not score_graph.is_identity,
        "mask_mod": walks_lists and not eligibility.is_trivial_mask_graph(mask_graph.graph_module),
    }
    buffers = _Buffers()
    positions = {name: buffers.add(graph) for name, graph in graphs.items() if wanted[name]}
    extents = {"b": batch, "h": heads, "q": length, "kv": key.shape[2]}

    def write(name: str) -> ModBody:
        graph, own = graphs[name], positions[name]
        layouts = [_layout(t) for t in graph.captures]
        names = [buffers.names[i] for i in own]
        body = generate(graph, layouts, names, extents, bool(kernel_options.get("fast_math")))
        return ModBody(body.lines, body.helpers, tuple(sorted(own[i] for i in body.buffers)))

    width = _vec_size(kernel_options)
    if width is None and buffers.names and wanted["score_mod"]:
        width = CAPTURING_WIDTH

    @patch_fixed_layout_indexer_for_cutedsl()
    def render() -> str:
        return template.render(
            bodies={name: write(name) for name in positions},
            buffers=buffers.names,
            scale=scale,
            block_size=block_size,
            vec_size=width,
            facts=_facts(query, key, value, buffers, block_size),
        )

    return RenderedKernel(
        text=render(),
        scale=scale,
        buffers=tuple(buffers.names),
        captures=tuple(buffers.tensors),
        block_lists=lists,
        block_size=block_size,
        output_size=size,
        output_stride=infer_dense_strides(size, query.stride()),
        lse_size=size[:3],
        dtype=query.dtype,
        device=query.device,
        score_graph=score_graph,
        mask_graph=mask_graph,
        fast_math=bool(kernel_options.get("fast_math")),
    )


class _Buffers:
    """The captures of both mods, each once (L6.3). Each has a unique name that no other name in the text has."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tensors: list[torch.Tensor] = []
        self._positions: dict[tuple[Any, ...], int] = {}

    def add(self, graph: ModGraph) -> list[int]:
        """The positions of `graph`'s captures among all buffers."""
        return [self._position(t, name) for t, name in zip(graph.captures, graph.names, strict=True)]

    def _position(self, tensor: torch.Tensor, name: str) -> int:
        storage = tensor.untyped_storage().data_ptr()
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        known = self._positions.get(key)
        if known is not None:
            return known
        taken = RESERVED | set(prelude.SOURCES) | set(self.names)
        candidate, n = name, 1
        while candidate in taken:
            candidate, n = f"{name}_{n}", n + 1
        self._positions[key] = len(self.tensors)
        self.names.append(candidate)
        self.tensors.append(tensor)
        return self._positions[key]


def _layout(tensor: torch.Tensor) -> FixedLayout:
    # The kernel gets the view itself, so the layout has no offset, even if the view has a storage offset (L2.6).
    return FixedLayout(tensor.device, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))


def _block_lists(block_mask: BlockMask, kv_length: int) -> Sequence[torch.Tensor]:
    """The four tensors of a kernel: counts and indices of the partial lists, then of the full lists.

    Missing full lists become empty ones. Indices get one entry in a row for each key/value block, since flash-attn-4
    takes no more, and its earlier releases no fewer (L5.2).
    """
    counts, indices = block_mask.kv_num_blocks, block_mask.kv_indices
    full_counts, full_indices = block_mask.full_kv_num_blocks, block_mask.full_kv_indices
    if full_counts is None or full_indices is None:
        full_counts, full_indices = torch.zeros_like(counts), torch.zeros_like(indices)
    blocks = -(-kv_length // int(block_mask.BLOCK_SIZE[1]))
    return counts, _of_width(indices, blocks), full_counts, _of_width(full_indices, blocks)


def _of_width(indices: torch.Tensor, width: int) -> torch.Tensor:
    """The indices with `width` entries in a row. Entries of 0 are added at the end, behind every list."""
    if indices.shape[3] == width:
        return indices
    return torch.nn.functional.pad(indices, (0, width - indices.shape[3])).contiguous()  # cut, if that is below zero


def _leaves_something_out(block_mask: BlockMask, kv_length: int) -> bool:
    listed = block_mask.kv_num_blocks
    if block_mask.full_kv_num_blocks is not None:
        listed = listed + block_mask.full_kv_num_blocks
    blocks = -(-kv_length // int(block_mask.BLOCK_SIZE[1]))
    return bool((listed < blocks).any())


def _checked_options(options: Mapping[str, object] | None) -> Mapping[str, object]:
    options = dict(options or {})
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise InputError(f"unknown kernel option {unknown[0]!r}; there are {', '.join(sorted(OPTIONS))}")
    _vec_size(options)
    if options.get("fast_math", False) not in (True, False):
        raise InputError(f"fast_math must be True or False, not {options['fast_math']!r}")
    return options


def _vec_size(options: Mapping[str, object]) -> int | None:
    size = options.get("SCORE_MOD_VEC_SIZE")
    if size is None:
        return None
    if size not in (1, 2, 4, 8):
        raise InputError(f"SCORE_MOD_VEC_SIZE must be 1, 2, 4 or 8, not {size!r}")
    assert isinstance(size, int)
    return size


def _facts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, buffers: _Buffers, block_size: tuple[int, int] | None
) -> str:
    """The shapes, dtypes and block size that the text is rendered for, as lines of its docstring."""
    lines = [
        f"Q {tuple(q.shape)}, K {tuple(k.shape)}, V {tuple(v.shape)}, {str(q.dtype).removeprefix('torch.')}",
        *(
            f"aux_tensors[{i}] {name}: {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for i, (name, t) in enumerate(zip(buffers.names, buffers.tensors, strict=True))
        ),
    ]
    if block_size is not None:
        lines.append(f"block lists in blocks of {block_size[0]} queries by {block_size[1]} keys")
    return "\n".join(lines)
