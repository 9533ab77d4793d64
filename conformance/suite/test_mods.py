"""L7: what a mod means. Operations one by one are `test_operations.py`; here promotion, indices, captures, refusals."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass.cute.runtime import from_dlpack
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

import flexflash
from flexconf.oracles import math64
from flexconf.verdict.compare import compare_scores
from flexflash import TraceError, UnsupportedOperation, flex_flash_attention, lower, trace
from flexflash.launch.host import HostLauncher
from flexflash.launch.module import load
from plain import grid, qkv

B, H, M, N = 2, 4, 9, 13
Q, K, V = qkv(B, H, 2, M, N, 16)
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _evaluate(mod: Mod, scores: Tensor | None = None, width: int = 4) -> Tensor:
    scores = torch.zeros(B, H, M, N) if scores is None else scores
    return HostLauncher(width).evaluate(lower(Q, K, V, mod), scores)


def _expected(mod: Mod, scores: Tensor | None = None) -> Tensor:
    """The mod on broadcast index tensors (right for pointwise mods): PyTorch's own values."""
    scores = torch.zeros(B, H, M, N) if scores is None else scores
    return mod(scores, *(g.int() for g in grid(B, H, M, N))).float().expand(B, H, M, N)


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
    assert torch.equal(_evaluate(mod), expected.view(H, 1, 1).expand(B, H, M, N))


@pytest.mark.clause("L7.1")
def test_arguments_are_float32_and_int32() -> None:
    graph = trace(lambda s, b, h, q, kv: s + b + h + q + kv, "score").graph_module.graph
    dtypes = {n.name: n.meta["val"].dtype for n in graph.nodes if n.op == "placeholder"}
    assert dtypes == {"score": torch.float32, **dict.fromkeys(("b", "h", "q", "kv"), torch.int32)}


@pytest.mark.clause("L7.1")
def test_score_is_scaled_and_heads_are_query_heads() -> None:
    seen = _evaluate(lambda s, b, h, q, kv: s + 1000 * h, torch.full((B, H, M, N), 0.25))
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


# --- promotion ------------------------------------------------------------------------------------------------------

_DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
]  # fmt: skip


def _table(dtype: torch.dtype, *size: int) -> Tensor:
    """Values that depend on dtype and size alone, so that a test does not depend on those before it."""
    generator = torch.Generator().manual_seed(sum(size) + 1000 * _DTYPES.index(dtype))
    if dtype is torch.bool:
        return torch.rand(size, generator=generator) > 0.5
    if dtype.is_floating_point:
        return torch.randn(size, generator=generator).to(dtype)
    low, high = (0, 100) if dtype is torch.uint8 else (-100, 100)
    return torch.randint(low, high, size, generator=generator, dtype=dtype)


_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: (x + y) * 1,
    "product": lambda x, y: x * y,
    "comparison": lambda x, y: torch.where(x > y, 64, 0),
}


@pytest.mark.clause("L7.2")
@pytest.mark.parametrize(("left", "right"), [*itertools.combinations_with_replacement(_DTYPES, 2)])
def test_promotion_of_two_captures(left: torch.dtype, right: torch.dtype) -> None:
    """Sum, product and comparison of every pair of dtypes, each within what is certified of it and near PyTorch's own.

    Half results may keep more than the nominal precision: the certified bound is what they may keep.
    """
    x, y = _table(left, M), _table(right, N)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        """A head for each of the three, since one kernel takes a third of the time of three."""
        first, second, third = (of(x[q], y[kv]).to(torch.float32) for of in _OF_TWO.values())
        return torch.where(h == 0, first, torch.where(h == 1, second, third))

    certified = math64.evaluate(mod, "score", (torch.zeros(B, H, M, N).double(), None), B, H, M, N)
    seen = _evaluate(mod)
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
@pytest.mark.parametrize(("source", "target"), [*itertools.product(_DTYPES, _DTYPES)])
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

    assert not _evaluate(mod).any()


