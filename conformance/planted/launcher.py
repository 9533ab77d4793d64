"""Faults of the attention around the mods, of its inputs and of its outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from flexconf.cases.case import Case
from flexflash import kernel
from flexflash.indexing import contiguous_strides
from planted.captures import contiguous_view
from planted.fault import Fault
from planted.patching import Apply, arguments, attributes, rewritten
from planted.witness import mask, plain, problem, score

Softmax = Callable[..., None]


def _method(name: str, make: Callable[[Any], Any]) -> Apply:
    """Replace a method of `HostLauncher` by `make(method)`."""

    def changes() -> list[tuple[Any, str, Any]]:
        from flexflash.launch.host import HostLauncher

        return [(HostLauncher, name, make(getattr(HostLauncher, name)))]

    return attributes(changes)


def _after(change: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]) -> Apply:
    """After softmax and P V, call `change(scores, value, out, lse)`, which works in place."""

    def make(true: Any) -> Any:
        def softmax(
            self: Any, scores: torch.Tensor, value: torch.Tensor, tiles: Any, out: torch.Tensor, lse: torch.Tensor
        ) -> None:
            true(self, scores, value, tiles, out, lse)
            change(scores, value, out, lse)

        return softmax

    return _method("softmax", make)


def _last_key_lost(true: Any) -> Any:
    def softmax(self: Any, scores: torch.Tensor, *rest: Any) -> None:
        if scores.shape[-1] % 8:
            scores[..., -1] = -math.inf
        true(self, scores, *rest)

    return softmax


def _padding_attended(true: Any) -> Any:
    def softmax(self: Any, scores: torch.Tensor, value: torch.Tensor, *rest: Any) -> None:
        missing = -scores.shape[-1] % 8
        pad = torch.nn.functional.pad
        true(self, pad(scores, (0, missing)), pad(value, (0, 0, 0, missing)), *rest)

    return softmax


def _lowest_lost(true: Any) -> Any:
    def softmax(self: Any, scores: torch.Tensor, *rest: Any) -> None:
        true(self, torch.where(torch.isneginf(scores * math.log2(math.e)), -math.inf, scores), *rest)

    return softmax


def _heads_interleaved(true: Any) -> Any:
    def forward(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **keywords: Any) -> None:
        group = q.shape[2] // k.shape[2]
        true(self, q, k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1), **keywords)

    return forward


def _value_heads_interleaved(true: Any) -> Any:
    def forward(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **keywords: Any) -> None:
        group = q.shape[2] // k.shape[2]
        true(self, q, k.repeat_interleave(group, dim=2), v.repeat(1, 1, group, 1), **keywords)

    return forward


def _value_columns_lost(true: Any) -> Any:
    def forward(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **keywords: Any) -> None:
        true(self, q, k, v, **keywords)
        keywords["out"][..., q.shape[-1] :] = 0

    return forward


def _rounded_scores(true: Any) -> Any:
    def scores(self: Any, query: torch.Tensor, *rest: Any) -> torch.Tensor:
        found: torch.Tensor = true(self, query, *rest)
        return found.to(query.dtype).float()

    return scores


def _mean_of_values(scores: torch.Tensor, value: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    group = out.shape[1] // value.shape[1]
    mean = value.float().mean(dim=2, keepdim=True).repeat_interleave(group, dim=1)
    out.copy_(torch.where(torch.isneginf(lse).unsqueeze(-1), mean, out.float()))


def _zero_when_masked(scores: torch.Tensor, value: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    lse.masked_fill_(torch.isneginf(lse), 0.0)


def _base_2(scores: torch.Tensor, value: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    lse.div_(math.log(2.0))


def _mods(*substitutions: tuple[str, str]) -> Apply:
    def changes() -> list[tuple[Any, str, Any]]:
        from flexflash.launch import host

        return [rewritten(host, "_modify_block", *substitutions)]

    return attributes(changes)


def _contiguous(*names: str) -> Apply:
    return arguments(lambda named: {n: contiguous_view(t) if n in names else t for n, t in named.items()})


def _queries_first(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lse = named["LSE"]
    _, heads, length = lse.shape
    return {**named, "LSE": lse.as_strided(lse.shape, (heads * length, 1, heads), lse.storage_offset())}


def _stale_modules() -> list[tuple[Any, str, Any]]:
    """Cache modules by their text without its numbers, like a hash of a mod's code that leaves the constants out."""
    from flexflash.launch import host, module, simt

    true = module.load
    known: dict[str, ModuleType] = {}

    def load(text: str) -> ModuleType:
        blurred = re.sub(r"\d+(\.\d+)?", "0", re.sub(r"__cute_hash__ = .*", "", text))
        return known.setdefault(blurred, true(text))

    return [(host, "load", load), (simt, "load", load)]


