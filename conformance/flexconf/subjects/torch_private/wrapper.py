"""The Python module that torch generates around a kernel, made to run without a GPU driver and without Triton."""

from __future__ import annotations

import re
from typing import Any

from flexconf.subjects.torch_private import hooks
from flexconf.subjects.torch_private.hooks import HookChanged

# Statements of the wrapper that need a GPU driver or Triton, and their replacements. A wrapper of a kernel has each.
REPLACED = (
    ("from torch._C import _cuda_getCurrentRawStream as get_raw_stream\n", ""),
    ("import triton\nimport triton.language as tl\n", ""),
    ("from torch._inductor.runtime.triton_heuristics import start_graph, end_graph\n", ""),
    ("import torch\n", "import contextlib, torch\n"),
    ("torch.cuda._DeviceGuard(0)", "contextlib.nullcontext()"),
    ("torch.cuda.set_device(0)", "pass"),
    ("get_raw_stream(0)", "0"),
    ("empty_strided_cuda(", "empty_strided_cpu("),
)

_CALL = "async_compile.cutedsl("
_KERNEL = re.compile(r"async_compile\.cutedsl\('\w+', r'''\n(?P<text>.*?)'''", re.DOTALL)


def of(generated: Any) -> Any:
    """The wrapper among the results of `GraphLowering.codegen`: the first of two, with a text as its `value`.

    Raises HookChanged if they are something else.
    """
    if isinstance(generated, tuple) and len(generated) == 2 and isinstance(getattr(generated[0], "value", None), str):
        return generated[0]
    raise HookChanged(str(hooks.CODEGEN), "it does not return a pair, of which the first has the wrapper as its value")


def kernels(text: str) -> list[str]:
    """The text of each kernel in a wrapper. Raises HookChanged if one is written in another form."""
    found = [match["text"] for match in _KERNEL.finditer(text)]
    if len(found) != text.count(_CALL):
        raise HookChanged(
            hooks.WRAPPER, f"{text.count(_CALL)} kernels in it, of which {len(found)} are text that can be found"
        )
    return found


def without_gpu(text: str) -> str:
    """`text` with every statement of `REPLACED` replaced, outside of the kernels.

    Raises HookChanged if the wrapper has a kernel, and lacks one of these statements.
    """
    parts, last = list[tuple[str, bool]](), 0
    for match in _KERNEL.finditer(text):
        parts += [(text[last : match.start("text")], False), (match["text"], True)]
        last = match.end("text")
    parts.append((text[last:], False))
    for theirs, ours in REPLACED:
        if len(parts) > 1 and not any(theirs in part for part, is_kernel in parts if not is_kernel):
            raise HookChanged(hooks.WRAPPER, f"it lacks {theirs.strip()!r}, which is replaced in it")
        parts = [(part if is_kernel else part.replace(theirs, ours), is_kernel) for part, is_kernel in parts]
    return "".join(part for part, _ in parts)
