"""Runs torch's FlexAttention BACKEND FLASH lowering without a GPU. No other module uses private parts of torch for it.

These parts are torch's own: Dynamo's trace of the mods, AOT autograd, every pass over the graph, the lowering, the
CuTeDSL template and code generator, the scheduler, the wrapper around the kernel, and the order of its arguments.

Three parts are changed. Just before the lowering, the graph's tensors are marked as being on a GPU that is not there.
The wrapper loses the statements that need a driver. A stand-in replaces flash-attn-4, which the kernel imports; its
entry is the caller's function.

Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from packaging.specifiers import SpecifierSet

from flexconf.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask

KNOWN = ">=2.13,<2.14"
"""The torch versions whose private parts this module knows. Widen it only after a run with the new version."""

HOPPER = "9.0"

GPUS = {HOPPER: "NVIDIA H200", "10.0": "NVIDIA B200"}
"""The GPUs that the lowering may be shown, by compute capability. It decides vector widths and packed masks."""

# Statements of the wrapper that need a GPU driver or Triton, and their replacements.
_WRAPPER = (
    ("from torch._C import _cuda_getCurrentRawStream as get_raw_stream\n", ""),
    ("import triton\nimport triton.language as tl\n", ""),
    ("from torch._inductor.runtime.triton_heuristics import start_graph, end_graph\n", ""),
    ("import torch\n", "import contextlib, torch\n"),
    ("torch.cuda._DeviceGuard(0)", "contextlib.nullcontext()"),
    ("torch.cuda.set_device(0)", "pass"),
    ("get_raw_stream(0)", "0"),
    ("empty_strided_cuda(", "empty_strided_cpu("),
)

_KERNEL = re.compile(r"async_compile\.cutedsl\('\w+', r'''\n(?P<text>.*?)'''", re.DOTALL)

ForwardEntry = Callable[..., None]
"""A function with the arguments of flash-attn-4's `_flash_attn_fwd`. It fills `out` and `lse`."""


class BlockLists(NamedTuple):
    """Stands in for flash-attn-4's `BlockSparseTensorsTorch`.

    The generated kernel passes the four tensors by position and `block_size` by name.
    """

    mask_block_cnt: Tensor
    mask_block_idx: Tensor
    full_block_cnt: Tensor
    full_block_idx: Tensor
    block_size: tuple[int, int]


@dataclass
class Generated:
    """The results of one call: out (B, H, M, Dv), lse (B, H, M), and the text of each kernel that torch rendered.

    `out` is None until the call returns. `lse` is None until then, or if torch returns none. The entry fills
    `arguments` (those of the kernel's main function, by name) and `results` (the "out" and "lse" that it fills).
    """

    out: Tensor | None = None
    lse: Tensor | None = None
    kernels: list[str] = field(default_factory=list)
    arguments: dict[str, object] = field(default_factory=dict)
    results: dict[str, Tensor] = field(default_factory=dict)


class NeedsGpu(NotImplementedError):
    """The wrapper launches a Triton kernel beside the attention kernel, so it cannot run without a GPU."""


