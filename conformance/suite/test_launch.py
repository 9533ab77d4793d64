"""L9: the launch, as far as a CPU can tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flexflash import InputError, flex_flash_attention, lower
from flexflash.launch.host import HostLauncher
from plain import qkv


def _mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return 5.0 * torch.tanh(score / 5.0) - 0.1 * (q - kv).abs()


@pytest.mark.clause("L9.1")
def test_only_output_and_lse_are_written() -> None:
    """Output rows and LSE rows lie apart in larger buffers; every element between and around them must survive."""
    q, k, v = qkv(2, 4, 2, 33, 40)
    kernel = lower(q, k, v, _mod)
    out_storage = torch.full((2, 40, 5, 48), 7.0, dtype=torch.bfloat16)
    lse_storage = torch.full((2, 4, 50), 7.0)
    out = out_storage[:, 3:36, 1:, 8:40].transpose(1, 2)
    lse = lse_storage[:, :, 5:38]
    before = [t.clone() for t in (q, k, v)]
    HostLauncher().run(kernel, kernel.arguments(q, k, v, out, lse))
    expected = flex_flash_attention(q, k, v, _mod)
    assert torch.equal(out, expected[0])
    assert torch.equal(lse, expected[1])
    written = torch.zeros_like(out_storage, dtype=torch.bool)
    written[:, 3:36, 1:, 8:40] = True
    assert (out_storage[~written] == 7.0).all()
    assert (lse_storage[:, :, :5] == 7.0).all()
    assert (lse_storage[:, :, 38:] == 7.0).all()
    assert all(torch.equal(t, b) for t, b in zip((q, k, v), before, strict=True))


@pytest.mark.clause("L9.3")
def test_repeated_launches_are_bitwise_equal() -> None:
    q, k, v = qkv(2, 4, 2, 130, 140)
    mask = create_block_mask(lambda b, h, m, n: m >= n, None, None, 130, 140, device="cpu")
    first = flex_flash_attention(q, k, v, _mod, mask)
    for _ in range(3):
        again = flex_flash_attention(q, k, v, _mod, mask)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


@pytest.mark.clause("L9.4")
@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 8, 8), (2, 0, 8), (2, 8, 0), (0, 0, 0)])
def test_empty_problems_return_at_once(batch: int, queries: int, keys: int) -> None:
    class Forbidden(HostLauncher):
        def run(self, *_: object) -> None:  # type: ignore[override]
            raise AssertionError("nothing may be launched")

    q, k, v = qkv(batch, 4, 2, queries, keys)
    out, lse = flex_flash_attention(q, k, v, _mod, launcher=Forbidden())
    assert out.shape == (batch, 4, queries, 32)
    assert lse.shape == (batch, 4, queries)
    assert not out.any()
    assert (lse == float("-inf")).all()


@pytest.mark.clause("L9.1")
def test_vector_width_is_checked() -> None:
    with pytest.raises(InputError, match="1, 2, 4 or 8, not 3"):
        HostLauncher(3)


@pytest.mark.clause("L2.4", "L7.5")
def test_flash_attn_4_is_told_which_dimension_leads() -> None:
    """It refuses a capture with several dimensions of stride 1, unless one of them is named; the memory is the same."""
    from flexflash.launch.fa4 import _with_leading_dim

    plain = torch.zeros(3, 4)
    strange = [torch.zeros(1, 1), torch.zeros(9).as_strided((2, 5), (1, 1)), torch.zeros(1, 3, 1)[:, :1]]
    assert all(_with_leading_dim(t) is t for t in (plain, plain.t(), plain[:, :1], torch.tensor(1.0), plain[0]))
    named = [_with_leading_dim(t) for t in strange]
    for before, after in zip(strange, named, strict=True):
        assert not hasattr(before, "__leading_dim__"), "the caller's tensor is left alone"
        assert (after.data_ptr(), after.shape, after.stride()) == (before.data_ptr(), before.shape, before.stride())
    metadata = pytest.importorskip(
        "flash_attn.cute.cute_dsl_utils", reason="flash-attn-4 is not installed"
    ).get_aux_tensor_metadata
    for before, after in zip(strange, named, strict=True):
        with pytest.raises(ValueError, match="no unique stride-1 leading dimension"):
            metadata([before])
        assert metadata([after])
