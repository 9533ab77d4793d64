"""L5: from tensors and mods to one kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.cases import catalogue
from flexconf.subjects import trial
from flexflash import (
    BlockMaskUnsupported,
    InputError,
    ModGraph,
    RenderedKernel,
    codegen,
    flex_flash_attention,
    lower,
    template,
)
from flexflash.eligibility import HOST, SOURCE, Profile
from flexflash.indexing import FixedLayout, infer_dense_strides
from flexflash.launch.fa4 import Fa4Launcher
from flexflash.launch.host import HostLauncher, Tiles
from flexflash.launch.simt import SimtLauncher
from flexflash.ops import Value
from plain import qkv


def _causal(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    return q >= kv


def _mask(queries: int, keys: int, heads: int | None = None) -> BlockMask:
    return create_block_mask(_causal, None, heads, queries, keys, device="cpu")


@pytest.mark.clause("L5.1")
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (1, 0, 2, 3)])
def test_output_lies_in_memory_like_the_query(order: tuple[int, ...]) -> None:
    sizes = (2, 4, 8, 32)
    stored = torch.randn(*(sizes[d] for d in order)).half()
    q = stored.permute(*(order.index(d) for d in range(4)))
    assert q.shape == sizes
    k = torch.randn(2, 2, 9, 32).half()
    v = torch.randn(2, 2, 9, 64).half()
    out, lse = flex_flash_attention(q, k, v)
    assert (out.shape, out.dtype) == ((2, 4, 8, 64), torch.float16)
    assert out.permute(*order).is_contiguous(), "dense, dimensions in the query's order"
    assert (lse.shape, lse.dtype, lse.is_contiguous()) == ((2, 4, 8), torch.float32, True)


@pytest.mark.clause("L5.1")
def test_dense_strides_of_a_padded_query() -> None:
    assert infer_dense_strides((2, 4, 8, 64), (4096, 32, 1024, 1)) == (2048, 64, 256, 1)
    assert infer_dense_strides((2, 4, 8, 64), (2048, 512, 64, 1)) == (2048, 512, 64, 1)


@pytest.mark.clause("L5.1")
def test_a_dimension_of_size_one_is_placed_by_its_stride() -> None:
    assert infer_dense_strides((2, 1, 3), (3, 100, 1)) == (3, 6, 1)
    assert infer_dense_strides((2, 1, 3), (3, 1, 1)) == (3, 3, 1), "a tie: the later dimension is the inner one"
    assert "(3, 6, 1)" in (infer_dense_strides.__doc__ or "")


@pytest.mark.clause("L5.2")
def test_inputs_without_and_with_block_lists() -> None:
    q, k, v = qkv(1, 2, 2, 130, 130)
    plain = lower(q, k, v)
    out, lse = plain.allocate()
    assert list(plain.arguments(q, k, v, out, lse)) == ["Q", "K", "V", "OUT", "LSE"]
    masked = lower(q, k, v, None, _mask(130, 130))
    lists = ["KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX"]
    assert list(masked.arguments(q, k, v, out, lse)) == ["Q", "K", "V", "OUT", "LSE", *lists]
    assert f"flex_flash_attention(launcher, Q, K, V, OUT, LSE, {', '.join(lists)})" in masked.text
    assert "block_size=(128, 128)" in masked.text


@pytest.mark.clause("L5.2")
def test_trivial_mask_needs_no_lists() -> None:
    q, k, v = qkv(1, 2, 2, 130, 130)
    everything = create_block_mask(
        lambda b, h, m, n: m.new_ones((), dtype=torch.bool), None, None, 130, 130, device="cpu"
    )
    assert lower(q, k, v, None, everything).block_lists == ()


def _partial_only(width: int = 2) -> BlockMask:
    mask = _mask(130, 130)
    indices = torch.nn.functional.pad(mask.kv_indices, (0, 8), value=1)[..., :width]
    return BlockMask.from_kv_blocks(
        mask.kv_num_blocks, indices, mask_mod=_causal, seq_lengths=(130, 130), compute_q_blocks=width >= 2
    )


@pytest.mark.clause("L5.2")
def test_lists_without_full_blocks_are_not_implemented_by_the_source() -> None:
    q, k, v = qkv(1, 2, 2, 130, 130)
    with pytest.raises(NotImplementedError, match="without full blocks is not supported"):
        lower(q, k, v, None, _partial_only(), profile=dataclasses.replace(HOST, needs_full_lists=True))
    assert issubclass(BlockMaskUnsupported, NotImplementedError)
    assert SOURCE.needs_full_lists


@pytest.mark.clause("L5.2")
def test_lists_without_full_blocks_get_empty_full_lists() -> None:
    q, k, v = qkv(1, 2, 2, 130, 130)
    mask = _partial_only()
    count, index, full_count, full_index = lower(q, k, v, None, mask).block_lists
    assert count is mask.kv_num_blocks and index is mask.kv_indices, "lists of the right width are passed as they are"
    assert full_count.tolist() == [[[0, 0]]] and full_index.shape == index.shape
    assert all(t.dtype == torch.int32 for t in (full_count, full_index))
    with_empty = BlockMask.from_kv_blocks(
        mask.kv_num_blocks, mask.kv_indices, full_count, full_index, mask_mod=_causal, seq_lengths=(130, 130)
    )
    assert lower(q, k, v, None, mask).text == lower(q, k, v, None, with_empty).text


@pytest.mark.clause("L5.2")
@pytest.mark.parametrize("width", [1, 5])
def test_lists_of_another_width_are_padded_or_cut(width: int) -> None:
    """flash-attn-4 refuses indices with more entries in a row than there are key/value blocks."""
    q, k, v = qkv(1, 2, 2, 130, 130)
    mask = _partial_only(width)
    mask.kv_num_blocks.fill_(1)
    kernel = lower(q, k, v, None, mask)
    assert [tuple(t.shape) for t in kernel.block_lists] == [(1, 1, 2), (1, 1, 2, 2)] * 2
    assert kernel.block_lists[1][..., :1].tolist() == mask.kv_indices[..., :1].tolist()
    assert 0 <= int(kernel.block_lists[1].min()) <= int(kernel.block_lists[1].max()) < 2


@pytest.mark.clause("L5.3")
def test_template_failure_is_a_runtime_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = jinja2.Environment(
        loader=jinja2.DictLoader({"flash_attention.py.jinja": "{{ nothing_of_that_name }}"}),
        undefined=jinja2.StrictUndefined,
    )
    monkeypatch.setattr(template, "_environment", lambda: broken)
    with pytest.raises(RuntimeError, match=r"CuteDSL template failed.*nothing_of_that_name"):
        lower(*qkv(1, 2, 2, 8, 8))


@pytest.mark.clause("L5.3")
def test_a_bug_of_the_generator_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(codegen._Call, "value", broken)
    with pytest.raises(KeyError, match="planted"):
        lower(*qkv(1, 2, 2, 8, 8), lambda s, *_: s * 2.0)
    (case,) = catalogue.select(catalogue.load(), ["alibi"])
    outcome = trial.run_case(case)
    assert (outcome.stage, outcome.symptom, outcome.message) == ("render", "crash", "KeyError: 'planted'")


@pytest.mark.clause("L5.3")
def test_one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call renders one text and launches that text once: there is nothing to choose from, and nothing is timed."""
    rendered: list[str] = []
    render = template.render

    def once(**facts: Any) -> str:
        rendered.append(render(**facts))
        return rendered[-1]

    class Counting(HostLauncher):
        def run(self, kernel: RenderedKernel, arguments: Any) -> None:
            launched.append(kernel.text)
            super().run(kernel, arguments)

    launched: list[str] = []
    monkeypatch.setattr(template, "render", once)
    for length in (8, 300):
        flex_flash_attention(*qkv(1, 2, 2, length, length), lambda s, *_: s * 0.5, launcher=Counting())
    assert len(rendered) == 2 and launched == rendered
    assert "autotune" not in rendered[0].lower() and rendered[0].count("def score_mod(") == 1


