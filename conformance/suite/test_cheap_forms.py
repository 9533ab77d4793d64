"""What is written in a cheaper way than the mod says it, and where it must not be (L7.2, L7.3, L7.4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexflash import lower
from flexflash.launch.host import HostLauncher
from flexflash.ops import arithmetic
from plain import grid, qkv
from planted import corrections

Q, K, V = qkv(2, 4, 2, 37, 53)
BIAS = torch.randn(4, 37, 53)
RELATIVE = torch.randn(4, 90)
MAPS = torch.randn(2, 4, 37, 53).transpose(1, 2)
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _text(mod: Mod) -> str:
    return lower(Q, K, V, mod).text


PRODUCTS: dict[str, Mod] = {
    "softcap": lambda s, b, h, q, kv: 20.0 * torch.tanh(s / 20.0),
    "distance": lambda s, b, h, q, kv: s - (q - kv).abs() / 49,
    "chain": lambda s, b, h, q, kv: torch.where(kv > q, -torch.exp(s / 3), torch.clamp((kv - q) / 7, -2, 2) ** 2),
    "filled": lambda s, b, h, q, kv: (s / 3).masked_fill(q > kv, 0.0),
    "filled with": lambda s, b, h, q, kv: s.masked_fill(q > kv, q / 7),
    "eighths": lambda s, b, h, q, kv: torch.where((q - kv) / 8 == 1.0, s, torch.floor(kv / 0.25)),
}
BY_ELEMENT = {"filled with"}  # eager PyTorch takes a scalar there, and no tensor of many
QUOTIENTS: dict[str, Mod] = {
    "floored": lambda s, b, h, q, kv: s + torch.floor(kv / 7),
    "compared": lambda s, b, h, q, kv: torch.where(kv / 7 == 3.0, s, 0.0),
    "to an integer": lambda s, b, h, q, kv: s + (-(kv / 7)).to(torch.int32),
    "where to fill": lambda s, b, h, q, kv: s.masked_fill(kv / 7 == 3.0, 0.0),
    "under a root": lambda s, b, h, q, kv: s + torch.sqrt(((kv - q).abs() / 7 - 1).abs()),
    "to the end of a root": lambda s, b, h, q, kv: s + torch.sqrt(1 - q / 7),
    "to the end of a logarithm": lambda s, b, h, q, kv: s + torch.log(1 - q / 7),
    "to the end of an arc": lambda s, b, h, q, kv: s + torch.acos(q / 41),
    "to a pole": lambda s, b, h, q, kv: s + 1 / (kv / 7 - 1),
    "as an exponent": lambda s, b, h, q, kv: s + (q - 3.0) ** (kv / 7),
    "by a subnormal": lambda s, b, h, q, kv: s / 1e-40,
    "reciprocal is subnormal": lambda s, b, h, q, kv: s / 1.5e38,
    "in float64": lambda s, b, h, q, kv: (s.double() / 7).float(),
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_quotient_by_a_number_is_a_product(name: str) -> None:
    """By a power of two always; by another number where nothing that follows can tell its last bit."""
    text = _text(PRODUCTS[name])
    assert " * (1.0 / " in text
    assert " / " not in text.replace("(1.0 / ", "")


@pytest.mark.clause("L7.2", "L7.3")
@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_that_may_have_to_be_exact_stays_one(name: str) -> None:
    assert "* (1.0 / " not in _text(QUOTIENTS[name])


@pytest.mark.clause("L7.2")
def test_the_product_is_off_by_one_and_a_half_ulp_at_most() -> None:
    """u for the rounded reciprocal and u for the product, where a quotient may be off by 2 ulp, which is 4 u."""
    generator = torch.Generator().manual_seed(3)
    worst = 0.0
    for _ in range(300):
        divisor = float(torch.rand((), generator=generator) + 1) * 2.0 ** int(
            torch.randint(-90, 90, (), generator=generator)
        )
        c = arithmetic.rounded32(divisor)
        x = torch.rand(4000, generator=generator) + 1
        observed = (x * torch.tensor(1.0 / c)).double()
        exact = x.double() / c
        worst = max(worst, float(((observed - exact).abs() / exact.abs()).max()))
    assert 1.5 * 2.0**-24 < worst <= 2 * 2.0**-24 * (1 + 2.0**-24)


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("name", [*sorted(PRODUCTS.keys() - BY_ELEMENT), "floored", "compared", "to an integer"])
@pytest.mark.parametrize("width", [1, 4])
def test_the_values_are_the_same(name: str, width: int) -> None:
    mod = {**PRODUCTS, **QUOTIENTS}[name]
    scores = torch.randn(2, 4, 37, 53)
    observed = HostLauncher(width).evaluate(lower(Q, K, V, mod), scores)
    expected = mod(scores, *grid(2, 4, 37, 53)).expand(2, 4, 37, 53)
    torch.testing.assert_close(observed, expected, rtol=1e-6, atol=1e-6)


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


@pytest.mark.clause("L7.3")
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("divisor", [1, 2, 64, 3, 7, 100])
def test_floor_and_remainder_by_a_number(dtype: torch.dtype, divisor: int) -> None:
    """Shifts, bit masks and corrected remainders floor for negative numbers too, at the ends of every dtype."""
    ends = torch.iinfo(dtype)
    near = [n for n in range(-20, 30) if ends.min <= n <= ends.max]
    values = torch.tensor([ends.min, ends.min + 1, *near, ends.max - 1, ends.max], dtype=dtype)
    q, k, v = qkv(1, 1, 1, 1, len(values))

    def mod(s: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        x = values[n]
        return torch.where(m == 0, x // divisor, x % divisor).to(torch.float32)

    def other(s: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return (values[n] % divisor).to(torch.float32)

    zero = torch.zeros(1, 1, 1, len(values))
    for width in (1, 2, 8):
        quotient = HostLauncher(width).evaluate(lower(q, k, v, mod), zero)
        remainder = HostLauncher(width).evaluate(lower(q, k, v, other), zero)
        assert torch.equal(quotient[0, 0, 0], (values // divisor).float())
        assert torch.equal(remainder[0, 0, 0], (values % divisor).float())


@pytest.mark.clause("L7.3")
def test_powers_of_two_need_no_division() -> None:
    text = _text(lambda s, b, h, q, kv: s + (q - kv) // 32 + (q - kv) % 16)
    assert ">> 5" in text
    assert "& 15" in text
    assert "//" not in text


@pytest.mark.clause("L7.3")
def test_a_dividend_that_is_never_the_smallest_integer_needs_no_look() -> None:
    """Only the smallest integer has no quotient by -1. A difference of positions is above it, an element may be it."""
    text = _text(lambda s, b, h, q, kv: s + (q - kv) // (kv - 60))
    assert "divisor(" in text and "divisor_of(" not in text
    assert "divisor_of(" in _text(lambda s, b, h, q, kv: s + LARGE[kv] // (kv - 60))


@pytest.mark.clause("L2.4", "L7.4")
def test_a_capture_of_several_dimensions_is_read_at_coordinates() -> None:
    """No linear index that CuTe would have to divide by sizes; constants, q and lanes mixed, negative ones wrapped."""

    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return s + BIAS[h, q, kv] + RELATIVE[-1, q - kv] + MAPS[b, 3, h, -2] + MAPS[b, q, h, kv]

    text = _text(mod)
    assert "gather3(BIAS, h_idx, q_idx, kv_idx, cutlass.Float32)" in text
    assert "gather2(RELATIVE, constant, RELATIVE_index, cutlass.Float32)" in text
    assert "MAPS[b_idx[0], 3, h_idx[0], 51]" in text
    assert "gather4(MAPS, b_idx, q_idx, h_idx, kv_idx, cutlass.Float32)" in text
    scores = torch.randn(2, 4, 37, 53)
    expected = mod(scores, *grid(2, 4, 37, 53))
    for width in (1, 2, 4, 8):
        torch.testing.assert_close(HostLauncher(width).evaluate(lower(Q, K, V, mod), scores), expected)


@pytest.mark.clause("L7.2")
def test_a_difference_of_positions_is_one_of_floats_where_that_is_exact() -> None:
    """One uniform, one not, and all below 2^24; the integers stay where their difference is needed as one."""

    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return s + 0.3 * (kv - q) + (h - kv) * s + ((q - kv) // 7) * 0.1 + (q - b) / 7

    text = _text(mod)
    assert "kv_idx_float32 - q_idx_float32" in text and "h_idx_float32 - kv_idx_float32" in text
    assert "sub_2 = q_idx - kv_idx" in text and "sub_3_float32 = sub_3.to(cutlass.Float32)" in text
    scores = torch.randn(2, 4, 37, 53)
    expected = mod(scores, *grid(2, 4, 37, 53))
    for width in (1, 2, 4, 8):
        torch.testing.assert_close(HostLauncher(width).evaluate(lower(Q, K, V, mod), scores), expected)


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize(("length", "exact"), [(2**24 - 35, True), (2**24 - 34, False)])
def test_a_difference_that_float32_cannot_hold_stays_one_of_integers(length: int, exact: bool) -> None:
    keys = K[:1, :, :1].expand(1, -1, length, -1)
    text = lower(Q[:1], keys, keys, lambda s, b, h, q, kv: s + 0.3 * (kv - q)).text
    assert ("kv_idx_float32 - q_idx_float32" in text) is exact
    assert ("sub = kv_idx - q_idx" in text) is not exact


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize("compare", [torch.lt, torch.le, torch.gt, torch.ge, torch.eq, torch.ne])
def test_a_difference_against_a_number_is_computed_once_a_row(compare: Callable[[Tensor, int], Tensor]) -> None:
    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        s = torch.where(compare(q - kv, 5), s, s + 1) + torch.where(compare(kv - q, -3), 2.0, 4.0)
        return s + torch.where(compare(q - kv, 2**24 + 1), 8.0, 16.0) + torch.where(compare(kv - h * 3, 7), 32.0, 64.0)

    text = _text(mod)
    assert "= q_idx - 5" in text and "= q_idx + (-3)" in text and "16777217" in text
    assert "= q_idx - 16777217" not in text
    scores = torch.randn(2, 4, 37, 53)
    expected = mod(scores, *grid(2, 4, 37, 53))
    for width in (1, 2, 4, 8):
        torch.testing.assert_close(HostLauncher(width).evaluate(lower(Q, K, V, mod), scores), expected)


@pytest.mark.clause("L2.5")
def test_another_index_is_not_taken_for_coordinates() -> None:
    """The switch that restores the docstring's order shows in the text, as a linear index."""
    with corrections.reverted("indexer-docstring"):
        text = _text(lambda s, b, h, q, kv: s + BIAS[h, q, kv])
    assert "gather(BIAS, h_idx + 2 * q_idx + 3 * kv_idx, cutlass.Float32)" in text


