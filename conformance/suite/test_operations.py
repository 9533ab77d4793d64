"""L7.2, L7.3, L7.6: every operation, at every vector width, for every dtype it takes (see `flexconf ops`)."""

from __future__ import annotations

import pytest

from flexconf import opcheck


@pytest.mark.clause("L7.6", "L7.2", "L7.3", "L6.5")
@pytest.mark.parametrize("group", opcheck.plan(), ids=lambda g: g.name)
def test_operations(group: opcheck.Group) -> None:
    rows = opcheck.check_group(group)
    assert len(rows) == len(group.operations)
    assert sum(row.elements for row in rows) > 0
    failed = [f"{row.text} ({row.dtype}): {row.verdict}" for row in rows if not row.passed]
    assert not failed, "\n".join(failed)
