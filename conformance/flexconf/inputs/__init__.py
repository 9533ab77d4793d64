"""What a case runs on: its tensors, its mods as functions, and its BlockMask, made from the case alone."""

from flexconf.inputs.tensors import Inputs as Inputs
from flexconf.inputs.tensors import Mod as Mod
from flexconf.inputs.tensors import digest as digest
from flexconf.inputs.tensors import materialize as materialize
