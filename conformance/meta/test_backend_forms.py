"""The bounds of powers and composed functions against the forms in which backends compute them.

Each form is float32 arithmetic, step by step, with its functions moved by what is documented of them and subnormal
results flushed to 0. All are inside the bound, one comes near it, and what is wrong by 128 ulp in a tail is outside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from flexconf.oracles import error_model as em
from flexconf.oracles import math64

SIGNS = (-1, 0, 1)
GRID = torch.cat(
    [torch.linspace(-100, 100, 4001), torch.linspace(-9, 9, 4001), torch.linspace(-1, 1, 501) ** 9]
).float()
POSITIVE = torch.cat([torch.linspace(0.01, 3, 2001), torch.exp2(torch.linspace(-60, 60, 2001))]).float()
Form = Callable[[Tensor, int, int], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def flushed(x: Tensor) -> Tensor:
    return torch.where(x.abs() < em.FLT_MIN, x * 0, x)


def moved(exact: Tensor, ulps: int, sign: int) -> Tensor:
    """A function's result: the correctly rounded one, and `ulps` of float32 up or down."""
    result = exact.float()
    for _ in range(ulps * abs(sign)):
        result = torch.nextafter(result, torch.tensor(math.inf * sign))
    return flushed(result)


def exp(x: Tensor, sign: int) -> Tensor:
    return moved(torch.exp(x.double()), 2, sign)


def ex2(x: Tensor, sign: int) -> Tensor:
    """As Triton and fast mathematics write it: the product with log2(e) is rounded."""
    return moved(torch.exp2((x * torch.tensor(math.log2(math.e))).double()), 2, sign)


def over(a: Tensor, b: Tensor, sign: int) -> Tensor:
    """div.full.f32: 2 ulp from the exact quotient, one more than its rounding may be off."""
    return moved(a.double() / b.double(), 1, sign)


def log1p(x: Tensor, sign: int) -> Tensor:
    return moved(torch.log1p(x.double()), 1, sign)


def products(x: Tensor, n: int) -> Tensor:
    """As PyTorch's code generation writes a power: by squares."""
    if n == 1:
        return x
    half = products(x, n // 2)
    return flushed(half * half) if n % 2 == 0 else flushed(flushed(half * half) * x)


def _softplus(beta: float, of: Callable[[Tensor, int], Tensor]) -> Form:
    def form(x: Tensor, s: int, t: int) -> Tensor:
        scaled = x * beta
        smooth = log1p(of(scaled, s), t)
        if math.frexp(beta)[0] == 0.5:  # exact
            return torch.where(scaled > 20, x, smooth / beta)
        return torch.where(scaled > 20, x, over(smooth, torch.tensor(beta), t))

    return form


def _saturated(g: Tensor, z: Tensor) -> Tensor:
    """erf and tanh do not leave [-1, 1], whose ends they reach."""
    return torch.where(z.abs() > 5.5, torch.sign(z), torch.clamp(g, -1, 1))


def _gelu(x: Tensor, s: int, t: int) -> Tensor:
    z = x * torch.tensor(math.sqrt(0.5))
    return 0.5 * x * (1 + _saturated(moved(torch.erf(z.double()), 2, s), z))


def _gelu_tanh(x: Tensor, s: int, t: int) -> Tensor:
    z = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + _saturated(moved(torch.tanh(z.double()), 2, s), z / 2))


def _one(of: Callable[[Tensor], Tensor]) -> Binary:
    return lambda x, other: of(x)


