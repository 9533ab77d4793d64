"""Inputs: the same bytes everywhere, guarded storage, the layouts as named, the block masks as told."""

from __future__ import annotations

import hashlib
import math
import resource

import numpy as np
import pytest
import torch

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.language import distributions, layouts
from flexconf.language.modtext import DTYPES

SYMBOLS = Problem().symbols()
SMALL = Problem(B=2, H=2, Hkv=2, M=6, N=7, D=8, Dv=16)


def draw(spec: str, *shape: int, dtype: str = "float32") -> distributions.Array:
    return distributions.draw(spec, shape, 7, "t", SYMBOLS, dtype)


PINNED = {
    "normal": ("float32", "94226daee5c714c5"),
    "uniform(-1, 3)": ("float16", "b3931305332d76ae"),
    "integers(-5, 5)": ("int8", "59bddc2a6a6d1a78"),
    "bits": ("int64", "f1e722c73d638f01"),
    "bool(0.3)": ("bool", "379a539cb805e20e"),
    "permutation": ("int32", "809bec829f6c9968"),
    "documents(4)": ("int32", "bc9ddfc417bd15e5"),
    "sprinkle(-inf, 0.2)": ("bfloat16", "7566335062d8812f"),
    "alibi_slopes": ("float64", "1d5446d55e7a1abc"),
    "linspace(0, 1)": ("float32", "a592321e948f01c7"),
}


def test_bytes_are_pinned() -> None:
    """Equal case, equal bytes, on any platform and version. A change here invalidates every golden."""
    found = {
        spec: inputs.digest(layouts.encode(draw(spec, 4, 12, dtype=dtype), dtype, spec))[:16]
        for spec, (dtype, _) in PINNED.items()
    }
    assert found == {spec: digest for spec, (_, digest) in PINNED.items()}


def test_tensors_of_a_case_are_pinned() -> None:
    (case,) = catalogue.select(catalogue.load(), ["alibi"])
    digests = inputs.materialize(case).digests
    assert {name: digest[:16] for name, digest in digests.items()} == {
        "q": "52f9c20928286d37",
        "k": "4f2281f20def4bd5",
        "v": "02017950e515b1bf",
        "capture:slopes": "6aa6bea92a20f912",
    }


def test_streams_are_independent() -> None:
    assert (distributions.words(1, "q", 8) != distributions.words(1, "k", 8)).all()
    assert (distributions.words(1, "q", 8) != distributions.words(2, "q", 8)).all()
    assert (distributions.words(1, "q", 8) == distributions.words(1, "q", 16)[:8]).all()


def test_moments() -> None:
    normal = draw("normal", 100_000)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert abs(normal).max() < 3.4642
    uniform = draw("uniform(2, 4)", 100_000)
    assert uniform.min() >= 2 and uniform.max() < 4 and abs(uniform.mean() - 3) < 0.01
    integers = draw("integers(-3, 3)", 100_000)
    assert np.bincount(integers + 3).min() > 16_000
    assert abs(draw("bool(0.25)", 100_000).mean() - 0.25) < 0.01
    assert abs(np.isnan(draw("sprinkle(nan, 0.1)", 100_000)).mean() - 0.1) < 0.01


