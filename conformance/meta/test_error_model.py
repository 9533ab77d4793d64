"""The error model against arithmetic itself: every operation's bound holds for PyTorch's own result, on exact
inputs and on perturbed ones, and jumps are either covered or declared open."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from flexconf.oracles import error_model as em
from flexconf.oracles import math64
from flexconf.oracles.evaluation import evaluate
from flexconf.oracles.shadow import Shadow

Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]
INF, NAN = math.inf, math.nan

UNARY: dict[str, Unary] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "half": lambda x: x / 2,
    "third": lambda x: x / 3,
    "scaled": lambda x: x * 0.09375,
    "shifted": lambda x: x + 1.75,
    "rsub": lambda x: 1 - x,
    "alpha": lambda x: torch.add(x, x, alpha=3),
    "cube": lambda x: x**3,
    "root": lambda x: x**0.5,
    "inverse_square": lambda x: x**-2,
    "odd_power": lambda x: x**1.25,
    "power_of_two": lambda x: 2.0**x,
    "floor_divide": lambda x: x // 0.75,
    "remainder": lambda x: x % 1.3125,
    "remainder_negative": lambda x: x % -2.0,
    "fmod": lambda x: torch.fmod(x, 0.90625),
    "truncated_quotient": lambda x: torch.div(x, 0.3125, rounding_mode="trunc"),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "clamp": lambda x: torch.clamp(x, -0.75, 1.125),
    "clamp_min": lambda x: torch.clamp(x, min=0.3125),
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "softplus": F.softplus,
    "softplus_sharp": lambda x: F.softplus(x, beta=2.0, threshold=3.0),
    "log_sigmoid": F.logsigmoid,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "positive": lambda x: x > 0.25,
    "equal": lambda x: x == 0.5,
    "to_int": lambda x: torch.clamp(x, -100, 100).to(torch.int32),
    "to_half": lambda x: x.to(torch.float16),
    "to_bfloat16": lambda x: x.to(torch.bfloat16),
    "to_bool": lambda x: x.to(torch.bool),
    "logical_not": torch.logical_not,
    "selected": lambda x: torch.where(x > 0.5, x, -x),
    "bucket": lambda x: torch.minimum((x * 4).to(torch.int32) % 7, torch.tensor(5, dtype=torch.int32)),
}
BINARY: dict[str, Binary] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "floor_divide": torch.floor_divide,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "fmin": torch.fmin,
    "fmax": torch.fmax,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "lt": torch.lt,
    "eq": torch.eq,
    "logical_xor": torch.logical_xor,
    "lerp": lambda x, y: torch.lerp(x, y, 0.3125),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.75),
}
SPECIALS = [0.0, -0.0, 0.5, -0.5, 0.25, 1.0, -1.0, 1.5, 2.0, 2.5, -2.5, 3.0, 20.0, 88.0, 89.0, -88.0, -90.0]
EXTREMES = [INF, -INF, NAN, 3.4e38, -3.4e38, 1e30, -1e20, 1e-30, 1e-39, -1e-39, 65504.0, 65520.0, 1e5]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def grid(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.exp2(torch.rand(n, generator=generator) * 16 - 10)
    sign = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    return torch.cat([torch.tensor(SPECIALS + EXTREMES), magnitude * sign]).double()


def audited(fn: Callable[..., Tensor], score: Tensor, error: Tensor | None = None) -> tuple[Tensor, Shadow]:
    """Runs `fn(score, kv)` over a row of scores; the last operation's result by PyTorch, and its shadow."""
    last: list[tuple[Tensor, Shadow]] = []
    row = score.double().reshape(1, 1, 1, -1)
    bound = None if error is None else error.reshape(1, 1, 1, -1)
    evaluate(
        lambda s, b, h, q, kv: fn(s, kv).to(torch.float64),
        "score",
        (row, bound),
        1,
        1,
        1,
        score.numel(),
        on_result=lambda name, real, shadow: last.append((real, shadow)),
    )
    n = score.numel()
    real, shadow = last[-1]
    return real.expand(1, 1, 1, n).reshape(n).double(), Shadow(
        shadow.v.double().expand(1, 1, 1, n).reshape(n),
        shadow.error().expand(1, 1, 1, n).reshape(n),
        shadow.nominal,
    )


# Where PyTorch's CPU kernels are no reference: they round inside one operation to the half dtype, or are
# beyond # SLEEF's range. (name, dtype) -> the inputs to leave out.
LEFT_OUT: dict[tuple[str, torch.dtype], Callable[[Tensor], Tensor]] = {
    ("cube", torch.bfloat16): lambda x: x == x,
    ("inverse_square", torch.bfloat16): lambda x: x == x,
    ("rsqrt", torch.bfloat16): lambda x: x == x,
    ("erf", torch.bfloat16): lambda x: x.abs() < 1e-20,
    ("fmod", torch.float32): lambda x: x.abs() > 1e30,
    ("gelu", torch.float32): lambda x: x == INF,
    ("gelu", torch.float16): lambda x: x == INF,
    ("gelu", torch.bfloat16): lambda x: x == INF,
    ("floor_divide", torch.float16): lambda x: x == x,
    ("floor_divide", torch.bfloat16): lambda x: x == x,
}


