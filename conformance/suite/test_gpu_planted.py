"""Faults planted in every layer of a GPU worker are laid at the door of the layer that has them."""

from __future__ import annotations

import pytest

from flexconf import tampering
from flexconf.checks import attribution
from flexconf.checks.attribution import FA4, SIMT
from flexconf.workers.isolated import Isolated
from planted.catalogue import FAULTS


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("fault", "subject", "layer"),
    [
        ("c-remainder", FA4, "codegen"),
        ("simt-maximum-forgotten", SIMT, "simt kernel"),
        ("last-partial-block-dropped", FA4, "block lists"),
    ],
)
def test_a_planted_fault_is_attributed(fault: str, subject: str, layer: str) -> None:
    case = FAULTS[fault].witness
    with tampering.in_workers(fault), Isolated(prepare=subject) as isolated:
        found = attribution.investigate(case, subject, isolated.run, list(attribution.LAYERS))
    assert found.layer == layer, found.sentence