@pytest.mark.clause("L5.4")
def test_returns_output_and_lse() -> None:
    result = flex_flash_attention(*qkv(1, 2, 2, 8, 8, 32, 64))
    assert isinstance(result, tuple)
    assert [tuple(t.shape) for t in result] == [(1, 2, 8, 64), (1, 2, 8)]


def _zeros(*size: int, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(*size, dtype=dtype, device=device)


_Q, _K = _zeros(1, 4, 8, 32), _zeros(1, 2, 8, 32)
_BAD: dict[str, tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], str]] = {
    "rank": ((_Q[0], _K, _K), r"rank 4.*q \(4, 8, 32\)"),
    "rank 5": ((_Q[None], _K, _K), r"rank 4.*q \(1, 1, 4, 8, 32\)"),
    "rank of k": ((_Q, _K[0], _K), r"rank 4.*k \(2, 8, 32\)"),
    "rank of v": ((_Q, _K, _K[None]), r"rank 4.*v \(1, 1, 2, 8, 32\)"),
    "device": ((_Q, _zeros(1, 2, 8, 32, device="meta"), _K), "different devices: cpu, meta"),
    "mixed dtypes": ((_Q, _K.half(), _K), "all float16 or all bfloat16, not torch.bfloat16, torch.float16"),
    "float32": ((_Q.float(), _K.float(), _K.float()), "all float16 or all bfloat16"),
    "batch": ((_Q, _zeros(2, 2, 8, 32), _zeros(2, 2, 8, 32)), r"batch sizes differ.*\(2, 2, 8, 32\)"),
    "smaller batch": ((_zeros(2, 4, 8, 32), _K, _K), r"batch sizes differ.*q \(2, 4, 8, 32\)"),
    "batch of k": ((_Q, _zeros(0, 2, 8, 32), _K), r"batch sizes differ.*k \(0, 2, 8, 32\)"),
    "batch of v": ((_Q, _K, _zeros(2, 2, 8, 32)), r"batch sizes differ.*v \(2, 2, 8, 32\)"),
    "smaller batch of v": ((_Q, _K, _zeros(0, 2, 8, 32)), r"batch sizes differ.*v \(0, 2, 8, 32\)"),
    "heads": ((_Q, _zeros(1, 3, 8, 32), _zeros(1, 3, 8, 32)), "4 query heads are not a multiple of 3"),
    "no kv heads": ((_Q, _zeros(1, 0, 8, 32), _zeros(1, 0, 8, 32)), "not a multiple of 0"),
    "k and v": ((_Q, _K, _zeros(1, 2, 9, 32)), "k and v must agree"),
    "q and k dims": ((_Q, _zeros(1, 2, 8, 64), _K), "same head dim"),
    "smaller dim of k": ((_Q, _zeros(1, 2, 8, 16), _K), "same head dim"),
    "value dim 264": ((_Q, _K, _zeros(1, 2, 8, 264)), "head dim 264 of v must be a multiple of 8 from 8 to 256"),
    "value dim 0": ((_Q, _K, _zeros(1, 2, 8, 0)), "head dim 0 of v"),
    "head dim 512": (tuple(_zeros(1, 2, 8, 512) for _ in range(3)), "head dim 512 of q and k"),  # type: ignore[dict-item]
    "head dim 12": (tuple(_zeros(1, 2, 8, 12) for _ in range(3)), "multiple of 8"),  # type: ignore[dict-item]
    "value dim 4": ((_Q, _K, _zeros(1, 2, 8, 4)), "head dim 4 of v"),
}


