"""All planted faults, by name."""

from __future__ import annotations

from planted.captures import CAPTURES
from planted.fault import LAYERS, Fault
from planted.forms import FORMS
from planted.generation import GENERATION
from planted.harness import HARNESS
from planted.lanes import LANES
from planted.launcher import LAUNCHER
from planted.lists import LISTS
from planted.operations import OPERATIONS
from planted.simt import SIMT
from planted.vectors import VECTORS

_ALL = (*OPERATIONS, *FORMS, *GENERATION, *VECTORS, *LANES, *CAPTURES, *LISTS, *LAUNCHER, *SIMT, *HARNESS)

FAULTS: dict[str, Fault] = {fault.name: fault for layer in LAYERS for fault in _ALL if fault.layer == layer}
"""The catalogue by name, in the order of the layers."""

assert len(FAULTS) == len(_ALL), "two faults have one name, or one has no layer"
