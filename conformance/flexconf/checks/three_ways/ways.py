"""Evaluates a form in three ways: eager PyTorch, the oracle, and the rendered mods of the lowering.

The three share only the function of the form. Eager PyTorch gets real 0-dim tensors, one element at a time, and indexes
them directly. It uses no vmap and no meta tensors, from which the oracle and the lowering take their type promotion.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

import flexflash
from flexconf.checks.three_ways.forms import Form
from flexconf.checks.three_ways.values import KEYS, QUERIES, capture
from flexconf.language import modtext
from flexconf.oracles import evaluation
from flexconf.oracles.operation import UnmodelledOperation
from flexconf.oracles.shadow import Shadow
from flexflash.launch.host import HostLauncher

WIDTHS: Final = (1, 4)
GROUP: Final = 160
_BITS: Final = 24
Mod = Callable[..., Tensor]


@dataclass(frozen=True)
class WayResult:
    """The result of one way: `value` (M, N) in float64, int64 or bool, or None and the reason in `refusal`.

    `dtype` is the PyTorch dtype of the value. `bound` is the oracle's, float64 (M, N), inf where any value is legal.
    """

    value: Tensor | None
    dtype: torch.dtype | None = None
    refusal: str = ""
    bound: Tensor | None = None


@functools.cache
def function(form: Form) -> Mod:
    """The form as a score_mod that returns its value unchanged."""
    captures = {name: capture(name) for name in modtext.free_names(form.text)}
    return modtext.compile_mod(form.text, "score", captures, {}, "form")


def scores() -> Tensor:
    """The scores (M, N) of one head in float32: difficult values, the same in every row."""
    return capture("x_float32").expand(QUERIES, KEYS).contiguous()


def eager(form: Form) -> WayResult:
    """The result of PyTorch on real 0-dim tensors, with one call per element.

    A refusal is the first line of PyTorch's error. If the dtype depends on the value, that is a refusal too.
    """
    mod = function(form)
    rows = QUERIES if form.over_queries else 1
    columns = KEYS if form.over_keys else 1
    index = [torch.tensor(n, dtype=torch.int32) for n in range(max(QUERIES, KEYS))]
    score = list(capture("x_float32"))
    values: list[Any] = []
    dtypes: set[torch.dtype] = set()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in range(rows):
            for column in range(columns):
                try:
                    result = mod(score[column], index[0], index[0], index[row], index[column])
                except (RuntimeError, TypeError, ValueError, NotImplementedError, OverflowError) as error:
                    return WayResult(None, refusal=_line(error))
                dtypes.add(result.dtype)
                values.append(result.item())
    if len(dtypes) != 1:
        return WayResult(None, refusal=f"dtypes {sorted(map(str, dtypes))}, by value")
    dtype = dtypes.pop()
    held = torch.tensor(values, dtype=_held(dtype)).view(rows, columns)
    return WayResult(held.expand(QUERIES, KEYS).contiguous(), dtype)


def oracle(forms: Sequence[Form]) -> list[WayResult]:
    """The oracle's value and bound of each form. An operation without a model is a refusal."""
    given = scores().view(1, 1, QUERIES, KEYS).double()

    def all_of_them(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(form)(*arguments) for form in forms)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            followed = evaluation.follow(all_of_them, "score", (given, None), 1, 1, QUERIES, KEYS)
    except (RuntimeError, TypeError, ValueError, UnmodelledOperation) as error:
        if len(forms) == 1:
            return [WayResult(None, refusal=_line(error))]
        return [result for form in forms for result in oracle([form])]
    return [_certified(result, shadow) for result, shadow in followed]


def _certified(result: Tensor, shadow: Shadow) -> WayResult:
    value = shadow.v.to(_held(shadow.nominal)).expand(1, 1, QUERIES, KEYS)[0, 0]
    bound = shadow.error().expand(1, 1, QUERIES, KEYS)[0, 0]
    return WayResult(value, result.dtype, bound=bound)