@pytest.mark.clause("L2.8")
def test_a_view_that_spans_more_than_32_bits() -> None:
    """Few elements, far apart: 2 GiB of address space, of which three pages are touched."""
    table = torch.empty(2**31 + 2, dtype=torch.uint8).as_strided((3, 2), (2**30, 1))
    for i in range(3):
        for j in range(2):
            table[i, j] = 10 * i + j + 1
    q, k, v = qkv(1, 2, 2, 3, 3)
    for mod in (
        lambda s, b, h, m, n: s * 0 + table[m, h],
        lambda s, b, h, m, n: s * 0 + table[n, h],
    ):
        observed = HostLauncher(2).evaluate(lower(q, k, v, mod), torch.zeros(1, 2, 3, 3))
        _, h, m, n = grid(1, 2, 3, 3)
        assert torch.equal(observed, mod(torch.zeros(1, 2, 3, 3), 0, h, m, n))


@pytest.mark.clause("L7.2")
def test_exp_is_exp2_of_a_product() -> None:
    assert f"cute.math.exp2(tSrS_ssa * {math.log2(math.e)!r})" in _text(lambda s, b, h, q, kv: torch.exp(s))
    assert "cute.math.exp(" in _text(lambda s, b, h, q, kv: torch.exp(s.double()).float())


