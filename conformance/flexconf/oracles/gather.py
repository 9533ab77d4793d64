"""The rule for reading a captured tensor, also at an uncertain index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexconf.oracles.operation import INF, WIDEST_GATHER, Call, aten, spread
from flexconf.oracles.shadow import Shadow


def gather(op: Call) -> Shadow:
    table, indices = op.args["self"], op.args["indices"]

    def read(values: Tensor, at: list[Any]) -> Tensor:
        result: Tensor = aten.index.Tensor(values, at)
        return result

    # The value of an uncertain integer may be stored as a float or a bool, which would index differently.
    at: list[Any] = [None if i is None else i.v if i.nominal == torch.bool else i.v.long() for i in indices]
    v = read(table.v, at)
    e = None if table.e is None else read(table.e.expand_as(table.v), at)
    open_ = [n for n, i in enumerate(indices) if i is not None and not i.exact]
    if not open_:
        real = table.real and all(i is None or i.real for i in indices)
        return Shadow(v, e, op.nominal, table.mixed, table.wild, real)
    # If the table has more dimensions than there are indices, the remaining ones are the last of the result.
    left = (1,) * (table.v.dim() - len(indices))
    reach = torch.zeros((), dtype=torch.float64)
    for n in open_:
        reach = torch.maximum(reach, indices[n].error())
    reach = reach.reshape(*reach.shape, *left)
    # Advanced indices broadcast together, and their result stands where the first of them stands. Candidates are read
    # only for a plain layout; otherwise an uncertain index makes the result indeterminate.
    plain = (
        len(open_) == 1 and None not in at and op.nominal.is_floating_point and indices[open_[0]].nominal != torch.bool
    )
    base = torch.zeros((), dtype=torch.float64) if e is None else e
    if not plain:
        return opened(
            v,
            torch.where(reach.expand_as(v) > 0, INF, base)
            if None not in at
            else torch.full_like(v, INF, dtype=torch.float64),
            op.nominal,
        )
    reach = reach.expand_as(v)
    total = torch.where(reach > WIDEST_GATHER, INF, base)
    n = open_[0]
    size = table.v.shape[n]
    widest = int(torch.where(reach > WIDEST_GATHER, 0.0, reach).max()) if reach.numel() else 0
    centre = torch.where(at[n] < 0, at[n] + size, at[n])
    for offset in (o for o in range(-widest, widest + 1) if o):
        shifted = centre + offset
        # No case reads outside a table, so an index outside it is no candidate.
        exists = (shifted >= 0) & (shifted < size) & (indices[n].error() >= abs(offset))
        exists = exists.reshape(*exists.shape, *left)
        other = read(table.v, [shifted.clamp(0, size - 1) if m == n else i for m, i in enumerate(at)])
        own = (
            base
            if table.e is None
            else read(
                table.e.expand_as(table.v),
                [shifted.clamp(0, size - 1) if m == n else i for m, i in enumerate(at)],
            )
        )
        total = torch.where(exists, torch.maximum(total, spread(v, other) + own), total)
    return opened(v, total, op.nominal)


def opened(v: Tensor, e: Tensor, nominal: torch.dtype) -> Shadow:
    if nominal == torch.bool:
        return Shadow(v, e > 0, nominal)
    return Shadow(v, e, nominal, mixed=True, wild=True)
