"""L7.4: every index that may be below zero is wrapped, whatever operation it comes from.

The lowering leaves the wrapping out where it knows that an index is not negative. What it knows must be true.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexflash import lower
from flexflash.launch.host import HostLauncher
from plain import grid, qkv

B, H, M, N = 1, 2, 9, 13
Q, K, V = qkv(B, H, 2, M, N, 16)
SIZE = 300
BYTES = torch.tensor([0, 1, 127, -1, -128, 5, -7, 64, -64, 2, -2, 3, -3], dtype=torch.int8)
UNSIGNED = torch.tensor([0, 1, 127, 255, 128, 5, 7, 64, 200, 2, 254, 3, 99], dtype=torch.uint8)
FLAGS = torch.arange(13) % 3 == 0
Index = Callable[[Tensor, Tensor], Tensor]

GROUPS: dict[str, list[Index]] = {
    "sums": [
        lambda q, kv: kv - 1, lambda q, kv: q + (-3), lambda q, kv: 1 - q, lambda q, kv: q - kv,
        lambda q, kv: (q - kv) + kv, lambda q, kv: q + kv, lambda q, kv: torch.add(q, kv, alpha=-2),
        lambda q, kv: torch.add(q - kv, kv - q, alpha=2),
    ],
    "products": [
        lambda q, kv: q * -2, lambda q, kv: kv * (q - kv), lambda q, kv: (q - kv) * kv, lambda q, kv: q * kv,
        lambda q, kv: (q - kv) ** 2, lambda q, kv: ((q - kv) % 5 - 2) ** 3, lambda q, kv: q ** 2,
        lambda q, kv: torch.square(q - kv), lambda q, kv: torch.pow((q - kv) % 5 - 2, kv % 4),
    ],
    "quotients": [
        lambda q, kv: (q - kv) // 2, lambda q, kv: (q - kv) // 3, lambda q, kv: q // -3, lambda q, kv: kv // 4,
        lambda q, kv: torch.div(q - kv, 3, rounding_mode="trunc"),
        lambda q, kv: torch.div(q, -3, rounding_mode="trunc"),
        lambda q, kv: (q - kv) // (kv + 1), lambda q, kv: kv // (q - kv - 20),
    ],
    "remainders": [
        lambda q, kv: (q - kv) % 5, lambda q, kv: (q - kv) % 8, lambda q, kv: (q - kv) % -5, lambda q, kv: q % -4,
        lambda q, kv: torch.fmod(q - kv, 4), lambda q, kv: torch.fmod(q, -4), lambda q, kv: kv % (q - 20),
        lambda q, kv: (q - kv) % (kv + 1), lambda q, kv: kv % (q + 1), lambda q, kv: (q - kv) % 1,
    ],
    "bits": [
        lambda q, kv: (q - kv) | 1, lambda q, kv: 1 | (q - kv), lambda q, kv: (q - kv) & 7, lambda q, kv: 7 & (q - kv),
        lambda q, kv: (q - kv) & (q - kv - 1), lambda q, kv: (q - kv) ^ 3, lambda q, kv: q ^ kv, lambda q, kv: ~q,
        lambda q, kv: kv & -3, lambda q, kv: q | kv,
    ],
    "shifts": [
        lambda q, kv: (q - kv) >> 1, lambda q, kv: (q - kv) << 2, lambda q, kv: q >> 2, lambda q, kv: q << 1,
        lambda q, kv: (q - kv) >> (kv % 3), lambda q, kv: q >> (kv % 3), lambda q, kv: (q << 31) >> 31,
        lambda q, kv: (q << (28 + kv % 4)) >> 28, lambda q, kv: (q - kv) >> 0, lambda q, kv: (q - kv) >> 31,
        lambda q, kv: (q - kv) >> 32, lambda q, kv: (q - kv) << 0,
    ],
    "bounds": [
        lambda q, kv: torch.minimum(q - kv, kv), lambda q, kv: torch.minimum(kv, q - kv),
        lambda q, kv: torch.maximum(q - kv, q - 5), lambda q, kv: torch.maximum(q - kv, kv),
        lambda q, kv: torch.maximum(kv, q - kv), lambda q, kv: torch.clamp(q - kv, -2, 3),
        lambda q, kv: torch.clamp(q - kv, min=-2), lambda q, kv: torch.clamp(q - kv, max=1),
        lambda q, kv: torch.clamp(q - kv, min=0), lambda q, kv: torch.relu(q - kv),
        lambda q, kv: torch.clamp((q - kv).float(), max=2.0).to(torch.int32),
        lambda q, kv: torch.clamp((q - kv).float(), min=-2.0).to(torch.int32),
        lambda q, kv: torch.relu((q - kv).float()).to(torch.int32),
    ],
    "choices": [
        lambda q, kv: torch.where(q > kv, q - kv - 4, kv), lambda q, kv: torch.where(q > kv, q, q - kv),
        lambda q, kv: torch.where(q > kv, q, kv), lambda q, kv: torch.where(q > kv, -1, kv),
        lambda q, kv: torch.where(q > kv, kv, -2),
    ],
    "signs": [
        lambda q, kv: -q, lambda q, kv: torch.abs(q - kv), lambda q, kv: torch.sign(q - kv),
        lambda q, kv: torch.sgn(kv),
        lambda q, kv: torch.abs(kv), lambda q, kv: torch.neg(q - kv), lambda q, kv: +(q - kv),
    ],
    "casts": [
        lambda q, kv: (kv * 20).to(torch.int8).to(torch.int32), lambda q, kv: (q - kv).to(torch.int64),
        lambda q, kv: (kv * 20).to(torch.uint8).to(torch.int32), lambda q, kv: (q > kv).to(torch.int32) - 1,
        lambda q, kv: ((q - kv) * 0.5).to(torch.int32), lambda q, kv: torch.floor((q - kv) * 0.5).to(torch.int32),
        lambda q, kv: (kv * 0.5 + 0.25).to(torch.int64), lambda q, kv: (kv.to(torch.int64) << 31).to(torch.int32) >> 29,
    ],
    "captures": [
        lambda q, kv: BYTES[kv].to(torch.int32), lambda q, kv: UNSIGNED[kv].to(torch.int64),
        lambda q, kv: FLAGS[kv].to(torch.int32), lambda q, kv: ((BYTES[kv] + BYTES[q]) // 2).to(torch.int32),
        lambda q, kv: (UNSIGNED[kv] + UNSIGNED[q]).to(torch.int32), lambda q, kv: UNSIGNED[kv].to(torch.int8) * 1 + q,
        lambda q, kv: BYTES[(BYTES[kv] % 13).to(torch.int32)].to(torch.int64),
    ],
}  # fmt: skip


@pytest.mark.clause("L7.4", "L7.2", "L7.3")
@pytest.mark.parametrize("name", GROUPS)
def test_indices_from_everywhere(name: str) -> None:
    """Each index reads a table of its own: whole numbers, whose sum is exact in float32."""
    indices = GROUPS[name]
    generator = torch.Generator().manual_seed(len(name))
    tables = [torch.randint(-1000, 1000, (SIZE,), generator=generator).float() for _ in indices]
    for index in indices:
        seen = index(*(g.int() for g in grid(B, H, M, N)[2:]))
        assert int(seen.min()) >= -SIZE and int(seen.max()) < SIZE, "the test itself reads outside of its table"

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        total = score
        for table, index in zip(tables, indices, strict=True):
            total = total + table[index(q, kv)]
        return total

    zero = torch.zeros(B, H, M, N)
    expected = mod(zero, *(g.int() for g in grid(B, H, M, N))).expand(B, H, M, N)
    for width in (1, 4):
        assert torch.equal(HostLauncher(width).evaluate(lower(Q, K, V, mod), zero), expected)


OVERFLOWS: dict[str, Index] = {
    # What hashes are made of: a pseudo-random mask is a common mod.
    "linear congruence": lambda q, kv: (q * 1103515245 + 12345) % 13,
    "hash of both": lambda q, kv: ((q * 73856093) ^ (kv * 19349663)) % 100,
    "sum": lambda q, kv: ((kv + (2**31 - 1)) >> 28) % 7,
    "difference": lambda q, kv: (-(2**31 - 1) - kv) % 11,
    "product": lambda q, kv: (kv * 2**30) % 7,
    "square": lambda q, kv: ((kv * 50000) ** 2) % 7,
    "cube": lambda q, kv: ((kv + 1300) ** 3) % 7,
    "power": lambda q, kv: torch.pow(kv + 100, q) % 9,
    "shifted": lambda q, kv: torch.abs(kv << 29) % 7,
    "bits": lambda q, kv: ((kv | 2**30) + (q | 2**30)) % 7,
    "of the smallest": lambda q, kv: torch.abs(kv * -(2**31)) % 7,
    "int8": lambda q, kv: (torch.abs(BYTES[kv]) * 1).to(torch.int32) % 5,
    "int8 sum": lambda q, kv: (FLAGS[kv].to(torch.int8) + (BYTES[kv] & 127)) % 5,
    "uint8": lambda q, kv: (UNSIGNED[kv] + UNSIGNED[q]) % 7,
    "narrowed": lambda q, kv: (kv * 20).to(torch.int8) % 7,
    "a byte with a sign": lambda q, kv: UNSIGNED[kv].to(torch.int8).to(torch.int32) % 7,
    "bits of negatives": lambda q, kv: ((-1 - kv) & (-1 - q)) % 7,
    "bits of one negative": lambda q, kv: (kv | (-1 - q)) % 7,
    "narrowed int64": lambda q, kv: ((kv.to(torch.int64) + 1) * 2**31).to(torch.int32) % 7,
    "truncated": lambda q, kv: torch.div(kv * 2**30, 7, rounding_mode="trunc"),
    "scaled": lambda q, kv: torch.add(kv, kv, alpha=2**30) % 7,
    "maximum": lambda q, kv: torch.maximum(kv * 2**30, q * -(2**30)) % 7,
    "chosen": lambda q, kv: torch.where(q > kv, kv * 2**30, q) % 7,
}


@pytest.mark.clause("L7.2", "L7.3")
@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_wraps_around_may_be_below_zero(name: str) -> None:
    function = OVERFLOWS[name]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + function(q, kv)

    zero = torch.zeros(B, H, M, N)
    expected = mod(zero, *(g.int() for g in grid(B, H, M, N))).expand(B, H, M, N)
    assert torch.equal(HostLauncher(4).evaluate(lower(Q, K, V, mod), zero), expected)


UNWRAPPED: dict[str, Index] = {
    "sum": lambda q, kv: q + kv,
    "scaled": lambda q, kv: q * 5 + kv,
    "square": lambda q, kv: (q - kv) ** 2,
    "distance": lambda q, kv: torch.abs(q - kv),
    "negated": lambda q, kv: torch.abs(-kv),
    "masked": lambda q, kv: (q - kv) & 7,
    "remainder": lambda q, kv: (q - kv) % 7 + 1,
    "quotient": lambda q, kv: kv // 4 * 3,
    "bounded": lambda q, kv: torch.clamp(q - kv, 0, 20) + 1,
    "bits": lambda q, kv: (q | kv) + (q ^ kv),
    "cast": lambda q, kv: kv.to(torch.int64) * 2,
    "narrowed": lambda q, kv: kv.to(torch.int8).to(torch.int32) + 1,
    "byte": lambda q, kv: UNSIGNED[kv].to(torch.int32) + 1,
    "flag": lambda q, kv: (q > kv).to(torch.int32) * 3,
    "shift": lambda q, kv: (kv >> 1) + 1,
}


@pytest.mark.clause("L7.4")
@pytest.mark.parametrize("name", UNWRAPPED)
def test_what_cannot_be_below_zero_is_not_wrapped(name: str) -> None:
    """Wrapping costs two instructions an element."""
    table = torch.arange(float(SIZE))
    text = lower(Q, K, V, lambda s, b, h, q, kv: s + table[UNWRAPPED[name](q, kv)]).text
    assert "table_index" not in text
    assert "table_index" in lower(Q, K, V, lambda s, b, h, q, kv: s + table[UNWRAPPED[name](q, kv) - 100]).text
