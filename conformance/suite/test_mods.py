"""L7: the mods that the lowering takes: any callable, indices, captures, constants (`test_mod_numbers.py`: results)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from evaluated import DTYPES, B, H, K, M, Mod, N, Q, V, both_of, evaluate_mod, table_of
from flexflash import TraceError, UnsupportedOperation, flex_flash_attention, lower, trace
from flexflash.launch.host import HostLauncher

# --- tracing --------------------------------------------------------------------------------------------------------


_GLOBAL = torch.arange(4.0)


class _Module:
    def __init__(self) -> None:
        self.weight = torch.arange(4.0) * 2

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + self.weight[h]

    def method(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + self.weight[h] * 3


def _of_global(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + _GLOBAL[h]


def _of_default(
    score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, table: Tensor = _GLOBAL * 5, by: float = 0.5
) -> Tensor:
    return score + table[h] * by


def _of_first(table: Tensor, score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + table[h]


@pytest.mark.clause("L7.1", "L6.3")
@pytest.mark.parametrize(
    ("mod", "name", "expected"),
    [
        (_of_global, "_GLOBAL", _GLOBAL),
        (_of_default, "table", _GLOBAL * 2.5),
        (functools.partial(_of_first, _GLOBAL * 7), "argument0", _GLOBAL * 7),
        (_Module(), "weight", _GLOBAL * 2),
        (_Module().method, "weight", _GLOBAL * 6),
    ],
    ids=["global", "default", "partial", "callable object", "method"],
)
def test_any_python_callable_is_a_mod(mod: Mod, name: str, expected: Tensor) -> None:
    graph = trace(mod, "score")
    assert len(graph.captures) == 1
    assert graph.names[0].strip("_") == name.strip("_")
    assert torch.equal(evaluate_mod(mod), expected.view(H, 1, 1).expand(B, H, M, N))


@pytest.mark.clause("L7.1")
def test_arguments_are_float32_and_int32() -> None:
    graph = trace(lambda s, b, h, q, kv: s + b + h + q + kv, "score").graph_module.graph
    dtypes = {n.name: n.meta["val"].dtype for n in graph.nodes if n.op == "placeholder"}
    assert dtypes == {"score": torch.float32, **dict.fromkeys(("b", "h", "q", "kv"), torch.int32)}


@pytest.mark.clause("L7.1")
def test_score_is_scaled_and_heads_are_query_heads() -> None:
    seen = evaluate_mod(lambda s, b, h, q, kv: s + 1000 * h, torch.full((B, H, M, N), 0.25))
    assert torch.equal(seen[:, :, 0, 0], 0.25 + 1000.0 * torch.arange(H).expand(B, H))
    _, lse = flex_flash_attention(Q, K, V, lambda s, b, h, q, kv: s * 0 + s, scale=0.0)
    torch.testing.assert_close(lse, torch.full((B, H, M), float(N)).log())


@pytest.mark.clause("L6.3")
def test_a_tensor_captured_twice_is_lifted_once_in_order_of_use() -> None:
    first, second = torch.randn(4), torch.randn(13)
    alias = second[:]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + second[kv] + first[h] + alias[kv] + second[q]

    assert [t.data_ptr() for t in trace(mod, "score").captures] == [second.data_ptr(), first.data_ptr()]


# --- indices --------------------------------------------------------------------------------------------------------


@pytest.mark.clause("L7.4")
def test_negative_index_constant_and_computed() -> None:
    table = table_of(torch.float32, H, M + N)
    assert torch.equal(*both_of(lambda s, b, h, q, kv: table[h, -1] + table[-2, kv] + table[h, q - kv]))
    assert torch.equal(*both_of(lambda s, b, h, q, kv: table[-1 - h, kv - N]))


@pytest.mark.clause("L7.4")
def test_constant_index_out_of_range_is_refused() -> None:
    table = table_of(torch.float32, H, 5)
    for index in (5, -6):
        with pytest.raises(UnsupportedOperation, match=f"index {index} of dimension 1 of `table`, whose size is 5"):
            lower(Q, K, V, lambda s, b, h, q, kv, index=index: s + table[h, index])
    assert torch.equal(*both_of(lambda s, b, h, q, kv: table[h, 4] + table[h, -5]))


@pytest.mark.clause("L7.5")
def test_chained_indices() -> None:
    table = table_of(torch.float32, B, H, M)
    _, expected = both_of(lambda s, b, h, q, kv: table[b, h, q])
    assert torch.equal(evaluate_mod(lambda s, b, h, q, kv: table[b][h][q]), expected)
    assert torch.equal(evaluate_mod(lambda s, b, h, q, kv: table[b, h][q]), expected)
    assert torch.equal(evaluate_mod(lambda s, b, h, q, kv: table[b, :][h, ...][q]), expected)


@pytest.mark.clause("L7.5")
def test_index_through_another_capture() -> None:
    pages = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    table = table_of(torch.float32, N, H)
    assert torch.equal(*both_of(lambda s, b, h, q, kv: table[pages[kv], h] - table[pages[pages[kv]], h]))


# --- captures -------------------------------------------------------------------------------------------------------


_SIZES = (B, H, M, N)


def _strided(dtype: torch.dtype, rank: int, kind: str) -> Tensor:
    size = _SIZES[4 - rank :]
    if rank == 0:
        return table_of(dtype, 3)[1] if kind == "offset" else table_of(dtype)
    if kind == "permuted":
        return table_of(dtype, *reversed(size)).permute(*reversed(range(rank)))
    if kind == "stepped":
        return table_of(dtype, *(2 * s for s in size))[tuple(slice(None, None, 2) for _ in size)]
    if kind == "expanded":
        return table_of(dtype, *size[:-1], 1).expand(*size)
    if kind == "offset":
        return table_of(dtype, size[0] + 3, *size[1:])[3:]
    return table_of(dtype, *size)


@pytest.mark.clause("L7.5", "L2.4")
@pytest.mark.parametrize("kind", ["contiguous", "permuted", "stepped", "expanded", "offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_captures_of_every_rank_dtype_and_stride(dtype: torch.dtype, kind: str) -> None:
    """Ranks 0 to 4 in one mod, each read by its own indices."""
    t0, t1, t2, t3, t4 = (_strided(dtype, rank, kind) for rank in range(5))

    def values(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        return t0, t1[kv], t2[q, kv], t3[h, q, kv], t4[b, h, q, kv]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        zero, one, two, three, four = (x.to(torch.float32) for x in values(b, h, q, kv))
        return zero + 3.0 * one + 5.0 * two + 7.0 * three + 11.0 * four

    torch.testing.assert_close(*both_of(mod), rtol=2**-20, atol=2**-15)


# --- what a mod may be made of besides operations -------------------------------------------------------------------


@pytest.mark.clause("L7.1")
@pytest.mark.parametrize("number", [2.5, -3, True, False])
def test_a_python_number_is_a_score(number: float) -> None:
    graph = trace(lambda s, b, h, q, kv: number, "score")  # type: ignore[arg-type,return-value]
    assert graph.output.meta["val"].dtype is torch.float32
    seen = evaluate_mod(lambda s, b, h, q, kv: number)  # type: ignore[arg-type,return-value]
    assert torch.equal(seen, torch.full_like(seen, float(number)))


@pytest.mark.clause("L7.1", "L7.7")
def test_a_python_bool_is_a_mask_and_another_number_is_not() -> None:
    for value in (True, False):
        graph = trace(lambda b, h, q, kv: value, "mask")  # type: ignore[arg-type,return-value]
        assert graph.output.meta["val"].dtype is torch.bool
        assert graph.output.args[1] is value
    with pytest.raises(TraceError, match="returned int64, not bool"):
        trace(lambda b, h, q, kv: 1, "mask")  # type: ignore[arg-type,return-value]


@pytest.mark.clause("L7.1", "L6.3")
def test_a_tensor_made_in_the_mod_is_a_constant_or_a_capture() -> None:
    assert trace(lambda s, b, h, q, kv: s * torch.tensor(2.0), "score").captures == ()
    assert torch.equal(*both_of(lambda s, b, h, q, kv: s + torch.tensor(7) * q + torch.tensor(True) * 5))
    made = trace(lambda s, b, h, q, kv: s + torch.tensor([1.0, 2.0, 3.0, 4.0])[h], "score")
    assert [t.tolist() for t in made.captures] == [[1.0, 2.0, 3.0, 4.0]]
    assert torch.equal(*both_of(lambda s, b, h, q, kv: s + torch.tensor([1.0, 2.0, 3.0, 4.0])[h]))


@pytest.mark.clause("L7.1")
def test_views_and_copies_of_the_score_are_the_score() -> None:
    scores = torch.randn(B, H, M, N, generator=torch.Generator().manual_seed(3))
    for mod in (
        lambda s, b, h, q, kv: s.clone(),
        lambda s, b, h, q, kv: s.clone(memory_format=torch.preserve_format) * 1.0,
        lambda s, b, h, q, kv: s.detach()[...] * 1.0,
        lambda s, b, h, q, kv: +s * 1.0,
    ):
        assert torch.equal(evaluate_mod(mod, scores), scores)


@pytest.mark.clause("L6.3")
def test_captures_of_one_name_are_told_apart() -> None:
    """Three tensors that are all called `table` where they are read."""

    def reader(table: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda index: table[index]

    readers = [reader(torch.arange(4.0) * n) for n in (1, 10, 100)]
    first, second, third = readers

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return first(h) + second(h) + third(h)

    assert trace(mod, "score").names == ("table", "table_1", "table_2")
    assert torch.equal(evaluate_mod(mod), (111 * torch.arange(4.0)).view(H, 1, 1).expand(B, H, M, N))


@pytest.mark.clause("L7.1", "L7.5")
def test_a_captured_scalar_is_a_score() -> None:
    """Whatever it is called: only the score itself is the score."""
    tau = torch.tensor(2.5)
    assert not trace(lambda s, b, h, q, kv: tau, "score").is_identity
    seen = evaluate_mod(lambda s, b, h, q, kv: tau)
    assert torch.equal(seen, torch.full_like(seen, 2.5))


@pytest.mark.clause("L8.1", "L6.5")
@pytest.mark.parametrize("width", [None, 1, 4])
def test_a_mask_with_captures_alone(width: int | None) -> None:
    documents = torch.arange(N, dtype=torch.int32) // 5
    mask = create_block_mask(lambda b, h, q, kv: documents[q] == documents[kv], B, H, M, N, device="cpu")
    scores = torch.randn(B, H, M, N, generator=torch.Generator().manual_seed(4))
    seen = HostLauncher(width).evaluate(lower(Q, K, V, None, mask), scores)
    passes = documents[:M, None] == documents[None, :]
    assert torch.equal(seen, scores.masked_fill(~passes, float("-inf")))


@pytest.mark.clause("L7.4")
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_an_index_that_a_capture_held_stays_in_the_capture_in_a_mask(width: int, dtype: torch.dtype) -> None:
    """As past the end of a sequence, where a tile reads what is no element; here, it leads to a neighbour at most."""
    storage = torch.ones(16, dtype=torch.bool)
    sees = storage[6:9]
    sees[:] = torch.tensor([False, True, True])
    held = torch.tensor([0, 1, 2, 3, 4, 9, 1, 0, 2, 5, 1, 1, 0], dtype=dtype)
    if dtype.is_signed:
        held[-3:] = torch.tensor([-1, -3, -6])
    mask = create_block_mask(lambda b, h, q, kv: kv > 4, B, H, M, N, device="cpu")
    by_key, by_query = (lambda b, h, q, kv: sees[held[kv].int()]), (lambda b, h, q, kv: sees[held[q].int() + 0])
    inside = torch.where((held.int() >= -3) & (held.int() < 3), held.int(), 0).long()
    for mask.mask_mod, passes in ((by_key, sees[inside].expand(M, N)), (by_query, sees[inside][:M, None].expand(M, N))):
        seen = HostLauncher(width).evaluate(lower(Q, K, V, None, mask), torch.zeros(B, H, M, N))
        assert torch.equal(torch.isfinite(seen), passes.expand(B, H, M, N))


@pytest.mark.clause("L7.4", "L6.2")
def test_an_index_that_no_capture_held_is_not_looked_at() -> None:
    table = torch.arange(N, dtype=torch.int32)
    mask = create_block_mask(lambda b, h, q, kv: table[table[h] + b] <= kv, B, H, M, N, device="cpu")
    text = lower(Q, K, V, lambda s, b, h, q, kv: s + table[table[kv]], mask).text
    assert text.count("cute.where") == 2, "from the end, once in each mod, and nothing else"