def test_vocabulary() -> None:
    assert draw("arange(3, 2)", 4).tolist() == [3, 5, 7, 9]
    assert draw("linspace(0, 1)", 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert draw("steps(3)", 7).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert draw("constant(2 * H)", 2).tolist() == [4, 4]
    assert draw("list(1, -2, inf)", 3).tolist() == [1, -2, math.inf]
    assert sorted(draw("permutation", 2, 50)[1].tolist()) == list(range(50))
    assert draw("distance", 3, 3).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    documents = draw("documents(4)", 3, 30)
    assert (np.diff(documents) >= 0).all() and documents[:, 0].max() == 0 and documents[:, -1].min() == 3
    tree = draw("ancestors(2)", 7, 7)
    assert [np.flatnonzero(row).tolist() for row in tree] == [
        [0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 2, 5], [0, 2, 6],
    ]  # fmt: skip
    bits = draw("bits", 1000, dtype="int8")
    assert bits.min() == -128 and bits.max() == 127


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 32, 40])
def test_alibi_slopes(heads: int) -> None:
    """Against the formula of the paper's code, which needs powers that are not exactly rounded."""
    power = 2 ** math.floor(math.log2(heads))
    expected = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    expected += [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    assert draw("alibi_slopes", heads).tolist() == pytest.approx(expected[:heads], rel=1e-15)


@pytest.mark.parametrize("spec", list(distributions.KINDS))
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (), (3, 4)])
def test_empty_and_scalar_shapes(spec: str, shape: tuple[int, ...]) -> None:
    arguments = {"uniform": "(0, 1)", "integers": "(0, 5)", "linspace": "(0, 1)", "sprinkle": "(nan, 0.1)"}
    arguments |= dict.fromkeys(("constant", "steps", "documents", "ancestors"), "(2)") | {"bool": "(0.5)"}
    arguments["list"] = f"({', '.join('1' * math.prod(shape))})"
    if spec in ("ancestors", "distance") and len(shape) < 2:
        with pytest.raises(InputError):
            draw(spec + arguments.get(spec, ""), *shape)
        return
    assert draw(spec + arguments.get(spec, ""), *shape, dtype="int8").shape == shape


@pytest.mark.parametrize(
    ("spec", "dtype", "hint"),
    [
        ("integers(0, 300)", "int8", "do not fit int8"),
        ("integers(-1, 3)", "uint8", "do not fit uint8"),
        ("normal", "int32", "not integers"),
        ("bits", "float32", "suit integers"),
        ("integers(3, 3)", "int32", "lo < hi"),
        ("list(1, 2)", "int32", "3 numbers are needed"),
    ],
)
def test_values_that_do_not_suit(spec: str, dtype: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        layouts.encode(draw(spec, 3, dtype=dtype), dtype, spec)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounding_is_to_nearest_even(dtype: str) -> None:
    """Against torch, on values around ties, subnormals and the range's ends."""
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].astype(np.float64)
    ties = [
        1 + 2.0**-8,
        1 + 3 * 2.0**-8,
        65519.99,
        65520.0,
        3.4e38,
        -3.4e38,
        1e-40,
        math.nan,
        math.inf,
        -math.inf,
    ]
    exact = np.concatenate([halves, halves * (1 + 2.0**-9), halves * (1 + 2.0**-12), np.array(ties)])
    through = exact.astype(np.float32) if dtype == "bfloat16" else exact
    mine = layouts.encode(exact, dtype, "x")
    theirs = torch.from_numpy(through).to(getattr(torch, dtype))
    assert torch.equal(torch.nan_to_num(mine, 7.0), torch.nan_to_num(theirs, 7.0))


