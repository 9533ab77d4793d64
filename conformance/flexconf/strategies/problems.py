"""Sizes, layouts, scales and inputs: small, and often at the boundaries of tiles, blocks and vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from flexconf.case import DISTRIBUTIONS, DTYPES, PROBLEM_LAYOUTS, Problem
from flexconf.strategies.features import Features

Draw = Callable[[st.SearchStrategy[Any]], Any]

_LENGTHS = (
    16, 1, 2, 3, 7, 8, 9, 15, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 160, 200, 255, 256, 257, 300,
)  # fmt: skip
_DIMS = (16, 8, 24, 32, 64, 128)
_MOST = 60_000  # score elements


def problem(draw: Draw, features: Features) -> Problem:
    """A problem of at most 60,000 scores."""
    batch, heads, kv_heads = 1, 1, 1
    if features.heads:
        batch = draw(st.sampled_from((1, 2, 3)))
        kv_heads = draw(st.sampled_from((1, 2, 3)))
        heads = kv_heads * draw(st.sampled_from((1, 2, 3, 4)))
    queries = draw(st.sampled_from(_LENGTHS)) if features.lengths else 16
    keys = draw(st.sampled_from(_LENGTHS)) if features.lengths else 16
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
        nothing = draw(st.sampled_from(("none", "none", "none", "M", "N", "B")))
        queries, keys, batch = (
            0 if nothing == "M" else queries,
            0 if nothing == "N" else keys,
            0 if nothing == "B" else batch,
        )
    dim = draw(st.sampled_from(_DIMS)) if features.lengths else 16
    value_dim = draw(st.sampled_from(_DIMS)) if features.lengths and draw(st.booleans()) else dim
    layout = draw(st.sampled_from(PROBLEM_LAYOUTS)) if features.problem_layouts else "contiguous"
    if layout == "packed_qkv":
        queries = keys = min(queries, keys)  # never more scores than before
        value_dim = dim
    if layout == "packed_kv":
        value_dim = dim
    scale = draw(st.sampled_from((None, 1.0, 0.5, 0.0, -0.25, 0.05))) if features.scales else None
    return Problem(
        B=batch,
        H=heads,
        Hkv=kv_heads,
        M=queries,
        N=keys,
        D=dim,
        Dv=value_dim,
        dtype=draw(st.sampled_from(DTYPES)) if features.dtypes else "bfloat16",
        layout=layout,
        scale=scale,
        qkv=draw(st.sampled_from(DISTRIBUTIONS)) if features.distributions else "normal",
    )
