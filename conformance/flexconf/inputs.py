"""From a case to tensors and callables: the same bytes on every platform and library version."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf import distributions, layouts, modtext
from flexconf.case import Capture, Case, Problem
from flexconf.errors import InputError
from flexconf.layouts import Placement, dense

__all__ = ["Inputs", "Mod", "digest", "materialize"]

Mod = Callable[..., Tensor]

_SPREAD = {
    "normal": "normal", "large": "normal(3)", "tiny": "normal(2 ** -10)", "constant": "constant(1)",
    "zeros": "constant(0)", "infinite": "normal",
}  # fmt: skip
# About one row of q in eight has an infinity, and one column of v in four: the rest still says what is right.
_INFINITE = {"q": "sprinkle(inf, 1 / (8 * D))", "v": "sprinkle(-inf, 1 / (4 * N + 4))"}


@dataclass(frozen=True)
class Inputs:
    """What a subject and an oracle are given.

    q (B, H, M, D), k (B, Hkv, N, D), v (B, Hkv, N, Dv); the mods, or None; the captures by name; the block
    mask, or None; the factor on Q K^T; the SHA-256 of each tensor's elements.
    """

    case: Case
    q: Tensor
    k: Tensor
    v: Tensor
    score_mod: Mod | None
    mask_mod: Mod | None
    captures: dict[str, Tensor]
    block_mask: BlockMask | None
    scale: float
    digests: dict[str, str]


def materialize(
    case: Case,
    device: str | torch.device = "cpu",
    functions: Mapping[modtext.Kind, Mod] | None = None,
) -> Inputs:
    """The tensors, mods and block mask of a case.

    `functions` are mods that are not text, a user's own: they take the place of the case's.

    Every tensor is a view of guarded storage (see `flexconf.layouts`). The mods of a case that expects no
    refusal are checked to return what a mod returns. Raises InputError.
    """
    problem = case.problem
    captures: dict[str, Tensor] = {}
    for capture in case.captures:
        captures[capture.name] = _capture(capture, case, captures, device)
    mods: dict[modtext.Kind, Mod | None] = {"score": None, "mask": None, **(functions or {})}
    texts: dict[modtext.Kind, str | None] = {"score": case.score_mod, "mask": case.mask_mod}
    for kind, text in texts.items():
        if text is None or mods[kind] is not None:
            continue
        try:
            mod = modtext.compile_mod(text, kind, captures, case.constants(), case.name)
            if case.expect == "ok":
                modtext.check_result(mod, kind)
        except InputError as error:
            raise InputError(f"case {case.name!r}: {kind}_mod: {error}") from None
        mods[kind] = mod
    q, k, v = _qkv(problem, case.seed, device)
    tensors = {"q": q, "k": k, "v": v, **{f"capture:{name}": tensor for name, tensor in captures.items()}}
    return Inputs(
        case=case,
        q=q,
        k=k,
        v=v,
        score_mod=mods["score"],
        mask_mod=mods["mask"],
        captures=captures,
        block_mask=_block_mask(case, mods["mask"], device),
        scale=problem.effective_scale,
        digests={name: digest(tensor) for name, tensor in tensors.items()},
    )


def digest(tensor: Tensor) -> str:
    """SHA-256, in hex, of dtype, shape and elements in row-major order, whatever the strides."""
    plain = tensor.detach().cpu().contiguous()
    header = f"{str(plain.dtype).removeprefix('torch.')}{tuple(plain.shape)}"
    # A copy: one element counts as contiguous whatever its stride, and a view as bytes does not take every stride.
    dense = plain.reshape(-1).clone(memory_format=torch.contiguous_format)
    elements = dense.view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(header.encode() + elements).hexdigest()


def _capture(capture: Capture, case: Case, earlier: dict[str, Tensor], device: str | torch.device) -> Tensor:
    what = f"case {case.name!r}: capture {capture.name!r}"
    symbols = case.problem.symbols()
    shape = capture.resolve_shape(symbols)
    layout = layouts.parse(capture.layout)
    if layout.of is not None:
        base = earlier[layout.of]
        view = {
            "view_of": lambda: base.view_as(base),
            "transpose_of": lambda: base.permute(*reversed(range(base.dim()))),
            "last_of": lambda: base[-1] if base.dim() and base.shape[0] else base,
            "first_of": lambda: base[0] if base.dim() and base.shape[0] else base,
        }[layout.kind]()
        dtype = str(view.dtype).removeprefix("torch.")
        if tuple(view.shape) != shape or dtype != capture.dtype:
            raise InputError(
                f"{what}: {capture.layout} is {dtype} of shape {tuple(view.shape)}, not {capture.dtype} of {shape}"
            )
        return view
    try:
        where = layouts.placement(layout, shape)
        values = distributions.draw(
            capture.values, where.stored_shape, case.seed, f"capture:{capture.name}", symbols, capture.dtype
        )
        stored = layouts.encode(values, capture.dtype, f"values {capture.values!r}")
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    tensor = layouts.place(stored, where, device)
    return tensor.requires_grad_() if capture.requires_grad else tensor


# ------------------------------------------------------------------------------------------------- q, k and v


def _draw(name: str, shape: Sequence[int], problem: Problem, seed: int) -> Tensor:
    spec = _SPREAD[problem.qkv]
    if name == "v" and problem.qkv in ("large", "constant", "zeros"):
        spec = "normal"  # the scores are what is special; v stays telling
    if problem.qkv == "infinite" and name in _INFINITE:
        spec = _INFINITE[name]
    values = distributions.draw(spec, tuple(shape), seed, name, problem.symbols(), problem.dtype)
    return layouts.encode(values, problem.dtype, name)


def _qkv(problem: Problem, seed: int, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor]:
    p = problem
    shapes = {"q": (p.B, p.H, p.M, p.D), "k": (p.B, p.Hkv, p.N, p.D), "v": (p.B, p.Hkv, p.N, p.Dv)}
    if p.layout == "packed_qkv":
        q, k, v = _packed([_draw(name, shape, p, seed) for name, shape in shapes.items()], device)
        return q, k, v
    if p.layout == "packed_kv":
        k, v = _packed([_draw(name, shapes[name], p, seed) for name in ("k", "v")], device)
        return _single("q", shapes["q"], p, seed, device), k, v
    q, k, v = (_single(name, shape, p, seed, device) for name, shape in shapes.items())
    return q, k, v


def _single(name: str, shape: tuple[int, ...], problem: Problem, seed: int, device: str | torch.device) -> Tensor:
    where = _placement(problem.layout, name, shape)
    return layouts.place(_draw(name, where.stored_shape, problem, seed), where, device)


def _placement(layout: str, name: str, shape: tuple[int, ...]) -> Placement:
    bmhd = (0, 2, 1, 3)
    match layout:
        case "bmhd" | "packed_kv":
            return dense(shape, bmhd)
        case "expanded_heads":
            return dense(shape, bmhd, expanded=(1,) if name != "q" else ())
        case "expanded_batch":
            return dense(shape, bmhd, expanded=(0,) if name != "q" else ())
        case "padded":
            return dense(shape, pad=8)  # rows stay aligned to 16 bytes
        case "offset":
            return dense(shape, shift=8)  # aligned to 16 bytes and no more
    return dense(shape)


def _packed(parts: Sequence[Tensor], device: str | torch.device) -> list[Tensor]:
    """Tensors (B, heads_i, L, D) as views of one (B, L, sum of heads, D)."""
    together = torch.cat([part.transpose(1, 2) for part in parts], dim=2)
    packed = layouts.place(together, dense(tuple(together.shape)), device)
    split = torch.split(packed, [part.shape[1] for part in parts], dim=2)
    return [part.transpose(1, 2) for part in split]


# ------------------------------------------------------------------------------------------------- block mask


def _block_mask(case: Case, mask_mod: Mod | None, device: str | torch.device) -> BlockMask | None:
    """The block mask, or None when there is none or the problem has no elements (clause L9.4)."""
    p, block = case.problem, case.block
    if 0 in (p.B, p.M, p.N) or block.kind == "none":
        return None
    size = (block.q, block.kv)
    if block.kind == "from_mask":
        if mask_mod is None:
            return None
        batch, heads = (None, None) if block.broadcast else (p.B, p.H)
        try:
            return create_block_mask(mask_mod, batch, heads, p.M, p.N, device=str(device), BLOCK_SIZE=size)
        except Exception as error:
            if torch.device(device).type != "cpu":
                raise  # what fails on a GPU alone is no fault of the mod
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise InputError(f"case {case.name!r}: the mask_mod failed: {said}") from None
    partial, full = _lists(case)
    kv_num, kv_idx = _list_tensors(partial, case, device)
    full_num, full_idx = _list_tensors(full, case, device)
    return BlockMask.from_kv_blocks(
        kv_num, kv_idx, full_num, full_idx, BLOCK_SIZE=size, mask_mod=mask_mod, seq_lengths=(p.M, p.N)
    )


Rows = Sequence[Sequence[int]]
Nested = Sequence[Sequence[Rows]]  # [b][h][row] -> the listed blocks


def _lists(case: Case) -> tuple[Nested, Nested]:
    block, p = case.block, case.problem
    rows, columns = math.ceil(p.M / block.q), math.ceil(p.N / block.kv)
    if block.pattern is not None:
        partial, full = _pattern(block.pattern, rows, columns)
        return [[partial]], [[full]]
    empty: Nested = [[[[]] * rows]]
    return (
        _nested(block.partial, rows, "partial", case) if block.partial is not None else empty,
        _nested(block.full, rows, "full", case) if block.full is not None else empty,
    )


def _pattern(pattern: str, rows: int, columns: int) -> tuple[Rows, Rows]:
    """Partial and full lists of each row of blocks."""
    everything = list(range(columns))
    none: Rows = [[] for _ in range(rows)]
    match pattern:
        case "dense":  # every block full
            return none, [everything for _ in range(rows)]
        case "dense_partial":  # every block through the mask_mod
            return [everything for _ in range(rows)], none
        case "reversed":  # every block, last first, even ones full
            backwards = everything[::-1]
            return (
                [[j for j in backwards if j % 2] for _ in range(rows)],
                [[j for j in backwards if j % 2 == 0] for _ in range(rows)],
            )
        case "diagonal":  # one full block per row
            return none, [[i % columns] for i in range(rows)]
        case "checkerboard":  # every second block, partial
            return [[j for j in everything if (i + j) % 2 == 0] for i in range(rows)], none
        case "empty_rows":  # every second row of blocks has nothing to attend to
            return none, [everything if i % 2 else [] for i in range(rows)]
        case "first_empty":  # the first block of every row is absent
            return [everything[1:2] for _ in range(rows)], [everything[2:] for _ in range(rows)]
    return none, none  # "nothing"


def _nested(lists: object, rows: int, what: str, case: Case) -> Nested:
    def shaped(value: object, depth: int) -> bool:
        if depth == 0:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, tuple) and all(shaped(item, depth - 1) for item in value)

    nested: Nested
    # Rows that are all empty would also pass for batches without heads; they are rows.
    if shaped(lists, 2) and isinstance(lists, tuple):
        nested = ((lists,),)
    elif shaped(lists, 4) and isinstance(lists, tuple):
        nested = lists
    else:
        raise InputError(f"case {case.name!r}: block: {what} is neither [row][block] nor [b][h][row][block]")
    p = case.problem
    sizes = (len(nested), len(nested[0]))
    if any(len(heads) != sizes[1] for heads in nested) or sizes[0] not in (1, p.B) or sizes[1] not in (1, p.H):
        raise InputError(f"case {case.name!r}: block: {what} has lists for other batches and heads than the problem")
    if any(len(given) != rows for heads in nested for given in heads):
        raise InputError(f"case {case.name!r}: block: {what} must list {rows} rows of blocks")
    return nested


def _list_tensors(nested: Nested, case: Case, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Counts (b, h, rows) and indices (b, h, rows, columns), int32.

    The places behind a list's end hold the blocks that are not listed, in range, so that reading too far
    shows as a wrong result and not as a fault.
    """
    columns = math.ceil(case.problem.N / case.block.kv)
    counts = np.array([[[len(row) for row in rows] for rows in heads] for heads in nested], dtype=np.int32)
    indices = np.zeros((*counts.shape, columns), dtype=np.int32)
    for b, heads in enumerate(nested):
        for h, rows in enumerate(heads):
            for i, row in enumerate(rows):
                if len(set(row)) != len(row) or any(not 0 <= j < columns for j in row):
                    raise InputError(
                        f"case {case.name!r}: block: row {i} lists {list(row)}; "
                        f"each of 0 to {columns - 1} may stand there once"
                    )
                indices[b, h, i] = [*row, *(j for j in range(columns) if j not in row)]
    return torch.from_numpy(counts).to(device), torch.from_numpy(indices).to(device)
