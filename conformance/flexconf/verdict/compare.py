"""The verdict: compares every element of the output and of the LSE with a certified value (docs/accuracy.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from flexconf.oracles.math64 import Certified
from flexconf.verdict.outcome import MAX_EXCLUDED

BASES = (math.log(2.0), 1.0 / math.log(2.0))
"""The factors on an LSE in base e (L8.1) if an implementation multiplies by ln 2 once too often, or once too seldom."""

Symptom = Literal["ok", "wrong", "wrong-base", "nonfinite", "missing"]


class Worst(TypedDict):
    """The first special mismatch of a tensor, or the element with the largest ratio if there is no special mismatch."""

    tensor: Literal["out", "lse", "scores"]
    index: list[int]
    observed: float
    expected: float
    bound: float


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison. Per element, `ratio = |observed - expected| / bound`; 1 is the limit.

    elements: the number of compared elements, out and LSE together. excluded_elements: elements in excluded rows, or
    with the bound inf. over_1, over_half, over_tenth: elements whose ratio exceeds 1, 0.5, 0.1. special_mismatches:
    elements that are NaN or infinite on one side only, or different such values on the two sides. empty: the problem
    has no rows; such a comparison passes. telling: compared elements whose expected value is finite and not 0.
    """

    passed: bool
    symptom: Symptom
    reason: str
    elements: int
    excluded_elements: int
    rows: int
    excluded_rows: int
    max_ratio: float
    over_1: int
    over_half: int
    over_tenth: int
    special_mismatches: int
    worst: Worst | None
    empty: bool = False
    telling: int = 0

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values. Infinities and NaN are the strings "inf", "-inf", "nan"."""
        result: dict[str, Any] = _plain(asdict(self))
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@dataclass(frozen=True)
class _Part:
    name: Literal["out", "lse", "scores"]
    elements: int
    excluded: int
    over: tuple[int, int, int]
    special: int
    max_ratio: float
    worst: Worst | None
    telling: int


def compare(out: Tensor | None, lse: Tensor | None, certified: Certified) -> Comparison:
    """Compares `out` (B, H, M, Dv; the dtype of q) and `lse` (B, H, M; float32) with the certified values.

    A wrong result never raises. A missing tensor, or a tensor of another shape or dtype, gives a failed comparison
    whose reason says so. A comparison of no elements fails, unless the problem has no rows.

    The output is judged before the LSE. If only the LSE is wrong, and every compared value of it is wrong by the same
    factor of BASES, the symptom is "wrong-base" instead of "wrong". Then only the base of the logarithm differs, and
    there is no other error.
    """
    rows = certified.lse.numel()
    excluded_rows = int(certified.excluded.sum())
    fault = _malformed("out", out, certified.out.shape, certified.out_dtype) or _malformed(
        "lse", lse, certified.lse.shape, torch.float32
    )
    if fault is not None or out is None or lse is None:
        symptom, reason = fault if fault is not None else ("missing", "no result")
        return Comparison(False, symptom, reason, 0, 0, rows, excluded_rows, 0.0, 0, 0, 0, 0, None)
    if rows == 0:
        reason = f"the problem has no rows (shape {tuple(certified.out.shape)}); there is nothing to compare"
        return Comparison(True, "ok", reason, 0, 0, 0, 0, 0.0, 0, 0, 0, 0, None, empty=True)

    kept = ~certified.excluded
    parts = [
        _part("out", out, certified.out, certified.out_bound, kept.unsqueeze(-1)),
        _part("lse", lse, certified.lse, certified.lse_bound, kept),
    ]
    elements = sum(p.elements for p in parts)
    special = sum(p.special for p in parts)
    over_1, over_half, over_tenth = (sum(p.over[i] for p in parts) for i in range(3))
    wrong = [p for p in parts if p.special or p.over[0]]
    leading = wrong[0] if wrong else max(parts, key=lambda p: (p.max_ratio, p.worst is not None))
    max_ratio = max(p.max_ratio for p in parts)
    symptom, reason = _verdict(elements, over_1, leading, rows, excluded_rows, parts)
    if symptom == "wrong" and leading.name == "lse":
        for factor in BASES:
            if _is_scaled(lse, certified.lse, certified.lse_bound, kept, factor):
                symptom = "wrong-base"
                reason = f"the LSE is the right one times {factor:.4g}, as if its logarithm had another base; {reason}"
    return Comparison(
        passed=symptom == "ok",
        symptom=symptom,
        reason=reason,
        elements=elements,
        excluded_elements=sum(p.excluded for p in parts),
        rows=rows,
        excluded_rows=excluded_rows,
        max_ratio=max_ratio,
        over_1=over_1,
        over_half=over_half,
        over_tenth=over_tenth,
        special_mismatches=special,
        worst=leading.worst,
        telling=sum(p.telling for p in parts),
    )


def _is_scaled(observed: Tensor, expected: Tensor, bound: Tensor, kept: Tensor, factor: float) -> bool:
    """Whether every compared value is `factor` times the expected value, within the scaled bound and 2^-23 of it."""
    seen = observed.detach().to(device="cpu", dtype=torch.float64)
    scaled = expected * factor
    same = (seen == scaled) | (seen.isnan() & scaled.isnan())
    near = (seen - scaled).abs() <= bound * factor + scaled.abs() * 2.0**-23
    return bool((same | near | ~(kept & (bound < math.inf))).all())


def compare_scores(observed: Tensor, expected: Tensor, bound: Tensor) -> Comparison:
    """Compares modified scores (B, H, M, N) with certified scores of the same shape.

    A bound of inf excludes an element. A comparison of no elements fails, unless there are no scores.
    """
    rows = expected.shape[:-1].numel()
    if not expected.numel():
        reason = f"the problem has no scores (shape {tuple(expected.shape)}); there is nothing to compare"
        return Comparison(True, "ok", reason, 0, 0, rows, 0, 0.0, 0, 0, 0, 0, None, empty=True)
    part = _part("scores", observed, expected, bound, torch.ones(()).bool())
    symptom, reason = _verdict(part.elements, part.over[0], part, rows, 0, [part])
    return Comparison(
        passed=symptom == "ok",
        symptom=symptom,
        reason=reason,
        elements=part.elements,
        excluded_elements=part.excluded,
        rows=rows,
        excluded_rows=0,
        max_ratio=part.max_ratio,
        over_1=part.over[0],
        over_half=part.over[1],
        over_tenth=part.over[2],
        special_mismatches=part.special,
        worst=part.worst,
        telling=part.telling,
    )


def _malformed(name: str, tensor: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> tuple[Symptom, str] | None:
    """The symptom and reason of a tensor that is missing, or has a wrong shape or dtype. Returns None for any other."""
    if tensor is None:
        return "missing", f"{name} was not returned"
    if tensor.shape != shape:
        return "wrong", f"{name} has shape {tuple(tensor.shape)}; it should be {tuple(shape)}"
    if tensor.dtype != dtype:
        return "wrong", f"{name} is {tensor.dtype}; it should be {dtype}"
    return None


def _part(
    name: Literal["out", "lse", "scores"], observed: Tensor, expected: Tensor, bound: Tensor, kept: Tensor
) -> _Part:
    seen = observed.detach().to(device="cpu", dtype=torch.float64)
    compared = kept & (bound < math.inf)
    same = (seen == expected) | (seen.isnan() & expected.isnan())
    special = compared & ~same & ~(seen.isfinite() & expected.isfinite())
    distance = (seen - expected).abs_()
    ratio = torch.where(compared & ~same & ~special, distance / bound, 0.0)  # x / 0 is inf: bound 0 requires equality
    elements = int(compared.sum())
    specials = int(special.sum())
    worst: Worst | None = None
    max_ratio = 0.0
    if elements:
        max_ratio = float(ratio.max())
        # If no element differs, take the first compared element.
        key = special.double() if specials else (ratio if max_ratio > 0 else compared.double())
        flat = int(key.argmax())
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), key.shape))
        worst = Worst(
            tensor=name,
            index=list(at),
            observed=float(seen[at]),
            expected=float(expected[at]),
            bound=float(bound[at]),
        )
    over = tuple(int((ratio > limit).sum()) for limit in (1.0, 0.5, 0.1))
    telling = int((compared & expected.isfinite() & (expected != 0)).sum())
    over_all = (over[0], over[1], over[2])
    return _Part(name, elements, expected.numel() - elements, over_all, specials, max_ratio, worst, telling)


def _verdict(
    elements: int, over_1: int, leading: _Part, rows: int, excluded_rows: int, parts: Sequence[_Part]
) -> tuple[Symptom, str]:
    """The symptom and the reason. An element beyond its bound is an error, however many elements were left out."""
    if elements == 0:
        return "missing", f"nothing was compared: all {rows} rows are excluded"
    w = leading.worst
    assert w is not None
    at = f"{w['tensor']}{w['index']} is {w['observed']:.9g}, expected {w['expected']:.9g}"
    if leading.special:
        return "nonfinite", f"{leading.special} of {elements} elements are NaN or infinite on one side only; {at}"
    if over_1:
        beyond = f"{at} +- {w['bound']:.3g}; ratio {leading.max_ratio:.3g}"
        return "wrong", f"{over_1} of {elements} elements exceed their bound; {beyond}"
    limit = f"more than {MAX_EXCLUDED:.0%}: not accepted as evidence"
    if excluded_rows > MAX_EXCLUDED * rows:
        return "missing", f"{excluded_rows} of {rows} rows are indeterminate, {limit}"
    for part in parts:  # each by itself: in a total, the few elements of the LSE would hardly count
        whole = part.elements + part.excluded
        if part.excluded > MAX_EXCLUDED * whole:
            return "missing", f"{part.excluded} of {whole} elements of {part.name} have no bound, {limit}"
    return "ok", f"{elements} elements within their bounds (max ratio {leading.max_ratio:.3g})"
