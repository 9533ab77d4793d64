"""The digest of a kernel's PTX: the same wherever it is taken, absent where there is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexconf import subjects
from flexconf.gate import record
from flexconf.machine import caches, devices
from flexconf.subjects import ptx
from flexconf.subjects.registry import _installed

TEXT = ".version 8.8\n.visible .entry k()\n"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.mark.parametrize(
    "kernel", [SimpleNamespace(), SimpleNamespace(__ptx__=None), SimpleNamespace(__ptx__="/a.ptx")]
)
def test_what_has_no_ptx_has_no_digest(kernel: object) -> None:
    assert ptx.of(kernel) == ""
    assert ptx.named([]) == ptx.named([""]) == ptx.named([DIGEST, ""]) == {}


def test_one_kernel_is_its_own_digest_and_several_have_one_of_their_own() -> None:
    assert ptx.named([ptx.of(SimpleNamespace(__ptx__=TEXT))] * 2) == {"ptx": DIGEST}
    both = ptx.named(["a", "b"])
    assert both == ptx.named(["b", "a"]) and both["ptx"] not in ("a", "b")


def test_whoever_loads_a_kernel_has_the_digest_of_whoever_compiled_it(tmp_path: Path) -> None:
    def loads(key: Any) -> str:
        """What another process has, whose kernel is from the disk."""
        other = ptx.Watched({key: object()}, tmp_path / "ptx")
        assert other[key]
        return str(other.digests[key])

    class Stored(dict[Any, Any]):
        def __setitem__(self, key: Any, kernel: Any) -> None:
            assert loads(key) == DIGEST, "the kernel can be loaded before its digest"
            super().__setitem__(key, kernel)

    first = ptx.Watched(Stored(), tmp_path / "ptx")
    assert ("k", 1) not in first and loads(("k", 1)) == ""
    first["k", 1] = SimpleNamespace(__ptx__=TEXT)
    assert first.digests == {("k", 1): DIGEST} and loads(("k", 1)) == DIGEST and loads(("k", 2)) == ""
    assert first.items()  # all else is the cache's own


def test_a_recording_keeps_ptx_on_a_gpu_and_each_worker_in_a_folder_of_its_own(tmp_path: Path) -> None:
    variables = caches.variables(tmp_path)
    assert record._environments(subjects.get("reference.host"), 2, variables) == [variables]
    kept = record._environments(subjects.get("reference.fa4"), 2, variables)
    assert all(e["CUTE_DSL_KEEP"] == "ptx" for e in kept)
    assert len({e["CUTE_DSL_DUMP_DIR"] for e in kept}) == 2 and all(Path(e["CUTE_DSL_DUMP_DIR"]).is_dir() for e in kept)


_COMPILE = """
import contextlib, json, pathlib, sys
import cutlass.cute as cute, torch
from cutlass.cute.runtime import make_fake_stream
from cutlass.utils import HardwareInfo
from torch._subclasses.fake_tensor import FakeTensorMode
import flash_attn.cute.interface as flash, flexflash
from flash_attn.cute.cache_utils import JITPersistentCache
from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.subjects import ptx
from flexflash import eligibility
from flexflash.launch import fa4, simt

HardwareInfo.__init__ = lambda self, *a, **k: None
torch.cuda.device = contextlib.nullcontext
found = {}
(case,) = catalogue.select(catalogue.load(), ["alibi"])
given = inputs.materialize(case)


def lowered(profile):
    kernel = flexflash.lower(
        given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, profile=profile
    )
    return kernel, kernel.arguments(given.q, given.k, given.v, *kernel.allocate())


class Compiled:
    def __init__(self, kernel): self.kernel = kernel
    def __getattr__(self, name): return getattr(self.kernel, name)
    def __call__(self, *arguments): pass


compiles = cute.compile
simt.cute.compile = lambda *a, **k: Compiled(compiles(*a, **k))
simt._current_stream = lambda device: make_fake_stream()
launcher = simt.SimtLauncher()
launcher.run(*lowered(eligibility.SIMT))
found["simt"] = ptx.named(map(ptx.of, launcher.compiled()))
simt.cute.compile = compiles

kernel, arguments = lowered(eligibility.FLASH_ATTN_4)
cache = flash._flash_attn_fwd.compile_cache
with FakeTensorMode():
    there = {n: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for n, t in arguments.items()}
    for name in ("compiled", "loaded"):
        with ptx.of_flash_attn() as code:
            fa4.Fa4Launcher().run(kernel, there)
            if name == "loaded":  # nothing is launched on a tensor that is not there
                [flash._flash_attn_fwd.compile_cache[key] for key in cache.cache]
        found[name] = [ptx.named(code.values()), [hasattr(k, "__ptx__") for k in cache.cache.values()]]
        cache = flash._flash_attn_fwd.compile_cache = JITPersistentCache(cache.cache_path)
print("found", json.dumps(found))
"""


@pytest.mark.skipif(not _installed("flash-attn-4"), reason="flash-attn-4 is not installed")
@pytest.mark.skipif(devices.count() > 0, reason="a GPU is here, and this stands in for one; recordings have its PTX")
def test_the_compilers_hand_out_ptx_and_a_kernel_from_disk_has_its_digest_too(tmp_path: Path) -> None:
    """For a GPU that is not here; the second time, flash-attn-4 has its kernel from its cache on disk."""
    variables = {
        **caches.variables(tmp_path),
        **ptx.variables(tmp_path, 0),
        "FLASH_ATTENTION_ARCH": "sm_90a",
        "FLASH_ATTENTION_NUM_SMS": "132",
        "CUTE_DSL_ARCH": "sm_90a",
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _COMPILE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **variables},
        capture_output=True,
        text=True,
    )
    said = [x for x in ran.stdout.split("\n") if x.startswith("found ")]
    assert ran.returncode == 0 and said, ran.stderr
    found = json.loads(said[0].removeprefix("found "))
    assert len(found["simt"]["ptx"]) == 64
    (compiled, kept), (loaded, held) = found["compiled"], found["loaded"]
    assert kept == [True] and held == [False], "the second was to come from the disk"
    assert compiled == loaded and len(compiled["ptx"]) == 64 and compiled != found["simt"]