@pytest.mark.clause("L7.6")
@pytest.mark.parametrize(
    ("exponent", "form"),
    [
        (1, "x"),
        (2, "x * x"),
        (3, "x * x * x"),
        (-1, "1.0 / x"),
        (0.5, "cute.math.sqrt(x)"),
        (-0.5, "cute.math.rsqrt(x)"),
    ],
)
def test_powers_that_need_no_logarithm(exponent: float, form: str) -> None:
    text = _text(lambda s, b, h, q, kv: s**exponent)
    assert f"return {form.replace('x', 'tSrS_ssa').replace('etSrS_ssap', 'exp')}\n" in text


@pytest.mark.clause("L7.3")
@pytest.mark.parametrize("amount", [0, 3, 31])
def test_a_shift_by_a_number_needs_no_helper(amount: int) -> None:
    for symbol, mod in {
        "<<": lambda s, b, h, q, kv: s + (q << amount),
        ">>": lambda s, b, h, q, kv: s + (q >> amount),
    }.items():
        text = _text(mod)
        assert f" {symbol} {amount}" in text and "shift_" not in text.partition("def score_mod")[0]
    assert "def shift_left" in _text(lambda s, b, h, q, kv: s + (q << 32))


@pytest.mark.clause("L7.6")
@pytest.mark.parametrize("name", ["erf", "expm1"])
def test_coefficients_have_the_dtype_of_the_function(name: str) -> None:
    """A plain float is Float32 in CuTe, so Float64's coefficients are calls; Float32's need none."""
    function = getattr(torch, name)
    single = _text(lambda s, b, h, q, kv: function(s)).partition("def score_mod")[0]
    double = _text(lambda s, b, h, q, kv: function(s.double()).float()).partition("def score_mod")[0]
    assert "p = p * t + 0." in single and "cutlass.Float32(" not in single
    assert "p = p * t + cutlass.Float64(0." in double and "p = p * t + 0." not in double


