"""The private parts of torch that the subject torch-codegen needs, and the refusal of a torch in which one changed.

Nothing here asks for a version. A torch in which every part has the name, the arguments and the effect that the subject
relies on can be run, also one that is newer than this module.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from importlib import metadata

from flexconf.errors import InputError

FLEX = "torch.nn.attention.flex_attention"
FLASH = "torch._inductor.kernel.flex.flex_flash_attention"
COMPILE = "torch._inductor.compile_fx"
GRAPH = "torch._inductor.graph"
SCHEDULER = "torch._inductor.scheduler"

ENTRY = "flash_attn.cute.interface._flash_attn_fwd"
"""The stand-in for flash-attn-4's forward entry, which the generated kernel calls."""

WRAPPER = "the text of the wrapper"
"""The hook of all replacements in the Python module that torch generates around the kernel."""

FOLDER = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that gives each call a folder of its own for the modules that torch generates."""

CASE = "the probe's own case"
"""Everything together: one small attention, judged by the oracle."""


class HookChanged(InputError):
    """A private part of torch is not as the subject needs it, so nothing can be said about this torch."""

    def __init__(self, hook: str, seen: str) -> None:
        try:
            version = metadata.version("torch")
        except metadata.PackageNotFoundError:
            version = "of an unknown version"
        super().__init__(
            f"torch-codegen knows no way into torch {version}: {hook}: {seen}; use a torch release with the lowering "
            "that flexconf knows, or torch-flash on a GPU"
        )
        self.hook, self.seen = hook, seen

    def __reduce__(self) -> tuple[type[HookChanged], tuple[str, str]]:
        # A worker sends its exception to its parent.
        return HookChanged, (self.hook, self.seen)


@dataclass(frozen=True)
class Hook:
    """A private part of torch: `name` in `module`, with a dot for a method of a class.

    `arguments` is the number of positional arguments that it is called with, by us or, if we replace it, by torch. It
    is None for a class, a configuration key, and a function whose arguments do not matter.
    """

    module: str
    name: str
    arguments: int | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def fault(self) -> str:
        """How the installed torch's part differs from what the subject needs. Returns "" if it does not."""
        try:
            found = importlib.import_module(self.module)
        except Exception as error:  # a module may stumble over a part of another
            return f"the module cannot be imported ({' '.join(str(error).split())})"
        for part in self.name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                return "it does not exist"
        if self.arguments is None:
            return ""
        try:
            signature = inspect.signature(found)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return f"it is no function, but {type(found).__name__}"
        try:
            signature.bind(*range(self.arguments))
        except TypeError:
            return f"it takes {signature}, and the subject relies on {self.arguments} positional arguments"
        return ""


SET_UP = Hook(FLEX, "setup_compilation_env", 0)
AVAILABLE = Hook(FLASH, "ensure_flash_available", 0)
BFLOAT16 = Hook(COMPILE, "_check_triton_bf16_support", 1)
HAS_TRITON = Hook(SCHEDULER, "has_triton", 0)
LOWERING = Hook(COMPILE, "GraphLowering")
RUN = Hook(GRAPH, "GraphLowering.run", 2)
CODEGEN = Hook(GRAPH, "GraphLowering.codegen", 1)

HOOKS: tuple[Hook, ...] = (
    Hook("torch._inductor.config", "fx_graph_cache"),
    Hook("torch._inductor.config", "fx_graph_remote_cache"),
    Hook("torch._inductor.config", "compile_threads"),
    Hook("torch._dynamo.config", "allow_empty_graphs"),
    Hook("torch._dynamo.config", "capture_scalar_outputs"),
    Hook("torch._dynamo.config", "automatic_dynamic_shapes"),
    Hook("torch._dynamo.config", "assume_static_by_default"),
    Hook("torch._functorch.config", "enable_autograd_cache"),
    Hook("torch._inductor.codecache", "PyCodeCache.cache_clear", 0),
    SET_UP,
    Hook(COMPILE, "compile_fx", 2),
    LOWERING,
    RUN,
    AVAILABLE,
    BFLOAT16,
    HAS_TRITON,
    CODEGEN,
    Hook("torch._inductor.async_compile", "AsyncCompile.cutedsl", 3),
    Hook("torch._guards", "TracingContext.get", 0),
    Hook("torch.utils._pytree", "tree_map_only", 3),
    Hook("torch.cuda", "is_available", 0),
    Hook("torch.cuda", "device_count", 0),
    Hook("torch.cuda", "current_device", 0),
    Hook("torch.cuda", "get_device_properties", 1),
    Hook("torch.cuda", "get_device_capability", 1),
    Hook("torch.cuda", "is_bf16_supported", 0),
)
"""Every private part that the subject calls, replaces or sets."""

REACHED = (
    str(SET_UP),
    str(LOWERING),
    str(RUN),
    str(AVAILABLE),
    str(BFLOAT16),
    str(HAS_TRITON),
    str(CODEGEN),
    WRAPPER,
    ENTRY,
)
"""The replaced parts that torch must reach while it compiles and runs one attention, in that order."""


def check() -> None:
    """Raises HookChanged, which names the hook, if one of `HOOKS` is missing or takes other arguments."""
    for hook in HOOKS:
        fault = hook.fault()
        if fault:
            raise HookChanged(str(hook), fault)
