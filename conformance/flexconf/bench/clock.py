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

_WARM_UP = 25  # ms, the default of triton.testing.do_bench
_HOST_CALLS = 20


class Timer(Protocol):
    """A way to time calls on a device."""

    def synchronize(self) -> None:
        """Wait for the device. Raises any error that has occurred on the device."""

    def samples(self, call: Callable[[], object], milliseconds: float) -> list[float]:
        """Milliseconds of each of several runs, which together take about `milliseconds`."""

    def host(self, call: Call) -> float:
        """Microseconds from the call to its return, while the device is idle: the CPU time of one run."""

    def graph(self, call: Call) -> tuple[Callable[[], object], tuple[Tensor, Tensor | None]]:
        """(a function that replays one run as a graph, the tensors that it fills). Raises if capture fails."""


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
        # The first runs are on a side stream, before the capture: they make objects that a capture does not allow.
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
    """A context in which flash-attn-4's compile cache starts empty, since providers of one process may share kernels.

    Yields a function that returns the SHA-256 of the machine code compiled in the context so far. It returns "" if
    nothing was compiled, or if CuTe does not keep the code (see `keep_code`).
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
    """The environment variables that make CuTe keep the machine code it compiles, and also write it to `folder`."""
    return {"CUTE_DSL_KEEP": "cubin", "CUTE_DSL_DUMP_DIR": folder}
