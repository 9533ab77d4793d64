"""All planted faults, by name."""

from __future__ import annotations

from flexconf.planted.captures import CAPTURES
from flexconf.planted.fault import LAYERS, Fault
from flexconf.planted.forms import FORMS
from flexconf.planted.generation import GENERATION
from flexconf.planted.harness import HARNESS
from flexconf.planted.lanes import LANES
from flexconf.planted.launcher import LAUNCHER
from flexconf.planted.lists import LISTS
from flexconf.planted.operations import OPERATIONS
from flexconf.planted.simt import SIMT

_ALL = (*OPERATIONS, *FORMS, *GENERATION, *LANES, *CAPTURES, *LISTS, *LAUNCHER, *SIMT, *HARNESS)

FAULTS: dict[str, Fault] = {fault.name: fault for layer in LAYERS for fault in _ALL if fault.layer == layer}
"""The catalogue, by layer."""

assert len(FAULTS) == len(_ALL), "two faults have one name, or one has no layer"
