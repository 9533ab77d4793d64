"""The kernel option fast_math: what it changes in the text, where it is refused, which instructions come of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flexflash import InputError, RenderedKernel, flex_flash_attention, lower
from flexflash.eligibility import HOST, SIMT
from flexflash.launch.host import HostLauncher
from flexflash.launch.simt import SimtLauncher
from plain import qkv

Q, K, V = qkv(1, 2, 2, 16, 24)
TEMPERATURES = torch.linspace(0.5, 2.0, 2)
INSTRUCTIONS = ("tanh.approx.f32", "div.approx.ftz.f32", "rcp.approx.ftz.f32", "sqrt.approx.ftz.f32", "lg2.approx.f32")


def _softcap(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return 20.0 * torch.tanh(score / 20.0)


def _quotient(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score / TEMPERATURES[h]


def _reciprocal(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + torch.reciprocal(1.0 + (q - kv).abs())


def _sigmoid(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return torch.sigmoid(score)


def _root(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + torch.sqrt((q - kv).abs().float())


def _logarithm(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score * torch.log((q + 2).float())


def _alibi(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + TEMPERATURES[h] * (kv - q)


def _gelu(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return functional.gelu(score, approximate="tanh")


def _silu(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return functional.silu(score)


def _doubled(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return torch.tanh(score.double() / TEMPERATURES[h].double()).float()


USED = {
    _softcap: {"tanh_approx"},
    _quotient: {"div_approx"},
    _reciprocal: {"rcp_approx"},
    _sigmoid: {"rcp_approx", "exp2_approx"},
    _silu: {"div_approx", "exp2_approx"},
    _gelu: {"tanh_approx"},
    _root: {"sqrt_approx"},
    _logarithm: {"log_approx"},
    _alibi: set(),
    _doubled: set(),
}


def _lowered(mod: object, fast_math: object = True) -> RenderedKernel:
    return lower(Q, K, V, mod, kernel_options={"fast_math": fast_math}, profile=SIMT)  # type: ignore[arg-type]


@pytest.mark.clause("L6.2")
@pytest.mark.parametrize("mod", USED, ids=lambda mod: mod.__name__.strip("_"))
def test_the_text_shows_every_approximation(mod: object) -> None:
    """Each is a function of the module, called by its name, that says what it is; float64 has none."""
    plain, fast = lower(Q, K, V, mod).text, _lowered(mod).text  # type: ignore[arg-type]
    assert "approx" not in plain
    assert "fast_math" not in plain
    defined = {line[4:].partition("(")[0] for line in fast.splitlines() if line.startswith("def ")}
    assert {name for name in defined if name.endswith("_approx")} == USED[mod]  # type: ignore[index]
    for name in USED[mod]:  # type: ignore[index]
        assert fast.count(f"{name}(") == 2, "defined, and called in one place"
    if USED[mod]:  # type: ignore[index]
        assert '"""fast_math: ' in fast
    else:
        assert fast == plain


@pytest.mark.clause("L6.2")
def test_without_the_option_the_text_is_the_same_to_the_byte() -> None:
    for mod in USED:
        assert _lowered(mod, False).text == lower(Q, K, V, mod, profile=SIMT).text == lower(Q, K, V, mod).text


@pytest.mark.clause("L5.5")
def test_a_cpu_refuses_it() -> None:
    with pytest.raises(InputError, match="fast_math means approximate instructions of a GPU, which the host profile"):
        lower(Q, K, V, _softcap, kernel_options={"fast_math": True}, profile=HOST)
    with pytest.raises(InputError, match="leave it out"):
        flex_flash_attention(Q, K, V, _softcap, kernel_options={"fast_math": True})
    flex_flash_attention(Q, K, V, _softcap, kernel_options={"fast_math": False})


@pytest.mark.clause("L5.5")
def test_a_text_with_it_does_not_reach_a_cpu() -> None:
    kernel = _lowered(_softcap)
    arguments = kernel.arguments(Q, K, V, *kernel.allocate())
    for launcher in (HostLauncher(), SimtLauncher()):
        with pytest.raises(InputError, match="lowered with fast_math, whose approximate instructions no CPU has"):
            launcher.run(kernel, arguments)
    with pytest.raises(InputError, match="fast_math"):
        HostLauncher().evaluate(kernel, torch.zeros(1, 2, 16, 24))


@pytest.mark.clause("L5.5")
def test_it_is_true_or_false() -> None:
    with pytest.raises(InputError, match="True or False, not 'yes'"):
        _lowered(_softcap, "yes")


_CROSS = """
import glob, json, os, sys
import cutlass.cute as cute
from cutlass.cute.runtime import make_fake_stream
import test_fast_math as cases
from flexflash.launch import simt

class Compiled(Exception): pass

def stop(*arguments, **keywords):
    compile(*arguments, **keywords)
    raise Compiled

compile, cute.compile = cute.compile, stop
simt._current_stream = lambda device: make_fake_stream()
found = {}
for mod in cases.USED:
    for fast in (False, True):
        for old in glob.glob("*.ptx"):
            os.remove(old)
        kernel = cases._lowered(mod, fast)
        try:
            simt.SimtLauncher().run(kernel, kernel.arguments(cases.Q, cases.K, cases.V, *kernel.allocate()))
        except Compiled:
            (ptx,) = glob.glob("*.ptx")
            text = open(ptx).read()
            found[f"{mod.__name__} {fast}"] = [name for name in cases.INSTRUCTIONS if name in text]
print(json.dumps(found))
"""


@pytest.mark.clause("L6.4")
def test_the_instructions_are_in_the_ptx_with_the_option_only(tmp_path: object) -> None:
    """Cross-compiled for Hopper, in the plain kernel; CuTe's own tanh has an rcp.approx of its own."""
    paths = [os.path.dirname(__file__), *(p for p in sys.path if p)]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CROSS],
        env={
            **os.environ,
            "CUTE_DSL_ARCH": "sm_90a",
            "CUTE_DSL_KEEP_PTX": "1",
            "CUTE_DSL_DUMP_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in paths),
        },
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = {name: set(instructions) for name, instructions in json.loads(ran.stdout.splitlines()[-1]).items()}
    own = {"rcp.approx.ftz.f32"}
    assert {name: s for name, s in found.items() if name.endswith("False") and s} == {
        "_softcap False": own, "_gelu False": own,
    }  # fmt: skip
    assert {name.split()[0]: s for name, s in found.items() if name.endswith("True") and s} == {
        "_softcap": {"tanh.approx.f32"},
        "_gelu": {"tanh.approx.f32"},
        "_quotient": {"div.approx.ftz.f32"},
        "_silu": {"div.approx.ftz.f32"},
        "_reciprocal": {"rcp.approx.ftz.f32"},
        "_sigmoid": {"rcp.approx.ftz.f32"},
        "_root": {"sqrt.approx.ftz.f32"},
        "_logarithm": {"lg2.approx.f32"},
    }
