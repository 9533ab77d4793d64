"""Timing on a GPU."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

Call: TypeAlias = Callable[[], tuple[Tensor, Tensor | None]]
"""One run of a provider: the output (B, H, M, Dv), and the LSE (B, H, M) or None."""

_WARM_UP = 25  # ms, as triton.testing.do_bench has it
_HOST_CALLS = 20


class Timer(Protocol):
    """How time is taken."""

    def synchronize(self) -> None:
        """Wait for the device. Raises what the device has met since."""

    def samples(self, call: Callable[[], object], milliseconds: float) -> list[float]:
        """Milliseconds of single runs, for about `milliseconds` of them together."""

    def host(self, call: Call) -> float:
        """Microseconds that a run keeps the CPU busy before it returns, the device being idle."""

    def graph(self, call: Call) -> tuple[Callable[[], object], tuple[Tensor, Tensor | None]]:
        """A replay of one run without any Python in it, and the tensors that it fills. Raises when it cannot be."""


class DeviceTimer:
    """CUDA events, through `triton.testing.do_bench`: the L2 cache is cleared before every run."""

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def samples(self, call: Callable[[], object], milliseconds: float) -> list[float]:
        from triton.testing import do_bench  # type: ignore[import-not-found, import-untyped, unused-ignore]

        found: Any = do_bench(call, warmup=_WARM_UP, rep=milliseconds, return_mode="all")
        return [float(ms) for ms in found]

    def host(self, call: Call) -> float:
        seconds = []
        for _ in range(_HOST_CALLS):
            self.synchronize()
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        self.synchronize()
        return statistics.median(seconds) * 1e6

    def graph(self, call: Call) -> tuple[Callable[[], object], tuple[Tensor, Tensor | None]]:
        # What is made on a first run, on a stream of its own, may not be made during the capture.
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            call()
            call()
        torch.cuda.current_stream().wait_stream(beside)
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = call()
        return graph.replay, results


@contextlib.contextmanager
def cold() -> Iterator[Callable[[], str]]:
    """flash-attn-4 compiles anew within: providers of one process may ask it for the same kernel.

    Gives a function that says, within, what has been compiled: sha256 of the machine code, "" for none, or where
    CuTe was not told to keep it (`keep_code`).
    """
    module = sys.modules.get("flash_attn.cute.interface")
    cache = getattr(getattr(module, "_flash_attn_fwd", None), "compile_cache", None)
    known = getattr(cache, "cache", None)
    if not isinstance(known, dict):
        yield lambda: ""
        return
    kept = dict(known)
    known.clear()
    try:
        yield lambda: _digest(known.values())
    finally:
        for key, kernel in kept.items():
            known.setdefault(key, kernel)


def _digest(kernels: Iterable[object]) -> str:
    codes = [getattr(kernel, "__cubin__", None) for kernel in kernels]
    if not codes or not all(isinstance(code, bytes) and code for code in codes):
        return ""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(code).digest() for code in codes if code))).hexdigest()


def keep_code(folder: str) -> dict[str, str]:
    """The environment in which CuTe keeps the machine code that it compiles, and writes it to `folder` too."""
    return {"CUTE_DSL_KEEP": "cubin", "CUTE_DSL_DUMP_DIR": folder}
