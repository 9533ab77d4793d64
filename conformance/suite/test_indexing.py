"""L2 and L3: linear indices, against CuTe itself, and the scope of the colexicographic indexer."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import sympy
import torch
from cutlass.cute.runtime import from_dlpack

import flexflash
from flexconf.language import layouts
from flexflash import kernel, template
from flexflash.errors import InputError
from flexflash.indexing import (
    FixedLayout,
    Identity,
    fixed_indexer,
    fixed_indexer_cute,
    patch_fixed_layout_indexer_for_cutedsl,
)
from flexflash.launch.host import HostLauncher
from flexflash.launch.simt import SimtLauncher
from plain import qkv
from planted import corrections


def _layout(*size: int, offset: int = 0) -> FixedLayout:
    return FixedLayout(torch.device("cpu"), torch.float32, size, tuple([1] * len(size)), offset)


def _value(expression: sympy.Expr) -> int:
    return int(expression.replace(Identity, lambda x: x))


def _is_colexicographic() -> bool:
    return _value(_layout(4, 8).make_indexer()([sympy.Integer(1), sympy.Integer(1)])) == 5


@pytest.mark.clause("L2.1")
@pytest.mark.parametrize(("size", "stride", "offset"), [((4, 8), (8, 1), 0), ((3, 5, 7), (1, 3, 15), 11), ((), (), 2)])
def test_default_index_is_lexicographic(size: Sequence[int], stride: Sequence[int], offset: int) -> None:
    indexer = fixed_indexer(size, stride, offset)
    for index in itertools.product(*(range(s) for s in size)):
        expected = offset + sum(i * s for i, s in zip(index, stride, strict=True))
        assert _value(indexer([sympy.Integer(i) for i in index])) == expected


@pytest.mark.clause("L2.1")
def test_default_strides_are_contiguous() -> None:
    i, j, k = sympy.symbols("i j k")
    assert sympy.expand(fixed_indexer((2, 3, 5))([i, j, k]) - (15 * i + 5 * j + k)) == 0


@pytest.mark.clause("L2.2", "L2.5")
def test_cute_index_is_colexicographic() -> None:
    b, q = sympy.symbols("b q")
    assert fixed_indexer_cute((4, 128))([b, q]) == b + 4 * Identity(q)


@pytest.mark.clause("L2.2")
def test_cute_index_ignores_strides_and_no_index_is_zero() -> None:
    i, j = sympy.symbols("i j")
    assert fixed_indexer_cute((4, 8), (1, 4))([i, j]) == fixed_indexer_cute((4, 8), (8, 1))([i, j])
    assert fixed_indexer_cute(())([]) == 0


@pytest.mark.clause("L2.2")
@pytest.mark.parametrize("indexer", [fixed_indexer((4, 8)), fixed_indexer_cute((4, 8))])
def test_rank_mismatch_is_an_error(indexer: object) -> None:
    with pytest.raises(InputError, match="1 indices for a tensor of rank 2"):
        indexer([sympy.Integer(0)])  # type: ignore[operator]


@pytest.mark.clause("L2.3")
def test_later_indices_are_inert() -> None:
    b, q = sympy.symbols("b q")
    expression = fixed_indexer_cute((4, 128))([b, q - b // 2 + b // 2])
    assert expression.atoms(Identity) == {Identity(q)}
    # 4*(q - b) must not be multiplied out and merged with b: CuTe has to see the sum as it was built.
    kept = sympy.expand(fixed_indexer_cute((4, 128))([b, q - b]))
    assert kept == b + 4 * Identity(q - b)


@cute.jit
def _read_linear(out: cute.Tensor, source: cute.Tensor) -> None:
    for i in cutlass.range(cute.size(out)):
        out[i] = source[i]


def _views() -> dict[str, torch.Tensor]:
    base = torch.arange(4 * 6 * 10, dtype=torch.float32)
    cube = base.view(4, 6, 10)
    return {
        "contiguous": cube,
        "transposed": cube.transpose(0, 2),
        "permuted": cube.permute(1, 2, 0),
        "sliced": cube[1:, 2:5, 3:],
        "stepped": cube[::2, ::3, ::5],
        "expanded": base[:10].expand(3, 10),
        "expanded inside": base[:4].view(4, 1).expand(4, 5),
        "size one": cube[:, :1, :],
        "offset": base[7:19].view(3, 4),
        "rank 4": base.view(2, 3, 4, 10).permute(3, 1, 0, 2),
        "rank 1": base[::7],
    }


@pytest.mark.clause("L2.4", "L2.6")
@pytest.mark.parametrize("name", _views())
def test_cute_reads_a_linear_index_as_we_write_it(name: str) -> None:
    view = _views()[name]
    flat = torch.empty(view.numel())
    _read_linear(from_dlpack(flat), from_dlpack(view))
    indexer = fixed_indexer_cute(tuple(view.shape), tuple(view.stride()))
    for index in itertools.product(*(range(s) for s in view.shape)):
        assert flat[_value(indexer([sympy.Integer(i) for i in index]))] == view[index]


@pytest.mark.clause("L2.4")
def test_cute_reads_rank_zero_at_index_zero() -> None:
    out, scalar = torch.empty(1), torch.tensor(2.5)
    _read_linear(from_dlpack(out), from_dlpack(scalar))
    assert out.item() == 2.5


@pytest.mark.clause("L2.5")
def test_switch_indexer_docstring() -> None:
    b, q = sympy.symbols("b q")
    with corrections.reverted("indexer-docstring"):
        assert fixed_indexer_cute((4, 128))([b, q]) == b + 2 * Identity(q)
    assert fixed_indexer_cute((4, 128))([b, q]) == b + 4 * Identity(q)


@pytest.mark.clause("L2.6")
def test_layout_offset_is_refused() -> None:
    for offset in (3, -3):
        with pytest.raises(InputError, match=f"offset {offset}"):
            fixed_indexer_cute((4, 8), offset=offset)([sympy.Integer(0), sympy.Integer(0)])


@pytest.mark.clause("L2.6")
def test_captured_view_with_storage_offset_works() -> None:
    storage = torch.full((100,), float("nan"))
    storage[37:41] = torch.arange(4.0)
    table = storage[37:41]
    q = torch.randn(1, 4, 8, 16).bfloat16()
    _, lse = flexflash.flex_flash_attention(q, q, q, lambda s, b, h, m, n: s * 0 + table[h])
    assert torch.allclose(lse[0, :, 0], torch.arange(4.0) + torch.tensor(8.0).log())


@pytest.mark.clause("L2.7")
def test_sizes_may_be_symbols() -> None:
    s0, s1 = sympy.symbols("s0 s1", integer=True, positive=True)
    i, j, k = sympy.symbols("i j k", integer=True)
    expected = i + s0 * Identity(j) + s0 * s1 * Identity(k)
    assert sympy.expand(fixed_indexer_cute((s0, s1, 7))([i, j, k]) - expected) == 0
    assert sympy.expand(fixed_indexer((7, s0, s1))([i, j, k]) - (s0 * s1 * i + s1 * j + k)) == 0


@pytest.mark.clause("L2.8")
def test_index_beyond_32_bits_reads_the_right_element() -> None:
    # 2^33 logical elements over 4 real ones: the linear index of [h, kv] is h + 4 * (kv * 2^28) ...
    table = torch.arange(8.0).view(4, 2).as_strided((2**31 - 5, 4), (0, 2))
    q = torch.randn(1, 4, 4, 16).bfloat16()
    mod = lambda s, b, h, m, n: s * 0 + table[m + 2000000000, h]  # noqa: E731
    rendered = flexflash.lower(q, q, q, mod).text
    assert "cutlass.Int64(2147483643)" in rendered
    _, lse = flexflash.flex_flash_attention(q, q, q, mod)
    assert torch.allclose(lse[0, :, 0], torch.arange(0.0, 8.0, 2.0) + torch.tensor(4.0).log())


_APART = [
    ((3, 1), (2**30, 1)),
    ((3,), (2**30,)),
    ((2,), (2**31,)),
    ((2, 3), (1, 2**30)),
    ((2, 2, 3), (2**30 + 7, 2**29 + 3, 2**28)),
    ((2, 2, 2, 3), (2**30, 3, 2**30 + 7, 1)),
    ((2, 5), (2**31 + 5, 0)),
]


@pytest.mark.clause("L2.8")
def test_what_a_layout_reaches_is_its_span_or_its_elements() -> None:
    def reaches(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
        return FixedLayout(torch.device("cpu"), torch.int8, size, stride).reaches(2**31 - 1)

    assert all(reaches(size, stride) for size, stride in _APART)
    assert not reaches((3, 1), (2**30 - 1, 1)), "the last element is the one at 2^31 - 2"
    assert not reaches((2, 1), (2**31 - 1, 2**40)), "a dimension of size 1 reaches nothing"
    assert reaches((2**16, 2**16), (0, 0)), "the linear index counts expanded elements"
    symbol = sympy.Symbol("s0", integer=True, positive=True)
    assert not FixedLayout(torch.device("cpu"), torch.int8, (symbol,), (symbol,)).reaches(2**31 - 1)


@pytest.mark.clause("L2.8", "L7.4")
@pytest.mark.parametrize(
    ("size", "stride", "dtype"),
    [(*apart, dtype) for apart, dtype in zip(_APART, itertools.cycle((torch.int8, torch.bfloat16, torch.float64)))],
)
def test_a_view_whose_elements_lie_far_apart_is_read(
    size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Few elements, but a span of more than 2^31: the offset, not the number of elements, needs 64 bits."""
    where = layouts.strided(size, stride)
    stored = (torch.arange(1, 1 + math.prod(where.stored_shape)).view(where.stored_shape)).to(dtype)
    far = layouts.place(stored, where, "cpu")
    expected = far.reshape(-1).float()
    q = torch.randn(1, 1, 4, 16).bfloat16()

    def mod(along: int, index_dtype: torch.dtype, negative: bool) -> Any:
        def read(s: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
            linear, index = (where[along] % far.numel()).to(index_dtype), []
            for extent in reversed(size):
                index.append(linear % extent - (extent if negative else 0))
                linear = linear // extent
            return s * 0 + far[tuple(reversed(index))]

        return read

    for along, index_dtype, negative in ((3, torch.int32, False), (3, torch.int64, True), (2, torch.int32, True)):
        rendered = flexflash.lower(q, q, q, mod(along, index_dtype, negative))
        taken = expected[torch.arange(4) % far.numel()]
        for width in (1, 4):
            scores = HostLauncher(width).evaluate(rendered, torch.zeros(1, 1, 4, 4))[0, 0]
            assert torch.equal(scores if along == 3 else scores.T, taken.expand(4, 4)), (along, index_dtype, width)


@pytest.mark.clause("L2.8")
@pytest.mark.parametrize("which", "qkv")
@pytest.mark.parametrize("launcher", [HostLauncher, SimtLauncher])
def test_queries_keys_and_values_may_lie_far_apart(which: str, launcher: Callable[[], Any]) -> None:
    tensors = dict(zip("qkv", qkv(2, 2, 2, 3, 3, 16), strict=True))
    expected = flexflash.flex_flash_attention(*tensors.values(), lambda s, *_: s * 2.0)
    for stride in ((2**31, 2**12, 64, 1), (2**20, 2**12, 2**30 + 1, 1), (1, 2**12, 64, 2**27 + 7)):
        far = layouts.place(tensors[which], layouts.strided((2, 2, 3, 16), stride), "cpu")
        given = {**tensors, which: far}
        result = flexflash.flex_flash_attention(*given.values(), lambda s, *_: s * 2.0, launcher=launcher())
        torch.testing.assert_close(result[0], expected[0], rtol=2**-6, atol=2**-6)
        torch.testing.assert_close(result[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.clause("L3.1")
def test_scope_is_the_render_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bool] = {}
    real_trace, real_layout, real_render = kernel.trace, kernel._layout, template.render

    def traced(*args: object) -> object:
        seen["while tracing"] = _is_colexicographic()
        return real_trace(*args)  # type: ignore[arg-type]

    def layout(tensor: torch.Tensor) -> FixedLayout:
        seen["while generating"] = _is_colexicographic()
        return real_layout(tensor)

    def render(**keywords: object) -> str:
        seen["while rendering"] = _is_colexicographic()
        return real_render(**keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "trace", traced)
    monkeypatch.setattr(kernel, "_layout", layout)
    monkeypatch.setattr(template, "render", render)
    table = torch.arange(8.0).view(2, 4)
    q = torch.randn(1, 2, 4, 16).bfloat16()
    flexflash.lower(q, q, q, lambda s, b, h, m, n: s + table[h, m])
    assert seen == {"while tracing": False, "while generating": True, "while rendering": True}
    assert not _is_colexicographic()


@pytest.mark.clause("L3.2")
def test_scope_ends_when_rendering_raises() -> None:
    with pytest.raises(ZeroDivisionError), patch_fixed_layout_indexer_for_cutedsl():
        assert _is_colexicographic()
        raise ZeroDivisionError
    assert not _is_colexicographic()
    q = torch.randn(1, 2, 4, 16).bfloat16()
    with pytest.raises(flexflash.UnsupportedOperation):
        flexflash.lower(q, q, q, lambda s, b, h, m, n: torch.special.i0(s))
    assert not _is_colexicographic()


@pytest.mark.clause("L3.2")
def test_nested_scopes_unwind_in_order() -> None:
    with patch_fixed_layout_indexer_for_cutedsl():
        with patch_fixed_layout_indexer_for_cutedsl():
            assert _is_colexicographic()
        assert _is_colexicographic(), "the outer scope is still open"
    assert not _is_colexicographic()


def _seen_by_another_thread() -> bool:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(_is_colexicographic()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.clause("L3.3")
def test_another_thread_is_unaffected() -> None:
    with patch_fixed_layout_indexer_for_cutedsl():
        assert _is_colexicographic()
        assert not _seen_by_another_thread()


@pytest.mark.clause("L3.3")
def test_switch_indexer_scope() -> None:
    with corrections.reverted("indexer-scope"), patch_fixed_layout_indexer_for_cutedsl():
        assert _seen_by_another_thread(), "the source's defect: the whole process sees the swap"
    assert not _seen_by_another_thread()


@pytest.mark.clause("L2.4", "L6.5")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_strided_captures_read_through_a_kernel(width: int) -> None:
    """Every view of L2.4 as a capture, read by computed indices, summed up as an exact integer score."""
    chooser = random.Random(width)
    q = torch.randn(1, 2, 9, 16).bfloat16()
    for name, view in _views().items():
        factors = [chooser.randrange(1, 5) for _ in view.shape]

        def mod(
            s: torch.Tensor, b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor,
            view: torch.Tensor = view, factors: list[int] = factors,
        ) -> torch.Tensor:  # fmt: skip
            index = tuple((m * f + n) % size for f, size in zip(factors, view.shape, strict=True))
            return s * 0 + view[index]

        launcher = HostLauncher(width)
        rendered = flexflash.lower(q, q, q, mod)
        scores = launcher.evaluate(rendered, torch.zeros(1, 2, 9, 9))
        m, n = torch.arange(9).view(9, 1), torch.arange(9).view(1, 9)
        expected = view[tuple((m * f + n) % size for f, size in zip(factors, view.shape, strict=True))]
        assert torch.equal(scores, expected.expand(1, 2, 9, 9)), name
