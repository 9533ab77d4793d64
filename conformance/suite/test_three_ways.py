"""L7.2, L7.3, L7.6, L7.7: PyTorch itself, the oracle and the lowering on the same points, in every form of a call.

The oracle and the lowering take PyTorch's promotion from vmap and from meta tensors, so both can be wrong together.
Eager execution on real zero-dimensional tensors, an element at a time, shares neither.
"""

from __future__ import annotations

import pytest

from flexconf.checks.three_ways import check, forms

FAMILIES = forms.families()
LEAST = check.LEAST // 100
"""Points of each operation: all of them together make `check.LEAST`."""


@pytest.mark.clause("L7.2", "L7.3", "L7.6", "L7.7", "L6.5")
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_the_oracle_and_the_lowering_agree(family: str) -> None:
    tallies = check.check(FAMILIES[family])
    wrong = [str(d) for tally in tallies.values() for d in tally.disagreements]
    assert not wrong, f"{len(wrong)} disagreements:\n" + "\n".join(wrong)
    few = [f"{operation}: {tally}" for operation, tally in tallies.items() if tally.compared < LEAST]
    assert not few, "too little was compared:\n" + "\n".join(few)


def test_the_families_hold_every_operation_that_mods_have() -> None:
    operations = {form.operation for family in FAMILIES.values() for form in family}
    assert operations == {name for name in forms.plan() if name not in forms.UNCOVERED}
    assert len(operations) * LEAST >= check.LEAST
