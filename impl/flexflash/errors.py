"""The refusals of the lowering. Each carries the stage at which it happened, so that a harness need not guess."""

from __future__ import annotations

from typing import ClassVar


class FlexFlashError(Exception):
    """Base of every refusal; `stage` is one of trace, eligibility, render, compile, launch."""

    stage: ClassVar[str] = "launch"


class InputError(FlexFlashError, ValueError):
    """Malformed tensors, block mask or options (L5.5); the message carries the shapes."""

    stage = "eligibility"


class TraceError(FlexFlashError):
    """The mod cannot be turned into a graph: control flow on a tensor, a non-scalar result, an illegal index."""

    stage = "trace"


class Ineligible(FlexFlashError, RuntimeError):
    """The flash backend was forced but a rule of L4.1 refuses it (L4.5)."""

    stage = "eligibility"


class BlockMaskUnsupported(FlexFlashError, NotImplementedError):
    """A block mask is needed, but the full-block lists are missing (L5.2)."""

    stage = "eligibility"


class UnsupportedOperation(FlexFlashError, NotImplementedError):
    """An operation of the mod has no CuTe spelling (L7.7); the message names it and the user's line."""

    stage = "render"


class TemplateError(FlexFlashError, RuntimeError):
    """Rendering failed (L5.3); the message names the cause."""

    stage = "render"
