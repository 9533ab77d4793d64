"""Small workloads, made up providers and measurements, for the tests of `flexconf bench`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from flexconf.bench.record import OK, Measurement, Settings
from flexconf.bench.workloads import WORKLOADS, Built, Workload

SETTINGS = Settings(rounds=2, milliseconds=3.0, rows=9)


def small(name: str) -> Workload:
    """The workload in sizes for a CPU."""
    w = WORKLOADS[name]
    sizes = {"B": 2, "H": 4, "Hkv": 2 if w.Hkv != w.H else 4, "N": 200, "D": 64}
    return dataclasses.replace(w, **sizes, M=1 if w.M == 1 else 200)


def eager(built: Built) -> tuple[Tensor, Tensor]:
    gqa = built.workload.Hkv != built.workload.H
    found: Any = flex_attention(
        built.q, built.k, built.v, built.score_mod, built.block_mask, built.scale, enable_gqa=gqa, return_lse=True
    )
    return found[0], found[1]


def timed(turns: Sequence[float], provider: str = "a", code: str = "") -> Measurement:
    return took(sorted(turns)[len(turns) // 2], provider, turns=tuple(turns), code=code)


def took(median: float, provider: str = "reference", **changes: Any) -> Measurement:
    plain = Measurement(
        "none",
        provider,
        OK,
        median=median,
        low=median * 0.99,
        high=median * 1.01,
        samples=9,
        checked=64,
        ulp=0.5,
        flops=10**12,
        bytes=10**9,
    )
    return dataclasses.replace(plain, **changes)