@pytest.mark.clause("L7.2")
def test_a_python_number_does_not_widen() -> None:
    graph = trace(lambda s, b, h, q, kv: (s + 1) * 0.1 + q * 0.5, "score").graph_module.graph
    assert all(n.meta["val"].dtype in (torch.float32, torch.int32) for n in graph.nodes if n.op != "output")


@pytest.mark.clause("L7.2")
def test_double_captures_keep_double_precision() -> None:
    table = torch.tensor([1.0 + 2.0**-40], dtype=torch.float64)
    seen = _evaluate(lambda s, b, h, q, kv: (table[0] - 1.0) * 2.0**40)
    assert torch.equal(seen, torch.ones_like(seen))


@pytest.mark.clause("L7.2")
def test_narrow_integers_wrap_around() -> None:
    table = torch.tensor([100, -100, 127, -128] * 4, dtype=torch.int8)[:N]
    assert torch.equal(*_both(lambda s, b, h, q, kv: (table[kv] + table[kv]).to(torch.float32)))


def _both(mod: Mod, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return _evaluate(mod, scores), _expected(mod, scores)


# --- division -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("L7.3")
@pytest.mark.parametrize("divisor", [3, -3, 1, -7])
def test_integer_division_floors_and_remainder_has_the_divisors_sign(divisor: int) -> None:
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) // divisor) * 100.0))
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) % divisor) * 100.0))
    assert torch.equal(*_both(lambda s, b, h, q, kv: torch.fmod(q - kv, divisor) * 1.0))
    assert torch.equal(*_both(lambda s, b, h, q, kv: torch.div(q - kv, divisor, rounding_mode="trunc") * 1.0))


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
        assert torch.equal(*_both(mod)), name
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
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) * 0.25) // steps[kv]))
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) * 0.25) % steps[kv]))


@pytest.mark.clause("L7.3")
def test_true_division_of_integers_is_float32() -> None:
    assert torch.equal(*_both(lambda s, b, h, q, kv: (q - kv) / 8))
    graph = trace(lambda s, b, h, q, kv: (q - kv) / 8, "score")
    assert graph.output.meta["val"].dtype is torch.float32


@pytest.mark.clause("L7.3")
def test_right_shift_is_arithmetic() -> None:
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) * 64 >> 3) * 1.0))
    assert torch.equal(*_both(lambda s, b, h, q, kv: ((q - kv) * 64 >> (kv % 5)) * 1.0))


# --- indices --------------------------------------------------------------------------------------------------------


@pytest.mark.clause("L7.4")
def test_negative_index_constant_and_computed() -> None:
    table = _table(torch.float32, H, M + N)
    assert torch.equal(*_both(lambda s, b, h, q, kv: table[h, -1] + table[-2, kv] + table[h, q - kv]))
    assert torch.equal(*_both(lambda s, b, h, q, kv: table[-1 - h, kv - N]))


@pytest.mark.clause("L7.4")
def test_constant_index_out_of_range_is_refused() -> None:
    table = _table(torch.float32, H, 5)
    for index in (5, -6):
        with pytest.raises(UnsupportedOperation, match=f"index {index} of dimension 1 of `table`, whose size is 5"):
            lower(Q, K, V, lambda s, b, h, q, kv, index=index: s + table[h, index])
    assert torch.equal(*_both(lambda s, b, h, q, kv: table[h, 4] + table[h, -5]))


@pytest.mark.clause("L7.5")
def test_chained_indices() -> None:
    table = _table(torch.float32, B, H, M)
    _, expected = _both(lambda s, b, h, q, kv: table[b, h, q])
    assert torch.equal(_evaluate(lambda s, b, h, q, kv: table[b][h][q]), expected)
    assert torch.equal(_evaluate(lambda s, b, h, q, kv: table[b, h][q]), expected)
    assert torch.equal(_evaluate(lambda s, b, h, q, kv: table[b, :][h, ...][q]), expected)


