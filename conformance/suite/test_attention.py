"""L8: what attention means, against float64 written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexflash import flex_flash_attention
from flexflash.launch.host import HostLauncher
from plain import assert_close, attention, grid, qkv
from planted import corrections

INF = float("inf")


def _causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return q >= kv


def _keep(mask_mod: object, *sizes: int) -> Tensor:
    return mask_mod(*grid(*sizes)).expand(*sizes)  # type: ignore[operator,no-any-return]


def _lists(
    partial: list[list[int]], full: list[list[int]], queries: int, keys: int, mask_mod: object = None
) -> BlockMask:
    """A hand-made BlockMask, one list of blocks a row of blocks, for every batch and head."""

    def ordered(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        blocks = -(-keys // 128)
        index = torch.zeros(1, 1, len(rows), blocks, dtype=torch.int32)
        for i, row in enumerate(rows):
            index[0, 0, i, : len(row)] = torch.tensor(row, dtype=torch.int32)
        return torch.tensor([[[len(row) for row in rows]]], dtype=torch.int32), index

    return BlockMask.from_kv_blocks(
        *ordered(partial),
        *ordered(full),
        mask_mod=mask_mod,
        seq_lengths=(queries, keys),  # type: ignore[arg-type]
    )


@pytest.mark.clause("L8.1")
@pytest.mark.parametrize("scale", [None, 0.03, 1.7])
def test_score_mod_then_mask_then_softmax(scale: float | None) -> None:
    q, k, v = qkv(2, 4, 4, 140, 150)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return torch.where(n > m, score * 0 + 50.0, score + 0.01 * h)

    observed = flex_flash_attention(q, k, v, mod, create_block_mask(_causal, None, None, 140, 150, device="cpu"), scale)
    # The mask comes after score_mod: the 50 that the mod writes above the diagonal must not survive.
    assert_close(observed, attention(q, k, v, mod, _keep(_causal, 2, 4, 140, 150), scale))


@pytest.mark.clause("L7.4", "L8.4")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("listed", [False, True])
def test_an_index_that_comes_from_the_score(width: int, listed: bool) -> None:
    """Lanes past the last key hold a score too: an index made of it has to stay within the capture."""
    q, k, v = qkv(1, 2, 2, 20, 133)
    table = torch.linspace(-1.0, 1.0, 41)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return score + table[score.to(torch.int32)]

    lists = _lists([[]], [[1, 0]], 20, 133) if listed else None
    observed = flex_flash_attention(q, k, v, mod, lists, launcher=HostLauncher(vector_width=width))
    assert_close(observed, attention(q, k, v, mod, None))


@pytest.mark.clause("L8.1")
def test_lse_is_the_natural_logarithm() -> None:
    q, k, v = qkv(1, 2, 2, 8, 100)
    _, lse = flex_flash_attention(q, k, v, lambda s, b, h, m, n: s * 0 + 3.0)
    torch.testing.assert_close(lse, torch.full((1, 2, 8), 3.0 + math.log(100)))


@pytest.mark.clause("L8.2")
@pytest.mark.parametrize(("queries", "keys"), [(200, 130), (130, 300), (1, 1), (129, 129)])
def test_rows_with_nothing_to_attend_to(queries: int, keys: int) -> None:
    """A third of the rows, whole blocks of rows among them, keep nothing; first blocks are empty for others."""
    q, k, v = qkv(1, 2, 1, queries, keys)

    def mask(b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return (m % 3 > 0) & ((m < 64) | (m >= 128)) & (n >= keys // 2)

    out, lse = flex_flash_attention(q, k, v, None, create_block_mask(mask, None, None, queries, keys, device="cpu"))
    keep = _keep(mask, 1, 2, queries, keys)
    assert_close((out, lse), attention(q, k, v, keep=keep))
    empty = ~keep.any(dim=-1)
    assert empty.any()
    assert (out[empty] == 0).all()
    assert (lse[empty] == -INF).all()


@pytest.mark.clause("L8.2", "L4.3")
def test_a_mask_that_is_always_false_keeps_nothing() -> None:
    q, k, v = qkv(1, 2, 2, 150, 150)
    nothing = create_block_mask(
        lambda b, h, m, n: torch.zeros((), dtype=torch.bool), None, None, 150, 150, device="cpu"
    )
    out, lse = flex_flash_attention(q, k, v, None, nothing)
    assert not out.any()
    assert (lse == -INF).all()
    with corrections.reverted("trivial-mask-fill", "trivial-mask-lists"):
        _, wrong = flex_flash_attention(q, k, v, None, nothing)
        assert wrong.isfinite().all(), "the source's defect: the mask is taken for one that keeps everything"


@pytest.mark.clause("L8.2")
def test_score_mod_that_removes_everything() -> None:
    q, k, v = qkv(1, 2, 2, 10, 10)
    out, lse = flex_flash_attention(q, k, v, lambda s, b, h, m, n: torch.where(m > 4, s, -INF))
    assert not out[:, :, :5].any()
    assert (lse[:, :, :5] == -INF).all()
    assert lse[:, :, 5:].isfinite().all()


@pytest.mark.clause("L8.3")
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 4), (8, 2), (8, 1), (6, 2)])
def test_gqa(heads: int, kv_heads: int) -> None:
    q, k, v = qkv(2, heads, kv_heads, 20, 30)
    table = torch.linspace(-2, 2, heads)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return score * table[h]

    observed = flex_flash_attention(q, k, v, mod)
    assert_close(observed, attention(q, k, v, mod))
    repeated = flex_flash_attention(q, *(t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v)), score_mod=mod)
    assert torch.equal(observed[0], repeated[0])


@pytest.mark.clause("L8.4")
@pytest.mark.parametrize("width", [1, 8])
def test_full_blocks_go_without_the_mask_and_partial_ones_with_it(width: int) -> None:
    q, k, v = qkv(1, 2, 2, 200, 300)
    mask = _lists(partial=[[2], [0]], full=[[0], [2, 1]], queries=200, keys=300, mask_mod=_causal)
    observed = flex_flash_attention(q, k, v, None, mask, launcher=HostLauncher(width))
    keep = torch.zeros(200, 300, dtype=torch.bool)
    causal = _keep(_causal, 1, 2, 200, 300)[0, 0]
    keep[:128, 256:] = causal[:128, 256:]
    keep[:128, :128] = True
    keep[128:, :128] = causal[128:, :128]
    keep[128:, 128:] = True
    assert_close(observed, attention(q, k, v, keep=keep.expand(1, 2, 200, 300)))


@pytest.mark.clause("L8.4", "L4.3")
def test_lists_count_under_a_trivial_mask_mod() -> None:
    q, k, v = qkv(1, 2, 2, 200, 300)
    mask = _lists(partial=[[1], []], full=[[], [0]], queries=200, keys=300)
    keep = torch.zeros(200, 300, dtype=torch.bool)
    keep[:128, 128:256] = True
    keep[128:, :128] = True
    assert_close(flex_flash_attention(q, k, v, None, mask), attention(q, k, v, keep=keep.expand(1, 2, 200, 300)))
    with corrections.reverted("trivial-mask-lists"):
        observed = flex_flash_attention(q, k, v, None, mask)
    assert_close(observed, attention(q, k, v))  # the source's defect: everything is attended


@pytest.mark.clause("L8.4")
def test_blocks_in_neither_list_are_not_read() -> None:
    q, k, v = qkv(1, 2, 2, 200, 300)
    mask = _lists(partial=[[0], [0]], full=[[2], []], queries=200, keys=300, mask_mod=_causal)
    clean = flex_flash_attention(q, k, v, None, mask)
    for t in (k, v):
        t[:, :, 128:256] = float("nan")
    poisoned = flex_flash_attention(q, k, v, None, mask)
    assert torch.equal(clean[0], poisoned[0])
    assert torch.equal(clean[1], poisoned[1])


@pytest.mark.clause("L8.4")
@pytest.mark.parametrize("queries", [1, 127, 128, 129, 257])
@pytest.mark.parametrize("keys", [1, 64, 128, 200])
def test_lengths_off_the_block_size(queries: int, keys: int) -> None:
    q, k, v = qkv(1, 2, 1, queries, keys)

    def mask(b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return (m - n) % 5 < 3

    observed = flex_flash_attention(q, k, v, None, create_block_mask(mask, None, None, queries, keys, device="cpu"))
    assert_close(observed, attention(q, k, v, keep=_keep(mask, 1, 2, queries, keys)))


@pytest.mark.clause("L8.5")
@pytest.mark.parametrize("special", [INF, float("nan"), -INF])
def test_special_scores_propagate_as_in_eager(special: float) -> None:
    q, k, v = qkv(1, 2, 2, 12, 20)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return torch.where((m % 4 == 1) & (n == 7), special, score)

    out, lse = flex_flash_attention(q, k, v, mod)
    assert_close((out, lse), attention(q, k, v, mod))
    touched = lse[0, 0, 1::4]
    if special == INF:
        assert (touched == INF).all()
    assert out[0, 0, 1::4].isnan().all() == (special != -INF)
