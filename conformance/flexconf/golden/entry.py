"""One golden: the oracle's result for a case, in bytes that are the same on every machine.

float64 results differ between machines in their last bits, by about 1e-16 of the terms: BLAS sums in another order, or
libm is another. So a golden keeps each value on a grid and each bound with 8 significant bits, rounded up. The step of
the grid is 1/512 to 1/256 of the element's bound. It is a power of two, so a last bit of the bound hardly ever changes
the grid. A last bit of a value changes the kept value only if it crosses the middle between two grid points; about one
element in 1e10 does. The grid adds an error of half a step, at most 1/512 of the bound. A comparison with a golden must
widen the bound by that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from flexconf import inputs
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.oracles import math64, plain64
from flexconf.oracles.math64 import Certified

FORMAT = 1
ROWS = 192
"""The most rows of output and LSE that a golden keeps, spread evenly over all batches, heads and queries."""
GRID = 256


@dataclass(frozen=True)
class Golden:
    """The golden of a case.

    `tensors` holds out (R, Dv) and lse (R) in float32 on their grids, out_bound and lse_bound in bfloat16 (inf where
    nothing is certain, 0 where equality is required), excluded (R) in uint8, and rows (R, 3) in int32: batch, head and
    query of each kept row.
    """

    case: str
    case_digest: str
    inputs: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """The bytes of the file. Equal entries give the same bytes."""
        facts = {"format": FORMAT, "case": self.case, "case_digest": self.case_digest, "inputs": dict(self.inputs)}
        # One metadata key only: safetensors does not fix the order of several.
        return save(dict(self.tensors), {"golden": json.dumps(facts, sort_keys=True)})

    @property
    def elements(self) -> int:
        """How many values are kept."""
        return self.tensors["out"].numel() + self.tensors["lse"].numel()


_DTYPES = {
    "out": torch.float32,
    "out_bound": torch.bfloat16,
    "lse": torch.float32,
    "lse_bound": torch.bfloat16,
    "excluded": torch.uint8,
    "rows": torch.int32,
}


def of_bytes(data: bytes, name: str) -> Golden:
    """The inverse of `Golden.to_bytes`. Raises InputError, which names the file `name`, if `data` is no golden."""
    try:
        size = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["golden"])
        tensors = load(data)
        entry = Golden(str(facts["case"]), str(facts["case_digest"]), dict(facts["inputs"]), tensors)
        if facts["format"] != FORMAT:
            raise InputError(f"{name}: format {facts['format']}, and this is format {FORMAT}")
    except InputError:
        raise
    except Exception as error:  # safetensors raises its own
        raise InputError(f"{name}: no golden: {type(error).__name__}: {str(error)[:200]}") from None
    if {n: t.dtype for n, t in tensors.items()} != _DTYPES:
        raise InputError(f"{name}: no golden: it holds {', '.join(sorted(tensors))}")
    return entry


def compute(case: Case) -> tuple[Golden, Certified, inputs.Inputs]:
    """(the golden of a case, the oracle's result, the inputs). Raises InputError for an invalid case."""
    given = inputs.materialize(case)
    certified = math64.attention(
        given.q,
        given.k,
        given.v,
        score_mod=given.score_mod,
        mask_mod=given.mask_mod,
        block_mask=given.block_mask,
        scale=given.scale,
    )
    return Golden(case.name, case.digest(), given.digests, _kept(certified)), certified, given


def _kept(certified: Certified) -> dict[str, Tensor]:
    rows = sampled(certified.lse.shape)
    b, h, m = (rows[:, n].long() for n in range(3))
    found: dict[str, Tensor] = {"rows": rows, "excluded": certified.excluded[b, h, m].to(torch.uint8)}
    for name, value, bound in (
        ("out", certified.out[b, h, m], certified.out_bound[b, h, m]),
        ("lse", certified.lse[b, h, m], certified.lse_bound[b, h, m]),
    ):
        kept, allowed = _quantised(value, bound)
        found[name], found[f"{name}_bound"] = kept.contiguous(), allowed.contiguous()
    return found


def sampled(shape: torch.Size, most: int = ROWS) -> Tensor:
    """Batch, head and query, (R, 3) int32, of up to `most` rows of a (B, H, M) tensor, spread evenly over all rows."""
    total = shape.numel()
    count = min(total, most)
    flat = torch.tensor([n * (total - 1) // max(count - 1, 1) for n in range(count)], dtype=torch.int64)
    return torch.stack(torch.unravel_index(flat, shape), -1).to(torch.int32).reshape(count, 3)


def _quantised(value: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """(the values on the grid in float32, the bounds rounded up to bfloat16)."""
    finite = bound.isfinite() & (bound > 0) & value.isfinite()
    safe = torch.where(finite, bound, 1.0)
    step = torch.exp2(torch.floor(torch.log2(_up(safe).double()))) / GRID
    on_grid = torch.where(finite, torch.round(value / step) * step, value)
    # An element with an infinite bound is never compared, so its last bits must not change the file.
    on_grid = torch.where((bound == float("inf")) & value.isfinite(), 0.0, on_grid)
    return on_grid.float(), _up(bound)


def _up(bound: Tensor) -> Tensor:
    """The smallest bfloat16 not below `bound` * (1 + 2**-40). The factor covers differences in the last bits."""
    wanted = bound * (1.0 + 2.0**-40)
    near = wanted.to(torch.bfloat16)
    following = torch.nextafter(near, torch.tensor(float("inf"), dtype=torch.bfloat16))
    return torch.where(near.double() < wanted, following, near)


def disagreement(certified: Certified, given: inputs.Inputs) -> str:
    """How the plain oracle contradicts math64. Returns "" if it lies within the bounds of math64 everywhere."""
    out, lse = plain64.attention(
        given.q,
        given.k,
        given.v,
        score_mod=given.score_mod,
        mask_mod=given.mask_mod,
        block_mask=given.block_mask,
        scale=given.scale,
    )
    for name, seen, value, bound in (
        ("out", out, certified.out, certified.out_bound),
        ("lse", lse, certified.lse, certified.lse_bound),
    ):
        compared = (bound < float("inf")) & ~(certified.excluded.unsqueeze(-1) if name == "out" else certified.excluded)
        # Where the bound is 0, the two may still differ by float64's rounding.
        slack = bound + 1e-12 * value.abs().nan_to_num(0.0, 0.0, 0.0) + 1e-300
        near = (seen == value) | (seen.isnan() & value.isnan()) | ((seen - value).abs() <= slack)
        wrong = compared & ~near
        if wrong.any():
            at = tuple(int(i) for i in wrong.nonzero()[0])
            return (
                f"{int(wrong.sum())} of {int(compared.sum())} elements of {name}: at {list(at)} math64 has "
                f"{float(value[at]):.9g} +- {float(bound[at]):.3g}, the plain oracle {float(seen[at]):.9g}"
            )
    return ""


def difference(old: Golden, new: Golden) -> dict[str, Any]:
    """What changed between two goldens of a case, and the likely cause. Returns {} if nothing changed."""
    found: dict[str, Any] = {}
    why = []
    if old.case_digest != new.case_digest:
        why.append("the case changed")
    changed_inputs = sorted(n for n in old.inputs.keys() | new.inputs.keys() if old.inputs.get(n) != new.inputs.get(n))
    if changed_inputs:
        why.append(f"its inputs changed: {', '.join(changed_inputs)}")
    for name in _DTYPES:
        a, b = old.tensors[name], new.tensors[name]
        if a.shape != b.shape:
            found[name] = f"shape {list(a.shape)} became {list(b.shape)}"
        elif not torch.equal(_bits(a), _bits(b)):
            moved = _bits(a) != _bits(b)
            text = f"{int(moved.sum())} of {a.numel()} elements"
            if name in ("out", "lse"):
                bound = torch.maximum(old.tensors[f"{name}_bound"], new.tensors[f"{name}_bound"]).double()
                share = ((a.double() - b.double()).abs() / bound.clamp(min=1e-300))[moved]
                text += f", by up to {float(share.nan_to_num(float('inf')).max()):.3g} of the bound"
            found[name] = text
    if found and not why:
        why.append("neither the case nor its inputs changed: the oracle did, or what it is built on")
    return {"case": new.case, "why": "; ".join(why), "changed": found} if found or why else {}


def _bits(tensor: Tensor) -> Tensor:
    kinds = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return tensor.view(kinds[tensor.dtype]) if tensor.dtype in kinds else tensor
