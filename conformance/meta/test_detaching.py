"""`flexconf check` of mods that read what requires grad: what it says, and what `--detach` does (L4.2)."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from flexconf.cases.problem import Problem
from flexconf.checks import detaching, own_mod
from flexconf.errors import InputError

SMALL = Problem(B=1, H=2, Hkv=2, M=5, N=7, D=16, Dv=16)
MODULE = """
import functools
import torch

class Bias(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.register_buffer("slope", torch.rand(2))
    def forward(self, score, b, h, q, kv):
        return score + self.inner.bias[h] * self.slope[h]

class Holder:
    def __init__(self):
        self.held = torch.randn(2, requires_grad=True)
    def score_mod(self, score, b, h, q, kv):
        return score + self.held[h]

def made():
    cell = torch.randn(2, requires_grad=True)
    def score_mod(score, b, h, q, kv):
        return score + cell[h]
    return score_mod

leaf = torch.randn(2, requires_grad=True)
computed = leaf * 2
part = leaf[:2]
unread = torch.randn(2, requires_grad=True)
plain = torch.ones(2)

module = Bias()
method = Holder().score_mod
closure = made()
partial = functools.partial(lambda x, score, b, h, q, kv: score + x[h], torch.randn(2, requires_grad=True))
def of_global(score, b, h, q, kv): return score + leaf[h]
def of_computed(score, b, h, q, kv): return score + computed[h]
def of_view(score, b, h, q, kv): return score + part[h]
def of_module(score, b, h, q, kv): return module(score, b, h, q, kv)
def of_none(score, b, h, q, kv): return score + plain[h]
def mask(b, h, q, kv): return q - kv < leaf[h] * 4
"""
NAMED = {
    "module": "inner.bias (2,)", "method": "held (2,)", "closure": "cell (2,)", "partial": "argument 0 (2,)",
    "of_global": "leaf (2,)", "of_computed": "computed (2,)", "of_view": "part (2,)",
    "of_module": "module.inner.bias (2,)",
}  # fmt: skip


def _task(folder: Path, name: str, *, detach: bool, subject: str = "reference.host") -> own_mod.CheckTask:
    (folder / "grads.py").write_text(MODULE)
    text = f"grads:{name}"
    made = own_mod.task(
        None if name == "mask" else text,
        text if name == "mask" else None,
        problem=SMALL,
        subject=subject,
        detach=detach,
    )
    return dataclasses.replace(made, path=(str(folder),))


@pytest.fixture
def grads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The user's module, imported here, anew for each test."""
    (tmp_path / "grads.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "grads", raising=False)
    __import__("grads")
    return sys.modules.pop("grads")


@pytest.mark.parametrize("name", NAMED)
def test_what_requires_grad_is_named_and_detached(name: str, grads: object) -> None:
    mod = getattr(grads, name)
    found = detaching.wanting(mod, "score")
    assert detaching.described(mod, found) == NAMED[name]
    values = found[0].detach().clone()
    detaching.detach(mod, found)
    assert detaching.wanting(mod, "score") == []
    at = torch.zeros((), dtype=torch.int32)
    result = mod(torch.zeros(()), at, at, at, at)
    assert not result.requires_grad
    slope = grads.module.slope[0] if "module" in name else 1.0  # type: ignore[attr-defined]
    assert result.item() == (values[0] * slope).item()
    assert grads.unread.requires_grad, "a tensor that the mod does not read stays as it is"  # type: ignore[attr-defined]


def test_what_requires_no_grad_is_left_alone(grads: object) -> None:
    assert detaching.wanting(grads.of_none, "score") == []  # type: ignore[attr-defined]


def test_a_mod_that_pytorch_refuses_is_left_to_the_check() -> None:
    assert detaching.wanting(lambda score, b, h, q, kv: score if score > 0 else -score, "score") == []


@pytest.mark.parametrize("name", ["module", "mask"])
def test_check_says_what_to_do_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        own_mod.check(_task(tmp_path, name, detach=False))
    said = str(caught.value)
    assert "inner.bias (2,)" in said if name == "module" else "leaf (2,)" in said
    assert "give --detach" in said and "\n" not in said
    with pytest.raises(InputError, match="give --detach"):
        own_mod.kernel_text(_task(tmp_path, name, detach=False))


@pytest.mark.parametrize("subject", ["reference.host", "reference.mods", "torch-codegen"])
def test_check_is_right_about_a_detached_module(subject: str, tmp_path: Path) -> None:
    result = own_mod.check(_task(tmp_path, "module", detach=True, subject=subject))
    assert result.passed and result.outcome.comparison is not None
    assert result.outcome.comparison["elements"] >= 2 * 5 * 7


def test_check_is_right_about_a_detached_mask(tmp_path: Path) -> None:
    assert own_mod.check(_task(tmp_path, "mask", detach=True)).passed
    assert "mask_mod" in own_mod.kernel_text(_task(tmp_path, "mask", detach=True))


def test_detach_reaches_buffers_too() -> None:
    for detach in (False, True):
        made = own_mod.task("score + g[h]", None, buffers=["g=H:float32:::requires_grad"], problem=SMALL, detach=detach)
        assert made.case.captures[0].requires_grad is not detach
