"""L7.2, L7.3, L7.6: every operation for every dtype it takes (see `flexconf ops`).

At the vector widths that the three-way check (`test_three_ways`) leaves out: together they are all widths.
"""

from __future__ import annotations

import re

import pytest
import torch

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
