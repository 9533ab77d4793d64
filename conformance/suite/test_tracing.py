"""L7.1 and L7.5: what a mod may ask of its arguments while it is traced, and what it may not do to tensors."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flexflash import FlexFlashError, InputError, TraceError, flex_flash_attention, lower, trace
from flexflash.launch.host import HostLauncher
from plain import grid, qkv

B, H, M, N = 1, 4, 3, 5
Q, K, V = qkv(B, H, 2, M, N, 16)
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
TABLE = torch.tensor([1.0, -2.0, 3.5, 0.25])
SQUARE = TABLE.view(2, 2)
WHOLE = torch.tensor([3, 1, 0, 2], dtype=torch.int32)


def _both(mod: Mod) -> tuple[Tensor, Tensor]:
    """The scores that the rendered mod makes of 1 + kv, and those that PyTorch does."""
    scores = torch.arange(1.0, N + 1).expand(B, H, M, N)
    expected = mod(scores, *(g.int() for g in grid(B, H, M, N))).float().expand(B, H, M, N)
    return HostLauncher(4).evaluate(lower(Q, K, V, mod), scores), expected


# --- the device -----------------------------------------------------------------------------------------------------

_CONSTANTS: dict[str, Mod] = {
    "tensor": lambda s, b, h, q, kv: s + torch.tensor(-1.0, device=s.device),
    "tensor of an index": lambda s, b, h, q, kv: s + torch.tensor(3, device=q.device) * q,
    "new_tensor": lambda s, b, h, q, kv: s + s.new_tensor(2.5) + h.new_tensor(7),
    "as_tensor": lambda s, b, h, q, kv: s + torch.as_tensor(2.5, device=s.device),
    "as_tensor of NumPy's": lambda s, b, h, q, kv: s + torch.as_tensor(np.float32(2.5), device=s.device),
    "asarray": lambda s, b, h, q, kv: s + torch.asarray(2.5, device=s.device),
    "scalar_tensor": lambda s, b, h, q, kv: s + torch.scalar_tensor(4.0, device=s.device),
    "full": lambda s, b, h, q, kv: s + torch.full((), 2.0, device=h.device) + s.new_full((), 3.0),
    "zeros and ones": lambda s, b, h, q, kv: (
        s + torch.zeros((), device=s.device) * 5 + torch.ones((), device=s.device) + h.new_ones(()) + s.new_zeros(())
    ),
    "like": lambda s, b, h, q, kv: torch.full_like(s, 2.0) * s + torch.ones_like(q) - torch.zeros_like(s),
    "where": lambda s, b, h, q, kv: torch.where(kv > 1, s, torch.tensor(float("-inf"), device=s.device)),
    "tensor there": lambda s, b, h, q, kv: s * torch.tensor(2.0).to(s.device) + torch.tensor(3).to(s),
    "scalar there": lambda s, b, h, q, kv: s.to(q.device) + q.to(s.device, torch.float32) + kv.to(s) + h.type_as(s),
    "cpu": lambda s, b, h, q, kv: s.cpu() + q.cpu(),
    "device context": lambda s, b, h, q, kv: _in_context(s),
}


def _in_context(score: Tensor) -> Tensor:
    with torch.device(score.device):
        return score + torch.tensor(2.0) + torch.ones(())


@pytest.mark.clause("L7.1")
@pytest.mark.parametrize("name", _CONSTANTS)
def test_a_tensor_made_on_the_scores_device_is_a_constant(name: str) -> None:
    assert trace(_CONSTANTS[name], "score").captures == ()
    assert torch.equal(*_both(_CONSTANTS[name]))


_READS: dict[str, Mod] = {
    "to a device": lambda s, b, h, q, kv: s + TABLE.to(s.device)[h],
    "to the score": lambda s, b, h, q, kv: s + TABLE.to(s)[h],
    "type_as": lambda s, b, h, q, kv: s + TABLE.type_as(s)[h],
    "cpu": lambda s, b, h, q, kv: s + TABLE.cpu()[h],
    "with its dtype": lambda s, b, h, q, kv: s + TABLE.to(device=s.device, dtype=torch.float32)[h],
    "through another": lambda s, b, h, q, kv: s + TABLE.to(s.device)[WHOLE.to(h.device)[h]],
    "a list": lambda s, b, h, q, kv: s + s.new_tensor([1.0, 2.0, 3.0, 4.0])[h],
    "a list there": lambda s, b, h, q, kv: s + torch.tensor([1.0, 2.0, 3.0, 4.0], device=s.device)[h],
}


@pytest.mark.clause("L7.1", "L7.5")
@pytest.mark.parametrize("name", _READS)
def test_a_capture_moved_to_the_scores_device_stays_a_capture(name: str) -> None:
    assert len(trace(_READS[name], "score").captures) == (2 if name == "through another" else 1)
    assert torch.equal(*_both(_READS[name]))


@pytest.mark.clause("L7.1", "L4.3")
def test_a_mask_made_on_the_device_is_trivial_or_not_by_its_value() -> None:
    everything = create_block_mask(lambda b, h, q, kv: q >= 0, None, None, M, N, device="cpu")
    for made in (
        lambda b, h, q, kv: torch.tensor(True, device=q.device),
        lambda b, h, q, kv: torch.ones((), dtype=torch.bool, device=kv.device),
        lambda b, h, q, kv: q.new_tensor(True, dtype=torch.bool),
    ):
        everything.mask_mod = made
        assert "mask_mod=None" in lower(Q, K, V, None, everything).text
    everything.mask_mod = lambda b, h, q, kv: torch.tensor(False, device=q.device)
    assert "mask_mod=mask_mod" in lower(Q, K, V, None, everything).text


_BRANCHES: dict[str, Mod] = {
    "device.type": lambda s, b, h, q, kv: s * (2.0 if s.device.type == "cpu" else 1.0),
    "device": lambda s, b, h, q, kv: s * (2.0 if s.device == torch.device("cpu") else 1.0),
    "of a result": lambda s, b, h, q, kv: s * (2.0 if (q + kv).sin().device.type == "cpu" else 1.0),
    "of a read": lambda s, b, h, q, kv: s * (2.0 if TABLE[h].device.type == "cpu" else 1.0),
    "of a constant": lambda s, b, h, q, kv: s * (2.0 if torch.ones_like(q).device.type == "cpu" else 1.0),
    "is_cpu": lambda s, b, h, q, kv: s * (2.0 if s.is_cpu else 1.0),
    "is_meta": lambda s, b, h, q, kv: s * (1.0 if s.is_meta or q.is_meta else 2.0),
    "is_cuda": lambda s, b, h, q, kv: s * (1.0 if s.is_cuda or q.is_cuda else 2.0),
    "get_device": lambda s, b, h, q, kv: s * (2.0 if s.get_device() == -1 else 1.0),
    "str": lambda s, b, h, q, kv: s * (2.0 if "cpu" in str(s.device) else 1.0),
    "printed": lambda s, b, h, q, kv: s * (2.0 if repr(s) and f"{s}" else 1.0),
}


@pytest.mark.clause("L7.1")
@pytest.mark.parametrize("name", _BRANCHES)
def test_a_branch_on_the_device_takes_the_queries_side(name: str) -> None:
    result, expected = _both(_BRANCHES[name])
    assert torch.equal(result, expected)
    assert torch.equal(expected[0, 0, 0], 2.0 * torch.arange(1.0, N + 1)), "PyTorch takes the branch of a CPU"


@pytest.mark.clause("L7.1")
def test_a_trace_for_another_device_says_that_device() -> None:
    seen: list[object] = []

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        results = (score, b, h, q, kv, score * 2, (q >= kv), TABLE[h], torch.full_like(score, 2.0), torch.tensor(1.0))
        seen.extend(x.device for x in results)
        return score * 2

    trace(mod, "score", torch.device("cuda", 1))
    there, here = torch.device("cuda", 1), torch.device("cpu")
    assert seen == [there] * 7 + [here, there, here]


@pytest.mark.clause("L7.1")
@pytest.mark.parametrize(
    "mod",
    [
        lambda s, b, h, q, kv: s + torch.zeros_like(TABLE[0], device=s.device) + s.cpu() + q.to("cpu"),
        lambda s, b, h, q, kv: s + torch.full((), 2.0, device=s.device) + torch.tensor(1.0).to(s.device),
    ],
)
def test_only_captures_are_copied_to_another_device(mod: Mod) -> None:
    """A value of the mod has no elements yet, so nothing could be copied, and a constant needs no tensor."""
    graph = trace(mod, "score", torch.device("meta"))
    assert graph.captures == ()


@pytest.mark.clause("L7.5")
def test_a_capture_without_a_device_in_common_is_refused() -> None:
    with pytest.raises(TraceError, match="on the meta device has no values"):
        trace(lambda s, b, h, q, kv: s + TABLE.to(s.device)[h], "score", torch.device("meta"))
    elsewhere = trace(lambda s, b, h, q, kv: s + TABLE[h], "score", torch.device("cuda", 0))
    assert [t.device.type for t in elsewhere.captures] == ["cpu"]


@pytest.mark.gpu
@pytest.mark.clause("L7.1", "L7.5")
def test_on_a_gpu_constants_captures_and_branches_are_the_gpus() -> None:
    from flexflash.launch.simt import SimtLauncher

    tensors = [t.cuda() for t in (Q, K, V)]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        by = torch.tensor(2.0, device=score.device) if score.is_cuda else 0.0
        return score * 0 + TABLE.to(score.device)[h] * by + TABLE.to(q.device)[WHOLE.to(q.device)[h]]

    launcher = SimtLauncher()
    kernel = lower(*tensors, mod, profile=launcher.profile)
    assert len(kernel.captures) == 2 and all(t.is_cuda for t in kernel.captures), "each is moved once"
    _, lse = flex_flash_attention(*tensors, mod, launcher=launcher)
    expected = 2 * TABLE + TABLE[WHOLE.long()] + torch.tensor(float(N)).log()
    torch.testing.assert_close(lse.cpu(), expected.view(1, H, 1).expand(B, H, M))
    with pytest.raises(InputError, match="captured tensor `TABLE` is on cpu, the query on cuda:0"):
        lower(*tensors, lambda s, b, h, q, kv: s + TABLE[h], profile=launcher.profile)


@pytest.mark.clause("L7.1")
def test_a_value_that_a_mod_keeps_is_of_no_use_afterwards() -> None:
    kept: list[Tensor] = []

    def keeping(score: Tensor, *_: Tensor) -> Tensor:
        kept.append(score)
        assert copy.copy(score) is score and copy.deepcopy(score) is score
        return score * 2

    trace(keeping, "score")
    with pytest.raises(TraceError, match="after the call; a mod keeps none"):
        kept[0] + 1
    with pytest.raises(TraceError, match="is a Traced; a mod captures plain tensors"):
        trace(lambda s, b, h, q, kv: s + kept[0], "score")
    with pytest.raises(TraceError, match="has no address"):
        trace(lambda s, b, h, q, kv: s * s.data_ptr(), "score")


# --- in place -------------------------------------------------------------------------------------------------------


def _augmented(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    score += TABLE[h]
    return score


def _written_at_an_index(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    TABLE[0] = 1.0
    return score


_IN_PLACE: dict[str, tuple[Any, str]] = {
    "add_": (lambda s, b, h, q, kv: (TABLE.add_(1), s)[1], "aten.add_.Tensor changes `TABLE`"),
    "zero_": (lambda s, b, h, q, kv: (TABLE.zero_(), s)[1], "aten.zero_.default changes `TABLE`"),
    "fill_": (lambda s, b, h, q, kv: (TABLE.fill_(2.0), s)[1], "aten.fill_.Scalar changes `TABLE`"),
    "copy_": (lambda s, b, h, q, kv: (TABLE.copy_(TABLE * 2), s)[1], "aten.copy_.default changes `TABLE`"),
    "of its data": (lambda s, b, h, q, kv: (TABLE.data.add_(1), s)[1], "aten.add_.Tensor changes "),
    "of a view": (lambda s, b, h, q, kv: (TABLE.view(2, 2).mul_(2), s)[1], "aten.mul_.Tensor changes "),
    "at an index": (_written_at_an_index, "aten.(copy_|fill_|index_put_).* changes "),
    "at a computed index": (
        lambda s, b, h, q, kv: (TABLE.__setitem__(h, s), s)[1],
        "Python control flow, .* a Python index",
    ),
    "index_add_": (lambda s, b, h, q, kv: (TABLE.index_add_(0, WHOLE, TABLE), s)[1], "aten.index_add_.default changes"),
    "out=": (lambda s, b, h, q, kv: (torch.add(TABLE, 1, out=TABLE), s)[1], "aten.add.out changes `TABLE`"),
    "of the score": (lambda s, b, h, q, kv: s.mul_(2), "aten.mul_.Tensor changes a value of the mod"),
    "of a temporary": (lambda s, b, h, q, kv: (s * 2).add_(1), "aten.add_.Tensor changes a value of the mod"),
    "augmented": (_augmented, "aten.add_.Tensor changes a value of the mod in place.*write x = x \\+ y for x \\+= y"),
    "relu": (lambda s, b, h, q, kv: torch.nn.functional.relu(s, inplace=True), "aten.relu_.default changes"),
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", _IN_PLACE)
def test_a_change_in_place_is_refused_with_its_line(name: str) -> None:
    mod, message = _IN_PLACE[name]
    before = TABLE.clone()
    with pytest.raises(TraceError, match=rf"^{message}") as caught:
        lower(Q, K, V, mod)
    assert "test_tracing.py:" in str(caught.value).partition(" (at ")[2]
    assert torch.equal(TABLE, before), "and nothing is changed"


# --- names, numbers, subclasses -------------------------------------------------------------------------------------


def _named(name: str, table: Tensor) -> Mod:
    """A mod that reads `table` under another name."""
    scope: dict[str, Any] = {}
    exec(f"def make({name}):\n    return lambda s, b, h, q, kv: s + {name}[h]", scope)
    mod: Mod = scope["make"](table)
    return mod


_NAMES = "ψ ∂x λ2 été 斜率 ﬁ ª match type print divisor gather tSrS_ssa cute lane K seqlen_info value add index".split()


@pytest.mark.clause("L6.1", "L7.1")
@pytest.mark.parametrize("name", [n for n in _NAMES if n.isidentifier()])
def test_a_capture_may_have_any_name(name: str) -> None:
    mod = _named(name, TABLE)
    assert lower(Q, K, V, mod).text.isascii()
    assert torch.equal(*_both(mod))


@pytest.mark.clause("L6.3")
def test_captures_whose_names_differ_outside_ascii_alone_are_told_apart() -> None:
    α, β, xα, xβ = (TABLE * n for n in (1, 10, 100, 1000))
    mod: Mod = lambda s, b, h, q, kv: s + α[h] + β[h] + xα[h] + xβ[h]  # noqa: E731
    assert torch.equal(*_both(mod))
    assert len(set(lower(Q, K, V, mod).buffers)) == 4


class _Named:
    """Attributes whose names Python's own syntax could not spell, or would make equal."""

    def __init__(self) -> None:
        for n, name in enumerate(("class", "ﬁ", "fi", "a b", "0", "__debug__")):
            setattr(self, name, TABLE * 10**n)

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        for table in vars(self).values():
            score = score + table[h]
        return score


