"""What a mod computes: promotion of dtypes, casts, division and remainders (L7.2, L7.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass.cute.runtime import from_dlpack
from torch import Tensor

from evaluated import DTYPES, B, H, K, M, N, Q, V, both_of, evaluate_mod, table_of
from flexconf.oracles import math64
from flexconf.verdict.compare import compare_scores
from flexflash import lower, trace
from flexflash.launch.module import load

# --- promotion ------------------------------------------------------------------------------------------------------


_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: (x + y) * 1,
    "product": lambda x, y: x * y,
    "comparison": lambda x, y: torch.where(x > y, 64, 0),
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize(("left", "right"), [*itertools.combinations_with_replacement(DTYPES, 2)])
def test_promotion_of_two_captures(left: torch.dtype, right: torch.dtype) -> None:
    """Sum, product and comparison of every pair of dtypes, each within what is certified of it and near PyTorch's own.

    Half results may keep more than the nominal precision: the certified bound is what they may keep.
    """
    x, y = table_of(left, M), table_of(right, N)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        """A head for each of the three, since one kernel takes a third of the time of three."""
        first, second, third = (of(x[q], y[kv]).to(torch.float32) for of in _OF_TWO.values())
        return torch.where(h == 0, first, torch.where(h == 1, second, third))

    certified = math64.evaluate(mod, "score", (torch.zeros(B, H, M, N).double(), None), B, H, M, N)
    seen = evaluate_mod(mod)
    for head, (name, of) in enumerate(_OF_TWO.items()):
        value, bound = certified.value[:, head], certified.error[:, head]
        found = compare_scores(seen[:, head], value, bound)
        assert found.passed and found.excluded_elements == 0, f"{name}: {found.reason}"
        exact = of(x.double()[:, None], y.double())
        if not {left, right} & {torch.int8, torch.uint8, torch.bool}:  # those wrap, or are no numbers
            assert bool(((value[0] - exact).abs() <= 2.0**-7 * exact.abs()).all()), name
        off = compare_scores(seen[:, head] + 1, value, bound)
        assert off.over_1 > off.elements // 2 or name == "product", f"{name}: a result that is off by 1 passes"


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize(("source", "target"), [*itertools.product(DTYPES, DTYPES)])
def test_casts_between_every_pair_of_dtypes(source: torch.dtype, target: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, -1.0, 2.5, -2.5, 100.75, -100.75, 0.49, -0.0, 77.0, 3.0, 64.5, 0.001])
    if not source.is_floating_point and source is not torch.bool:
        values = values.trunc()
    if torch.uint8 in (source, target):
        values = values.abs()  # a negative float has no uint8
    table = values.to(source)
    expected = table.to(target)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.where(table[kv].to(target) == expected[kv], 0.0, 1.0)

    assert not evaluate_mod(mod).any()


@pytest.mark.clause("L7.2")
def test_a_python_number_does_not_widen() -> None:
    graph = trace(lambda s, b, h, q, kv: (s + 1) * 0.1 + q * 0.5, "score").graph_module.graph
    assert all(n.meta["val"].dtype in (torch.float32, torch.int32) for n in graph.nodes if n.op != "output")


@pytest.mark.clause("L7.2")
def test_double_captures_keep_double_precision() -> None:
    table = torch.tensor([1.0 + 2.0**-40], dtype=torch.float64)
    seen = evaluate_mod(lambda s, b, h, q, kv: (table[0] - 1.0) * 2.0**40)
    assert torch.equal(seen, torch.ones_like(seen))


@pytest.mark.clause("L7.2")
def test_narrow_integers_wrap_around() -> None:
    table = torch.tensor([100, -100, 127, -128] * 4, dtype=torch.int8)[:N]
    assert torch.equal(*both_of(lambda s, b, h, q, kv: (table[kv] + table[kv]).to(torch.float32)))


# --- division -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("L7.3")
@pytest.mark.parametrize("divisor", [3, -3, 1, -7])
def test_integer_division_floors_and_remainder_has_the_divisors_sign(divisor: int) -> None:
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) // divisor) * 100.0))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) % divisor) * 100.0))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: torch.fmod(q - kv, divisor) * 1.0))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: torch.div(q - kv, divisor, rounding_mode="trunc") * 1.0))


@pytest.mark.clause("L7.3")
def test_a_number_that_a_half_only_rounds_is_taken() -> None:
    halves = torch.tensor([1.0, -2.0, 0.5]).half()
    for mod in (lambda s, b, h, q, kv: s + halves[q % 3] / 65520.0, lambda s, b, h, q, kv: halves[q % 3] < 65520.0):
        lower(Q, K, V, mod)


@cute.jit
def _divisors(out: cute.Tensor, x: cute.Tensor, y: cute.Tensor, of: cutlass.Constexpr, both: cutlass.Constexpr) -> None:
    if cutlass.const_expr(both):
        out.store(of(x.load(), y.load()))
    else:
        out.store(of(y.load()))


_DIVIDING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "floor": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
    "fmod": torch.fmod,
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
}


@pytest.mark.clause("L7.3")
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_an_integer_is_never_divided_by_what_has_no_quotient(dtype: torch.dtype) -> None:
    """The divisor goes through a function that gives 1 in the place of 0, and of -1 under the smallest integer."""
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x = torch.tensor([least, least + 1, 5, 0, 1, 7, most, 100], dtype=dtype)
    y = torch.tensor([most, 2, 1, 3, 100, 7, 5, 64] if least == 0 else [-1, -1, 1, -3, least, 7, most, 2], dtype=dtype)
    numerators, divisors = x[1:].clone(), y.clone()
    for name, divide in _DIVIDING.items():

        def mod(
            s: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, divide: Callable[[Tensor, Tensor], Tensor] = divide
        ) -> Tensor:
            return divide(numerators[q % 7], divisors[kv % 8]).to(torch.float32)

        text = lower(Q, K, V, mod).text
        assert "divisor_value" in text.split("def score_mod")[1], name
        assert torch.equal(*both_of(mod)), name
    module, signed = load(text), least < 0
    for given in (y, torch.zeros_like(y)):
        out = torch.empty_like(y)
        operands = (from_dlpack(t) for t in (out, x, given))
        _divisors(*operands, module.divisor_of if signed else module.divisor, signed)
        pairs = zip(x.tolist(), given.tolist(), strict=True)
        assert out.tolist() == [1 if d == 0 or (signed and d == -1 and n == least) else d for n, d in pairs]


@pytest.mark.clause("L7.3")
def test_float_division_floors_and_remainder_has_the_divisors_sign() -> None:
    steps = torch.tensor([0.5, -0.5, 0.75, -2.0] * 4)[:N]
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) * 0.25) // steps[kv]))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) * 0.25) % steps[kv]))


@pytest.mark.clause("L7.3")
def test_true_division_of_integers_is_float32() -> None:
    assert torch.equal(*both_of(lambda s, b, h, q, kv: (q - kv) / 8))
    graph = trace(lambda s, b, h, q, kv: (q - kv) / 8, "score")
    assert graph.output.meta["val"].dtype is torch.float32


@pytest.mark.clause("L7.3")
def test_right_shift_is_arithmetic() -> None:
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) * 64 >> 3) * 1.0))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: ((q - kv) * 64 >> (kv % 5)) * 1.0))
