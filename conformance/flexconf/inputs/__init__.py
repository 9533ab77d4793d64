"""The inputs of a case: its tensors, its mods as functions, and its BlockMask."""

from flexconf.inputs.tensors import Inputs as Inputs
from flexconf.inputs.tensors import Mod as Mod
from flexconf.inputs.tensors import digest as digest
from flexconf.inputs.tensors import materialize as materialize
