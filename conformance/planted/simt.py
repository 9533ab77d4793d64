"""Faults of the simt kernel, which has one thread per row."""

from __future__ import annotations

from typing import Any

from flexconf.cases.case import BlockSpec
from planted.fault import Fault
from planted.patching import Apply, attributes, rewritten
from planted.witness import mask, plain, problem, score


def _function(name: str, *substitutions: tuple[str, str]) -> Apply:
    def changes() -> list[tuple[Any, str, Any]]:
        from flexflash.launch import simt

        return [rewritten(simt, name, *substitutions)]

    return attributes(changes)


def _never_rescales() -> list[tuple[Any, str, Any]]:
    from flexflash.launch.simt import SimtLauncher

    return [(SimtLauncher, "rescales", False)]


SIMT = (
    Fault(
        "simt-maximum-forgotten",
        "simt",
        "The accumulated sums of a row are not rescaled when its running maximum grows.",
        attributes(_never_rescales),
        score("score + kv", at=problem(M=1, N=40)),
    ),
    Fault(
        "simt-maximum-from-zero",
        "simt",
        "The running maximum starts at 0 instead of -inf, so scores far below 0 underflow.",
        _function("_row", ("state[0] = -cutlass.Float32.inf", "state[0] = cutlass.Float32(0.0)")),
        score("score - 999"),
    ),
    Fault(
        "simt-last-key-of-a-chunk",
        "simt",
        "The last key of a whole chunk is left out.",
        _function("_score", ("if n + lane < end:", "if n + lane < cutlass.min(end, start + plan.chunk - 1):")),
        plain(problem(M=1, N=32)),
    ),
    Fault(
        "simt-key-heads-interleaved",
        "simt",
        "Query head h reads key head h % Hkv instead of h // (H / Hkv).",
        _function("_score", ("h // plan.group", "h % (plan.heads // plan.group)")),
        plain(problem(H=4, Hkv=2)),
    ),
    Fault(
        "simt-full-blocks-masked-again",
        "simt",
        "The mask_mod is also applied in full blocks, where only the lists decide.",
        _function(
            "_row",
            (
                "_block(score_mod, None, plan, tensors, captures, query, total, state, b, h, m, lists[3]",
                "_block(score_mod, mask_mod, plan, tensors, captures, query, total, state, b, h, m, lists[3]",
            ),
        ),
        mask("q < kv", block=BlockSpec(q=8, kv=8, kind="lists", full=((0,),))),
    ),
    Fault(
        "simt-lse-of-masked-rows",
        "simt",
        "The LSE of a row with nothing to attend to is 0 instead of -inf.",
        _function("_row", ("result = -cutlass.Float32.inf", "result = cutlass.Float32(0.0)")),
        mask("kv < 0"),
    ),
)
