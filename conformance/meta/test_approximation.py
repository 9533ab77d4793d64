"""The error model under fast_math: wide enough for the worst that the instructions may do, and no wider.

The worst is simulated: each approximated operation is computed in float64 and moved by its documented error, in either
direction. No GPU takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.errors import InputError
from flexconf.oracles import error_model as em
from flexconf.oracles import math64
from flexconf.subjects import SUBJECTS, trial
from flexconf.subjects.trial import Options

INF = math.inf
GRID = torch.cat([
    torch.linspace(-30, 30, 401), torch.linspace(0.3, 2.5, 301), torch.tensor([1e-30, -1e-30, 1.0, 0.0, 2.0, 0.5, 1e4])
]).float()  # fmt: skip
Mod = Callable[..., Tensor]


def _bounded(
    mod: Callable[[Tensor], Tensor], score: Tensor, fast_math: bool, error: Tensor | None = None
) -> math64.Bounded:
    row = score.double().reshape(1, 1, 1, -1)
    bound = None if error is None else error.reshape(1, 1, 1, -1)
    return math64.evaluate(
        lambda s, b, h, q, kv: mod(s), "score", (row, bound), 1, 1, 1, score.numel(), fast_math=fast_math
    )


def _share(observed: Tensor, bounded: math64.Bounded) -> Tensor:
    """|observed - value| / bound, 0 where they agree."""
    distance = (observed.reshape(-1) - bounded.value.reshape(-1)).abs()
    error = bounded.error.expand(bounded.value.shape).reshape(-1)
    return torch.where(distance == 0, 0.0, distance / error).nan_to_num(nan=0.0)


def _tanh(x: Tensor, sign: float) -> Tensor:
    return torch.tanh(x) * (1 + sign * 2.0**-11)


def _lg2(x: Tensor, sign: float) -> Tensor:
    exact = torch.log2(x)
    return exact + sign * 2.0**-22 * torch.clamp(exact.abs(), min=1.0)


def _gelu(x: Tensor, sign: float) -> Tensor:
    return 0.5 * x * (1 + _tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), sign))


# (mod, the same with the worst of its instructions, whether the default bound is too narrow for it)
WORST: dict[str, tuple[Mod, Callable[[Tensor, float], Tensor], bool]] = {
    "tanh": (torch.tanh, _tanh, True),
    "softcap": (lambda x: 20.0 * torch.tanh(x / 20.0), lambda x, sign: 20 * _tanh(x / 20, sign), True),
    "squared": (lambda x: torch.tanh(x) ** 2, lambda x, sign: _tanh(x, sign) ** 2, True),
    "gelu": (lambda x: functional.gelu(x, approximate="tanh"), _gelu, True),
    "log2": (lambda x: torch.log2(x), lambda x, sign: _lg2(x, sign), True),
    "log": (lambda x: torch.log(x), lambda x, sign: _lg2(x, sign) * math.log(2) * (1 + sign * 2.0**-23), True),
    "log10": (lambda x: torch.log10(x), lambda x, sign: _lg2(x, sign) * math.log10(2) * (1 + sign * 2.0**-23), True),
    "quotient": (lambda x: x / x.abs(), lambda x, sign: x / x.abs() * (1 + sign * 2 * 2.0**-23), False),
    "reciprocal": (torch.reciprocal, lambda x, sign: 1 / x * (1 + sign * 2.0**-23), False),
    "sqrt": (torch.sqrt, lambda x, sign: torch.sqrt(x) * (1 + sign * 2.0**-23), False),
    "exp": (torch.exp, lambda x, sign: torch.exp(x * (1 + sign * 1.25 * 2.0**-24)) * (1 + sign * 2 * 2.0**-23), False),
}


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", WORST)
def test_the_worst_that_an_instruction_may_do_is_inside(name: str, sign: float) -> None:
    """And comes near the bound somewhere: it is no wider than the documented figure asks for."""
    mod, worst, widened = WORST[name]
    observed = worst(GRID.double(), sign)
    share = _share(observed, _bounded(mod, GRID, True))
    assert share.max() <= 1
    assert share.max() > (0.45 if name in ("reciprocal", "sqrt", "exp") else 0.97)
    plain = _share(observed, _bounded(mod, GRID, False))
    assert bool((plain > 1).any()) is widened


@pytest.mark.parametrize("error", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("name", WORST)
def test_inexact_inputs_and_the_worst_together(name: str, error: float) -> None:
    mod, worst, _ = WORST[name]
    bound = torch.full_like(GRID, error).double()
    bounded = _bounded(mod, GRID, True, bound)
    generator = torch.Generator().manual_seed(1)
    inside = [GRID.double() + (torch.rand(GRID.shape, generator=generator).double() * 2 - 1) * bound for _ in range(6)]
    for given in (GRID.double() - bound, GRID.double() + bound, *inside):
        for sign in (-1.0, 1.0):
            observed = worst(given, sign)
            share = torch.where(bounded.error.reshape(-1) == INF, 0.0, _share(observed, bounded))
            assert share.max() <= 1


SAME: dict[str, Mod] = {
    "sin": torch.sin,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "sqrt": torch.sqrt,
    "gelu": functional.gelu,
    "softplus": functional.softplus,
    "by a number": lambda x: x / 3.0,
    "by a power of two": lambda x: torch.floor(x / 4.0),
    "floor": lambda x: x // 3.0,
    "tanh in float64": lambda x: torch.tanh(x.double()).float(),
    "log in float64": lambda x: torch.log(x.double()).float(),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_not_widened(name: str) -> None:
    plain, fast = (
        _bounded(SAME[name], GRID, fast_math, torch.full_like(GRID, 1e-5).double()) for fast_math in (False, True)
    )
    torch.testing.assert_close(fast.value, plain.value, rtol=0, atol=0, equal_nan=True)
    assert bool(plain.value.isfinite().any())
    assert torch.equal(plain.error, fast.error)


def test_a_divisor_that_the_instruction_cannot_take_is_open() -> None:
    divisors = torch.tensor([1e30, 8e37, 1e38, -2e38, INF, 1.0])
    bounded = math64.evaluate(
        lambda s, b, h, q, kv: s / divisors[kv],
        "score",
        (torch.ones(1, 1, 1, 6).double(), None),
        1,
        1,
        1,
        6,
        fast_math=True,
    )
    assert bounded.error.reshape(-1).isinf().tolist() == [False, False, True, True, False, False]


def test_a_reciprocal_of_any_size_is_certain() -> None:
    numbers = torch.tensor([1e30, 1e38, 3e38, 1e-30])
    bounded = math64.evaluate(
        lambda s, b, h, q, kv: s * 0 + torch.reciprocal(numbers[kv]),
        "score", (torch.ones(1, 1, 1, 4).double(), None), 1, 1, 1, 4, fast_math=True,
    )  # fmt: skip
    assert bool(bounded.error.isfinite().all())


def test_a_quotient_by_a_captured_power_of_two_is_not_exact() -> None:
    """div.approx is not known to be; by a number in the text it is a product, and exact."""
    four = torch.tensor([4.0])
    exact = {}
    for name, mod in {
        "captured": lambda s, b, h, q, kv: kv / four[0],
        "a number": lambda s, b, h, q, kv: kv / 4,
    }.items():
        for fast_math in (False, True):
            bounded = math64.evaluate(
                mod, "score", (torch.ones(1, 1, 1, 9).double(), None), 1, 1, 1, 9, fast_math=fast_math
            )
            exact[name, fast_math] = not bool((bounded.error > 0).any())
    assert exact == {
        ("captured", False): True, ("captured", True): False, ("a number", False): True, ("a number", True): True,
    }  # fmt: skip


def test_a_mask_may_be_open_as_well() -> None:
    mask = lambda b, h, q, kv: torch.tanh(kv / 8) > math.tanh(0.5)  # noqa: E731
    plain, fast = (math64.evaluate(mask, "mask", None, 1, 1, 1, 9, fast_math=f) for f in (False, True))
    assert not bool(plain.error[..., 5:].any())
    assert bool(fast.error.reshape(-1)[4])
    assert not bool(fast.error.reshape(-1)[[3, 5]].any())


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_attention_with_an_approximate_softcap(sign: float) -> None:
    """Float64 attention whose tanh is off by 2^-11 everywhere: inside the certified bounds with the option only."""
    (case,) = catalogue.select(catalogue.load(), ["softcap"])
    given = inputs.materialize(case)
    group = given.q.shape[1] // given.k.shape[1]
    keys, values = (t.double().repeat_interleave(group, 1) for t in (given.k, given.v))
    scores = given.q.double() @ keys.transpose(2, 3) * given.scale
    cap = 20.0
    exact = given.score_mod(scores, *(torch.zeros(()),) * 4)  # type: ignore[misc]
    torch.testing.assert_close(exact, cap * torch.tanh(scores / cap))
    # Up where the score is positive and down where it is negative: every probability moves as far as it can.
    scores = cap * torch.tanh(scores / cap) * (1 + sign * 2.0**-11)
    lse = torch.logsumexp(scores, -1)
    out = (torch.softmax(scores, -1) @ values).to(given.q.dtype).double()
    plain, fast = (trial.certify(given, Options(fast_math=f)) for f in (False, True))
    assert torch.equal(plain.lse, fast.lse)
    assert bool(((lse - fast.lse).abs() <= fast.lse_bound).all())
    assert bool(((out - fast.out).abs() <= fast.out_bound).all())
    assert bool(((lse - plain.lse).abs() > plain.lse_bound).any())
    assert bool((fast.lse_bound < 200 * plain.lse_bound + 0.02).all()), "wider, but still of use"


def test_entries_are_no_narrower_than_those_they_replace() -> None:
    for name, model in em.FAST.items():
        assert model.name == name
        assert model.rule == em.OPS[name].rule
        assert model.ulps >= em.OPS[name].ulps
        assert "PTX ISA" in model.source or model.source.startswith("composed")


@pytest.mark.parametrize("name", [n for n, s in SUBJECTS.items() if not s.approximates])
def test_a_subject_without_it_says_who_has_it(name: str) -> None:
    (case,) = catalogue.select(catalogue.load(), ["softcap"])
    with pytest.raises(InputError, match=r"fast_math is an option of reference.simt and reference.fa4, not of " + name):
        trial.run_case(case, name, Options(fast_math=True))


def test_subjects_with_it_ask_the_lowering_for_it() -> None:
    from flexconf.subjects import reference
    from flexflash.launch.simt import SimtLauncher

    assert [n for n, s in SUBJECTS.items() if s.approximates] == ["reference.simt", "reference.fa4"]
    assert reference._kernel_options(Options(fast_math=True), SimtLauncher()) == {"fast_math": True}
    assert reference._kernel_options(Options(), SimtLauncher()) == {}
