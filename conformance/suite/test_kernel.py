"""L5: from tensors and mods to one kernel."""

from __future__ import annotations

import jinja2
import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexflash import BlockMaskUnsupported, InputError, flex_flash_attention, lower, template
from flexflash.indexing import infer_dense_strides
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


@pytest.mark.clause("L5.2")
def test_lists_without_full_blocks_are_not_implemented() -> None:
    q, k, v = qkv(1, 2, 2, 130, 130)
    mask = _mask(130, 130)
    partial_only = BlockMask.from_kv_blocks(
        mask.kv_num_blocks, mask.kv_indices, None, None, mask_mod=_causal, seq_lengths=(130, 130)
    )
    with pytest.raises(NotImplementedError, match="without full blocks is not supported"):
        lower(q, k, v, None, partial_only)
    assert issubclass(BlockMaskUnsupported, NotImplementedError)


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
def test_one_candidate() -> None:
    tensors = qkv(1, 2, 2, 8, 8)
    assert lower(*tensors) .text == lower(*tensors).text  # fmt: skip


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
    "device": ((_Q, _zeros(1, 2, 8, 32, device="meta"), _K), "different devices: cpu, meta"),
    "mixed dtypes": ((_Q, _K.half(), _K), "all float16 or all bfloat16, not torch.bfloat16, torch.float16"),
    "float32": ((_Q.float(), _K.float(), _K.float()), "all float16 or all bfloat16"),
    "batch": ((_Q, _zeros(2, 2, 8, 32), _zeros(2, 2, 8, 32)), r"batch sizes differ.*\(2, 2, 8, 32\)"),
    "heads": ((_Q, _zeros(1, 3, 8, 32), _zeros(1, 3, 8, 32)), "4 query heads are not a multiple of 3"),
    "no kv heads": ((_Q, _zeros(1, 0, 8, 32), _zeros(1, 0, 8, 32)), "not a multiple of 0"),
    "k and v": ((_Q, _K, _zeros(1, 2, 9, 32)), "k and v must agree"),
    "q and k dims": ((_Q, _zeros(1, 2, 8, 64), _K), "same head dim"),
    "head dim 512": (tuple(_zeros(1, 2, 8, 512) for _ in range(3)), "head dim 512 of q and k"),  # type: ignore[dict-item]
    "head dim 12": (tuple(_zeros(1, 2, 8, 12) for _ in range(3)), "multiple of 8"),  # type: ignore[dict-item]
    "value dim 4": ((_Q, _K, _zeros(1, 2, 8, 4)), "head dim 4 of v"),
}


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
