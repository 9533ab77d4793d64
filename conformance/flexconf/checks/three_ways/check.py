"""Evaluates forms of operations in three ways, and reports the compared points and the disagreements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from flexconf.checks.three_ways.forms import Form
from flexconf.checks.three_ways.reasons import LOWERING_REFUSES, LOWERING_TAKES, REASONS, Reason
from flexconf.checks.three_ways.values import KEYS, QUERIES
from flexconf.checks.three_ways.ways import GROUP, WayResult, eager, lowered, oracle, refused

LEAST: Final = 5000
"""The least number of points that a check of all operations must compare to count as a check."""


@dataclass(frozen=True)
class Disagreement:
    """One form on which the three ways disagree. `who` says which ways and how, `detail` gives the first point."""

    form: Form
    who: str
    detail: str

    def __str__(self) -> str:
        return f"{self.form.text}: {self.who}: {self.detail}"


@dataclass
class FormTally:
    """The results for the forms of one operation.

    `forms` counts them. `compared` counts the points at which eager, the oracle and the lowering at every width were
    compared. `excluded` counts the points that the oracle leaves open. `refused` counts the forms that both eager and
    the lowering refuse. `excused` counts the forms that a reason in `reasons.REASONS` covers, by the key of the reason.
    """

    forms: int = 0
    compared: int = 0
    excluded: int = 0
    refused: int = 0
    excused: dict[str, int] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)

    def __str__(self) -> str:
        excused = "".join(f", {n} excused: {key}" for key, n in sorted(self.excused.items()))
        return (
            f"{self.forms} forms, {self.compared} points compared, {self.excluded} left open by the oracle, "
            f"{self.refused} forms refused by all{excused}, {len(self.disagreements)} disagreements"
        )


def check(forms: Sequence[Form]) -> dict[str, FormTally]:
    """Compare the results of every form: integers and bools must be equal, floats must lie within the bound.

    Returns the tallies by operation. Several operations share a kernel, so many forms in one call take less time.
    """
    tallies = {form.operation: FormTally() for form in forms}
    for form in forms:
        tallies[form.operation].forms += 1
    first = {form: eager(form) for form in forms}
    together: list[Form] = []
    for form in forms:
        if first[form].value is None or _expected(form, LOWERING_REFUSES) is not None:
            _refused(form, first[form], tallies[form.operation])
        else:
            together.append(form)
    for start in range(0, len(together), GROUP):
        group = together[start : start + GROUP]
        for form, certain, seen in zip(group, oracle(group), lowered(group, [first[f] for f in group]), strict=True):
            compare(form, first[form], certain, seen, tallies[form.operation])
    for reason in REASONS:
        covered = [form for form in forms if reason.covers(form)]
        if covered and not any(reason.key in tally.excused for tally in tallies.values()):
            tallies[covered[0].operation].disagreements.append(
                Disagreement(covered[0], "the three agree", f"nothing is left of the reason {reason.key!r}")
            )
    return tallies


def _refused(form: Form, first: WayResult, tally: FormTally) -> None:
    """Tally a form that the lowering must refuse: PyTorch refuses it, or a reason says that the lowering does."""
    refusal = refused(form)
    if refusal and first.value is None:
        tally.refused += 1
    elif first.value is None:
        _report(form, LOWERING_TAKES, f"PyTorch refuses: {first.refusal}", tally)
    elif refusal:
        _report(form, LOWERING_REFUSES, refusal, tally)
    else:
        tally.disagreements.append(Disagreement(form, "the lowering takes it", "a reason has it that it does not"))


def compare(form: Form, first: WayResult, certain: WayResult, seen: dict[int, WayResult], tally: FormTally) -> None:
    """Compare the three results of a form that all ways should take.

    `first` is eager PyTorch's, `certain` the oracle's, `seen` the lowering's by vector width.
    """
    if certain.value is None or certain.bound is None:
        return _report(form, "oracle refuses", certain.refusal, tally)
    refusal = next((s.refusal for s in seen.values() if s.value is None), "")
    if refusal:
        return _report(form, LOWERING_REFUSES, refusal, tally)
    dtypes = {"eager": first.dtype, "oracle": certain.dtype, **{f"lowering at {w}": s.dtype for w, s in seen.items()}}
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{way} {dtype}" for way, dtype in dtypes.items())
        return _report(form, "dtypes", said, tally)
    assert first.value is not None
    ways: dict[str, Tensor] = {"eager": first.value}
    ways |= {f"lowering at {w}": s.value for w, s in seen.items() if s.value is not None}
    determinate = ~certain.bound.isinf()
    distinct = _distinct(form)
    tally.compared += int((determinate & distinct).sum())
    tally.excluded += int((~determinate & distinct).sum())
    wrong = {way: determinate & outside(value, certain.value, certain.bound) for way, value in ways.items()}
    everyone = [w for w in wrong.values() if bool(w.any())]
    if not everyone:
        return
    who = "eager" if bool(wrong["eager"].any()) else ""
    if any(bool(w.any()) for way, w in wrong.items() if way != "eager"):
        who += " and lowering" if who else "lowering"
    row, column = (int(n) for n in torch.stack(everyone).any(0).nonzero()[0])
    values = ", ".join(f"{w} {v[row, column].item()!r}" for w, v in ways.items())
    oracle_says = f"{certain.value[row, column].item()!r} +- {certain.bound[row, column].item():.3g}"
    count = int((torch.stack(everyone).any(0) & distinct).sum())
    _report(
        form, f"{who} outside", f"{count} points, first q={row}, kv={column}: {values}, oracle {oracle_says}", tally
    )


def outside(value: Tensor, centre: Tensor, bound: Tensor) -> Tensor:
    """The points at which `value` is not within `bound` of `centre`.

    Infinities and NaN must be equal. A zero with bound 0 must have the right sign.
    """
    if not centre.dtype.is_floating_point:
        return (value != centre) & (bound == 0) | ((value.double() - centre.double()).abs() > bound)
    same = (value == centre) | (value.isnan() & centre.isnan())
    distance = (value - centre).abs().nan_to_num(nan=torch.inf)
    signs = (centre == 0) & (bound == 0) & (value.signbit() != centre.signbit())
    return (~same & (distance > bound)) | signs


def _distinct(form: Form) -> Tensor:
    """A mask of the (M, N) points. Of the points at which the form reads the same values, it keeps one."""
    rows = torch.ones(QUERIES, 1, dtype=torch.bool) if form.over_queries else torch.arange(QUERIES).view(-1, 1) == 0
    columns = torch.ones(KEYS, dtype=torch.bool) if form.over_keys else torch.arange(KEYS) == 0
    return rows & columns


def _report(form: Form, who: str, detail: str, tally: FormTally) -> None:
    known = _expected(form, who)
    if known is None:
        tally.disagreements.append(Disagreement(form, who, detail))
    else:
        tally.excused[known.key] = tally.excused.get(known.key, 0) + 1


def _expected(form: Form, who: str) -> Reason | None:
    return next((r for r in REASONS if r.who == who and r.covers(form)), None)
