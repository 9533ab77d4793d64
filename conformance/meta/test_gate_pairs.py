"""Bundles that were really recorded, kept in small form: the gate still says of each pair what it said."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from flexconf.gate import compare, files, reading
from flexconf.gate.report import plain

DATA = Path(__file__).parent / "data"
PAIRS = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))


def test_there_are_pairs_and_each_has_its_summary() -> None:
    assert PAIRS and sorted(path.stem for path in DATA.glob("*.md") if path.stem != "README") == PAIRS


@pytest.mark.parametrize("name", PAIRS)
def test_a_kept_pair_has_its_verdict_and_reasons(name: str, tmp_path: Path) -> None:
    archive = DATA / f"{name}.tar.xz"
    assert archive.stat().st_size < 300_000
    with tarfile.open(archive) as packed:
        # The filter came with Python 3.11.4.
        packed.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    baseline, candidate = (reading.read(tmp_path / side) for side in ("baseline", "candidate"))
    for bundle in (baseline, candidate):
        assert not bundle.problems
        assert json.loads((Path(bundle.side.path) / files.SEAL).read_text())["shrunk"]
    # Without the waivers of the day.
    decision = compare.decide(baseline, candidate)
    assert decision.elements > 0 and all(row.candidate is not None or row.why for row in decision.rows)
    said = (DATA / f"{name}.md").read_text(encoding="utf-8")
    assert _lasting(plain.markdown(decision)) == _lasting(said)


def _lasting(summary: str) -> list[str]:
    """Without how much of today's list the bundles have."""
    return [line for line in summary.splitlines() if not line.startswith("- a part of the gate's list")]