@pytest.mark.clause("L5.1", "L5.5")
@pytest.mark.parametrize("kind", [RenderedKernel, ModGraph, Profile, FixedLayout, Value, Tiles, template.ModText])
def test_what_the_lowering_gives_cannot_be_changed(kind: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(object.__new__(kind), dataclasses.fields(kind)[0].name, None)


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("name", _BAD)
def test_malformed_tensors_are_refused_with_shapes(name: str) -> None:
    tensors, message = _BAD[name]
    with pytest.raises(InputError, match=message):
        lower(*tensors)


@pytest.mark.clause("L5.5")
def test_block_mask_for_another_problem_is_refused() -> None:
    q, k, v = qkv(2, 4, 2, 200, 257)
    with pytest.raises(InputError, match=r"lengths \(128, 257\).*\(200, 257\)"):
        lower(q, k, v, None, _mask(128, 257))
    with pytest.raises(InputError, match=r"\(1, 3\).*each must be 1 or equal"):
        lower(q, k, v, None, _mask(200, 257, heads=3))


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scale_must_be_finite(scale: float) -> None:
    with pytest.raises(InputError, match="finite"):
        lower(*qkv(1, 2, 2, 8, 8), scale=scale)


@pytest.mark.clause("L5.5")
def test_unknown_kernel_option_is_refused() -> None:
    with pytest.raises(InputError, match="BLOCK_M"):
        lower(*qkv(1, 2, 2, 8, 8), kernel_options={"BLOCK_M": 64})
    with pytest.raises(InputError, match="1, 2, 4 or 8, not 3"):
        lower(*qkv(1, 2, 2, 8, 8), kernel_options={"SCORE_MOD_VEC_SIZE": 3})


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("which", ["q", "k", "v", "q, k, v"])
@pytest.mark.parametrize("launcher", [HostLauncher, SimtLauncher, Fa4Launcher])
def test_tensors_that_require_grad_are_refused(which: str, launcher: Callable[[], Any]) -> None:
    tensors = dict(zip("qkv", qkv(1, 2, 2, 8, 8), strict=True))
    for name in which.split(", "):
        tensors[name] = tensors[name].detach().requires_grad_()
    message = rf"^{which} requires? grad, but gradients are not implemented \(L5.5\).*torch.no_grad\(\).*detach"
    with pytest.raises(InputError, match=message):
        flex_flash_attention(*tensors.values(), lambda s, *_: s * 0.0, launcher=launcher())
    with pytest.raises(InputError, match=message):
        lower(*tensors.values())
    q, k, v = tensors.values()
    kernel = lower(q.detach(), k.detach(), v.detach())
    arguments = kernel.arguments(q, k, v, *kernel.allocate())
    with pytest.raises(InputError, match=r"requires? grad, but gradients"):
        launcher().run(kernel, arguments)


@pytest.mark.clause("L5.5")
def test_without_grad_mode_tensors_that_require_grad_are_taken() -> None:
    q, k, v = qkv(1, 2, 2, 8, 8)
    expected = flex_flash_attention(q, k, v)
    with torch.no_grad():
        result = flex_flash_attention(q.detach().requires_grad_(), k, v)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(result, expected, strict=True))


