"""L7.2, L7.3, L7.6: every operation for every dtype it takes (see `flexconf ops`).

At the vector widths that the three-way check (`test_three_ways`) leaves out: together they are all widths.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import flexflash
from flexconf.checks import opcheck
from flexconf.checks.three_ways import ways
from flexconf.language import modtext
from flexconf.oracles import math64
from flexflash.launch.entry import VECTOR_WIDTHS
from flexflash.launch.host import HostLauncher

WIDTHS = tuple(width for width in VECTOR_WIDTHS if width not in ways.WIDTHS)


@pytest.mark.clause("L7.6", "L7.2", "L7.3", "L6.5")
@pytest.mark.parametrize("group", opcheck.plan(), ids=lambda g: g.name)
def test_operations(group: opcheck.Group) -> None:
    rows = opcheck.check_group(group, WIDTHS)
    assert len(rows) == len(group.operations) and all(row.widths == WIDTHS for row in rows)
    assert sum(row.elements for row in rows) > 0
    failed = [f"{row.text} ({row.dtype}): {row.verdict}" for row in rows if not row.passed]
    assert not failed, "\n".join(failed)


_ZEROS = torch.tensor([0.0, -0.0])
_TEXTS = sorted({o.text for g in opcheck.plan() if g.dtype == "float32" for o in g.operations})
_OF_ZERO = [
    t.replace("(x", "(z[kv]") for t in _TEXTS if re.fullmatch(r"[a-z_.\d]+\(x\)", t) and "acosh" not in t
]  # NaN


_OF_ALPHA: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "add": lambda x, y, alpha: torch.add(x, y, alpha=alpha),
    "sub": lambda x, y, alpha: torch.sub(x, y, alpha=alpha),
    "rsub": lambda x, y, alpha: torch.rsub(y, x, alpha=alpha),
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", _OF_ALPHA)
@pytest.mark.parametrize(
    ("dtype", "alpha"),
    [(dtype, alpha) for alpha in (2, -1, -2) for dtype in (torch.float32, torch.int32)] + [(torch.float32, -0.5)],
    ids=str,
)
def test_a_factor_of_either_sign(name: str, alpha: float, dtype: torch.dtype) -> None:
    x, y = torch.tensor([1, -5, 7, 0], dtype=dtype), torch.tensor([3, 4, -2, 9], dtype=dtype)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return score + _OF_ALPHA[name](x[n], y[n], alpha)

    q, k = (torch.zeros(1, 1, rows, 8, dtype=torch.bfloat16) for rows in (1, 4))
    seen = HostLauncher(2).evaluate(flexflash.lower(q, k, k, mod), torch.zeros(1, 1, 1, 4))
    assert torch.equal(seen[0, 0, 0], _OF_ALPHA[name](x, y, alpha).float())


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("alpha", [0, 0.0, -0.0, 1, -1.0], ids=repr)
@pytest.mark.parametrize("name", _OF_ALPHA)
def test_a_factor_of_zero_keeps_its_sign(name: str, alpha: float) -> None:
    """The integer 0 has no sign, and -0.0 has one: x - 0.0 * y is 0 or -0."""
    x, y = torch.tensor([0.0, 0.0, -0.0, -0.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return torch.copysign(torch.ones_like(score), _OF_ALPHA[name](x[n], y[n], alpha))

    q, k = (torch.zeros(1, 1, rows, 8, dtype=torch.bfloat16) for rows in (1, 4))
    plain = torch.stack([_OF_ALPHA[name](a, b, alpha) for a, b in zip(x, y, strict=True)])
    seen = HostLauncher(2).evaluate(flexflash.lower(q, k, k, mod), torch.zeros(1, 1, 1, 4))
    assert torch.equal(seen[0, 0, 0], torch.copysign(torch.ones(4), plain))
    certified = math64.evaluate(mod, "score", (torch.zeros(1, 1, 1, 4).double(), None), 1, 1, 1, 4)
    inside = (certified.value - seen.double()).abs() <= certified.error
    assert bool(inside.all()) and bool(certified.error.isfinite().any())


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("text", [*_OF_ZERO, "torch.lerp(z[kv], z[q], 0.75)", "torch.lerp(z[q], z[kv], 0.25)"])
def test_zeros_keep_their_sign(text: str) -> None:
    """A comparison takes 0 and -0 for equal, but atan2, copysign and a division tell them apart."""
    mod = modtext.compile_mod(f"torch.copysign(torch.ones_like(score), {text})", "score", {"z": _ZEROS}, {})
    q, zero = torch.zeros(1, 1, 2, 8, dtype=torch.bfloat16), torch.zeros(1, 1, 2, 2)
    seen = HostLauncher(2).evaluate(flexflash.lower(q, q, q, mod), zero)
    i = torch.arange(2)
    assert torch.equal(seen, mod(zero, 0, 0, i.view(2, 1), i))
    certified = math64.evaluate(mod, "score", (zero.double(), None), 1, 1, 2, 2)
    assert torch.equal(seen.double(), certified.value)
