"""Where a result is wrong: the worst elements, and a map of each head as data and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexconf.oracles.math64 import Certified

_WORST = 200
_HEADS = 8
_CELLS = (48, 96)
_COARSE = (32, 32)


@dataclass(frozen=True)
class Mismatch:
    """The elements beyond their bound, in `out` and in `lse`.

    worst: up to 200 elements of each tensor, the largest ratio first. counts: by tensor, how many elements are beyond
    their bound and how many are compared. picture: a text map of up to 8 heads. map: data for a map of up to 8 heads,
    {tensor: [{"b", "h", "rows", "columns", "cells"}]}; `cells` are rows of numbers of elements beyond their bound.
    """

    worst: tuple[dict[str, Any], ...]
    counts: Mapping[str, tuple[int, int]]
    picture: str
    map: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """`counts` and `worst` as JSON values."""
        return {"counts": {k: list(v) for k, v in self.counts.items()}, "worst": list(self.worst)}


def of(observed: Mapping[str, Tensor], certified: Certified) -> Mismatch:
    """Compares `out` (B, H, M, Dv) and `lse` (B, H, M) with the certified values.

    A tensor that is missing or has another shape is skipped.
    """
    kept = ~certified.excluded
    worst: list[dict[str, Any]] = []
    counts: dict[str, tuple[int, int]] = {}
    pictures: list[str] = []
    maps: dict[str, list[dict[str, Any]]] = {}
    for name, expected, bound, compared in (
        ("out", certified.out, certified.out_bound, kept.unsqueeze(-1) & (certified.out_bound < math.inf)),
        ("lse", certified.lse, certified.lse_bound, kept & (certified.lse_bound < math.inf)),
    ):
        seen = observed.get(name)
        if seen is None or seen.shape != expected.shape:
            continue
        ratio = _ratio(seen.double(), expected, bound, compared)
        beyond = ratio > 1
        counts[name] = (int(beyond.sum()), int(compared.sum()))
        order = ratio.flatten().argsort(descending=True, stable=True)[: min(_WORST, int(beyond.sum()))]
        for flat in order.tolist():
            at = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), ratio.shape))
            worst.append(
                {
                    "tensor": name,
                    "index": list(at),
                    "observed": _plain(float(seen[at])),
                    "expected": _plain(float(expected[at])),
                    "bound": _plain(float(bound[at])),
                }
            )
        pictures.append(_picture(name, ratio, compared))
        maps[name] = _map(beyond)
    return Mismatch(tuple(worst), counts, "\n".join(pictures), maps)


def _map(beyond: Tensor) -> list[dict[str, Any]]:
    """The numbers of elements beyond their bound, in at most 32 by 32 cells per head, for at most 8 heads."""
    if beyond.dim() == 3:
        beyond = beyond.unsqueeze(-1)
    B, H, rows, columns = beyond.shape
    if not beyond.numel():
        return []
    down, right = (max(1, -(-n // most)) for n, most in zip((rows, columns), _COARSE, strict=True))
    padded = torch.nn.functional.pad(beyond.to(torch.float32), (0, -columns % right, 0, -rows % down))
    cells = torch.nn.functional.avg_pool2d(padded, (down, right)).mul(down * right).round().to(torch.int64)
    heads = [(b, h) for b in range(B) for h in range(H)]
    # The heads with the most elements beyond their bound come first.
    heads.sort(key=lambda at: -int(cells[at].sum()))
    return [
        {"b": b, "h": h, "rows": rows, "columns": columns, "cells": cells[b, h].tolist()} for b, h in heads[:_HEADS]
    ]


def _ratio(seen: Tensor, expected: Tensor, bound: Tensor, compared: Tensor) -> Tensor:
    """Error divided by bound, inf instead of NaN. It is 0 where the values are equal or not compared."""
    same = (seen == expected) | (seen.isnan() & expected.isnan())
    ratio = ((seen - expected).abs() / bound).nan_to_num(nan=math.inf, posinf=math.inf)
    return torch.where(compared & ~same, ratio, 0.0)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _picture(name: str, ratio: Tensor, compared: Tensor) -> str:
    """A text map of each of the first 8 heads. A cell shows the worst of its elements.

    Queries run downwards. For `out`, head dim runs to the right; for `lse`, there is one column.
    """
    across = "head dim" if ratio.dim() == 4 else "one column"
    lines = [f"{name}: rows are queries, columns are {across}; . within, + up to 10 bounds, # more, x not compared"]
    shown = compared.expand(ratio.shape)
    if ratio.dim() == 3:
        ratio, shown = ratio.unsqueeze(-1), shown.unsqueeze(-1)
    B, H = ratio.shape[:2]
    for b, h in [(b, h) for b in range(B) for h in range(H)][:_HEADS]:
        lines.append(f"b={b} h={h}")
        lines += _cells(ratio[b, h], shown[b, h])
    if B * H > _HEADS:
        lines.append(f"... and {B * H - _HEADS} more heads")
    return "\n".join(lines) + "\n"


def _cells(ratio: Tensor, shown: Tensor) -> list[str]:
    rows, columns = ratio.shape
    if not rows or not columns:
        return []
    down, right = (max(1, -(-n // most)) for n, most in zip((rows, columns), _CELLS, strict=True))
    lines = []
    for top in range(0, rows, down):
        cells = []
        for left in range(0, columns, right):
            part = ratio[top : top + down, left : left + right]
            worst = float(part.max())
            none = not bool(shown[top : top + down, left : left + right].any())
            cells.append("x" if none else "." if worst <= 1 else "+" if worst <= 10 else "#")
        lines.append("".join(cells))
    return lines
