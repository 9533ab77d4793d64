"""PyTorch's own flex_attention as subjects: compiled with BACKEND FLASH or TRITON, and eager.

The results are not adjusted. An LSE in another base, an unwritten row or a refusal is what a user would get.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from flexconf.inputs import Inputs
from flexconf.subjects import ptx
from flexconf.subjects.trial import Attended, Options, Refused, StageClock, raised_by
from flexflash import releases

_OWN_CHECKS = ("torch._higher_order_ops.flex_attention", "torch.nn.attention.")
"""The modules that check the arguments of flex_attention."""


def flash(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `torch-flash`."""
    with ptx.of_flash_attn() as code:
        attended = _attend(given, clock, {"BACKEND": "FLASH"})
    return replace(attended, digests={**attended.digests, **ptx.named(code.values())})


def triton(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `torch-triton`."""
    tile = dict(zip(("BLOCK_M", "BLOCK_N"), options.tile, strict=True)) if options.tile is not None else {}
    return _attend(given, clock, {"BACKEND": "TRITON", **tile})


def eager(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `torch-eager`."""
    return _attend(given, clock, None)


def _attend(given: Inputs, clock: StageClock, kernel_options: dict[str, Any] | None) -> Attended:
    # A process runs many cases. What torch compiled for one case must not count against the next.
    torch.compiler.reset()
    function: Callable[..., Any] = flex_attention
    keywords: dict[str, Any] = {
        "score_mod": given.score_mod,
        "block_mask": given.block_mask,
        "scale": given.scale,
        "enable_gqa": given.q.shape[1] != given.k.shape[1],
        "return_lse": True,
    }
    if kernel_options is not None:
        function = torch.compile(flex_attention, dynamic=False, fullgraph=True)
        keywords["kernel_options"] = kernel_options

    def again() -> tuple[Tensor | None, Tensor | None]:
        with torch.no_grad():
            out, lse = function(given.q, given.k, given.v, **keywords)
        return out, lse

    clock.enter("trace")
    try:
        out, lse = again()
    except Exception as error:
        judge(error, clock)
        raise
    clock.enter("launch")
    return Attended(out, lse, again)


def judge(error: Exception, clock: StageClock) -> None:
    """Enters the stage in which the compilation of a flex_attention failed, or raises Refused for a clear refusal.

    torch.compile wraps the exceptions of its parts. The chain of causes tells which part raised, and the last exception
    of the chain has the message. An eligibility refusal whose reason the profile of the installed torch does not have
    says so. A clear refusal names the operation or the argument, before a kernel is compiled.
    """
    links = list(chain(error))
    text = " ".join(str(error).split())
    said = shown(links[-1])
    kinds = {f"{type(e).__module__}.{type(e).__name__}" for e in links}
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in text or "CUDA_ERROR" in text:
        clock.enter("launch")
    elif "torch._inductor.exc.LoweringException" in kinds or "LoweringException" in text:
        unlike = releases.differs(str(links[-1]), torch.__version__)
        if not unlike or "cannot be used" in text or "is not available" in text:
            raise Refused("eligibility", f"{said} ({unlike})" if unlike else said) from error
        if any(isinstance(e, NotImplementedError) for e in links) or "UNSUPPORTED CUTEDSL OPERATION" in text:
            raise Refused("render", said) from error
        clock.enter("render")
    elif any(kind.startswith("torch._inductor.") for kind in kinds):
        clock.enter("render")
    elif any(kind.startswith("torch._dynamo.exc.") for kind in kinds):
        # Since torch 2.14, Dynamo wraps a check of flex_attention's own in a TorchRuntimeError.
        own = any(raised_by(links[-1], module) for module in _OWN_CHECKS)
        if own or kinds & {"torch._dynamo.exc.Unsupported", "torch._dynamo.exc.UserError"}:
            raise Refused("trace", said) from error
        clock.enter("trace")
    elif raised_by(error, "torch.nn.attention."):
        # flex_attention's own checks of its arguments.
        raise Refused("trace", said) from error
    else:
        clock.enter("compile")
        refusal = isinstance(error, (NotImplementedError, AssertionError, ValueError))
        if refusal and raised_by(error, "flash_attn.cute."):
            raise Refused("compile", said) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields `error`, then its cause or context, and so on along the chain."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(error: BaseException) -> str:
    """The type of `error` and the first 400 characters of its message.

    Colours, rulers, and the debugging advice that torch appends are left out.
    """
    text = re.sub(r"\x1b\[[0-9;]*m|={5,}", " ", str(error))
    text = " ".join(text.split())
    for tail in (" Set TORCHDYNAMO_VERBOSE", " You can suppress this exception", " Set TORCH_LOGS"):
        text = text.partition(tail)[0]
    return f"{type(error).__name__}: {text[:400]}"