@pytest.mark.clause("L5.5")
def test_an_output_a_scale_and_scores_that_require_grad_are_refused() -> None:
    q, k, v = qkv(1, 2, 2, 8, 8)
    kernel = lower(q, k, v)
    out, lse = kernel.allocate()
    with pytest.raises(InputError, match="LSE requires grad"):
        HostLauncher().run(kernel, kernel.arguments(q, k, v, out, lse.requires_grad_()))
    with pytest.raises(InputError, match="scale requires grad"):
        lower(q, k, v, scale=torch.tensor(0.5, requires_grad=True))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scores requires grad"):
        HostLauncher().evaluate(kernel, torch.zeros(1, 2, 8, 8, requires_grad=True))


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("scale", ["half", [1.0, 2.0], torch.ones(2)])
def test_scale_must_be_a_number(scale: object) -> None:
    with pytest.raises(InputError, match="scale must be a number, not"):
        lower(*qkv(1, 2, 2, 8, 8), scale=scale)  # type: ignore[arg-type]


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("launcher", ["host", HostLauncher, 4])
def test_what_is_no_launcher_is_refused(launcher: Any) -> None:
    with pytest.raises(
        InputError, match=r"launcher must be a launcher, such as flexflash.launch.host.HostLauncher\(\)"
    ):
        flex_flash_attention(*qkv(1, 2, 2, 8, 8), launcher=launcher)


