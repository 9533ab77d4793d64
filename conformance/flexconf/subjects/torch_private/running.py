"""Runs torch's FlexAttention BACKEND FLASH lowering without a GPU.

These parts are torch's own: Dynamo's trace of the mods, AOT autograd, every pass over the graph, the lowering, the
CuTeDSL template and code generator, the scheduler, the wrapper around the kernel, and the order of its arguments.

Three parts are changed. Just before the lowering, the graph's tensors are marked as being on a GPU that is not there.
The wrapper loses the statements that need a driver. A stand-in replaces flash-attn-4, which the kernel imports; its
entry is the caller's function.

A part of torch that no longer fits ends in HookChanged, and never in an outcome of torch's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from flexconf.subjects.torch_private import hooks, wrapper
from flexconf.subjects.torch_private.entry import (
    ForwardEntry,
    Generated,
    NeedsGpu,
    forward,
    hooks_named,
    stand_ins,
)
from flexconf.subjects.torch_private.hooks import HookChanged

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask

HOPPER = "9.0"

GPUS = {HOPPER: "NVIDIA H200", "10.0": "NVIDIA B200"}
"""The GPUs that the lowering may be shown, by compute capability. It decides vector widths and packed masks."""


def flex_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score_mod: Callable[..., Tensor] | None,
    block_mask: BlockMask | None,
    scale: float | None,
    enable_gqa: bool,
    entry: ForwardEntry,
    utils: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    capability: str = HOPPER,
    on_stage: Callable[[str], None] = lambda stage: None,
    generated: Generated | None = None,
    whole: bool = False,
) -> Generated:
    """Runs flex_attention with BACKEND FLASH on CPU tensors, compiled by torch, with `entry` as the attention kernel.

    q (B, H, M, D), k (B, Hkv, N, D), v (B, Hkv, N, Dv). `utils` are the functions of `flash_attn.cute.utils` that the
    kernel may call. The lowering sees a GPU of `capability`, one of `GPUS`. `on_stage` is called with "trace" and
    "render" as they begin. `generated` receives each kernel's text at once, so the texts are available after an
    exception. Nothing that an earlier call compiled is used again. `whole` also traces flex_attention's own Python;
    that gives the same kernel and takes several times as long. Raises HookChanged if a private part of torch turns out
    to have changed, and any exception of torch or `entry`. Such an exception may be caused by a NotStoodIn.
    """
    import torch

    found = generated if generated is not None else Generated()
    inductor = importlib.import_module("torch._inductor.config")
    dynamo = importlib.import_module("torch._dynamo.config")
    autograd = importlib.import_module("torch._functorch.config")
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    lowering = importlib.import_module("torch._inductor.kernel.flex.flex_flash_attention")
    # A process runs many cases. What torch compiled for one case must not count against the next.
    torch.compiler.reset()
    importlib.import_module("torch._inductor.codecache").PyCodeCache.cache_clear()
    backend = _Backend(capability, on_stage, found)

    @contextlib.contextmanager
    def environment(*arguments: Any, **keywords: Any) -> Iterator[_Backend]:
        # Outside torch.compile, flex_attention compiles its higher-order operator itself, in this environment.
        found.reached.add(str(hooks.SET_UP))
        with dynamo.patch(allow_empty_graphs=True, capture_scalar_outputs=True):
            yield backend

    with (
        hooks_named(),
        torch.no_grad(),
        _own_folder() as folder,
        _swiftly(),
        stand_ins(forward(entry, found, folder), utils),
        patch.object(lowering, "ensure_flash_available", _yes(found, hooks.AVAILABLE)),
        patch.object(flex, "setup_compilation_env", environment),
        dynamo.patch(automatic_dynamic_shapes=False, assume_static_by_default=True),
        autograd.patch(enable_autograd_cache=False),
        inductor.patch(fx_graph_cache=False, fx_graph_remote_cache=False, compile_threads=1),
    ):
        on_stage("trace")
        function = flex.flex_attention
        if whole:
            function = torch.compile(function, backend=backend, dynamic=False, fullgraph=True)
        found.out, found.lse = function(
            q,
            k,
            v,
            score_mod=score_mod,
            block_mask=block_mask,
            scale=scale,
            enable_gqa=enable_gqa,
            return_lse=True,
            kernel_options={"BACKEND": "FLASH"},
        )
    if found.kernels and hooks.ENTRY not in found.reached:
        raise HookChanged(hooks.ENTRY, "the wrapper has a kernel, and ran without calling it")
    return found


def _yes(found: Generated, hook: hooks.Hook) -> Callable[..., bool]:
    """A function that answers True to any arguments, and notes that torch reached `hook`."""

    def function(*arguments: Any, **keywords: Any) -> bool:
        found.reached.add(str(hook))
        return True

    return function


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    """Makes torch write its generated modules into a folder for this call only. Yields its path without links.

    The folder is removed at the end.

    Torch names a module's file after its content. CuTe reads a function's source from that file when it compiles the
    function. In a shared folder, another process that generates the same module could remove the file before that.
    """
    name = hooks.FOLDER
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="flexconf-codegen-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield os.path.realpath(folder)
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


@contextlib.contextmanager
def _swiftly() -> Iterator[None]:
    """Turns off garbage collection and the timing of guards for a log.

    Both together take a fifth of the time, and no result depends on them. So a torch without this timing is no worse.
    """
    guards = importlib.import_module("torch._dynamo.guards")
    collecting = gc.isenabled()
    gc.disable()
    try:
        with contextlib.ExitStack() as stack:
            if hasattr(guards, "profile_guard_manager"):
                stack.enter_context(patch.object(guards, "profile_guard_manager", lambda *arguments: 0.0))
            yield
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class _Backend:
    """Inductor as a torch.compile backend. Just before the lowering, it marks the graph as being on an absent GPU."""

    capability: str
    on_stage: Callable[[str], None]
    found: Generated

    def __call__(self, graph: Any, examples: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
        compile_fx = importlib.import_module("torch._inductor.compile_fx")
        asked = graph.graph.output_node().args[0]
        # flex_attention does not use the third result, the row maxima, and BACKEND FLASH does not compute it.
        graph.graph.output_node().args = (tuple(asked[:2]),)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        with (
            patch.object(compile_fx, "GraphLowering", _lowering(self.capability, self.on_stage, self.found)),
            patch.object(compile_fx, "_check_triton_bf16_support", _yes(self.found, hooks.BFLOAT16)),
        ):
            compiled = compile_fx.compile_fx(graph, examples)
        return lambda *arguments: (*compiled(*arguments), *(None for _ in asked[2:]))


def _lowering(capability: str, on_stage: Callable[[str], None], found: Generated) -> type[Any]:
    base: Any = importlib.import_module("torch._inductor.graph").GraphLowering

    class OnAbsentGpu(base):  # type: ignore[misc]
        """Lowers as if the tensors were on a GPU, and generates a wrapper that runs on a CPU."""

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            found.reached.add(str(hooks.LOWERING))
            super().__init__(*arguments, **keywords)

        def run(self, *examples: Any) -> Any:
            found.reached.add(str(hooks.RUN))
            on_stage("render")
            _move(self.module)
            with _gpu(capability, found):
                return super().run(*(_moved(e) for e in examples))

        def codegen(self) -> Any:
            with _gpu(capability, found):
                generated = super().codegen()
            found.reached.add(str(hooks.CODEGEN))
            text = wrapper.of(generated)
            found.kernels += wrapper.kernels(text.value)
            if "async_compile.triton(" in text.value:
                raise NeedsGpu("the wrapper launches a Triton kernel beside the attention kernel, which needs a GPU")
            text.value = wrapper.without_gpu(text.value)
            found.reached.add(hooks.WRAPPER)
            return generated

    return OnAbsentGpu


def _move(module: Any) -> None:
    """Marks every tensor of a graph and its subgraphs as being on the GPU."""
    import torch
    from torch.utils import _pytree

    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in part.graph.nodes:
            node.args, node.kwargs = _pytree.tree_map_only(torch.device, _moved, (node.args, node.kwargs))
            for key in ("val", "example_value"):
                if key in node.meta:
                    node.meta[key] = _pytree.tree_map_only(torch.Tensor, _moved, node.meta[key])
        part.recompile()


def _moved(value: Any) -> Any:
    import torch

    gpu = torch.device("cuda", 0)
    if isinstance(value, torch.device):
        return gpu if value.type == "cpu" else value
    if not isinstance(value, torch.Tensor):
        return value
    guards = importlib.import_module("torch._guards")
    with guards.TracingContext.get().fake_mode:
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=gpu)


@contextlib.contextmanager
def _gpu(capability: str, found: Generated) -> Iterator[None]:
    """Answers the lowering's questions about the GPU as one of this compute capability would."""
    import torch

    major, minor = map(int, capability.split("."))
    properties = types.SimpleNamespace(
        name=GPUS[capability],
        major=major,
        minor=minor,
        gcnArchName="",
        multi_processor_count=132,
        max_threads_per_multi_processor=2048,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448,
        L2_cache_size=62914560,
        total_memory=150_000_000_000,
        warp_size=32,
    )
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *device: properties,
        "get_device_capability": lambda *device: (major, minor),
        "is_bf16_supported": lambda *emulated, **keywords: True,
    }
    scheduler = importlib.import_module("torch._inductor.scheduler")
    with (
        patch.multiple(torch.cuda, **answers),  # type: ignore[call-overload]
        patch.object(scheduler, "has_triton", _yes(found, hooks.HAS_TRITON)),
    ):
        yield