LAYOUTS = {
    "contiguous": (20, 5, 1),
    "transposed": (20, 1, 4),
    "permuted": (1, 3, 12),
    "permuted(1, 0, 2)": (5, 15, 1),
    "stepped": (40, 10, 2),
    "stepped(3)": (60, 15, 3),
    "padded": (32, 8, 1),
    "expanded": (0, 5, 1),
    "expanded(1, 2)": (1, 0, 0),
    "offset": (20, 5, 1),
    "strided(60, 1, 12)": (60, 1, 12),
    "strided(0, 1, 7)": (0, 1, 7),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_guards(layout: str, dtype: str) -> None:
    """L2.4, L2.6 and L7.5: strides as named, values as drawn, every other element of the storage a guard."""
    shape = (3, 4, 5)
    where = layouts.placement(layouts.parse(layout), shape)
    values = draw("integers(0, 2)", *where.stored_shape)
    stored = layouts.encode(values, dtype, "x")
    view = layouts.place(stored, where, "cpu")
    assert view.stride() == LAYOUTS[layout]
    assert torch.equal(view, stored.expand(shape))
    assert view.storage_offset() >= 60 and (view.storage_offset() % 64 != 0) == (layout == "offset")

    storage = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
    inside = torch.zeros(storage.numel(), dtype=torch.bool)
    inside.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(True)
    assert inside.sum() == math.prod(where.stored_shape)
    assert not inside[:60].any() and not inside[-60:].any()
    # A negative index that is not counted from the end reads a guard.
    assert view.storage_offset() >= sum(n * stride for n, stride in zip(shape, view.stride(), strict=True))
    guards = storage[~inside]
    if view.dtype.is_floating_point:
        assert guards.isnan().all()
    elif dtype != "bool":
        limits = torch.iinfo(view.dtype)
        assert (guards == (limits.min if limits.min else limits.max)).all()
    else:
        between = (~inside[1:] & inside[:-1]).nonzero().squeeze(1)
        assert (storage[between] != storage[between + 1]).all()


@pytest.mark.clause("L2.8")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("strides", "shape"), [("1073741824, 1", (3, 2)), ("2, 2147483648", (3, 2)), ("2147483653, 0", (2, 2))]
)
def test_a_view_that_spans_more_than_memory_holds_is_placed(strides: str, shape: tuple[int, int], dtype: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where = layouts.placement(layouts.parse(f"strided({strides})"), shape)
    stored = layouts.encode(draw("integers(0, 2)", *where.stored_shape), dtype, "x")
    view = layouts.place(stored, where, "cpu")
    assert view.stride() == tuple(int(n) for n in strides.split(", "))
    assert torch.equal(view, stored.expand(view.shape))
    assert inputs.digest(view) == inputs.digest(stored.expand(view.shape).clone())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17, "kilobytes: pages are not touched"

    storage = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
    assert storage.numel() == where.size > 2**32
    far = where.offset + (view.shape[0] - 1) * view.stride(0) + (view.shape[1] - 1) * view.stride(1)
    for place in (where.offset - 1, far + 1, far - 2**32):
        guard, element = storage[place], storage[far if place != where.offset - 1 else where.offset]
        if dtype == "bool":
            assert guard != element
        elif view.dtype.is_floating_point:
            assert guard.isnan()
        else:
            assert guard == (torch.iinfo(view.dtype).min or torch.iinfo(view.dtype).max)


@pytest.mark.parametrize(
    ("layout", "hint"),
    [
        ("strided", "a stride below 2\\^32 for each dimension"),
        ("strided(4294967296, 1)", "a stride below 2\\^32"),
        ("strided(1)", "1 strides for 2 dimensions"),
        ("strided(1, 1)", r"elements of \(3, 2\) would overlap"),
        ("strided(2147483648, 1)", "spans 4,294,967,297 elements"),
    ],
)
def test_strides_that_do_not_suit(layout: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        layouts.placement(layouts.parse(layout), (3, 2))
    with pytest.raises(InputError, match="holds 400,000 elements"):
        layouts.strided((400_000,), (2,))


def test_shared_storage() -> None:
    captures = [Capture.parse(spec) for spec in (
        "a=H,N:float32", "same=H,N:float32:normal:view_of(a)", "turned=N,H:float32:normal:transpose_of(a)",
        "last=N:float32:normal:last_of(a)",
    )]  # fmt: skip
    text = "score + a[h, kv] + same[h, kv] + turned[kv, h] + last[kv]"
    given = inputs.materialize(Case("c", score_mod=text, captures=tuple(captures), problem=SMALL)).captures
    assert len({tensor.untyped_storage().data_ptr() for tensor in given.values()}) == 1
    assert torch.equal(given["turned"], given["a"].T) and torch.equal(given["last"], given["a"][-1])
    assert given["same"] is not given["a"]
    wrong = Capture.parse("same=N,H:float32:normal:view_of(a)")
    with pytest.raises(InputError, match=r"view_of\(a\) is float32 of shape \(2, 7\)"):
        inputs.materialize(
            Case("c", score_mod="score + a[h, kv] + same[kv, h]", captures=(captures[0], wrong), problem=SMALL)
        )


STRIDES = {  # of k (2, 2, 7, 8)
    "contiguous": (112, 56, 8, 1),
    "bmhd": (112, 8, 16, 1),
    "packed_kv": (224, 8, 32, 1),
    "packed_qkv": (336, 8, 48, 1),
    "expanded_heads": (56, 0, 8, 1),
    "expanded_batch": (0, 8, 16, 1),
    "padded": (224, 112, 16, 1),
    "offset": (112, 56, 8, 1),
}


@pytest.mark.parametrize("layout", STRIDES)
def test_layouts_of_q_k_and_v(layout: str) -> None:
    """L9.1's ground: the strides are as named, and the layout does not change q."""
    problem = Problem(B=2, H=2, Hkv=2, M=7, N=7, D=8, Dv=8, layout=layout)
    given = inputs.materialize(Case("c", problem=problem))
    assert given.k.shape == (2, 2, 7, 8)
    assert given.k.stride() == STRIDES[layout]
    plain = inputs.materialize(Case("c", problem=Problem(B=2, H=2, Hkv=2, M=7, N=7, D=8, Dv=8)))
    assert torch.equal(given.q, plain.q)
    if not layout.startswith("expanded"):
        assert given.digests == plain.digests
    assert all(torch.isfinite(tensor).all() for tensor in (given.q, given.k, given.v))
    storage = torch.empty(0, dtype=given.k.dtype).set_(given.k.untyped_storage())
    assert storage[: given.k.storage_offset() // 2].isnan().any()
    together = given.q.untyped_storage().data_ptr() == given.k.untyped_storage().data_ptr()
    assert together == (layout == "packed_qkv")


@pytest.mark.parametrize(
    ("qkv", "largest"), [("normal", 3.5), ("large", 10.5), ("tiny", 0.0035), ("constant", 1), ("zeros", 0)]
)
def test_distributions_of_q(qkv: str, largest: float) -> None:
    given = inputs.materialize(Case("c", problem=Problem(qkv=qkv)))
    assert 0.8 * largest <= given.q.abs().max().item() <= largest


def test_block_mask_from_mask() -> None:
    """L8.4: full, partial and absent blocks, on lengths that are no multiples of the block."""
    case = Case("c", mask_mod="q >= kv + 130", problem=Problem(M=300, N=200))
    mask = inputs.materialize(case).block_mask
    assert mask is not None and mask.full_kv_num_blocks is not None
    assert mask.BLOCK_SIZE == (128, 128)
    assert mask.seq_lengths == (300, 200)
    assert mask.kv_num_blocks.tolist() == [[[0, 1, 2]] * 2]
    assert mask.full_kv_num_blocks.tolist() == [[[0, 0, 0]] * 2]
    broadcast = inputs.materialize(case.replace(block=BlockSpec(q=64, kv=32, broadcast=True))).block_mask
    assert broadcast is not None
    assert broadcast.kv_indices.shape == (1, 1, 5, 7)
    assert inputs.materialize(case.replace(block=BlockSpec(kind="none"))).block_mask is None


@pytest.mark.parametrize("problem", [Problem(M=0), Problem(N=0), Problem(B=0)])
def test_empty_problems_have_no_block_mask(problem: Problem) -> None:
    """L9.4."""
    given = inputs.materialize(Case("c", mask_mod="q >= kv", problem=problem))
    assert given.block_mask is None
    assert given.mask_mod is not None


def test_lists() -> None:
    """L8.4: lists by hand; the places behind a list's end name the blocks that are not in it."""
    block = BlockSpec(kind="lists", partial=((2, 0), ()), full=((1,), (2,)))
    mask = inputs.materialize(Case("c", problem=Problem(M=200, N=300), block=block)).block_mask
    assert mask is not None and mask.full_kv_indices is not None
    assert mask.kv_num_blocks.tolist() == [[[2, 0]]]
    assert mask.kv_indices.tolist() == [[[[2, 0, 1], [0, 1, 2]]]]
    assert mask.full_kv_indices.tolist() == [[[[1, 0, 2], [2, 0, 1]]]]
    assert mask.seq_lengths == (200, 300)


@pytest.mark.parametrize(
    ("lists", "hint"),
    [
        (((0,),), "must list 2 rows"),
        (((0, 3), ()), "each of 0 to 2"),
        (((0, 0), ()), "each of 0 to 2"),
        ((0, 1), "neither"),
        (((((0,), ()),), (((0,), ()),), (((0,), ()),)), "other batches and heads"),
    ],
)
def test_lists_that_are_refused(lists: tuple[object, ...], hint: str) -> None:
    case = Case("c", problem=Problem(M=200, N=300), block=BlockSpec(kind="lists", partial=lists))
    with pytest.raises(InputError, match=hint):
        inputs.materialize(case)


def test_wrong_mods_are_refused_before_anything_runs() -> None:
    case = Case("c", mask_mod="q - kv", problem=SMALL)
    with pytest.raises(InputError, match=r"case 'c': mask_mod: .*a mask is bool"):
        inputs.materialize(case)


def test_requires_grad_reaches_the_mod() -> None:
    """L4.2's ground."""
    case = Case("c", score_mod="score + g[h]", captures=(Capture.parse("g=H:float32:::requires_grad"),), problem=SMALL)
    assert inputs.materialize(case).captures["g"].requires_grad


def test_digest_is_of_the_elements() -> None:
    table = torch.arange(6.0).reshape(2, 3)
    assert inputs.digest(table) == inputs.digest(table.T.contiguous().T)
    assert inputs.digest(table) != inputs.digest(table.reshape(3, 2))
    assert inputs.digest(table) == hashlib.sha256(b"float32(2, 3)" + table.numpy().tobytes()).hexdigest()
    assert inputs.digest(torch.empty(0, 3, dtype=torch.bool)) == hashlib.sha256(b"bool(0, 3)").hexdigest()


def test_every_case_materializes() -> None:
    """Within the time that a test may take; each with the shapes that its problem says."""
    for case in catalogue.load():
        given = inputs.materialize(case)
        p = case.problem
        assert given.q.shape == (p.B, p.H, p.M, p.D)
        assert given.k.shape == (p.B, p.Hkv, p.N, p.D)
        assert given.v.shape == (p.B, p.Hkv, p.N, p.Dv)
        assert list(given.captures) == [capture.name for capture in case.captures]
        if case.mask_mod is not None and case.block.kind != "none":
            assert (given.block_mask is None) == (0 in (p.B, p.M, p.N))


def test_one_element_has_a_digest_whatever_its_stride() -> None:
    plain = torch.full((1,), 7, dtype=torch.int32)
    for stride in (0, 2, 5):
        odd = torch.full((8,), 7, dtype=torch.int32).as_strided((1,), (stride,))
        assert inputs.digest(odd) == inputs.digest(plain)


def test_rows_of_blocks_may_all_be_empty() -> None:
    block = BlockSpec(kind="lists", partial=((0,),), full=((),))
    case = Case("rows", mask_mod="q >= kv", problem=Problem(B=2, H=2, Hkv=2, M=16, N=16), block=block)
    made = inputs.materialize(case).block_mask
    assert made is not None and made.full_kv_num_blocks is not None
    assert int(made.full_kv_num_blocks.sum()) == 0 and made.kv_num_blocks.shape == (1, 1, 1)