_SCORE_MOD = """            if cutlass.const_expr(score_mod is not None):
                score.store(score_mod(score.load(), *indices, None, captures))
"""
_MASK_MOD = """            if cutlass.const_expr(mask_mod is not None):  # noqa: SIM102 -- one is the compiler's
                if masked:
                    keep = mask_mod(*indices, None, captures)
                    value = score.load()
                    score.store(cute.where(keep, value, cute.full_like(value, float("-inf"))))
"""
_TWO: Case = score("score * 2")

LAUNCHER = (
    Fault(
        "mask-before-score-mod",
        "launcher",
        "The mask is applied before score_mod, which then turns -inf into a finite score.",
        _mods((f"{_SCORE_MOD}{_MASK_MOD}", f"{_MASK_MOD}{_SCORE_MOD}")),
        mask("q < kv", score_mod="torch.tanh(score)"),
    ),
    Fault(
        "tail-of-a-row-not-modified",
        "launcher",
        "The keys after the last whole vector of a row keep their unmodified scores.",
        _mods(
            (
                "keys[kv_idx[lane]] = score[lane]",
                "if n + width - 1 <= last:\n                    keys[kv_idx[lane]] = score[lane]",
            )
        ),
        score("score + q + kv"),
        width=2,
    ),
    Fault(
        "last-key-lost",
        "launcher",
        "If N is not a multiple of 8, key N - 1 is not attended to.",
        _method("softmax", _last_key_lost),
        plain(problem()),
    ),
    Fault(
        "padding-attended",
        "launcher",
        "The keys that pad the last tile to a multiple of 8 count, with a score of 0.",
        _method("softmax", _padding_attended),
        plain(problem()),
    ),
    Fault(
        "key-heads-interleaved",
        "launcher",
        "Query head h attends to key/value head h % Hkv instead of h // (H / Hkv).",
        _method("forward", _heads_interleaved),
        plain(problem(H=4, Hkv=2)),
    ),
    Fault(
        "value-heads-interleaved",
        "launcher",
        "Query head h reads V of head h % Hkv instead of h // (H / Hkv); K is right.",
        _method("forward", _value_heads_interleaved),
        plain(problem(H=4, Hkv=2)),
    ),
    Fault(
        "value-dim-taken-for-dim",
        "launcher",
        "Only the first D of the output's Dv columns are written.",
        _method("forward", _value_columns_lost),
        plain(problem(Dv=16)),
    ),
    Fault(
        "scores-in-half",
        "launcher",
        "Q K^T is rounded to the dtype of q before the mods see it.",
        _method("scores", _rounded_scores),
        plain(problem()),
    ),
    Fault(
        "lse-to-base-2",
        "launcher",
        "The LSE is a base-2 logarithm, which the kernel computes with.",
        _after(_base_2),
        plain(problem()),
    ),
    Fault(
        "lse-of-masked-rows",
        "launcher",
        "The LSE of a row with nothing to attend to is 0 instead of -inf.",
        _after(_zero_when_masked),
        mask("kv < 0"),
    ),
    Fault(
        "output-of-masked-rows",
        "launcher",
        "A row with nothing to attend to is the mean of V, the softmax of equal scores.",
        _after(_mean_of_values),
        mask("kv < 0"),
    ),
    Fault(
        "lowest-scores-are-masked",
        "launcher",
        "A finite score counts as -inf if its product with log2(e), which a base-2 kernel uses, is -inf.",
        _method("softmax", _lowest_lost),
        score("score * 0.0 - 2.9774707105582116e+38"),
    ),
    Fault(
        "lse-with-queries-first",
        "launcher",
        "The LSE is written as (B, M, H).",
        arguments(_queries_first),
        plain(problem(H=2)),
    ),
    Fault(
        "output-strides-ignored",
        "launcher",
        "The output is written as if it were contiguous, whatever the query's layout.",
        _contiguous("OUT"),
        plain(problem(H=2, layout="bmhd")),
    ),
    Fault(
        "output-always-row-major",
        "launcher",
        "The output's strides are those of a contiguous tensor, not in the order of the query's.",
        attributes(lambda: [(kernel, "infer_dense_strides", lambda size, stride: contiguous_strides(size))]),
        plain(problem(H=2, layout="bmhd")),
    ),
    Fault(
        "key-strides-ignored",
        "launcher",
        "K is read as if it were contiguous.",
        _contiguous("K"),
        plain(problem(layout="padded")),
    ),
    Fault(
        "stale-cache-by-equal-hash",
        "launcher",
        "Compiled kernels are cached by a hash that omits the constants of the mods.",
        attributes(_stale_modules),
        score("score * 3"),
        before=(_TWO,),
    ),
)  # fmt: skip