def violations(observed: Tensor, shadow: Shadow) -> Tensor:
    same = (observed == shadow.v) | (observed.isnan() & shadow.v.isnan())
    # The observations are float64 themselves, hence the hair's breadth.
    within = (observed - shadow.v).abs() <= shadow.error() * (1 + 1e-9) + observed.abs() * 1e-14
    return ~(same | shadow.error().isinf() | within)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_own_rounding_of_one_operand(name: str, dtype: torch.dtype) -> None:
    """PyTorch's result on exact inputs, specials and extremes included, is within the bound (L7.2, L7.6)."""
    values = grid(300, 1).to(dtype)
    real, shadow = audited(lambda s, kv: UNARY[name](values[kv]), torch.zeros(values.numel()))
    wrong = violations(real, shadow)
    if (name, dtype) in LEFT_OUT:
        wrong &= ~LEFT_OUT[name, dtype](values)
    assert not wrong.any(), (
        values[wrong][:5],
        real[wrong][:5],
        shadow.v[wrong][:5],
        shadow.error()[wrong][:5],
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_own_rounding_of_two_operands(name: str, dtype: torch.dtype) -> None:
    x, y = grid(400, 2).to(dtype), grid(400, 3).to(dtype)
    x = torch.cat([x, x])
    y = torch.cat([y, y.roll(7)])
    real, shadow = audited(lambda s, kv: BINARY[name](x[kv], y[kv]), torch.zeros(x.numel()))
    wrong = violations(real, shadow)
    if (name, dtype) in LEFT_OUT:
        wrong &= ~LEFT_OUT[name, dtype](x)
    assert not wrong.any(), (x[wrong][:5], y[wrong][:5], real[wrong][:5], shadow.v[wrong][:5])


def perturbed(score: Tensor, error: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inside = [score + (torch.rand(score.shape, generator=generator).double() * 2 - 1) * error for _ in range(4)]
    return [score, score - error, score + error, *inside]


ERRORS = [1e-6, 1e-3, 0.3, 5.0]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", UNARY)
def test_propagation_through_one_operand(name: str, error: float) -> None:
    """Any input within its error gives a result within the bound, unless the bound says that all is open."""
    score = grid(600, 4)
    bound = torch.where(score.isfinite(), error * torch.clamp(score.abs(), max=3.0), 0.0)
    _, shadow = audited(lambda s, kv: UNARY[name](s), score, bound)
    for candidate in perturbed(score, bound, 5):
        observed = UNARY[name](candidate).double()
        wrong = violations(observed, shadow) & (observed.abs() <= em.FLT_MAX)
        where = (score[wrong][:5], candidate[wrong][:5], observed[wrong][:5], shadow.v[wrong][:5])
        assert not wrong.any(), (*where, shadow.error()[wrong][:5])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", BINARY)
def test_propagation_through_two_operands(name: str, error: float) -> None:
    x = grid(400, 6)
    other = grid(400, 7).roll(3)

    def both(s: Tensor, kv: Tensor) -> Tensor:
        # s - centre is 0 with the error of s: it makes the second operand inexact as well.
        return BINARY[name](s, other.float()[kv] + (s - centre.float()[kv]))

    centre = torch.where(x.abs() < 1e3, x, 1.0).float().double() + 0.0
    bound = error * torch.clamp(centre.abs(), max=3.0)
    other = torch.where(other.abs() < 1e6, other, 2.0)
    _, shadow = audited(both, centre, bound)
    ends = perturbed(centre, bound, 8)
    for a in ends:
        for b in ends:
            observed = BINARY[name](a, other.float().double() + (b - centre)).double()
            wrong = violations(observed, shadow) & (observed.abs() <= em.FLT_MAX)
            wrong &= (observed - shadow.v).abs() > shadow.error() + 1e-9  # b is rounded in float64, too
            where = (a[wrong][:5], b[wrong][:5], observed[wrong][:5], shadow.v[wrong][:5])
            assert not wrong.any(), (*where, shadow.error()[wrong][:5])


PRECISE: dict[str, tuple[Unary, Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "exp": (torch.exp, mpmath.exp),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x))),
    "silu": (F.silu, lambda x: x / (1 + mpmath.exp(-x))),
    "gelu": (F.gelu, lambda x: x * mpmath.ncdf(x)),
    "softplus": (F.softplus, lambda x: mpmath.log1p(mpmath.exp(x)) if x <= 20 else x),
    "erfc": (torch.erfc, mpmath.erfc),
    "tanh": (torch.tanh, mpmath.tanh),
    "expm1": (torch.expm1, mpmath.expm1),
    "log_sigmoid": (F.logsigmoid, lambda x: -mpmath.log1p(mpmath.exp(-x))),
    "log1p": (torch.log1p, lambda x: mpmath.log1p(x) if x > -1 else mpmath.nan),
}