def why_not() -> str:
    """The reason why this module cannot use the installed torch. Returns "" if it can, or if torch is not installed."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
    if SpecifierSet(KNOWN).contains(version, prereleases=True):
        return ""
    return (
        f"it reaches into torch's private lowering, which it knows for torch {KNOWN}, and here is torch {version}; "
        "install one that it knows, or use torch-flash on a GPU"
    )


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
    that gives the same kernel and takes several times as long. Raises InputError for an unknown torch version, and any
    exception of torch or `entry`.
    """
    why = why_not()
    if why:
        raise InputError(why)
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
    backend = _Backend(capability, on_stage, found.kernels.append)

    @contextlib.contextmanager
    def environment() -> Iterator[_Backend]:
        # Outside torch.compile, flex_attention compiles its higher-order operator itself, in this environment.
        with dynamo.patch(allow_empty_graphs=True, capture_scalar_outputs=True):
            yield backend

    with (
        torch.no_grad(),
        _own_folder(),
        _swiftly(),
        stand_ins(entry, utils),
        patch.object(lowering, "ensure_flash_available", lambda: True),
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
    return found


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Makes torch write its generated modules into a folder for this call only. The folder is removed at the end.

    Torch names a module's file after its content. CuTe reads a function's source from that file when it compiles the
    function. In a shared folder, another process that generates the same module could remove the file before that.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="flexconf-codegen-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


@contextlib.contextmanager
def _swiftly() -> Iterator[None]:
    """Turns off garbage collection and the timing of guards for a log.

    Both together take a fifth of the time, and no result depends on them.
    """
    guards = importlib.import_module("torch._dynamo.guards")
    collecting = gc.isenabled()
    gc.disable()
    try:
        with patch.object(guards, "profile_guard_manager", lambda *arguments: 0.0):
            yield
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class _Backend:
    """Inductor as a torch.compile backend. Just before the lowering, it marks the graph as being on an absent GPU."""

    capability: str
    on_stage: Callable[[str], None]
    on_kernel: Callable[[str], None]

    def __call__(self, graph: Any, examples: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
        compile_fx = importlib.import_module("torch._inductor.compile_fx")
        asked = graph.graph.output_node().args[0]
        # flex_attention does not use the third result, the row maxima, and BACKEND FLASH does not compute it.
        graph.graph.output_node().args = (tuple(asked[:2]),)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        with (
            patch.object(compile_fx, "GraphLowering", _lowering(self.capability, self.on_stage, self.on_kernel)),
            patch.object(compile_fx, "_check_triton_bf16_support", lambda graph: None),
        ):
            compiled = compile_fx.compile_fx(graph, examples)
        return lambda *arguments: (*compiled(*arguments), *(None for _ in asked[2:]))


def _lowering(capability: str, on_stage: Callable[[str], None], on_kernel: Callable[[str], None]) -> type[Any]:
    base: Any = importlib.import_module("torch._inductor.graph").GraphLowering

    class OnAbsentGpu(base):  # type: ignore[misc]
        """Lowers as if the tensors were on a GPU, and generates a wrapper that runs on a CPU."""

        def run(self, *examples: Any) -> Any:
            on_stage("render")
            _move(self.module)
            with _gpu(capability):
                return super().run(*(_moved(e) for e in examples))

        def codegen(self) -> Any:
            with _gpu(capability):
                wrapper, kernels = super().codegen()
            for found in _KERNEL.finditer(wrapper.value):
                on_kernel(found["text"])
            if "async_compile.triton(" in wrapper.value:
                raise NeedsGpu("the wrapper launches a Triton kernel beside the attention kernel, which needs a GPU")
            for theirs, ours in _WRAPPER:
                wrapper.value = wrapper.value.replace(theirs, ours)
            return wrapper, kernels

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
def _gpu(capability: str) -> Iterator[None]:
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
        patch.object(scheduler, "has_triton", lambda *device: True),
    ):
        yield


@contextlib.contextmanager
def stand_ins(entry: ForwardEntry, utils: Mapping[str, Callable[..., Any]] = MappingProxyType({})) -> Iterator[None]:
    """Puts stand-ins for the flash-attn-4 modules that the kernel's text imports into sys.modules.

    They take the place of flash-attn-4 if it is installed.
    """
    cute = "flash_attn.cute"
    names = ("flash_attn", cute, f"{cute}.interface", f"{cute}.block_sparsity", f"{cute}.utils")
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        parent, _, attribute = name.rpartition(".")
        if parent:
            setattr(modules[parent], attribute, module)
    vars(modules[f"{cute}.interface"])["_flash_attn_fwd"] = entry
    vars(modules[f"{cute}.block_sparsity"])["BlockSparseTensorsTorch"] = BlockLists
    vars(modules[f"{cute}.utils"]).update(utils)
    # Not patch.dict: at the end it would also remove other modules imported in the meantime.
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, theirs in before.items():
            if theirs is None:
                del sys.modules[name]
            else:
                sys.modules[name] = theirs