def _forms() -> dict[str, tuple[Binary, Tensor, list[Form]]]:
    least = torch.zeros(())
    both: tuple[Callable[[Tensor, int], Tensor], ...] = (exp, ex2)
    unary: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, list[Form]]] = {
        "exp": (torch.exp, GRID, [lambda x, s, t, e=e: e(x, s) for e in both]),
        "sigmoid": (torch.sigmoid, GRID, [lambda x, s, t, e=e: over(least + 1, 1 + e(-x, s), t) for e in both]),
        "silu": (
            F.silu,
            GRID,
            [
                *(lambda x, s, t, e=e: over(x, 1 + e(-x, s), t) for e in both),
                lambda x, s, t: flushed(x * over(least + 1, 1 + ex2(-x, s), t)),
            ],
        ),
        "softplus": (
            F.softplus,
            GRID,
            [
                *(_softplus(1.0, e) for e in both),
                lambda x, s, t: torch.clamp(x, min=0) + log1p(ex2(-x.abs(), s), t),
            ],
        ),
        "softplus of 3 x": (lambda x: F.softplus(x, 3.0), GRID, [_softplus(3.0, e) for e in both]),
        "softplus of 2 x": (lambda x: F.softplus(x, 2.0), GRID, [_softplus(2.0, e) for e in both]),
        "log_sigmoid": (
            F.logsigmoid,
            GRID,
            [lambda x, s, t, e=e: torch.clamp(x, max=0) - log1p(e(-x.abs(), s), t) for e in both],
        ),
        "gelu": (F.gelu, GRID, [_gelu]),
        "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), GRID, [_gelu_tanh]),
        "elu": (F.elu, GRID, [lambda x, s, t: torch.where(x > 0, x, moved(torch.expm1(x.double()), 1, s))]),
        "leaky_relu": (F.leaky_relu, GRID, [lambda x, s, t: torch.where(x > 0, x, x * torch.tensor(0.01))]),
        "x ** 2": (lambda x: x**2, POSITIVE, [lambda x, s, t: x * x]),
        "x ** 0.5": (lambda x: x**0.5, POSITIVE, [lambda x, s, t: moved(torch.sqrt(x.double()), 1, s)]),
        "x ** -1": (lambda x: x**-1, POSITIVE, [lambda x, s, t: over(least + 1, x, s)]),
        "x ** 1.25": (lambda x: x**1.25, POSITIVE, [lambda x, s, t: moved(x.double() ** 1.25, 4, s)]),
        "2 ** x": (lambda x: 2.0**x, GRID, [lambda x, s, t: moved(torch.exp2(x.double()), 4, s)]),
        "x ** -0.5": (lambda x: x**-0.5, POSITIVE, [lambda x, s, t: moved(x.double() ** -0.5, 4, s)]),
    }
    for n in (3, 5, 31):
        unary[f"x ** {n}"] = (lambda x, n=n: x**n, POSITIVE, [lambda x, s, t, n=n: products(x, n)])
        unary[f"x ** -{n}"] = (
            lambda x, n=n: x**-n,
            POSITIVE,
            [lambda x, s, t, n=n: products(over(least + 1, x, s), n)],
        )
    found = {name: (_one(of), x, forms) for name, (of, x, forms) in unary.items()}
    other = torch.flip(GRID, [0])
    for w in (0.25, 0.75, 0.3):
        weight = torch.tensor(w)
        near: Form = lambda x, s, t, w=weight: x + w * (other - x)  # noqa: E731
        far: Form = lambda x, s, t, w=weight: other - (other - x) * (1 - w)  # noqa: E731
        fused: Form = lambda x, s, t, w=weight: (x.double() + w.double() * (other - x).double()).float()  # noqa: E731
        found[f"lerp {w}"] = (lambda x, other, w=w: torch.lerp(x, other, w), GRID, [near, far, fused])
    return found


FORMS = _forms()


def _bounded(of: Binary, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and bound of `of(x, other)` at every x; the other operand is x from its end."""
    n, other = x.numel(), torch.flip(x, [0])
    found = math64.evaluate(
        lambda s, b, h, q, kv: of(x[kv], other[kv]),
        "score", (torch.zeros(1, 1, 1, n).double(), None), 1, 1, 1, n,
    )  # fmt: skip
    return found.value.reshape(n), found.error.reshape(n)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_inside_and_one_comes_near(name: str) -> None:
    of, x, forms = FORMS[name]
    value, error = _bounded(of, x)
    nearest = 0.0
    for form, s, t in itertools.product(forms, SIGNS, SIGNS):
        observed = form(x, s, t).double()
        decided = error.isfinite() & observed.isfinite() & value.isfinite()
        assert bool((decided | ~value.isfinite() | error.isinf()).all())
        share = torch.where(decided & (observed != value), (observed - value).abs() / error, 0.0)
        worst = int(share.argmax())
        assert share[worst] <= 1, (x[worst], observed[worst], value[worst], error[worst], s, t)
        nearest = max(nearest, float(share[worst]))
    assert nearest > 1 / 3, "the bound is wider than any form asks for"


@pytest.mark.parametrize("name", ["exp", "sigmoid", "silu", "softplus", "softplus of 3 x", "log_sigmoid"])
def test_a_tail_that_is_off_by_128_ulp_is_outside(name: str) -> None:
    """Where the result is small, though nothing may be flushed to 0 there."""
    of, _, _ = FORMS[name]
    tail = torch.linspace(10, 70, 501) / 3 if "3 x" in name else torch.linspace(10, 80, 501)
    value, error = _bounded(of, tail if name == "log_sigmoid" else -tail)
    assert bool((value.abs() < 1e-3).all())
    assert bool((error < 128 * 2.0**-23 * value.abs()).all())