@pytest.mark.parametrize("name", PRECISE)
def test_centres_in_forty_digits(name: str) -> None:
    """The centre of a bound is mathematics, not one more rounded number: within 2**-20 of the bound's own
    width."""
    fn, precise = PRECISE[name]
    score = torch.tensor([-80.0, -20.5, -8.0, -3.0, -0.75, -1e-4, 1e-6, 0.5, 1.0, 7.5, 19.5, 21.0, 60.0]).double()
    _, shadow = audited(lambda s, kv: fn(s), score)
    with mpmath.workdps(40):
        for x, v, e in zip(score.tolist(), shadow.v.tolist(), shadow.error().tolist(), strict=True):
            exact = precise(mpmath.mpf(x))
            if mpmath.isfinite(exact):
                assert abs(exact - mpmath.mpf(v)) <= e * 2.0**-20 + 1e-300, (x, v, e)


def test_every_operation_has_a_source() -> None:
    for name, model in em.OPS.items():
        assert model.name == name
        assert model.source.strip(), name
        assert model.ulps >= 0
        assert model.relative(torch.bfloat16) >= em.UNIT_ROUNDOFF[torch.bfloat16]


def test_every_rule_exists() -> None:
    from flexconf.oracles import propagate

    assert {model.rule for model in em.OPS.values()} <= set(propagate.RULES)


def test_exact_arithmetic_stays_exact() -> None:
    """Sums and products of representable results, quotients by powers of two: no error, so `floor` is
    certain."""
    steps: list[Shadow] = []
    evaluate(
        lambda s, b, h, q, kv: torch.floor((kv.to(torch.float32) * 3 - 7) / 8) + s * 0,
        "score",
        (torch.zeros(1, 1, 1, 50).double(), None),
        1,
        1,
        1,
        50,
        on_result=lambda name, real, shadow: steps.append(shadow),
    )
    assert all(step.exact for step in steps)


@pytest.mark.parametrize("divisor", [0.5, 0.1, -0.1])
def test_a_remainder_whose_quotient_overflows_is_that_of_a_scalar(divisor: float) -> None:
    values = torch.tensor([1.7e308, -1.7e308, 1e300] * 4, dtype=torch.float64)
    for f in (torch.remainder, torch.fmod):
        _, shadow = audited(lambda s, kv, f=f: f(values[kv], divisor), torch.zeros(12))
        assert shadow.v.tolist() == [float(f(v, divisor)) for v in values]


def test_an_inexact_quotient_leaves_floor_open() -> None:
    _, shadow = audited(lambda s, kv: torch.floor(kv / 5), torch.zeros(40))
    at_jump = torch.arange(40) % 5 == 0
    assert (shadow.error() > 0).eq(at_jump & (torch.arange(40) > 0)).all()
    assert (shadow.error() <= 1.001).all()


def test_an_index_that_is_open_into_a_table_of_more_dimensions() -> None:
    """`bias[i][kv]`, where PyTorch reads a row first, has the error of `bias[i, kv]`."""
    score = torch.tensor([0.2, 0.999, 1.001, 1.5, 2.3])
    bias = torch.arange(35.0).view(7, 5) ** 2
    error = torch.full((5,), 0.01).double()
    real, chained = audited(lambda s, kv: bias[torch.floor(s).to(torch.int64)][kv], score, error)
    _, direct = audited(lambda s, kv: bias[torch.floor(s).to(torch.int64), kv], score, error)
    assert torch.equal(chained.v, direct.v) and torch.equal(chained.error(), direct.error())
    assert torch.equal(real, chained.v) and (chained.error() > 0).tolist() == [False, True, True, False, False]


def test_which_of_two_zeros_is_taken_is_open() -> None:
    zeros = torch.tensor([0.0, -0.0])
    for f in (torch.fmin, torch.fmax):
        _, shadow = audited(lambda s, kv, f=f: torch.copysign(s, f(zeros[kv], zeros[kv * 0])), torch.ones(2))
        assert shadow.error().gt(1).tolist() == [False, True]


def test_unmodelled_operations_are_named() -> None:
    with pytest.raises(math64.UnmodelledOperation, match="digamma"):
        audited(lambda s, kv: torch.digamma(s), torch.ones(3))
    with pytest.raises(math64.UnmodelledOperation, match="add_"):
        audited(lambda s, kv: s.add_(1.0), torch.ones(3))