@pytest.mark.clause("L5.5")
def test_what_is_no_tensor_is_refused() -> None:
    q, k, _ = qkv(1, 2, 2, 8, 8)
    with pytest.raises(InputError, match="v must be a tensor, not NoneType"):
        lower(q, k, None)  # type: ignore[arg-type]


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dimension", [1, 2])
def test_k_and_v_of_other_sizes_are_refused_whichever_is_larger(dimension: int, sign: int) -> None:
    q, k, v = qkv(1, 4, 2, 8, 8)
    larger = k.repeat_interleave(2, dim=dimension)
    with pytest.raises(InputError, match="k and v must agree in heads and length"):
        lower(q, *((larger, v) if sign > 0 else (k, larger)))


@pytest.mark.clause("L5.5")
@pytest.mark.parametrize("lengths", [(8, 9), (8, 7), (9, 8), (7, 8), (7, 9), (9, 7)])
def test_a_block_mask_for_other_lengths_is_refused(lengths: tuple[int, int]) -> None:
    mask = create_block_mask(_causal, None, None, *lengths, device="cpu")
    with pytest.raises(InputError, match=r"the block mask is for lengths .*the tensors have \(M, N\) = \(8, 8\)"):
        lower(*qkv(1, 2, 2, 8, 8), None, mask)


def _listed(**changes: torch.Tensor) -> BlockMask:
    """Two rows of two blocks of 128: the first row's block 0 is partial, every other block is full."""
    lists: Mapping[str, torch.Tensor] = {
        "kv_num_blocks": torch.tensor([[[1, 0]]], dtype=torch.int32),
        "kv_indices": torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.int32),
        "full_kv_num_blocks": torch.tensor([[[1, 2]]], dtype=torch.int32),
        "full_kv_indices": torch.tensor([[[[1, 0], [1, 0]]]], dtype=torch.int32),
        **changes,
    }
    return BlockMask.from_kv_blocks(**lists, seq_lengths=(200, 200))  # type: ignore[arg-type]


def _row(*blocks: int) -> torch.Tensor:
    return torch.tensor([[[blocks, (0, 1)]]], dtype=torch.int32)


_BAD_LISTS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a partial block twice": (
        {"kv_num_blocks": torch.tensor([[[2, 0]]]), "kv_indices": _row(0, 0)},
        r"names block 0 twice in row 0 of \(b, h\) = \(0, 0\).*each of the 2 blocks once \(L8.4\)",
    ),
    "a full block twice": ({"full_kv_indices": torch.tensor([[[[1, 0], [1, 1]]]])}, "names block 1 twice in row 1"),
    "two of them": ({"full_kv_indices": torch.tensor([[[[0, 1], [1, 1]]]])}, "names block 0 twice in row 0"),
    "partial and full": ({"full_kv_indices": _row(0, 1)}, "names block 0 twice in row 0"),
    "beyond the keys": ({"full_kv_indices": _row(2, 0)}, r"full_kv_indices names block 2 in row 0.*blocks 0 to 1"),
    "below the keys": ({"kv_indices": _row(-1, 0)}, "kv_indices names block -1 in row 0"),
    "a count too large": ({"full_kv_num_blocks": torch.tensor([[[1, 3]]])}, "full_kv_num_blocks says 3 in row 1"),
    "a negative count": ({"kv_num_blocks": torch.tensor([[[-1, 0]]])}, "kv_num_blocks says -1 in row 0"),
    "rows apart": ({"full_kv_indices": _row(1, 0)[:, :, :1]}, r"full_kv_indices \(1, 1, 1, 2\) must be"),
    "too few rows": (
        {
            "kv_num_blocks": torch.tensor([[[1]]]),
            "kv_indices": _row(0, 1)[:, :, :1],
            "full_kv_num_blocks": torch.tensor([[[1]]]),
            "full_kv_indices": _row(1, 0)[:, :, :1],
        },
        "has 1 block rows of 128, a query of length 200 needs 2",
    ),
    "another batch": (
        {"full_kv_num_blocks": torch.tensor([[[1, 2]]] * 3), "full_kv_indices": torch.tensor([[[[1, 0], [1, 0]]]] * 3)},
        r"\(batch, heads\) = \(3, 1\)",
    ),
}