LARGE = torch.arange(53, dtype=torch.int32)


@pytest.mark.clause("L7.2", "L7.3")
@pytest.mark.parametrize(
    ("index", "exact"),
    [
        (lambda kv: LARGE[kv] & 7, True),
        (lambda kv: LARGE[kv] & kv, True),
        (lambda kv: kv | (2**23 - 1), True),
        (lambda kv: kv ^ (2**23 - 1), True),
        (lambda kv: kv | 2**23, False),
        (lambda kv: kv ^ 2**23, False),
        (lambda kv: LARGE[kv] | 7, False),
        (lambda kv: torch.minimum(kv, LARGE[kv]), False),
        (lambda kv: torch.clamp(LARGE[kv], min=0) | kv, False),
        (lambda kv: kv ^ torch.clamp(LARGE[kv], min=0), False),
        (lambda kv: torch.clamp(LARGE[kv], min=0) | torch.clamp(LARGE[kv], min=0), False),
        (lambda kv: torch.abs(kv), True),
        (lambda kv: (kv | (2**23 - 1)) + (2**23 + 1 - 36), True),
        (lambda kv: (kv | (2**23 - 1)) + (2**23 + 2 - 36), False),
        (lambda kv: kv << 1, False),
        (lambda kv: kv >> 1, True),
    ],
)
def test_bits_bound_an_integer(index: Callable[[Tensor], Tensor], exact: bool) -> None:
    """x & y has the bits of the nonnegative operand at most, x | y and x ^ y those below the highest bit of both."""
    text = _text(lambda s, b, h, q, kv: s + 0.3 * (q - index(kv)))
    assert ("q_idx_float32 - " in text) is exact


@pytest.mark.clause("L7.6")
@pytest.mark.parametrize(
    ("name", "mod"),
    [
        ("clamp_min.default", lambda s, *_: torch.clamp_min(s, 0.5)),
        ("clamp_max.default", lambda s, *_: torch.clamp_max(s, 0.5)),
        ("relu.default", lambda s, *_: torch.relu(s)),
        ("hardtanh.default", lambda s, *_: torch.nn.functional.hardtanh(s)),
        ("leaky_relu.default", lambda s, *_: torch.nn.functional.leaky_relu(s)),
        ("silu.default", lambda s, *_: torch.nn.functional.silu(s)),
        ("gelu.default", lambda s, *_: torch.nn.functional.gelu(s)),
        ("softplus.default", lambda s, *_: torch.nn.functional.softplus(s)),
        ("elu.default", lambda s, *_: torch.nn.functional.elu(s)),
        ("log_sigmoid_forward.default", lambda s, *_: torch.nn.functional.logsigmoid(s)),
        ("masked_fill.Scalar", lambda s, b, h, q, kv: s.masked_fill(q > kv, 1.0)),
        ("rsub.Scalar", lambda s, *_: torch.rsub(s, 1.0)),
        ("lerp.Scalar", lambda s, *_: torch.lerp(s, s * 2, 0.25)),
        ("frac.default", lambda s, *_: torch.frac(s)),
    ],
)
def test_what_has_a_spelling_is_not_decomposed(name: str, mod: Mod) -> None:
    graph = lower(Q, K, V, mod).score_graph.graph_module.graph
    calls = [node for node in graph.nodes if callable(node.target)]
    assert f"aten.{name}" in [str(node.target) for node in calls]
    assert not any("part_of" in node.meta for node in calls)
