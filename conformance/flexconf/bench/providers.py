"""The implementations that are measured, through their public entries: this lowering, PyTorch, flash-attn-4, cuDNN."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

import flexflash
from flexconf.bench.clock import Call
from flexconf.bench.workloads import Built
from flexconf.errors import InputError

_DECODING = 128  # below this query length the Triton decoding kernel is used


class ProviderRefused(Exception):
    """A provider does not support a workload. The message says why."""


class Provider(Protocol):
    """One implementation of attention. `needs` are the modules that it imports, `about` is its description."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...

    def prepare(self, built: Built) -> Call:
        """The call to be timed. Its first run may compile. Raises ProviderRefused if the workload is not supported."""


@dataclass(frozen=True)
class Reference:
    """The reference lowering. The kernel is rendered once, and its launches are timed.

    Each launch allocates its output and LSE, as the other providers do. So the time of every provider includes the
    allocation, and the allocator gives all of them the same memory.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    launcher: Callable[[], flexflash.Launcher]
    options: Mapping[str, object] | None = None

    def prepare(self, built: Built) -> Call:
        launcher = self.launcher()
        kernel = self._lower(built, launcher, self.options)
        if self.options and kernel.text == self._lower(built, launcher, None).text:
            raise ProviderRefused("renders the same text as without the option")

        def call() -> tuple[Tensor, Tensor]:
            out = torch.empty_strided(
                kernel.output_size, kernel.output_stride, dtype=kernel.dtype, device=kernel.device
            )
            lse = torch.empty(kernel.lse_size, dtype=torch.float32, device=kernel.device)
            launcher.run(kernel, kernel.arguments(built.q, built.k, built.v, out, lse))
            return out, lse

        return call

    def _lower(
        self, built: Built, launcher: flexflash.Launcher, options: Mapping[str, object] | None
    ) -> flexflash.RenderedKernel:
        try:
            return flexflash.lower(
                built.q,
                built.k,
                built.v,
                built.score_mod,
                built.block_mask,
                built.scale,
                options,
                profile=launcher.profile,
            )
        except flexflash.FlexFlashError as error:
            raise ProviderRefused(f"{error.stage}: {error}") from error


@dataclass(frozen=True)
class TorchFlex:
    """torch.compile(flex_attention) with the kernel option BACKEND. `compiler` is torch.compile's own backend."""

    name: str
    about: str
    needs: tuple[str, ...]
    backend: str
    compiler: str = "inductor"

    def prepare(self, built: Built) -> Call:
        compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True, backend=self.compiler)
        decoding = self.backend == "TRITON" and built.workload.M < _DECODING
        keywords: dict[str, Any] = {
            "score_mod": built.score_mod,
            "block_mask": built.block_mask,
            "scale": built.scale,
            "enable_gqa": built.workload.Hkv != built.workload.H,
            "kernel_options": {"BACKEND": "TRITON_DECODE" if decoding else self.backend},
            "return_lse": True,
        }

        def call() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                out, lse = compiled(built.q, built.k, built.v, **keywords)
            return out, lse

        return call


@dataclass(frozen=True)
class FlashAttention:
    """flash-attn-4 called directly, with its own arguments instead of mods."""

    name: str = "flash-attn-4"
    about: str = "flash_attn.cute with its own causal, softcap and window arguments"
    needs: tuple[str, ...] = ("flash_attn",)

    def prepare(self, built: Built) -> Call:
        w = built.workload
        if w.own is None:
            raise ProviderRefused(f"has no argument for {w.about}")
        from flash_attn.cute.interface import flash_attn_func

        q, k, v = (t.transpose(1, 2) for t in (built.q, built.k, built.v))
        own = dict(w.own)
        if w.M == 1 and torch.cuda.get_device_capability()[0] >= 10:
            own["num_splits"] = 0  # flash-attn-4 chooses; on compute capability 9 it supports one split only

        def call() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                out, lse = flash_attn_func(q, k, v, softmax_scale=built.scale, return_lse=True, **own)[:2]
            return out.transpose(1, 2), lse

        return call


@dataclass(frozen=True)
class CuDnn:
    """torch's scaled_dot_product_attention, restricted to cuDNN. It returns no LSE."""

    name: str = "cudnn"
    about: str = "scaled_dot_product_attention on cuDNN, without LSE"
    needs: tuple[str, ...] = ()

    def prepare(self, built: Built) -> Call:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        w = built.workload
        if w.sdpa is None:
            raise ProviderRefused(f"has no argument for {w.about}")
        own = dict(w.sdpa)
        if w.Hkv != w.H:
            own["enable_gqa"] = True

        def call() -> tuple[Tensor, None]:
            with torch.no_grad(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                out = scaled_dot_product_attention(built.q, built.k, built.v, scale=built.scale, **own)
            return out, None

        return call


def _fa4() -> flexflash.Launcher:
    from flexflash.launch.fa4 import Fa4Launcher

    return Fa4Launcher()


def _simt() -> flexflash.Launcher:
    from flexflash.launch.simt import SimtLauncher  # type: ignore[import-not-found, unused-ignore]

    launcher: flexflash.Launcher = SimtLauncher()
    return launcher


_ALL: tuple[Provider, ...] = (
    Reference("reference", "the reference lowering in flash-attn-4", ("flash_attn",), _fa4),
    Reference("reference fast_math", "the same with approximate functions", ("flash_attn",), _fa4, {"fast_math": True}),
    TorchFlex("torch-flash", "torch.compile(flex_attention), BACKEND FLASH", ("flash_attn", "triton"), "FLASH"),
    TorchFlex("torch-triton", "torch.compile(flex_attention), BACKEND TRITON", ("triton",), "TRITON"),
    FlashAttention(),
    CuDnn(),
    Reference("simt", "the reference lowering in a plain kernel, one thread a row", ("cutlass",), _simt),
)
PROVIDERS: dict[str, Provider] = {p.name: p for p in _ALL}

_NOT_BY_DEFAULT = ("simt",)  # only in workloads that name it: one row takes it as long as a tile takes the others


def select(names: Sequence[str]) -> list[str]:
    """The providers of these names, or all if `names` is empty. Raises InputError for an unknown name."""
    for name in names:
        if name not in PROVIDERS:
            close = difflib.get_close_matches(name, PROVIDERS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PROVIDERS)}"
            raise InputError(f"no provider is called {name!r}; {hint}")
    return [name for name in PROVIDERS if not names or name in names]


def of(built_for: tuple[str, ...], chosen: Sequence[str]) -> list[str]:
    """The providers of `chosen` that measure a workload whose `only` is `built_for`."""
    return [name for name in chosen if (name in built_for if built_for else name not in _NOT_BY_DEFAULT)]


def require(chosen: Sequence[str]) -> None:
    """Raises InputError if a package that the `chosen` providers or the timer need is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise InputError("runs are timed with the package triton, which is not installed; pip install triton")
    for name in chosen:
        for package in PROVIDERS[name].needs:
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"provider {name!r} needs the package {package}, which is not installed; install "
                    "flexflash-conformance[fa4], or name other providers with --provider"
                )


def is_refusal(error: BaseException) -> bool:
    """Whether an exception says that the provider does not support the workload, rather than that it failed."""
    text = " ".join(str(error).split()).lower()
    said = (
        "no available kernel",
        "no viable backend",
        "cannot be used",
        "not supported",
        "unsupported",
        "is not available",
        "not implemented",
        "notimplementederror",
    )
    return isinstance(error, (ProviderRefused, NotImplementedError)) or any(words in text for words in said)
