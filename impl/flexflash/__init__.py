"""A reference implementation of the flex flash lowering: FlexAttention mods to a CuTeDSL kernel for flash-attn-4.

Read it as a pipeline: `trace` -> `eligibility` -> `codegen` (with `ops`) -> `template` -> `kernel` -> `launch`.
`attention` does all of it in one call.
"""

from .attention import flex_flash_attention
from .errors import (
    BlockMaskUnsupported,
    FlexFlashError,
    Ineligible,
    InputError,
    LacksName,
    TemplateError,
    TraceError,
    UnsupportedOperation,
)
from .kernel import Launcher, RenderedKernel, create_flex_flash_attention_kernel, lower
from .trace import ModGraph, trace

__all__ = [
    "BlockMaskUnsupported",
    "FlexFlashError",
    "Ineligible",
    "InputError",
    "LacksName",
    "Launcher",
    "ModGraph",
    "RenderedKernel",
    "TemplateError",
    "TraceError",
    "UnsupportedOperation",
    "create_flex_flash_attention_kernel",
    "flex_flash_attention",
    "lower",
    "trace",
]