@pytest.mark.clause("L5.5", "L8.4")
@pytest.mark.parametrize("name", _BAD_LISTS)
@pytest.mark.parametrize("heads", [1, 2])
def test_bad_block_lists_are_refused(name: str, heads: int) -> None:
    changes, message = _BAD_LISTS[name]
    tensors = qkv(1, heads, heads, 200, 200)
    assert lower(*tensors, None, _listed()).block_lists == (), "the lists are right without the change"
    with pytest.raises(InputError, match=message):
        lower(*tensors, None, _listed(**changes))


_PLACES: dict[str, tuple[str, tuple[int, ...], int, str]] = {
    "a block": ("kv_indices", (0,), 2, r"kv_indices names block 2 in row 1 of \(b, h\) = \(1, 2\)"),
    "a full block": ("full_kv_indices", (0,), -1, r"full_kv_indices names block -1 in row 1 of \(b, h\) = \(1, 2\)"),
    "a count": ("kv_num_blocks", (), 3, r"kv_num_blocks says 3 in row 1 of \(b, h\) = \(1, 2\), .*has 2 a row"),
    "twice": ("kv_indices", (0,), 1, r"names block 1 twice in row 1 of \(b, h\) = \(1, 2\)"),
}


def _of_every_head() -> dict[str, torch.Tensor]:
    """Lists of 2 batches and 3 heads: in each row, block 0 is partial and block 1 full."""
    counts = torch.ones(2, 3, 2, dtype=torch.int32)
    lists = {"kv_num_blocks": counts, "kv_indices": torch.tensor([0, 1]).expand(2, 3, 2, 2)}
    full = {"full_kv_num_blocks": counts, "full_kv_indices": torch.tensor([1, 0]).expand(2, 3, 2, 2)}
    return {name: t.to(torch.int32).clone() for name, t in {**lists, **full}.items()}


@pytest.mark.clause("L5.5", "L8.4")
@pytest.mark.parametrize("name", _PLACES)
def test_a_bad_list_is_named_by_its_batch_head_and_row(name: str) -> None:
    which, last, number, message = _PLACES[name]
    lists = _of_every_head()
    tensors = qkv(2, 3, 3, 200, 200)
    lower(*tensors, None, _listed(**lists))
    lists[which][(1, 2, 1, *last)] = number
    with pytest.raises(InputError, match=message):
        lower(*tensors, None, _listed(**lists))


@pytest.mark.clause("L5.5")
def test_a_block_mask_of_other_heads_or_ranks_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(batch, heads\) = \(2, 3\), the query \(2, 6\); each must be 1 or equal"):
        lower(*qkv(2, 6, 3, 200, 200), None, _listed(**_of_every_head()))
    for part, changes in (
        ("kv", {"num_blocks": 0}),
        ("full_kv", {"indices": 0}),
        ("kv", {"num_blocks": 0, "indices": 0}),
        ("full_kv", {"num_blocks": (None,), "indices": (None,)}),
        ("full_kv", {"indices": (..., None)}),
    ):
        mask = _listed(**_of_every_head())
        for name, change in changes.items():
            setattr(mask, f"{part}_{name}", getattr(mask, f"{part}_{name}")[change])
        with pytest.raises(InputError, match=r"must be \(batch, heads, rows\) and \(batch, heads, rows, blocks\)"):
            lower(*qkv(2, 3, 3, 200, 200), None, mask)


@pytest.mark.clause("L5.5")
def test_every_tensor_that_requires_grad_is_named() -> None:
    q, k, v = qkv(1, 2, 2, 8, 8)
    with pytest.raises(InputError, match=r"^q requires grad, but"):
        lower(q.clone().requires_grad_(), k, v)
    with pytest.raises(InputError, match=r"^q, v require grad, but"):
        lower(q.clone().requires_grad_(), k, v.clone().requires_grad_())


@pytest.mark.clause("L8.4")
def test_what_lies_behind_the_end_of_a_list_does_not_count() -> None:
    tensors = qkv(1, 1, 1, 200, 200)
    expected = flex_flash_attention(*tensors, None, _listed())
    behind = _listed(kv_indices=_row(0, 0), full_kv_indices=_row(1, -7))
    result = flex_flash_attention(*tensors, None, behind)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