@pytest.mark.clause("L6.3")
def test_attributes_of_any_name_are_captured() -> None:
    result, expected = _both(_Named())
    torch.testing.assert_close(result, expected)
    assert len(set(lower(Q, K, V, _Named()).buffers)) == 6


class _Biased:
    def __init__(self) -> None:
        self.slopes = TABLE

    def mod(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score * self.slopes[h]

    __call__ = mod


@pytest.mark.clause("L6.3", "L7.1")
def test_a_capture_that_is_an_attribute_has_the_attributes_name() -> None:
    assert trace(_Biased(), "score").names == trace(_Biased().mod, "score").names == ("slopes",)


_NUMPY: dict[str, Mod] = {
    "int64 index": lambda s, b, h, q, kv: s + TABLE[np.int64(3)],
    "uint8 index": lambda s, b, h, q, kv: s + TABLE[np.uint8(2)],
    "negative index": lambda s, b, h, q, kv: s + TABLE[np.int32(-1)],
    "one of two": lambda s, b, h, q, kv: s + SQUARE[np.int16(1), kv % 2],
    "array index": lambda s, b, h, q, kv: s + TABLE[np.array(3)],
    "factor": lambda s, b, h, q, kv: s * np.float32(0.5),
    "left factor": lambda s, b, h, q, kv: np.float32(0.5) * s,
    "whole factor": lambda s, b, h, q, kv: s + np.int64(3) * h + (h - np.int8(2)),
    "divisor": lambda s, b, h, q, kv: s + kv // np.int64(2) + kv % np.int32(3),
    "compared": lambda s, b, h, q, kv: torch.where(kv > np.int64(1), s, np.float64(2.0)),
    "filled": lambda s, b, h, q, kv: s.masked_fill(kv > 1, np.float32(-2.0)),
}


@pytest.mark.clause("L7.4", "L7.2")
@pytest.mark.parametrize("name", _NUMPY)
def test_a_numpy_number_is_a_python_number(name: str) -> None:
    assert torch.equal(*_both(_NUMPY[name]))


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("index", [True, np.bool_(True), None, slice(1, 2), 1.5, np.float32(1.0), "1"])
def test_what_is_no_whole_number_is_no_index(index: Any) -> None:
    with pytest.raises(TraceError, match=r"^a mod indexes a captured tensor with one scalar a dimension"):
        trace(lambda s, b, h, q, kv: s + SQUARE[h % 2, index], "score")


class _Tagged(Tensor):
    """A tensor subclass with nothing of its own."""


@pytest.mark.clause("L7.5")
def test_a_tensor_subclass_is_refused_by_its_name_and_a_parameter_is_none() -> None:
    tagged = TABLE.as_subclass(_Tagged)
    for mod in (lambda s, b, h, q, kv: s + tagged[h], lambda s, b, h, q, kv: s + tagged * 2):
        with pytest.raises(TraceError, match=r"`tagged` is a _Tagged.*x.as_subclass\(torch.Tensor\)"):
            trace(mod, "score")
    weight = torch.nn.Parameter(TABLE, requires_grad=False)
    assert torch.equal(*_both(lambda s, b, h, q, kv: s + weight[h]))


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("statement", ["raise ValueError('x' * 400 + chr(10) + 'second')", "return torch.lgamma(s)"])
def test_a_refusal_has_the_start_of_its_line_and_of_its_message(statement: str, tmp_path: Path) -> None:
    """300 characters of the message's first line, 120 of the user's line, which is the innermost outside PyTorch."""
    path = tmp_path / "mod.py"
    line = f"{statement}  # {'y' * 200}"
    path.write_text(f"import torch\ndef inner(s):\n    {line}\ndef mod(s, b, h, q, kv):\n    return inner(s)\n")
    with pytest.raises(FlexFlashError) as caught:
        lower(Q, K, V, runpy.run_path(str(path))["mod"])
    said, _, where = str(caught.value).partition(" (at ")
    assert where == f"{path}:3: {line[:120]})"
    if "raise" in statement:
        assert said == "x" * 300


@pytest.mark.clause("L7.5")
def test_a_capture_moved_to_another_device_is_captured_there() -> None:
    """A CPU has one other device at hand, the meta device, of which no capture is taken."""
    for mod in (lambda s, b, h, q, kv: s + TABLE.to("meta")[h], lambda s, b, h, q, kv: s + TABLE.to(device="meta")[h]):
        with pytest.raises(TraceError, match="a capture on the meta device has no values"):
            lower(Q, K, V, mod)


@pytest.mark.clause("L7.7")
def test_an_error_without_a_message_is_named() -> None:
    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        raise KeyError

    with pytest.raises(TraceError, match=r"^KeyError \(at .*test_tracing\.py:\d+: raise KeyError\)"):
        lower(Q, K, V, mod)