@pytest.mark.clause("L7.5")
def test_index_through_another_capture() -> None:
    pages = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    table = _table(torch.float32, N, H)
    assert torch.equal(*_both(lambda s, b, h, q, kv: table[pages[kv], h] - table[pages[pages[kv]], h]))


# --- captures -------------------------------------------------------------------------------------------------------

_SIZES = (B, H, M, N)


def _strided(dtype: torch.dtype, rank: int, kind: str) -> Tensor:
    size = _SIZES[4 - rank :]
    if rank == 0:
        return _table(dtype, 3)[1] if kind == "offset" else _table(dtype)
    if kind == "permuted":
        return _table(dtype, *reversed(size)).permute(*reversed(range(rank)))
    if kind == "stepped":
        return _table(dtype, *(2 * s for s in size))[tuple(slice(None, None, 2) for _ in size)]
    if kind == "expanded":
        return _table(dtype, *size[:-1], 1).expand(*size)
    if kind == "offset":
        return _table(dtype, size[0] + 3, *size[1:])[3:]
    return _table(dtype, *size)


@pytest.mark.clause("L7.5", "L2.4")
@pytest.mark.parametrize("kind", ["contiguous", "permuted", "stepped", "expanded", "offset"])
@pytest.mark.parametrize("dtype", _DTYPES, ids=str)
def test_captures_of_every_rank_dtype_and_stride(dtype: torch.dtype, kind: str) -> None:
    """Ranks 0 to 4 in one mod, each read by its own indices."""
    t0, t1, t2, t3, t4 = (_strided(dtype, rank, kind) for rank in range(5))

    def values(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        return t0, t1[kv], t2[q, kv], t3[h, q, kv], t4[b, h, q, kv]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        zero, one, two, three, four = (x.to(torch.float32) for x in values(b, h, q, kv))
        return zero + 3.0 * one + 5.0 * two + 7.0 * three + 11.0 * four

    torch.testing.assert_close(*_both(mod), rtol=2**-20, atol=2**-15)


# --- refusals -------------------------------------------------------------------------------------------------------


def _branches(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    if q >= kv:  # this very line must be named
        return score
    return score * 2


def _recursive(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return _recursive(score, b, h, q, kv)


_TABLE2 = torch.zeros(4, 5)
_REFUSED: dict[str, tuple[Mod, str]] = {
    "branch": (_branches, r"test_mods.py:\d+: if q >= kv:"),
    "python index": (lambda s, b, h, q, kv: s + [1, 2][q], "Python index on a tensor"),
    "int()": (lambda s, b, h, q, kv: s + int(q), r"int\(\)"),
    "not all dimensions": (lambda s, b, h, q, kv: s + _TABLE2[h], "one index for each of its dimensions"),
    "too many indices": (lambda s, b, h, q, kv: s + _TABLE2[h, q, kv], "3 indices for `_?TABLE2` of rank 2"),
    "slice": (lambda s, b, h, q, kv: s + _TABLE2[1:, q][h], "slices, None and bools are not supported"),
    "bool index": (lambda s, b, h, q, kv: s + _TABLE2[q > kv, 0], "selects by mask"),
    "float index": (lambda s, b, h, q, kv: s + _TABLE2[h, q * 1.5], "index of float32 is not taken by PyTorch; cast"),
    "int8 index": (lambda s, b, h, q, kv: s + _LINE[q.to(torch.int8)], "index of int8 is not taken by PyTorch; cast"),
    "two results": (lambda s, b, h, q, kv: torch.sort(s), "several tensors"),
    "not a tensor": (lambda s, b, h, q, kv: "score", "returned str"),  # type: ignore[dict-item,return-value]
    "recursion": (_recursive, "recurses without end"),
    "wrong arity": (lambda s, b: s, "positional arguments"),  # type: ignore[misc,dict-item]
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_pointwise_is_refused_while_tracing(name: str) -> None:
    mod, message = _REFUSED[name]
    with pytest.raises(TraceError) as caught:
        trace(mod, "score")
    # The user's line is this table's: only what stands before it can tell.
    said, _, line = str(caught.value).partition(" (at ")
    assert re.search(message, line if name == "branch" else said)


@pytest.mark.clause("L7.7")
def test_mask_must_be_bool() -> None:
    with pytest.raises(TraceError, match="returned float32, not bool"):
        trace(lambda b, h, q, kv: q * 1.0, "mask")


@pytest.mark.clause("L7.7")
def test_unsupported_operation_is_named_with_the_users_line() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.special.bessel_j0(score)

    with pytest.raises(UnsupportedOperation, match=r"aten\.special_bessel_j0.*test_mods\.py:\d+: return torch"):
        lower(Q, K, V, mod)
    assert issubclass(UnsupportedOperation, flexflash.FlexFlashError)


_COMPLEX = torch.zeros(4, dtype=torch.complex64)
_WHOLE = torch.zeros(4, 5, dtype=torch.int32)
_LINE = torch.zeros(5)
_UNWRITABLE: dict[str, tuple[Mod, str]] = {
    "several values": (lambda s, b, h, q, kv: (_TABLE2 * 2)[h, 0], r"gives a tensor of shape \[4, 5\]"),
    "complex": (lambda s, b, h, q, kv: s.to(torch.complex64).abs(), "gives torch.complex64"),
    "complex capture": (lambda s, b, h, q, kv: s + _COMPLEX[h].real, "reads `_?COMPLEX` of torch.complex64"),
    "row as index": (lambda s, b, h, q, kv: _LINE[_WHOLE[h]][kv], "takes `_?WHOLE` with 1 dimensions not indexed"),
    "skipped": (lambda s, b, h, q, kv: torch.ops.aten.index.Tensor(_TABLE2, [None, kv])[h], "skips a dimension"),
    "double erfc": (lambda s, b, h, q, kv: torch.erfc(s.double()), "float64; cast to float32 first"),
    "decimals": (lambda s, b, h, q, kv: s + torch.round(q, decimals=1), "not implemented for 'Int'"),
    "bits of a float": (lambda s, b, h, q, kv: torch.bitwise_xor(s, q), "floating-point numbers"),
    "shift by a float": (lambda s, b, h, q, kv: torch.bitwise_left_shift(q, s), "floating-point numbers"),
    "not of a float": (lambda s, b, h, q, kv: torch.bitwise_not(s), "floating-point numbers"),
    "softplus of an int": (lambda s, b, h, q, kv: s + torch.nn.functional.softplus(q), "whole numbers, as in PyTorch"),
    "decimals of no float": (lambda s, b, h, q, kv: torch.round(s, decimals=400), "400 decimals; no float has more"),
    "vmap": (lambda s, b, h, q, kv: s + torch.vmap(lambda x: x * 2)(_LINE)[h], "a Python number, which torch.vmap"),
    "constant // 0": (lambda s, b, h, q, kv: s + torch.full_like(q, 5) // 0, "PyTorch.*: ZeroDivisionError"),
    "// 0": (lambda s, b, h, q, kv: s + q // 0, "PyTorch.*: ZeroDivisionError"),
    "// of a 0": (lambda s, b, h, q, kv: s + q // torch.tensor(0), "PyTorch.*: ZeroDivisionError"),
    "% 0": (lambda s, b, h, q, kv: s + q % 0, "PyTorch.*: ZeroDivisionError"),
    "fmod 0": (lambda s, b, h, q, kv: s + torch.fmod(q, 0), "PyTorch.*: ZeroDivisionError"),
    "div 0": (lambda s, b, h, q, kv: s + torch.div(q, 0, rounding_mode="trunc"), "PyTorch says: .*ZeroDivisionError"),
    "power -1": (lambda s, b, h, q, kv: s + (h + 1) ** -1, "Integers to negative integer powers are not allowed"),
    "half power": (lambda s, b, h, q, kv: s.half() ** 65520.0, "cannot be converted to type c10::Half"),
    "half clamp": (lambda s, b, h, q, kv: s.half().clamp(max=65520.0), "cannot be converted to type c10::Half"),
    "half fill": (lambda s, b, h, q, kv: s.half().masked_fill(h > 0, 65520.0), "be converted to type c10::Half"),
    "half alpha": (lambda s, b, h, q, kv: torch.add(s.half(), s.half(), alpha=65520.0), "converted to type c10::Half"),
    "hypot of ints": (lambda s, b, h, q, kv: s + torch.hypot(q, kv), "whole numbers, as in PyTorch"),
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", _UNWRITABLE)
def test_what_cannot_be_written_is_refused_while_lowering(name: str) -> None:
    mod, message = _UNWRITABLE[name]
    with pytest.raises(UnsupportedOperation) as caught:
        lower(Q, K, V, mod)
    said, _, line = str(caught.value).partition(" (at ")
    assert re.search(rf"^aten\.\w+\.\w+ in the score_mod .*{message}", said)
    assert re.search(r"test_mods\.py:\d+: ", line)


@pytest.mark.clause("L7.7")
def test_the_largest_and_the_smallest_number_are_taken() -> None:
    assert torch.equal(*_both(lambda s, b, h, q, kv: torch.where(kv < 2**31 - 1, 3.0, 0.0)))
    assert torch.equal(*_both(lambda s, b, h, q, kv: torch.where(kv > -(2**31), 3.0, 0.0)))


@pytest.mark.clause("L7.7")
def test_a_capture_without_values_is_refused() -> None:
    empty = torch.zeros(4, device="meta")
    with pytest.raises(TraceError, match="a capture on the meta device has no values"):
        lower(Q, K, V, lambda s, b, h, q, kv: s + empty[h])


# --- what a mod may be made of besides operations -------------------------------------------------------------------


@pytest.mark.clause("L7.1")
@pytest.mark.parametrize("number", [2.5, -3, True, False])
def test_a_python_number_is_a_score(number: float) -> None:
    graph = trace(lambda s, b, h, q, kv: number, "score")  # type: ignore[arg-type,return-value]
    assert graph.output.meta["val"].dtype is torch.float32
    seen = _evaluate(lambda s, b, h, q, kv: number)  # type: ignore[arg-type,return-value]
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
    assert torch.equal(*_both(lambda s, b, h, q, kv: s + torch.tensor(7) * q + torch.tensor(True) * 5))
    made = trace(lambda s, b, h, q, kv: s + torch.tensor([1.0, 2.0, 3.0, 4.0])[h], "score")
    assert [t.tolist() for t in made.captures] == [[1.0, 2.0, 3.0, 4.0]]
    assert torch.equal(*_both(lambda s, b, h, q, kv: s + torch.tensor([1.0, 2.0, 3.0, 4.0])[h]))


@pytest.mark.clause("L7.1")
def test_views_and_copies_of_the_score_are_the_score() -> None:
    scores = torch.randn(B, H, M, N, generator=torch.Generator().manual_seed(3))
    for mod in (
        lambda s, b, h, q, kv: s.clone(),
        lambda s, b, h, q, kv: s.clone(memory_format=torch.preserve_format) * 1.0,
        lambda s, b, h, q, kv: s.detach()[...] * 1.0,
        lambda s, b, h, q, kv: +s * 1.0,
    ):
        assert torch.equal(_evaluate(mod, scores), scores)


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
    assert torch.equal(_evaluate(mod), (111 * torch.arange(4.0)).view(H, 1, 1).expand(B, H, M, N))


@pytest.mark.clause("L7.1", "L7.5")
def test_a_captured_scalar_is_a_score() -> None:
    """Whatever it is called: only the score itself is the score."""
    tau = torch.tensor(2.5)
    assert not trace(lambda s, b, h, q, kv: tau, "score").is_identity
    seen = _evaluate(lambda s, b, h, q, kv: tau)
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
