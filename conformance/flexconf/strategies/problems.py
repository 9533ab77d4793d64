"""Draws sizes, layouts, scales and input values. Sizes are small, and often at the edges of tiles, blocks, vectors."""

from __future__ import annotations

from flexconf.cases.problem import DISTRIBUTIONS, DTYPES, PROBLEM_LAYOUTS, Problem
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.features import Features

_LENGTHS = (
    16, 1, 2, 3, 7, 8, 9, 15, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 160, 200, 255, 256, 257, 300,
)  # fmt: skip
_DIMS = (16, 8, 24, 32, 64, 128)
_MOST = 60_000  # score elements


def problem(draw: Draw, features: Features) -> Problem:
    """A problem of at most 60,000 scores.

    The function makes the same draws for all features. So Hypothesis can switch off a feature when it shrinks, without
    changing the meaning of later draws.
    """
    batch = one(draw, (1, 2, 3))
    kv_heads = one(draw, (1, 2, 3))
    heads = kv_heads * one(draw, (1, 2, 3, 4, 8, 16))
    queries, keys = one(draw, _LENGTHS), one(draw, _LENGTHS)
    nothing = one(draw, (*["none"] * 40, "M", "N", "B"))
    dim, value_dim = one(draw, _DIMS), one(draw, (None, *_DIMS))
    layout = one(draw, PROBLEM_LAYOUTS)
    scale = one(draw, (None, 1.0, 0.5, None, 0.25, 0.05, -0.25, 0.0))
    dtype, values = one(draw, DTYPES), one(draw, ("normal", "normal", "normal", *DISTRIBUTIONS))
    if not features.heads:
        batch, kv_heads, heads = 1, 1, 1
    if not features.lengths:
        queries, keys, dim, value_dim = 16, 16, 16, None
    while batch * heads * queries * keys > _MOST:
        if batch * heads > 4:
            heads, batch = kv_heads * max(heads // kv_heads // 2, 1), max(batch - 1, 1)
            if heads == kv_heads and batch == 1:
                kv_heads = heads = max(kv_heads - 1, 1)
        elif queries >= keys:
            queries = max(queries // 2, 1)
        else:
            keys = max(keys // 2, 1)
    if features.empty:
        queries, keys, batch = (
            0 if nothing == size else value for size, value in (("M", queries), ("N", keys), ("B", batch))
        )
    value_dim = value_dim or dim
    layout = layout if features.problem_layouts else "contiguous"
    if layout == "packed_qkv":
        queries = keys = min(queries, keys)  # never more scores than before
    if layout in ("packed_qkv", "packed_kv"):
        value_dim = dim
    return Problem(
        B=batch,
        H=heads,
        Hkv=kv_heads,
        M=queries,
        N=keys,
        D=dim,
        Dv=value_dim,
        dtype=dtype if features.dtypes else "bfloat16",
        layout=layout,
        scale=scale if features.scales else None,
        qkv=values if features.distributions else "normal",
    )
