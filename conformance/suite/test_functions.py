"""L7.6: the functions that are written as approximations, over the whole of their domain and densely.

`test_operations.py` asks each operation about few values, those that hurt. A coefficient of a polynomial that is a
little off shows between them.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexconf.oracles import error_model as em
from flexflash import lower
from flexflash.launch.host import HostLauncher
from plain import qkv

POINTS = 4096
Q, K, V = qkv(1, 1, 1, 1, POINTS, 8)
FUNCTIONS: dict[str, tuple[float, float]] = {
    "erf": (-6.5, 6.5),
    "erfc": (-5.0, 9.0),
    "expm1": (-40.0, 40.0),
    "log1p": (-0.999, 1e3),
    "asinh": (-1e4, 1e4),
    "acosh": (1.0, 1e4),
    "atanh": (-0.999, 0.999),
    "exp": (-80.0, 80.0),
    "sigmoid": (-80.0, 80.0),
    "tanh": (-20.0, 20.0),
}


def _points(low: float, high: float) -> Tensor:
    """Half of them evenly spaced, the others by their logarithm, towards zero (or the lower end above it)."""
    third = POINTS // 4
    even = torch.linspace(low, high, POINTS - 2 * third, dtype=torch.float64)
    start = low if low > 0 else 0.0
    up = start + torch.logspace(-8, 0, third, dtype=torch.float64) * (high - start)
    down = torch.logspace(-8, 0, third, dtype=torch.float64) * low if low < 0 else up
    return torch.cat([even, up, down]).clamp(low, high)


@pytest.mark.clause("L7.6")
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, -2.0])
@pytest.mark.parametrize("input_scale", [0.25, 1.0, 2.0])
def test_elu_with_factors(scale: float, input_scale: float) -> None:
    """PyTorch's functions have no factor below 1; its operation takes any."""
    x = torch.linspace(-8.0, 8.0, POINTS)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.ops.aten.elu(score, 0.75, scale, input_scale)

    seen = HostLauncher(4).evaluate(lower(Q, K, V, mod), x.view(1, 1, 1, POINTS))
    torch.testing.assert_close(seen.flatten().double(), torch.ops.aten.elu(x.double(), 0.75, scale, input_scale))


@pytest.mark.clause("L7.6")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for d in (torch.float32, torch.float64) for n in FUNCTIONS if (n, d) != ("erfc", torch.float64)],
    ids=str,
)
def test_dense(name: str, dtype: torch.dtype) -> None:
    x = _points(*FUNCTIONS[name]).to(dtype)
    function = getattr(torch, name)
    want = function(x.double())
    ulps = em.OPS[name].ulps
    # PyTorch's own float64 function is taken for exact; it is off by an ulp or two of float64 itself.
    bound = em.relative(ulps, dtype) * want.abs() + (em.FLT_MIN if dtype is torch.float32 else 0.0)
    if name in ("exp", "sigmoid"):  # as exp2(x * log2(e))
        bound = bound + 2 * em.U32 * x.double().abs() * want.abs() if dtype is torch.float32 else bound
    scale = 1.0 / bound.clamp(min=2.0**-1000)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return ((function(x[kv]).to(torch.float64) - want[kv]) * scale[kv]).to(torch.float32)

    shares = HostLauncher(4).evaluate(lower(Q, K, V, mod), torch.zeros(1, 1, 1, POINTS)).abs().flatten()
    worst = int(shares.nan_to_num(nan=float("inf")).argmax())
    assert float(shares[worst]) <= 1, f"{name}({float(x[worst])!r}): {float(shares[worst]):.3g} of its bound"
