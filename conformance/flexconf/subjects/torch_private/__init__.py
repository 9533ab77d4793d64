"""Runs torch's FlexAttention BACKEND FLASH lowering without a GPU. No other module uses private parts of torch for it.

`running` does it, `hooks` lists the private parts that it needs, `wrapper` changes the text of torch's wrapper, and
`entry` takes the place of flash-attn-4.
Importing this package does not import torch.
"""

from __future__ import annotations

from flexconf.subjects.torch_private.entry import (
    BlockLists,
    DynamicScalars,
    ForwardEntry,
    Generated,
    NeedsGpu,
    NotStoodIn,
    stand_ins,
)
from flexconf.subjects.torch_private.hooks import CASE, REACHED, HookChanged, check
from flexconf.subjects.torch_private.running import GPUS, HOPPER, flex_flash

__all__ = [
    "CASE",
    "GPUS",
    "HOPPER",
    "REACHED",
    "BlockLists",
    "DynamicScalars",
    "ForwardEntry",
    "Generated",
    "HookChanged",
    "NeedsGpu",
    "NotStoodIn",
    "check",
    "flex_flash",
    "stand_ins",
]
