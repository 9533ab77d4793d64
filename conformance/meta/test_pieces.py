"""L7.2, L7.6: bounds of operations composed of others admit PyTorch's own results, and hold for inexact arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexconf.oracles import math64

F = torch.nn.functional
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OPERANDS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.1, -0.1, 0.25, 0.75, 0.999, 2.5, -2.5, 3.0, -3.0, 7.0, -19.0, 30.0, 88.5,
    -100.75, 1e-3, -1e-5, 1e-20, 1000.0, -6e4, 1e30, math.inf, -math.inf, math.nan,
)  # fmt: skip
Operation = Callable[[Tensor, Tensor], Tensor]

OPERATIONS: dict[str, Operation] = {
    "xlogy": torch.xlogy,
    "xlogy by a number": lambda x, y: torch.xlogy(x, 2.5) + torch.xlogy(0.5, y),
    "xlog1py": torch.special.xlog1py,
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "heaviside": torch.heaviside,
    "signbit": lambda x, y: torch.signbit(x) * 1.0,
    "nan_to_num": lambda x, y: torch.nan_to_num(x),
    "nan_to_num with values": lambda x, y: torch.nan_to_num(x, nan=0.1, posinf=-7.0, neginf=0.3),
    "addcmul": lambda x, y: torch.addcmul(x, y, x, value=-0.7),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, x, value=-0.7),
    "celu": lambda x, y: F.celu(x, 0.3) + F.celu(y, -1.5),
    "selu": lambda x, y: F.selu(x),
    "hardsigmoid": lambda x, y: F.hardsigmoid(x),
    "hardswish": lambda x, y: F.hardswish(x),
    "mish": lambda x, y: F.mish(x),
    "softsign": lambda x, y: F.softsign(x),
    "softshrink": lambda x, y: F.softshrink(x) + F.softshrink(y, 0.1),
    "hardshrink": lambda x, y: F.hardshrink(x) + F.hardshrink(y, 0.1),
    "tanhshrink": lambda x, y: F.tanhshrink(x),
    "threshold": lambda x, y: F.threshold(x, 0.1, -0.7),
    "prelu": lambda x, y: torch.where(x > 0, x, y * x) + F.prelu(x, torch.tensor(0.3, dtype=x.dtype)),
    "logit": lambda x, y: torch.logit(x),
    "logit with eps": lambda x, y: torch.logit(x, 0.01),
    "deg2rad": lambda x, y: torch.deg2rad(x),
    "rad2deg": lambda x, y: torch.rad2deg(x),
    "sinc": lambda x, y: torch.sinc(x),
    "entropy": lambda x, y: torch.special.entr(x),
}


def _certified(operation: Operation, x: Tensor, y: Tensor, error: Tensor | None = None) -> math64.Bounded:
    """The oracle on each element of x and y, in their dtype; `error` is what x is off at most, when x is the score."""
    n = len(x)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return operation(score if error is not None else x[kv], y[kv])

    given = torch.zeros(n, dtype=torch.float64) if error is None else x.double()
    off = None if error is None else error.view(1, 1, 1, n)
    return math64.evaluate(mod, "score", (given.view(1, 1, 1, n), off), 1, 1, 1, n)


def _outside(got: math64.Bounded, seen: Tensor) -> Tensor:
    value, error = got.value[0, 0, 0], got.error[0, 0, 0]
    seen = seen.to(torch.float32).double()  # it is a score
    same = (seen == value) | (seen.isnan() & value.isnan())
    return ~(same | error.isinf() | ((seen - value).abs() <= error))


@pytest.mark.clause("L7.2", "L7.6")
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_bound_admits_pytorchs_own_result(name: str) -> None:
    operation, compared = OPERATIONS[name], 0
    size = len(OPERANDS)
    for dtype in FLOATS:
        for turn in (0, 3, 11):
            x = torch.tensor(OPERANDS, dtype=torch.float64).to(dtype)
            y = x[(torch.arange(size) * 7 + turn) % size]
            seen = torch.stack([operation(a, b) for a, b in zip(x, y, strict=True)])
            got = _certified(operation, x, y)
            outside = _outside(got, seen)
            assert not bool(outside.any()), (dtype, x[outside], y[outside], seen[outside], got.value[0, 0, 0][outside])
            compared += int(got.error.isfinite().sum())
    assert compared > 250


@pytest.mark.clause("L7.2", "L7.6")
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_bound_holds_wherever_an_inexact_argument_lies(name: str) -> None:
    operation = OPERATIONS[name]
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(400, generator=generator, dtype=torch.float64) * 3
    y = (torch.rand(400, generator=generator, dtype=torch.float64) * 4 + 0.1).float()
    error = torch.rand(400, generator=generator, dtype=torch.float64) ** 3 * 0.3 + 1e-3
    got = _certified(operation, x, y, error)
    finite = int(got.error.isfinite().sum())
    for share in (-0.999, -0.5, 0.0, 0.3, 0.999):  # not to the very end, which float32 might round beyond it
        outside = _outside(got, operation((x + share * error), y.double()))
        assert not bool(outside.any()), (x[outside], error[outside])
    assert finite >= (40 if name in ("logit", "xlog1py") else 100)
