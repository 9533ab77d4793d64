"""L7.2: what a number written in a mod is worth: the value that PyTorch gives it in its dtype, or a refusal (L7.7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexconf.language.operations import INTEGERS
from flexconf.oracles import math64
from flexflash import UnsupportedOperation, lower
from flexflash.launch.host import HostLauncher
from plain import qkv

M, N = 2, 5
Q, K, V = qkv(1, 1, 1, M, N, 8)
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

ROUNDED_TWICE = 2**53 + 2**29 + 1  # by way of float64, it would become 2**53 in float32, and not 2**53 + 2**30
BYTES = torch.tensor([0, 1, 127, -128, 7], dtype=torch.int8)
UNSIGNED = torch.tensor([0, 1, 128, 255, 7], dtype=torch.uint8)
BRAIN = torch.tensor([0.1, -0.0, 0.3, 1.0, 2.0], dtype=torch.bfloat16)
HALF = BRAIN.to(torch.float16)
FULL = torch.full_like


def _eager(mod: Mod) -> Tensor:
    """The mod, called with one element at a time."""

    def at(q: int, kv: int) -> float:
        zero, *where = (torch.tensor(i, dtype=torch.int32) for i in (0, q, kv))
        return float(mod(torch.tensor(1.0), zero, zero, *where))

    return torch.tensor([[at(q, kv) for kv in range(N)] for q in range(M)]).expand(1, 1, M, N)


def _check(mod: Mod) -> None:
    """The lowering and the oracle's certified value against PyTorch's own."""
    expected = _eager(mod)
    kernel = lower(Q, K, V, mod)
    for width in (1, 4):
        seen = HostLauncher(width).evaluate(kernel, torch.ones(1, 1, M, N))
        torch.testing.assert_close(seen, expected, rtol=0, atol=0, equal_nan=True)
    certified = math64.evaluate(mod, "score", (torch.ones(1, 1, M, N).double(), None), 1, 1, M, N)
    same = (certified.value == expected) | (certified.value.isnan() & expected.isnan())
    gap = torch.where(same, 0.0, (certified.value - expected).abs())
    assert bool((gap <= certified.error).all())


CONSTANTS: dict[str, Mod] = {
    "a fraction in int32": lambda s, b, h, q, kv: FULL(q, 2.7) * 1.0,
    "a negative fraction in int32": lambda s, b, h, q, kv: FULL(kv, -2.7) * 1.0,
    "new_full": lambda s, b, h, q, kv: q.new_full((), 2.7) + s * 0,
    "scalar_tensor": lambda s, b, h, q, kv: torch.scalar_tensor(2.7, dtype=torch.int64) + s * 0,
    "full": lambda s, b, h, q, kv: torch.full((), 2.7, dtype=torch.int8) + s * 0,
    "a tensor written out": lambda s, b, h, q, kv: torch.tensor(2.7, dtype=torch.int16) + s * 0,
    "below zero in uint8": lambda s, b, h, q, kv: FULL(UNSIGNED[kv], -1) * 1.0,
    "not zero in bool": lambda s, b, h, q, kv: FULL(q > kv, 0.5) * 1.0,
    "as an index": lambda s, b, h, q, kv: BRAIN[FULL(q, 2.7)] * 1.0,
    "a number of bfloat16": lambda s, b, h, q, kv: (BRAIN[kv] == FULL(BRAIN[kv], 0.1)) * 1.0,
    "a number of float16": lambda s, b, h, q, kv: FULL(HALF[kv], 0.1).to(torch.float32),
    "too large for float16": lambda s, b, h, q, kv: FULL(HALF[kv], 1e6).to(torch.float32),
    "too small for float16": lambda s, b, h, q, kv: FULL(HALF[kv], 1e-10) * 1e10,
    "a branch in float16": lambda s, b, h, q, kv: torch.where(kv > 2, HALF[kv], 0.1).to(torch.float32),
    "a constant of constants": lambda s, b, h, q, kv: (FULL(q, 2.7) * FULL(q, 3.9)) * 1.0,
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_the_value_of_its_dtype(name: str) -> None:
    _check(CONSTANTS[name])


COMPARED: dict[str, Mod] = {
    "equal": lambda s, b, h, q, kv: (BRAIN[kv] == 0.1) * 1.0,
    "not below": lambda s, b, h, q, kv: (HALF[kv] >= 0.3) * 1.0,
    "above what the dtype holds": lambda s, b, h, q, kv: (FULL(HALF[kv], 65504.0) >= 65510.0) * 1.0,
    "an upper bound": lambda s, b, h, q, kv: torch.clamp(BRAIN[kv], max=0.3).to(torch.float32),
    "a lower bound": lambda s, b, h, q, kv: torch.clamp_min(HALF[kv], 0.3).to(torch.float32),
    "two bounds": lambda s, b, h, q, kv: torch.nn.functional.hardtanh(HALF[kv], -0.1, 0.7).to(torch.float32),
    "in the place of others": lambda s, b, h, q, kv: HALF[kv].masked_fill(kv > 2, 0.1).to(torch.float32),
    "whole bounds of whole numbers": lambda s, b, h, q, kv: torch.nn.functional.hardtanh(kv, -1, 2.7) * 1.0,
    "whole numbers in the place of others": lambda s, b, h, q, kv: kv.masked_fill(kv > 2, 2.7) * 1.0,
    "a tensor in the place of others": lambda s, b, h, q, kv: kv.masked_fill(kv > 2, torch.tensor(2.7)) * 1.0,
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", COMPARED)
def test_a_number_that_is_compared_or_taken_is_rounded_to_the_dtype(name: str) -> None:
    _check(COMPARED[name])


BEYOND: dict[str, Mod] = {
    "sum": lambda s, b, h, q, kv: (kv + (2**40 + 5)) * 1.0,
    "just too large": lambda s, b, h, q, kv: (q + 2**31) * 1.0,
    "just too small": lambda s, b, h, q, kv: (q + (-(2**31) - 1)) * 1.0,
    "difference": lambda s, b, h, q, kv: (2**33 + 7 - kv) * 1.0,
    "product": lambda s, b, h, q, kv: (kv * (2**32 - 3)) * 1.0,
    "remainder": lambda s, b, h, q, kv: ((q + kv) % 2147483648) * 1.0,
    "remainder of 2^32 + 3": lambda s, b, h, q, kv: (kv % (2**32 + 3)) * 1.0,
    "quotient": lambda s, b, h, q, kv: (kv // (2**32 - 2)) * 1.0,
    "truncated quotient": lambda s, b, h, q, kv: torch.div(kv, 2**32 - 2, rounding_mode="trunc") * 1.0,
    "fmod": lambda s, b, h, q, kv: torch.fmod(kv, 2**32 - 3) * 1.0,
    "true quotient": lambda s, b, h, q, kv: kv / 2**31,
    "below": lambda s, b, h, q, kv: (kv < 2**31) * 1.0,
    "equal": lambda s, b, h, q, kv: (kv == 2**32 + 3) * 1.0,
    "of a difference": lambda s, b, h, q, kv: (q - kv == 2**32 - 1) * 1.0,
    "bits": lambda s, b, h, q, kv: ((kv & (2**33 + 5)) + (kv | 2**32)) * 1.0,
    "shifts": lambda s, b, h, q, kv: ((kv >> (2**32 + 1)) + (kv << (2**32 + 2)) + (kv << 2**31)) * 1.0,
    "a base": lambda s, b, h, q, kv: ((2**32 + 3) ** kv) * 1.0,
    "int8": lambda s, b, h, q, kv: (BYTES[kv] % 300) * 1.0 + (BYTES[kv] < 200) * 1000.0,
    "uint8": lambda s, b, h, q, kv: (UNSIGNED[kv] // -2) * 1.0 + (UNSIGNED[kv] < -1) * 1000.0,
    "a bound of uint8": lambda s, b, h, q, kv: torch.clamp(UNSIGNED[kv], max=-3) * 1.0,
    "a factor of uint8": lambda s, b, h, q, kv: torch.add(UNSIGNED[kv], UNSIGNED[kv], alpha=-2) * 1.0,
    "int64": lambda s, b, h, q, kv: (kv.to(torch.int64) < 2**63) * 1.0,
    "a sum that float64 would round": lambda s, b, h, q, kv: s * 0 + ROUNDED_TWICE,
    "a factor that float64 would round": lambda s, b, h, q, kv: s * ROUNDED_TWICE,
    "a branch that float64 would round": lambda s, b, h, q, kv: torch.where(kv > 2, ROUNDED_TWICE, s),
    "a constant that float64 would round": lambda s, b, h, q, kv: FULL(s, ROUNDED_TWICE) + s * 0,
    "a bound that float64 would round": lambda s, b, h, q, kv: torch.clamp(s, min=ROUNDED_TWICE),
    "float32": lambda s, b, h, q, kv: s * 1e39 + (s < 1e39) * 1.0,
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", BEYOND)
def test_a_number_that_the_dtype_does_not_hold_is_what_pytorch_makes_of_it(name: str) -> None:
    _check(BEYOND[name])


REFUSED: dict[str, tuple[Mod, str]] = {
    "full_like": (lambda s, b, h, q, kv: s + FULL(BYTES[kv], 300), "300, .* converted to type int8_t"),
    "float32": (lambda s, b, h, q, kv: FULL(s, 1e39), "converted to type float without overflow"),
    "where": (lambda s, b, h, q, kv: s + torch.where(kv > 2, kv, 2**31), "2147483648, .* type int without overflow"),
    "clamp": (lambda s, b, h, q, kv: s + torch.clamp(kv, max=2**31), "type int without overflow"),
    "clamp of a half": (lambda s, b, h, q, kv: s + torch.clamp(HALF[kv], max=65520.0), "type c10::Half"),
    "alpha": (lambda s, b, h, q, kv: s + torch.add(kv, q, alpha=2**31), "type int without overflow"),
    "masked_fill": (lambda s, b, h, q, kv: s + kv.masked_fill(kv > 2, 2**31), "type int without overflow"),
    "an exponent": (lambda s, b, h, q, kv: s + kv ** (2**31), "type int without overflow"),
    "a negative exponent": (lambda s, b, h, q, kv: s + kv**-1, "negative integer powers are not allowed"),
    "a zero divisor": (lambda s, b, h, q, kv: s + kv // 0, "ZeroDivisionError"),
    "a divisor of 2^32": (lambda s, b, h, q, kv: s + kv % 2**32, "ZeroDivisionError"),
    "a zero divisor of a constant": (lambda s, b, h, q, kv: s + FULL(q, 5) // 0, "ZeroDivisionError"),
}


@pytest.mark.clause("L7.2", "L7.7")
@pytest.mark.parametrize("name", REFUSED)
def test_a_number_that_pytorch_refuses_is_refused_with_its_line(name: str) -> None:
    mod, message = REFUSED[name]
    with pytest.raises(UnsupportedOperation, match=rf"aten\.\w+\.\w+ in .*{message}.*test_numbers\.py:\d+"):
        lower(Q, K, V, mod)


ZEROS: dict[str, Mod] = {
    "copysign": lambda s, b, h, q, kv: torch.copysign(s, 0.0) + 2 * torch.copysign(s, -0.0),
    "copysign, the other first": lambda s, b, h, q, kv: torch.copysign(s, -0.0) + 2 * torch.copysign(s, 0.0),
    "atan2": lambda s, b, h, q, kv: (
        torch.atan2(FULL(s, 0.0), -s) + 2 * torch.atan2(FULL(s, -0.0), -s) + 0.0 * torch.atan2(FULL(s, 0.0), s)
    ),
    "branches": lambda s, b, h, q, kv: 1 / torch.where(kv > 2, 0.0, s) + 2 / torch.where(kv > 1, -0.0, s),
    "one choice": lambda s, b, h, q, kv: torch.copysign(s, torch.where(kv > 2, 0.0, -0.0)),
    "float64": lambda s, b, h, q, kv: torch.copysign(s.double(), 0.0) + 2 * torch.copysign(s.double(), -0.0),
    "products": lambda s, b, h, q, kv: torch.copysign(s, s * 0.0) + 2 * torch.copysign(s, s * -0.0),
    "true and one": lambda s, b, h, q, kv: FULL(q > kv, 1) * 1.0 + FULL(q, 1) / 2 + FULL(s, 1) / 3,
    "one and one": lambda s, b, h, q, kv: (kv * 1) // 2 + (kv * 1.0) / 2 + (kv * True) / 4,
    "nan": lambda s, b, h, q, kv: torch.where(kv > 2, float("nan"), 0.0) + torch.where(kv > 1, 0.0, float("nan")),
}


@pytest.mark.clause("L7.2", "L6.5")
@pytest.mark.parametrize("name", ZEROS)
def test_numbers_that_are_equal_in_python_are_told_apart(name: str) -> None:
    """CuTe DSL 4.8 itself takes 0.0 and -0.0, written in one kernel, for one constant."""
    _check(ZEROS[name])


@pytest.mark.clause("L7.2", "L7.6")
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_powers_use_every_bit_of_the_exponent(dtype: str) -> None:
    most = torch.iinfo(getattr(torch, dtype)).max
    exponents = torch.tensor([0, 1, most // 2 + 1, most, most - 1], dtype=getattr(torch, dtype))
    bases = [torch.tensor(n, dtype=getattr(torch, dtype)) for n in (2, 3)]
    _check(lambda s, b, h, q, kv: torch.pow(bases[0], exponents[kv]) + 0.0 * s)
    _check(lambda s, b, h, q, kv: (torch.pow(bases[1], exponents[kv]) % 1000) + 0.0 * s)
