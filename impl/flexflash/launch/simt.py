"""Runs a rendered kernel in a plain GPU kernel: one thread per query row, online softmax in float32.

It separates "the mod's code is wrong on this GPU" from "the attention kernel is wrong": it has no tensor cores, no
shared memory and no exchange between threads, so only the arithmetic can be wrong. The text runs unchanged. A thread
only calls the function `_row`. For tensors on a CPU, a loop on the CPU calls the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cutlass
import cutlass.cute as cute
import torch

from ..checks import check_gradients
from ..eligibility import SIMT, Profile
from ..errors import InputError
from ..indexing import FixedLayout
from ..kernel import ENTRY, RenderedKernel
from .entry import BlockSparseTensors, TakesBlockLists, check_width, cute_tensor, width_for
from .module import load
from .names import require

CHUNK = 32
"""Keys per chunk. The running maximum is updated, and the accumulator rescaled, at most once per chunk."""

THREADS = 64
UNROLL = 8
"""Unroll factor of the loops over head dims. Unrolled fully, large head dims spill and take seconds to compile."""
Mod = Callable[..., Any]


@dataclass
class SimtLauncher(TakesBlockLists):
    """Runs kernels one row at a time. `vector_width` is the number of keys that a mod sees at once: 1, 2, 4 or 8.

    The default is the mod's own `__vec_size__`, else flash-attn-4's choice: 2 without captures, 1 with captures. All
    tensors must be on one CUDA device, or all on the CPU. `on_stage` is called with "compile" and "launch" as each of
    them begins. A kernel is compiled once for tensors of the same shapes, strides, dtypes and device.
    """

    vector_width: int | None = None
    on_stage: Callable[[str], None] = lambda stage: None
    profile: Profile = SIMT
    rescales: ClassVar[bool] = True  # for tests that plant a fault
    _compiled: dict[tuple[Any, ...], Callable[..., None]] = field(default_factory=dict, repr=False)
    _digest: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_width(self.vector_width)

    def run(self, kernel: RenderedKernel, arguments: Mapping[str, torch.Tensor]) -> None:
        """Fill `arguments["OUT"]` (B, H, M, Dv) and `arguments["LSE"]` (B, H, M) in place, and nothing else (L9.1).

        On a GPU, the kernel is launched on the current stream of the tensors' device (L9.2); `run` does not wait for
        it. Raises InputError if the tensors are on several devices, or require grad while grad mode is on (L5.5), and
        for fast_math on a CPU; LacksName if the installed CuTe DSL lacks a name that the text uses.
        """
        check_gradients(arguments)
        devices = {t.device for t in arguments.values()}
        if len(devices) != 1:
            raise InputError(f"all tensors must be on one device, not {sorted(map(str, devices))}")
        (device,) = devices
        if _current_stream(device) is None:
            kernel.check_cpu()
        require(kernel.text)
        self._digest = kernel.digest
        # A device of -1 is none: for tensors on a CPU, no device of CUDA is made the current one.
        with torch.cuda.device(arguments["OUT"].get_device()):
            getattr(load(kernel.text), ENTRY)(self, **arguments)

    def compiled(self) -> tuple[Callable[..., None], ...]:
        """Every kernel that was compiled, as `cute.compile` returned it."""
        return tuple(self._compiled.values())

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        softmax_scale: float,
        return_lse: bool,
        score_mod: Mod | None,
        mask_mod: Mod | None,
        out: torch.Tensor,
        lse: torch.Tensor,
        block_sparse_tensors: BlockSparseTensors | None,
        aux_tensors: Sequence[torch.Tensor] | None,
    ) -> None:
        """Attention with flash-attn-4's forward signature.

        q is (B, M, H, D), k (B, N, Hkv, D), v (B, N, Hkv, Dv), out (B, M, H, Dv), lse (B, H, M).
        """
        captures = list(aux_tensors or ())
        width = width_for(self.vector_width, score_mod, captures)
        lists = block_sparse_tensors.per_head(q.shape[0], q.shape[2]) if block_sparse_tensors is not None else []
        block_size = block_sparse_tensors.block_size if block_sparse_tensors is not None else (q.shape[1], k.shape[1])
        tensors = [q, k, v, out, lse]
        operands = (
            [cute_tensor(t) for t in tensors],
            # CuTe refuses an empty list of tensors.
            [cute_tensor(t) for t in captures or [lse]],
            [cute_tensor(t) for t in lists or [lse]],
        )
        stream = _current_stream(q.device)
        plan = _Plan(
            width=width,
            chunk=CHUNK,
            rescales=self.rescales,
            scale=softmax_scale,
            block_size=(int(block_size[0]), int(block_size[1])),
            walks_lists=block_sparse_tensors is not None,
            batch=q.shape[0],
            heads=q.shape[2],
            group=q.shape[2] // k.shape[2],
            queries=q.shape[1],
            keys=k.shape[1],
            dim=q.shape[3],
            value_dim=v.shape[3],
            long=any(_layout(t).reaches(torch.iinfo(torch.int32).max) for t in tensors),
        )
        key = (self._digest, plan, *(_signature(t) for t in (*tensors, *captures, *lists)))
        compiled = self._compiled.get(key)
        if compiled is None:
            self.on_stage("compile")
            entry = _launch if stream is not None else _loop
            extra = (stream,) if stream is not None else ()
            compiled = self._compiled[key] = cute.compile(entry, score_mod, mask_mod, plan, *operands, *extra)
        self.on_stage("launch")
        compiled(*operands, *((stream,) if stream is not None else ()))


@dataclass(frozen=True)
class _Plan:
    """The parameters that a kernel is specialized for; sizes are in elements.

    `long` says that Q, K, V, OUT or LSE is so large that coordinates need 64 bits (L2.8).
    """

    width: int
    chunk: int
    rescales: bool
    scale: float
    block_size: tuple[int, int]
    walks_lists: bool
    batch: int
    heads: int
    group: int
    queries: int
    keys: int
    dim: int
    value_dim: int
    long: bool


def _layout(tensor: torch.Tensor) -> FixedLayout:
    return FixedLayout(tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())


def _signature(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _current_stream(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    from cuda.bindings.driver import CUstream

    return CUstream(torch.cuda.current_stream(device).cuda_stream)


@cute.jit
def _loop(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    lists: list[cute.Tensor],
) -> None:
    """Attention for every row, one after the other, on the CPU."""
    for b in cutlass.range(plan.batch):
        for h in cutlass.range(plan.heads):
            for m in cutlass.range(plan.queries):
                _row(score_mod, mask_mod, plan, tensors, captures, lists, b, h, m)


@cute.jit
def _launch(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    lists: list[cute.Tensor],
    stream: Any,
) -> None:
    """Attention for every row, one thread per row, on the GPU."""
    rows = plan.batch * plan.heads * plan.queries
    _kernel(score_mod, mask_mod, plan, tensors, captures, lists).launch(
        grid=[-(-rows // THREADS), 1, 1], block=[THREADS, 1, 1], stream=stream
    )


@cute.kernel
def _kernel(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    lists: list[cute.Tensor],
) -> None:
    thread, _, _ = cute.arch.thread_idx()
    group, _, _ = cute.arch.block_idx()
    index = group * THREADS + thread
    if index < plan.batch * plan.heads * plan.queries:
        # Neighbouring threads have neighbouring rows of one head, so they read the same keys at the same time.
        m = index % plan.queries
        h = (index // plan.queries) % plan.heads
        b = index // (plan.queries * plan.heads)
        _row(score_mod, mask_mod, plan, tensors, captures, lists, b, h, m)


@cute.jit
def _at(plan: cutlass.Constexpr, *coordinates: cutlass.Int32) -> tuple[cutlass.Int32 | cutlass.Int64, ...]:
    """The coordinates of an element, as Int64 if a coordinate times its stride may overflow an Int32."""
    if cutlass.const_expr(plan.long):
        return tuple(cutlass.Int64(c) for c in coordinates)
    return coordinates


@cute.jit
def _row(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    lists: list[cute.Tensor],
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
) -> None:
    """Attention for query row (b, h, m): writes its output and its LSE."""
    q, _, _, out, lse = tensors
    query = cute.make_rmem_tensor(plan.dim, cutlass.Float32)
    for d in cutlass.range(plan.dim, unroll=UNROLL):
        query[d] = q[_at(plan, b, m, h, d)].to(cutlass.Float32)
    total = cute.make_rmem_tensor(plan.value_dim, cutlass.Float32)
    for d in cutlass.range(plan.value_dim, unroll=UNROLL):
        total[d] = cutlass.Float32(0.0)
    # The running maximum, the running sum, and 1 if a score was NaN.
    state = cute.make_rmem_tensor(3, cutlass.Float32)
    state[0] = -cutlass.Float32.inf
    state[1] = cutlass.Float32(0.0)
    state[2] = cutlass.Float32(0.0)
    if cutlass.const_expr(plan.walks_lists):
        row = m // plan.block_size[0]
        for j in cutlass.range(lists[0][b, h, row]):
            _block(score_mod, mask_mod, plan, tensors, captures, query, total, state, b, h, m, lists[1][b, h, row, j])
        for j in cutlass.range(lists[2][b, h, row]):
            _block(score_mod, None, plan, tensors, captures, query, total, state, b, h, m, lists[3][b, h, row, j])
    else:
        _block(score_mod, None, plan, tensors, captures, query, total, state, b, h, m, cutlass.Int32(0))
    empty = (state[1] == cutlass.Float32(0.0)) & (state[2] == cutlass.Float32(0.0))
    for d in cutlass.range(plan.value_dim, unroll=UNROLL):
        value = total[d] / state[1]
        if empty:
            value = cutlass.Float32(0.0)  # nothing to attend to (L8.2)
        out[_at(plan, b, m, h, d)] = value.to(out.element_type)
    logarithm = cute.math.log(state[1])
    result = state[0] + logarithm
    if state[0] == cutlass.Float32.inf:
        result = state[0]  # +inf makes the sum NaN, but the logsumexp is +inf (L8.5)
    if state[2] != cutlass.Float32(0.0):
        result = state[2] * cutlass.Float32.nan
    if empty:
        result = -cutlass.Float32.inf
    lse[b, h, m] = result


@cute.jit
def _block(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    query: cute.Tensor,
    total: cute.Tensor,
    state: cute.Tensor,
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
    block: cutlass.Int32,
) -> None:
    """Attend to the keys of one block, chunk by chunk. For a full block, `mask_mod` is None."""
    first = block * plan.block_size[1]
    last = cutlass.min(first + plan.block_size[1], plan.keys)
    scores = cute.make_rmem_tensor(plan.chunk, cutlass.Float32)
    for start in cutlass.range(first, last, plan.chunk):
        end = cutlass.min(start + plan.chunk, last)
        for j in cutlass.range(plan.chunk):
            scores[j] = -cutlass.Float32.inf
        for n in cutlass.range(start, end, plan.width):
            _score(score_mod, mask_mod, plan, tensors, captures, query, scores, b, h, m, n, start, end)
        _gather_up(plan, tensors, scores, total, state, b, h, start, end)


@cute.jit
def _score(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    captures: list[cute.Tensor],
    query: cute.Tensor,
    scores: cute.Tensor,
    b: cutlass.Int32,
    h: cutlass.Int32,
    m: cutlass.Int32,
    n: cutlass.Int32,
    start: cutlass.Int32,
    end: cutlass.Int32,
) -> None:
    """The scores of keys n to n + width - 1: scale * q k, then score_mod, then the mask (L8.1)."""
    k = tensors[1]
    score = cute.make_rmem_tensor(plan.width, cutlass.Float32)
    b_idx = cute.make_rmem_tensor(plan.width, cutlass.Int32)
    h_idx = cute.make_rmem_tensor(plan.width, cutlass.Int32)
    q_idx = cute.make_rmem_tensor(plan.width, cutlass.Int32)
    kv_idx = cute.make_rmem_tensor(plan.width, cutlass.Int32)
    for lane in cutlass.range_constexpr(plan.width):
        # Lanes past the last key see the last key, so no mod reads outside its captures.
        key = cutlass.min(n + lane, plan.keys - 1)
        product = cutlass.Float32(0.0)
        for d in cutlass.range(plan.dim, unroll=UNROLL):
            product = product + query[d] * k[_at(plan, b, key, h // plan.group, d)].to(cutlass.Float32)
        score[lane] = product * cutlass.Float32(plan.scale)
        b_idx[lane] = b
        h_idx[lane] = h
        q_idx[lane] = m
        kv_idx[lane] = key
    indices = (b_idx.load(), h_idx.load(), q_idx.load(), kv_idx.load())
    value = score.load()
    if cutlass.const_expr(score_mod is not None):
        value = score_mod(value, *indices, None, captures)
    if cutlass.const_expr(mask_mod is not None):
        keep = mask_mod(*indices, None, captures)
        value = cute.where(keep, value, cute.full_like(value, float("-inf")))
    score.store(value)
    for lane in cutlass.range_constexpr(plan.width):
        if n + lane < end:
            scores[n + lane - start] = score[lane]


@cute.jit
def _gather_up(
    plan: cutlass.Constexpr,
    tensors: list[cute.Tensor],
    scores: cute.Tensor,
    total: cute.Tensor,
    state: cute.Tensor,
    b: cutlass.Int32,
    h: cutlass.Int32,
    start: cutlass.Int32,
    end: cutlass.Int32,
) -> None:
    """Add exp(score - maximum) of a chunk to the running sum, and its products with V to the accumulator."""
    v = tensors[2]
    top = state[0]
    for j in cutlass.range(plan.chunk):
        if scores[j] > top:
            top = scores[j]
        if scores[j] != scores[j]:
            state[2] = cutlass.Float32(1.0)
            top = cutlass.Float32.inf  # exp(NaN - inf) is NaN, and so is all that follows
    if top > -cutlass.Float32.inf:
        if top > state[0]:
            shrink = cute.math.exp(state[0] - top)
            state[0] = top
            if cutlass.const_expr(plan.rescales):
                state[1] = state[1] * shrink
                for d in cutlass.range(plan.value_dim, unroll=UNROLL):
                    total[d] = total[d] * shrink
        for n in cutlass.range(start, end):
            weight = cute.math.exp(scores[n - start] - top)
            # V is not read for a key that is masked, or whose score is so far below the maximum that its weight is 0.
            if weight != cutlass.Float32(0.0):
                state[1] = state[1] + weight
                for d in cutlass.range(plan.value_dim, unroll=UNROLL):
                    total[d] = total[d] + weight * v[_at(plan, b, n, h // plan.group, d)].to(cutlass.Float32)
