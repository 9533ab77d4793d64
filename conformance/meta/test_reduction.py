"""The bounds of reductions (L7.8) hold for every order and every bracketing of the elements, and mean something."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexconf.oracles.evaluation import follow
from flexconf.oracles.operation import UnmodelledOperation
from flexconf.oracles.shadow import Shadow

FOLDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add, "mean": torch.add, "prod": torch.mul, "amax": torch.maximum, "amin": torch.minimum,
}  # fmt: skip
ROWS = 40


def _shadow(table: Tensor, kind: str) -> Shadow:
    def mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return getattr(table[kv], kind)(-1)  # type: ignore[no-any-return]

    [(_, shadow)] = follow(mod, "mask", None, 1, 1, 1, table.shape[0])
    return shadow


def _in_some_order(table: Tensor, kind: str, rng: random.Random) -> Tensor:
    """The reduction of each row in the table's own dtype, as a random binary tree."""
    left = [table[:, n] for n in range(table.shape[1])]
    while len(left) > 1:
        a, b = left.pop(rng.randrange(len(left))), left.pop(rng.randrange(len(left)))
        left.append(FOLDS[kind](a, b))
    return left[0] / table.shape[1] if kind == "mean" else left[0]


def _table(dtype: torch.dtype, length: int, kind: str) -> Tensor:
    spread = torch.randn(ROWS, length, generator=torch.Generator().manual_seed(length))
    # Sums that nearly cancel, and factors on both sides of 1.
    large = spread * (10.0 ** torch.arange(length).float().sub(length // 2) if kind != "prod" else 1.5)
    return large.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", FOLDS)
def test_every_order_lies_within_the_bound(kind: str, dtype: torch.dtype) -> None:
    rng = random.Random(5)
    compared = 0
    for length in (1, 2, 5, 8):
        table = _table(dtype, length, kind)
        shadow = _shadow(table, kind)
        v, e = shadow.v.flatten(), shadow.error().expand_as(shadow.v).flatten()
        for _ in range(30):
            seen = _in_some_order(table, kind, rng).double()
            off = torch.where(seen == v, 0.0, (seen - v).abs())
            assert bool((off <= e).all()), (kind, dtype, length)
            compared += ROWS
    assert compared == 4 * 30 * ROWS


@pytest.mark.parametrize("kind", ["sum", "mean", "prod"])
def test_the_bound_is_no_wider_than_the_roundings_need(kind: str) -> None:
    table = _table(torch.float32, 8, "prod").abs()
    shadow = _shadow(table, kind)
    assert float((shadow.error() / shadow.v).max()) < 12 * 2.0**-24


def test_whole_numbers_are_summed_exactly() -> None:
    table = torch.randint(-50, 50, (ROWS, 6), generator=torch.Generator().manual_seed(3)).float()
    shadow = _shadow(table, "sum")
    assert shadow.exact and torch.equal(shadow.v.flatten(), table.double().sum(-1))


def test_an_order_that_may_overflow_leaves_the_element_open() -> None:
    """3e38 + 3e38 - 3e38 - 3e38 is 0, inf or NaN; a product may pass through inf to a NaN."""
    assert _shadow(torch.tensor([[3e38, 3e38, -3e38, -3e38]]), "sum").error().isinf().all()
    assert _shadow(torch.tensor([[1e30, 1e30, 0.0]]), "prod").error().isinf().all()
    assert _shadow(torch.tensor([[float("inf"), 1e-30, 1e-30]]), "prod").error().isinf().all()


@pytest.mark.parametrize(
    ("row", "kind", "expected"),
    [
        ([float("inf"), 1.0, 2.0], "sum", float("inf")),
        ([float("inf"), -float("inf")], "sum", float("nan")),
        ([float("nan"), 1.0], "amax", float("nan")),
        ([-float("inf"), 1.0], "amin", -float("inf")),
        ([float("inf"), 0.0], "prod", float("nan")),
        ([float("inf"), -2.0], "prod", -float("inf")),
        ([-float("inf"), -float("inf")], "amax", -float("inf")),
    ],
)
def test_special_values_are_certain(row: list[float], kind: str, expected: float) -> None:
    """L8.5."""
    shadow = _shadow(torch.tensor([row]), kind)
    assert torch.equal(shadow.v.flatten(), torch.tensor([expected], dtype=torch.float64)) or (
        expected != expected and bool(shadow.v.isnan().all())
    )
    assert not bool(shadow.error().any())


@pytest.mark.parametrize(("kind", "certain"), [("any", "any"), ("all", "all")])
def test_an_uncertain_element_counts_only_where_no_other_decides(kind: str, certain: str) -> None:
    """x / 3 > 1 / 3 is open at x = 1."""
    table = torch.tensor([[1.0, 9.0], [1.0, -9.0], [9.0, 9.0], [-9.0, -9.0]])

    def mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return getattr(torch.exp(table[kv]) > torch.exp(torch.ones_like(table[kv])), kind)(-1)  # type: ignore[no-any-return]

    [(_, shadow)] = follow(mod, "mask", None, 1, 1, 1, 4)
    open_ = shadow.error().expand(shadow.v.shape).flatten().tolist()
    assert open_ == ([0, 1, 0, 0] if certain == "any" else [1, 0, 0, 0])


@pytest.mark.parametrize("kind", ["sum", "prod"])
def test_integers_wrap_in_every_order(kind: str) -> None:
    table = torch.full((2, 8), 2**62 + 1)
    shadow = _shadow(table, kind)
    assert shadow.exact
    folded = functools.reduce(FOLDS[kind], [table[:, n] for n in range(8)])
    assert torch.equal(shadow.v.flatten(), folded)


@pytest.mark.parametrize("kind", ["sum", "prod", "amax", "any"])
def test_a_whole_tensor_has_no_error_model(kind: str) -> None:
    table = torch.ones(3, 3)
    with pytest.raises(UnmodelledOperation):
        follow(lambda b, h, q, kv: getattr(table, kind)() + q, "mask", None, 1, 1, 1, 2)
