"""L7.2: the oracle has PyTorch's promotion for tensors of no dimension, also where vmap departs from it, and its bounds
admit PyTorch's own results, whatever the sign of an operation's parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexconf.oracles import math64

F = torch.nn.functional
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DTYPES = [*FLOATS, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]

PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clamp from above": lambda x, t: torch.clamp(x, max=t),
    "clamp from below": lambda x, t: torch.clamp(x, min=t),
    "clamp from both": lambda x, t: x.clamp(t, t),
    "clamp of the capture": lambda x, t: torch.clamp(t, max=x),
    "where": lambda x, t: torch.where(x > 0, x, t),
    "where of the capture": lambda x, t: torch.where(x > 0, t, x),
    "masked_fill": lambda x, t: x.masked_fill(x > 0, t),
    "lerp by the capture": lambda x, t: torch.lerp(x, x, t),
    "addcmul": lambda x, t: torch.addcmul(x, t, x),
    "addcmul of the capture": lambda x, t: torch.addcmul(t, x, x),
    "add": lambda x, t: x + t,
    "pow": torch.pow,
    "true division": lambda x, t: t / x,
    "floor division": lambda x, t: x // t,
    "remainder": lambda x, t: t % x,
    "comparison": lambda x, t: x < t,
    "minimum": torch.minimum,
    "copysign": torch.copysign,
}


def _of_elements(operation: Callable[..., Tensor], x: Tensor, *others: Tensor | float) -> math64.Bounded:
    """The oracle on `operation` of each element of x and of the others: a captured scalar, or as many elements."""
    n = len(x)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return operation(x[kv], *(o[kv] if isinstance(o, Tensor) and o.dim() else o for o in others))

    return math64.evaluate(mod, "score", (torch.zeros(1, 1, 1, n).double(), None), 1, 1, 1, n)


def _admits(value: Tensor, error: Tensor, seen: Tensor) -> Tensor:
    same = (seen == value) | (seen.isnan() & value.isnan())
    return same | error.isinf() | ((seen - value).abs() <= error)


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", PAIRS)
def test_a_capture_without_dimensions_promotes_as_without_vmap(name: str) -> None:
    operation, compared = PAIRS[name], 0
    for left, right in itertools.product(DTYPES, DTYPES):
        x = torch.tensor([1, 0 if left is torch.bool else 3]).to(left)[0]
        t = torch.tensor(2).to(right)
        try:
            seen = operation(x, t)
        except (RuntimeError, TypeError):
            continue  # PyTorch has no such operation on these dtypes
        got = _of_elements(operation, x.expand(2), t)
        assert got.dtype == seen.dtype, (left, right)
        assert bool(_admits(got.value, got.error, seen.double()).all()), (left, right)
        compared += 1
    assert compared >= 36


@pytest.mark.clause("L7.2")
def test_a_bound_that_the_other_operand_cannot_hold() -> None:
    """clamp(q, max=t) of int32 and int64, which vmap alone would compute in int32."""
    far = torch.tensor(2**32 + 3)
    mods: list[Callable[..., Tensor]] = [
        lambda s, b, h, q, kv: torch.clamp(kv, max=far) * 1.0,
        lambda s, b, h, q, kv: torch.clamp(kv, min=far) - far + 7.0,
        lambda s, b, h, q, kv: torch.where(kv > 2, kv, far) / 2**32,
        lambda s, b, h, q, kv: kv / 2**31 + (kv.to(torch.uint8) / 300) * 2.0,
    ]
    for mod, wanted in zip(mods, ([0, 1, 2, 3, 4], [7] * 5, [1, 1, 1, 0, 0], [n / 150 for n in range(5)]), strict=True):
        got = math64.evaluate(mod, "score", (torch.zeros(1, 1, 1, 5).double(), None), 1, 1, 1, 5)
        torch.testing.assert_close(got.value[0, 0, 0], torch.tensor(wanted).double(), rtol=1e-6, atol=1e-8)


Parametrized = Callable[[Tensor, Tensor, float], Tensor]
PARAMETERS = (0.0, 1.0, -1.0, 0.5, -0.5, -0.7, 3.0, -3.0, 0.1, 25.0, -30.0, 1e-6)
OPERANDS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.1, -0.1, 0.7, -0.7, 3.0, -3.0, 7.0, -19.0, 30.0, 100.75, -100.75, 1e-3, -1e-5,
    1000.0, -6e4, math.inf, -math.inf, math.nan,
)  # fmt: skip
WITH_PARAMETERS: dict[str, Parametrized] = {
    "add alpha": lambda x, y, p: torch.add(x, y, alpha=p),
    "sub alpha": lambda x, y, p: torch.sub(x, y, alpha=p),
    "rsub alpha": lambda x, y, p: torch.rsub(x, y, alpha=p),
    "addcmul value": lambda x, y, p: torch.addcmul(x, y, x, value=p),
    "lerp weight": lambda x, y, p: torch.lerp(x, y, p),
    "softplus beta": lambda x, y, p: F.softplus(x, p),
    "softplus threshold": lambda x, y, p: F.softplus(x, -0.5, p),
    "elu alpha": lambda x, y, p: F.elu(x, p),
    "leaky_relu slope": lambda x, y, p: F.leaky_relu(x, p),
    "clamp bounds": lambda x, y, p: torch.clamp(x, p, 1),
    "hardtanh bounds": lambda x, y, p: F.hardtanh(x, -abs(p) - 1, p),
    "exponent": lambda x, y, p: x**p,
    "divisor": lambda x, y, p: x // p + x % p,
    "truncated": lambda x, y, p: torch.div(x, p, rounding_mode="trunc") + torch.fmod(x, p),
    "copysign": lambda x, y, p: torch.copysign(x, p),
    "decimals": lambda x, y, p: torch.round(x * p, decimals=1) + torch.round(x, decimals=-1),
    "gelu": lambda x, y, p: F.gelu(x * p, approximate="tanh"),
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_the_bound_admits_pytorchs_own_result_for_every_sign_of_a_parameter(name: str) -> None:
    operation, compared = WITH_PARAMETERS[name], 0
    size = len(OPERANDS)
    for dtype, parameter in itertools.product(FLOATS, PARAMETERS):
        x = torch.tensor(OPERANDS, dtype=torch.float64).to(dtype)
        y = x[torch.arange(size) * 7 % size]
        seen = torch.stack([operation(a, b, parameter) for a, b in zip(x, y, strict=True)]).float().double()
        got = _of_elements(operation, x, y, parameter)
        value, error = got.value[0, 0, 0], got.error[0, 0, 0]
        assert bool((error >= 0).all()), (dtype, parameter)
        inside = _admits(value, error, seen)
        where = [(OPERANDS[i], seen[i], value[i], error[i]) for i in (~inside).nonzero().flatten()]
        assert not where, (dtype, parameter, where[:3])
        compared += int(error.isfinite().sum())
    assert compared > 400


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("slope", [F.elu, F.leaky_relu])
def test_a_slope_below_zero_makes_a_minimum_at_zero(slope: Callable[[Tensor, float], Tensor]) -> None:
    """An open argument on both sides of zero: what lies between is not above the ends."""
    score = torch.tensor([[[[0.02, -0.02, 0.5]]]]).double()
    off = torch.tensor([[[[0.1, 0.1, 0.1]]]]).double()
    got = math64.evaluate(lambda s, b, h, q, kv: slope(s, -0.5), "score", (score, off), 1, 1, 1, 3)
    for shift in (-0.1, -0.02, 0.0, 0.02, 0.1):
        seen = slope(score + shift, -0.5)
        assert bool(((seen - got.value).abs() <= got.error).all())
