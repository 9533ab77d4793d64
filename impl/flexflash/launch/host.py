"""Runs a rendered kernel on a CPU: the CuTe DSL compiler compiles the mods, PyTorch does the attention around them.

The text runs unchanged; the launcher is its attention entry. A float32 matrix product gives the scores of the blocks
that the lists name (L8.4). The compiled mods then walk those blocks at any vector width (L6.5). Softmax and P V follow,
with P rounded to the value dtype as in flash-attn-4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
import torch

from ..checks import check_gradients
from ..eligibility import HOST, Profile
from ..kernel import ENTRY, RenderedKernel
from .entry import BlockSparseTensors, TakesBlockLists, check_width, cute_tensor, width_for
from .module import load
from .names import require

Mod = Callable[..., Any]


@dataclass
class HostLauncher(TakesBlockLists):
    """Runs kernels on the CPU. `vector_width` is the number of keys that a mod sees at once: 1, 2, 4 or 8.

    The default is the mod's own `__vec_size__`, else flash-attn-4's choice: 2 without captures, 1 with captures.
    `on_stage` is called with "compile" and "launch" as each of them begins.
    """

    vector_width: int | None = None
    on_stage: Callable[[str], None] = lambda stage: None
    profile: Profile = HOST

    def __post_init__(self) -> None:
        check_width(self.vector_width)

    def run(self, kernel: RenderedKernel, arguments: Mapping[str, torch.Tensor]) -> None:
        """Fill `arguments["OUT"]` (B, H, M, Dv) and `arguments["LSE"]` (B, H, M) in place, and nothing else (L9.1).

        Raises InputError for a kernel with fast_math, and if a tensor requires grad while grad mode is on (L5.5);
        LacksName if the installed CuTe DSL lacks a name that the text uses.
        """
        kernel.check_cpu()
        check_gradients(arguments)
        require(kernel.text)
        getattr(load(kernel.text), ENTRY)(self, **arguments)

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
        self.on_stage("launch")
        query, key, value = (t.transpose(1, 2) for t in (q, k, v))
        tiles = _tiles(query, key, block_sparse_tensors)
        scores = self.scores(query, key, softmax_scale, tiles)
        if score_mod is not None or mask_mod is not None:
            width = width_for(self.vector_width, score_mod, aux_tensors or ())
            self.modify(scores, key.shape[2], score_mod, mask_mod, tiles, width, aux_tensors or ())
        self.softmax(scores, value, tiles, out.transpose(1, 2), lse)

    def scores(self, query: torch.Tensor, key: torch.Tensor, scale: float, tiles: Tiles) -> torch.Tensor:
        """scale * Q K^T, (B, H, M, N), float32; -inf in blocks that no list names."""
        batch, heads, length, _ = query.shape
        columns = key.shape[2]
        group = heads // key.shape[1]
        queries, keys = query.float(), key.float()
        if tiles.lists is None:
            expanded = keys.repeat_interleave(group, dim=1)
            return (queries @ expanded.transpose(2, 3)) * scale
        result = torch.full((batch, heads, length, columns), float("-inf"))
        for b, h, rows, listed in tiles.walk(columns):
            # Keys of blocks that no list names are never read (L8.4).
            result[b, h, rows][:, listed] = (queries[b, h, rows] @ keys[b, h // group, listed].T) * scale
        return result

    def modify(
        self,
        scores: torch.Tensor,
        columns: int,
        score_mod: Mod | None,
        mask_mod: Mod | None,
        tiles: Tiles,
        width: int,
        captures: Sequence[torch.Tensor],
    ) -> None:
        """Apply the mods to `scores` (B, H, M, N) in place, `width` keys at a time.

        The mask comes after score_mod. Full blocks are not masked.
        """
        self.on_stage("compile")
        # CuTe refuses an empty list of tensors.
        auxiliary = [cute_tensor(t) for t in captures] or [cute_tensor(scores)]
        operands = (cute_tensor(scores), auxiliary, cute_tensor(tiles.work(columns)))
        sizes = (columns, *tiles.block_size)
        compiled = cute.compile(_modify, score_mod, mask_mod, width, sizes, *operands)
        self.on_stage("launch")
        compiled(*operands)

    def evaluate(self, kernel: RenderedKernel, scores: torch.Tensor) -> torch.Tensor:
        """Apply the rendered mods alone to `scores` (B, H, M, N), float32. Returns the modified scores.

        Reads neither Q, K, V nor block lists: every element goes through score_mod, then mask_mod. Raises InputError
        for a kernel with fast_math, and if `scores` requires grad while grad mode is on; LacksName as `run` does.
        """
        kernel.check_cpu()
        check_gradients({"scores": scores})
        require(kernel.text)
        module = load(kernel.text)
        columns = scores.shape[3]
        modified = scores.contiguous().clone()
        blocks = torch.zeros(1, 1, 1, 1, dtype=torch.int32)
        one, none = torch.ones(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, dtype=torch.int32)
        block_size = (scores.shape[2], columns)
        lists = BlockSparseTensors(one, blocks, none, blocks, block_size)
        score_mod, mask_mod = getattr(module, "score_mod", None), getattr(module, "mask_mod", None)
        tiles = Tiles(lists, block_size, (scores.shape[0], scores.shape[1], scores.shape[2]))
        width = width_for(self.vector_width, score_mod, kernel.captures)
        if score_mod is not None or mask_mod is not None:
            self.modify(modified, columns, score_mod, mask_mod, tiles, width, kernel.captures)
        return modified

    def probabilities(self, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`weights`, exp(s - max), rounded to `dtype`, the value dtype, for P V."""
        return weights.to(dtype).float()

    def softmax(
        self, scores: torch.Tensor, value: torch.Tensor, tiles: Tiles, out: torch.Tensor, lse: torch.Tensor
    ) -> None:
        """Write softmax and P V to `out`, and the LSE, a natural logarithm (L8.1), to `lse`.

        A row with nothing to attend to gets 0 and -inf (L8.2).
        """
        group = scores.shape[1] // value.shape[1]
        largest = scores.amax(dim=-1, keepdim=True)
        weights = torch.exp(scores - largest.masked_fill(largest == float("-inf"), 0.0))
        total = weights.sum(dim=-1, keepdim=True)
        empty = total == 0
        rounded = self.probabilities(weights, value.dtype)
        if tiles.lists is None:
            mixed = rounded @ value.float().repeat_interleave(group, dim=1)
        else:
            values = value.float()
            mixed = torch.zeros(*scores.shape[:3], value.shape[3])
            for b, h, rows, listed in tiles.walk(scores.shape[3]):
                mixed[b, h, rows] = rounded[b, h, rows][:, listed] @ values[b, h // group, listed]
        out.copy_(torch.where(empty, 0.0, mixed / total))
        # A score of +inf makes the sum NaN, but the logsumexp is +inf, as in PyTorch (L8.5).
        lse.copy_(torch.where(largest == float("inf"), largest, largest + torch.log(total)).squeeze(-1))


@dataclass(frozen=True)
class Tiles:
    """The blocks of the score matrix that are attended. Without `lists`, the matrix is one block, which is not masked.

    `block_size` is (q, kv), `shape` is (B, H, M). The methods take `columns`, the key length N.
    """

    lists: BlockSparseTensors | None
    block_size: tuple[int, int]
    shape: tuple[int, int, int]

    def walk(self, columns: int) -> Any:
        """Yields (b, h, rows, columns) for every row of blocks that lists a block.

        `rows` is a slice; `columns` are the indices of the listed keys, ascending.
        """
        assert self.lists is not None
        batch, heads, length = self.shape
        partial, partial_idx, full, full_idx = (t.tolist() for t in self.as_lists(columns))
        height, width = self.block_size
        for b in range(batch):
            for h in range(heads):
                for row in range(-(-length // height)):
                    blocks = partial_idx[b][h][row][: partial[b][h][row]] + full_idx[b][h][row][: full[b][h][row]]
                    listed = [torch.arange(n * width, min((n + 1) * width, columns)) for n in sorted(set(blocks))]
                    if listed:
                        yield b, h, slice(row * height, min((row + 1) * height, length)), torch.cat(listed)

    def work(self, columns: int) -> torch.Tensor:
        """Every listed block as int32 (blocks, 5): b, h, row of blocks, block of keys, masked.

        `masked` is 1 if the mask_mod decides in the block, 0 for a full block.
        """
        partial, partial_idx, full, full_idx = self.as_lists(columns)
        return torch.cat([_listed(partial, partial_idx, 1), _listed(full, full_idx, 0)])

    def as_lists(self, columns: int) -> list[torch.Tensor]:
        """The four lists as int32 (B, H, rows) and (B, H, rows, blocks). Without lists, the one block is full."""
        batch, heads, _ = self.shape
        if self.lists is not None:
            return self.lists.per_head(batch, heads)
        counts, indices = (batch, heads, 1), (batch, heads, 1, 1)
        none, one = torch.zeros(counts, dtype=torch.int32), torch.ones(counts, dtype=torch.int32)
        first = torch.zeros(indices, dtype=torch.int32)
        return [none, first, one, first]


def _listed(count: torch.Tensor, index: torch.Tensor, masked: int) -> torch.Tensor:
    """The part of `Tiles.work` for one pair of lists: the first `count` indices of each row, with `masked`."""
    there = torch.arange(index.shape[3]) < count.unsqueeze(3)
    rows = there.nonzero()[:, :3].to(torch.int32)
    blocks = index[there]
    return torch.cat([rows, blocks.unsqueeze(1), torch.full_like(blocks, masked).unsqueeze(1)], dim=1)


def _tiles(query: torch.Tensor, key: torch.Tensor, lists: BlockSparseTensors | None) -> Tiles:
    shape = (query.shape[0], query.shape[1], query.shape[2])
    block_size = lists.block_size if lists is not None else (query.shape[2], key.shape[2])
    return Tiles(lists, block_size, shape)


@cute.jit
def _modify(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    width: cutlass.Constexpr,
    sizes: cutlass.Constexpr,
    scores: cute.Tensor,
    captures: list[cute.Tensor],
    work: cute.Tensor,
) -> None:
    """Apply the mods to the blocks of `work` (blocks, 5): b, h, row of blocks, block of keys, masked.

    There is one loop, and the mods are called in one place, because the compiled code grows with both.
    """
    for n in cutlass.range(work.shape[0], unroll=1):
        b, h, row, block, masked = work[n, 0], work[n, 1], work[n, 2], work[n, 3], work[n, 4] != 0
        _modify_block(score_mod, mask_mod, width, sizes, scores, captures, b, h, row, block, masked)


@cute.jit
def _modify_block(
    score_mod: cutlass.Constexpr,
    mask_mod: cutlass.Constexpr,
    width: cutlass.Constexpr,
    sizes: cutlass.Constexpr,
    scores: cute.Tensor,
    captures: list[cute.Tensor],
    b: cutlass.Int32,
    h: cutlass.Int32,
    row: cutlass.Int32,
    block: cutlass.Int32,
    masked: cutlass.Boolean,
) -> None:
    columns, height, breadth = sizes
    last = min((block + 1) * breadth, columns) - 1
    for m in cutlass.range(row * height, min((row + 1) * height, scores.shape[2]), unroll=1):
        keys = scores[b, h, m, None]
        for n in cutlass.range(block * breadth, last + 1, width, unroll=1):
            score = cute.make_rmem_tensor(width, cutlass.Float32)
            kv_idx = cute.make_rmem_tensor(width, cutlass.Int32)
            for lane in cutlass.range_constexpr(width):
                # Lanes past the block's last key see that key and its score. So no mod reads outside its captures,
                # even if it computes an index from the score.
                kv_idx[lane] = min(n + lane, last)
                score[lane] = keys[kv_idx[lane]]
            indices = (
                cute.full(width, b, cutlass.Int32),
                cute.full(width, h, cutlass.Int32),
                cute.full(width, m, cutlass.Int32),
                kv_idx.load(),
            )
            if cutlass.const_expr(score_mod is not None):
                score.store(score_mod(score.load(), *indices, None, captures))
            if cutlass.const_expr(mask_mod is not None):  # noqa: SIM102 -- one is the compiler's
                if masked:
                    keep = mask_mod(*indices, None, captures)
                    value = score.load()
                    score.store(cute.where(keep, value, cute.full_like(value, float("-inf"))))
            for lane in cutlass.range_constexpr(width - 1, -1, -1):
                # In descending order: several lanes may have the same key, and the lane that owns the key writes last.
                keys[kv_idx[lane]] = score[lane]