def lowered(forms: Sequence[Form], first: Sequence[WayResult]) -> list[dict[int, WayResult]]:
    """The results of the rendered mods at each of `WIDTHS`. The forms share a kernel.

    `first` has PyTorch's result of each form. A score holds 24 bits only, so a float64 value is scaled by the magnitude
    of that result and split into several scores.
    """
    mods = [function(form) for form in forms]
    scales = [_scale(r.value) if r.dtype is torch.float64 and r.value is not None else None for r in first]
    parts: list[list[Tensor]] = []

    def together(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        results = [mod(score, b, h, q, kv) for mod in mods]
        found = [_told(r, None if s is None else s[q, kv]) for r, s in zip(results, scales, strict=True)]
        dtypes[:] = [r.dtype for r in results]
        parts[:] = found
        return _of_the_head([part for told in found for part in told], h)

    dtypes: list[torch.dtype] = []
    guessed = sum(_parts(result.dtype) for result in first)
    try:
        kernel = _kernel(together, guessed)
        count = sum(map(len, parts))
        if count != guessed:  # the lowering's dtypes differ from PyTorch's
            kernel = _kernel(together, count)
    except flexflash.FlexFlashError as error:
        if len(forms) == 1:
            return [{width: WayResult(None, refusal=_line(error)) for width in WIDTHS}]
        return _without_refused(forms, first)
    try:
        given = scores().expand(1, count, QUERIES, KEYS)
        seen = {width: HostLauncher(width).evaluate(kernel, given)[0].double() for width in WIDTHS}
    except Exception as error:  # the compiler's errors have no common base
        if len(forms) == 1:
            return [{width: WayResult(None, refusal=f"crash: {_line(error)}") for width in WIDTHS}]
        half = len(forms) // 2
        return [*lowered(forms[:half], first[:half]), *lowered(forms[half:], first[half:])]
    results: list[dict[int, WayResult]] = []
    head = 0
    for told, dtype, scale in zip(parts, dtypes, scales, strict=True):
        results.append(
            {w: WayResult(_joined(s[head : head + len(told)], dtype, scale), dtype) for w, s in seen.items()}
        )
        head += len(told)
    return results


def refused(form: Form) -> str:
    """Why the lowering refuses the form before anything is compiled (L7.7). Returns "" if it does not."""
    try:
        _kernel(function(form), 1)
    except flexflash.FlexFlashError as error:
        return _line(error)
    return ""


def _kernel(mod: Mod, heads: int) -> flexflash.RenderedKernel:
    q = torch.zeros(1, heads, QUERIES, 8, dtype=torch.bfloat16)
    k = torch.zeros(1, 1, KEYS, 8, dtype=torch.bfloat16)
    return flexflash.lower(q, k, k, mod)


def _of_the_head(values: Sequence[Tensor], h: Tensor) -> Tensor:
    """The value with number `h`, chosen bit by bit: comparisons are costly, and this needs only one per bit of h."""
    bit = 1
    while len(values) > 1:
        odd = (h & bit) != 0
        pairs = [torch.where(odd, values[n + 1], values[n]) for n in range(0, len(values) - 1, 2)]
        values = [*pairs, *values[len(pairs) * 2 :]]
        bit *= 2
    return values[0]


def _without_refused(forms: Sequence[Form], first: Sequence[WayResult]) -> list[dict[int, WayResult]]:
    """The results of forms whose shared kernel was refused: forms that are refused alone are taken out of it.

    Raises RuntimeError if none of them is refused alone.
    """
    refusals = {form: refusal for form in forms if (refusal := refused(form))}
    kept = [n for n, form in enumerate(forms) if form not in refusals]
    if len(kept) == len(forms):
        raise RuntimeError(f"{len(forms)} forms are refused together, and none of them alone: {forms[0].text}, ...")
    seen = dict(zip(kept, lowered([forms[n] for n in kept], [first[n] for n in kept]) if kept else [], strict=True))
    return [
        seen.get(n) or {width: WayResult(None, refusal=refusals[form]) for width in WIDTHS}
        for n, form in enumerate(forms)
    ]


def _told(result: Tensor, scale: Tensor | None) -> list[Tensor]:
    """A value of any dtype as float32 numbers that together hold all its bits."""
    dtype = result.dtype
    if dtype is torch.float64:
        rest = result if scale is None else result * scale
        told = []
        for _ in range(3):
            part = rest.to(torch.float32)
            told.append(part)
            rest = rest - part.to(torch.float64)
        return told
    if dtype in (torch.int32, torch.int64):
        mask = (1 << _BITS) - 1
        places = range(0, torch.iinfo(dtype).bits - _BITS, _BITS)
        last = result >> (_BITS * len(places))
        return [*(((result >> place) & mask).to(torch.float32) for place in places), last.to(torch.float32)]
    return [result.to(torch.float32)]


def _parts(dtype: torch.dtype | None) -> int:
    """The number of float32 numbers that `_told` makes of a value."""
    return {torch.float64: 3, torch.int64: 3, torch.int32: 2}.get(dtype or torch.float32, 1)


def _joined(parts: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """The inverse of `_told`, from (parts, M, N) in float64 to (M, N) in float64, int64 or bool."""
    if dtype is torch.float64:
        whole = torch.where(parts[0].isfinite(), parts.sum(0), parts[0])
        whole = torch.where(whole == 0, parts[0], whole)  # keeps the sign of zero
        return whole if scale is None else whole / scale
    if dtype.is_floating_point:
        return parts[0]
    if dtype is torch.bool:
        return parts[0] != 0
    whole = torch.zeros_like(parts[0], dtype=torch.int64)
    for n, part in enumerate(parts):
        whole = whole + (part.nan_to_num(nan=2.0**40).to(torch.int64) << (_BITS * n))
    return whole


def _scale(value: Tensor) -> Tensor:
    """A power of two for each element, float64 (M, N), that brings its magnitude near 1."""
    exponent = torch.frexp(torch.where(value.isfinite() & (value != 0), value, 1.0)).exponent
    return torch.ldexp(torch.ones_like(value), -exponent.clamp(-1000, 1000))


def _held(dtype: torch.dtype) -> torch.dtype:
    if dtype is torch.bool:
        return torch.bool
    return torch.float64 if dtype.is_floating_point else torch.int64


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
