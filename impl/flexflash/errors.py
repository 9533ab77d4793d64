"""The refusals of the lowering. Each has the stage at which it happens, so that a harness does not need to guess."""

from __future__ import annotations

from typing import ClassVar


def said(error: Exception) -> str:
    """The error's type and message in one line, of 200 characters at most, to be quoted in a refusal."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class FlexFlashError(Exception):
    """Base class of every refusal. `stage` is one of trace, eligibility, render, compile, launch."""

    stage: ClassVar[str] = "launch"


class InputError(FlexFlashError, ValueError):
    """Malformed tensors, block mask or options (L5.5). The message has the shapes if they do not fit."""

    stage = "eligibility"


class TraceError(FlexFlashError):
    """The mod cannot be traced: control flow on a tensor, a result that is not a scalar, an illegal index."""

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


class LacksName(FlexFlashError, RuntimeError):
    """The installed CuTe DSL lacks a name that the rendered text uses; the message names it and its version."""

    stage = "compile"


class TemplateError(FlexFlashError, RuntimeError):
    """Rendering failed (L5.3); the message names the cause."""

    stage = "render"
