"""Mods that are refused while tracing or lowering (L7.7)."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import flexflash
from evaluated import K, Mod, Q, V, both_of
from flexflash import TraceError, UnsupportedOperation, lower, trace
from flexflash.errors import said


def _branches(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    if q >= kv:  # this very line must be named
        return score
    return score * 2


def _recursive(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return _recursive(score, b, h, q, kv)


_TABLE2 = torch.zeros(4, 5)
_REFUSED: dict[str, tuple[Mod, str]] = {
    "branch": (_branches, r"test_mod_refusals.py:\d+: if q >= kv:"),
    "python index": (lambda s, b, h, q, kv: s + [1, 2][q], "Python index on a tensor"),
    "int()": (lambda s, b, h, q, kv: s + int(q), r"int\(\)"),
    "not all dimensions": (lambda s, b, h, q, kv: s + _TABLE2[h], "one index for each of its dimensions"),
    "too many indices": (lambda s, b, h, q, kv: s + _TABLE2[h, q, kv], "3 indices for `_?TABLE2` of rank 2"),
    "slice": (lambda s, b, h, q, kv: s + _TABLE2[1:, q][h], "slices, None and bools are not supported"),
    "bool index": (lambda s, b, h, q, kv: s + _TABLE2[q > kv, 0], "selects by mask"),
    "float index": (lambda s, b, h, q, kv: s + _TABLE2[h, q * 1.5], "index of float32 is not taken by PyTorch; cast"),
    "int8 index": (lambda s, b, h, q, kv: s + _LINE[q.to(torch.int8)], "index of int8 is not taken by PyTorch; cast"),
    "two results": (lambda s, b, h, q, kv: torch.sort(s), "several tensors"),
    "not a tensor": (lambda s, b, h, q, kv: "score", "returned str"),  # type: ignore[dict-item,return-value]
    "recursion": (_recursive, "recurses without end"),
    "wrong arity": (lambda s, b: s, "positional arguments"),  # type: ignore[misc,dict-item]
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_pointwise_is_refused_while_tracing(name: str) -> None:
    mod, message = _REFUSED[name]
    with pytest.raises(TraceError) as caught:
        trace(mod, "score")
    # The user's line is this table's: only what stands before it can tell.
    said, _, line = str(caught.value).partition(" (at ")
    assert re.search(message, line if name == "branch" else said)


@pytest.mark.clause("L7.7")
def test_mask_must_be_bool() -> None:
    with pytest.raises(TraceError, match="returned float32, not bool"):
        trace(lambda b, h, q, kv: q * 1.0, "mask")


@pytest.mark.clause("L7.7")
def test_unsupported_operation_is_named_with_the_users_line() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.special.bessel_j0(score)

    with pytest.raises(UnsupportedOperation, match=r"aten\.special_bessel_j0.*test_mod_refusals\.py:\d+: return torch"):
        lower(Q, K, V, mod)
    assert issubclass(UnsupportedOperation, flexflash.FlexFlashError)


_COMPLEX = torch.zeros(4, dtype=torch.complex64)
_WHOLE = torch.zeros(4, 5, dtype=torch.int32)
_LINE = torch.zeros(5)
_UNWRITABLE: dict[str, tuple[Mod, str]] = {
    "several values": (lambda s, b, h, q, kv: (_TABLE2 * 2)[h, 0], r"gives a tensor of shape \[4, 5\]"),
    "complex": (lambda s, b, h, q, kv: s.to(torch.complex64).abs(), "gives torch.complex64"),
    "complex capture": (lambda s, b, h, q, kv: s + _COMPLEX[h].real, "reads `_?COMPLEX` of torch.complex64"),
    "row as index": (lambda s, b, h, q, kv: _LINE[_WHOLE[h]][kv], "indexes a vector that was read by a vector"),
    "skipped": (lambda s, b, h, q, kv: torch.ops.aten.index.Tensor(_TABLE2, [None, kv])[h], "skips a dimension"),
    "double erfc": (lambda s, b, h, q, kv: torch.erfc(s.double()), "float64; cast to float32 first"),
    "decimals": (lambda s, b, h, q, kv: s + torch.round(q, decimals=1), "not implemented for 'Int'"),
    "bits of a float": (lambda s, b, h, q, kv: torch.bitwise_xor(s, q), "floating-point numbers"),
    "shift by a float": (lambda s, b, h, q, kv: torch.bitwise_left_shift(q, s), "floating-point numbers"),
    "not of a float": (lambda s, b, h, q, kv: torch.bitwise_not(s), "floating-point numbers"),
    "softplus of an int": (lambda s, b, h, q, kv: s + torch.nn.functional.softplus(q), "whole numbers, as in PyTorch"),
    "decimals of no float": (lambda s, b, h, q, kv: torch.round(s, decimals=400), "400 decimals; no float has more"),
    "vmap": (
        lambda s, b, h, q, kv: s + torch.vmap(lambda x: x * 2)(_LINE).sum(-1),
        "a Python number, which torch.vmap",
    ),
    "constant // 0": (lambda s, b, h, q, kv: s + torch.full_like(q, 5) // 0, "PyTorch.*: ZeroDivisionError"),
    "// 0": (lambda s, b, h, q, kv: s + q // 0, "PyTorch.*: ZeroDivisionError"),
    "// of a 0": (lambda s, b, h, q, kv: s + q // torch.tensor(0), "PyTorch.*: ZeroDivisionError"),
    "% 0": (lambda s, b, h, q, kv: s + q % 0, "PyTorch.*: ZeroDivisionError"),
    "fmod 0": (lambda s, b, h, q, kv: s + torch.fmod(q, 0), "PyTorch.*: ZeroDivisionError"),
    "div 0": (lambda s, b, h, q, kv: s + torch.div(q, 0, rounding_mode="trunc"), "PyTorch says: .*ZeroDivisionError"),
    "power -1": (lambda s, b, h, q, kv: s + (h + 1) ** -1, "Integers to negative integer powers are not allowed"),
    "half power": (lambda s, b, h, q, kv: s.half() ** 65520.0, "cannot be converted to type c10::Half"),
    "half clamp": (lambda s, b, h, q, kv: s.half().clamp(max=65520.0), "cannot be converted to type c10::Half"),
    "half fill": (lambda s, b, h, q, kv: s.half().masked_fill(h > 0, 65520.0), "be converted to type c10::Half"),
    "half alpha": (lambda s, b, h, q, kv: torch.add(s.half(), s.half(), alpha=65520.0), "converted to type c10::Half"),
    "hypot of ints": (lambda s, b, h, q, kv: s + torch.hypot(q, kv), "whole numbers, as in PyTorch"),
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", _UNWRITABLE)
def test_what_cannot_be_written_is_refused_while_lowering(name: str) -> None:
    mod, message = _UNWRITABLE[name]
    with pytest.raises(UnsupportedOperation) as caught:
        lower(Q, K, V, mod)
    said, _, line = str(caught.value).partition(" (at ")
    assert re.search(rf"^aten\.\w+\.\w+ in the score_mod .*{message}", said)
    assert re.search(r"test_mod_refusals\.py:\d+: ", line)


@pytest.mark.clause("L7.7")
def test_of_a_long_message_200_characters_are_quoted() -> None:
    assert said(ValueError("x" * 90 + "\n  " + "y" * 200)) == "ValueError: " + "x" * 90 + " " + "y" * 97


@pytest.mark.clause("L7.7")
def test_the_largest_and_the_smallest_number_are_taken() -> None:
    assert torch.equal(*both_of(lambda s, b, h, q, kv: torch.where(kv < 2**31 - 1, 3.0, 0.0)))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: torch.where(kv > -(2**31), 3.0, 0.0)))


@pytest.mark.clause("L7.7")
def test_a_capture_without_values_is_refused() -> None:
    empty = torch.zeros(4, device="meta")
    with pytest.raises(TraceError, match="a capture on the meta device has no values"):
        lower(Q, K, V, lambda s, b, h, q, kv: s + empty[h])
