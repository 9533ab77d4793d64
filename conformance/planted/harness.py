"""Faults of the harness: it passes a case on to the lowering wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flexflash
from flexconf.cases.case import BlockSpec
from planted.fault import Fault
from planted.patching import Apply, arguments, attributes
from planted.witness import mask, plain, problem


def _lowering(change: Callable[[list[Any]], list[Any]]) -> Apply:
    """Replace the positional arguments of `flexflash.lower`: q, k, v, score_mod, block_mask, scale, and so on."""

    def changes() -> list[tuple[Any, str, Any]]:
        true = flexflash.lower

        def lower(*given: Any, **keywords: Any) -> flexflash.RenderedKernel:
            return true(*change(list(given)), **keywords)

        return [(flexflash, "lower", lower)]

    return attributes(changes)


def _without_scale(given: list[Any]) -> list[Any]:
    return [*given[:5], None, *given[6:]]


def _one_mod(given: list[Any]) -> list[Any]:
    return [*given[:4], None if given[3] is not None else given[4], *given[5:]]


def _without_full_lists(given: list[Any]) -> list[Any]:
    """The BlockMask, rebuilt from its partial lists with empty full lists."""
    from torch.nn.attention.flex_attention import BlockMask

    block_mask = given[4]
    if block_mask is None or block_mask.full_kv_num_blocks is None:
        return given
    rebuilt = BlockMask.from_kv_blocks(
        block_mask.kv_num_blocks,
        block_mask.kv_indices,
        block_mask.full_kv_num_blocks * 0,
        block_mask.full_kv_indices,
        BLOCK_SIZE=block_mask.BLOCK_SIZE,
        mask_mod=block_mask.mask_mod,
        seq_lengths=block_mask.seq_lengths,
    )
    return [*given[:4], rebuilt, *given[5:]]


def _keys_for_values(named: dict[str, Any]) -> dict[str, Any]:
    same = named["K"].shape == named["V"].shape
    return {**named, "K": named["V"], "V": named["K"]} if same else named


HARNESS = (
    Fault(
        "scale-not-passed-on",
        "harness",
        "The case's scale is not passed to the lowering, which then uses 1/sqrt(D).",
        _lowering(_without_scale),
        plain(problem(scale=1.0)),
    ),
    Fault(
        "mask-lost-beside-score-mod",
        "harness",
        "A case with both mods loses its block mask.",
        _lowering(_one_mod),
        mask("q < kv", score_mod="score"),
    ),
    Fault(
        "full-blocks-not-passed-on",
        "harness",
        "The block mask is rebuilt only from its partial lists.",
        _lowering(_without_full_lists),
        mask("kv < 4", block=BlockSpec(q=4, kv=2)),
    ),
    Fault(
        "keys-and-values-swapped",
        "harness",
        "K and V are swapped; their shapes do not show it.",
        arguments(_keys_for_values),
        plain(problem()),
    ),
)
