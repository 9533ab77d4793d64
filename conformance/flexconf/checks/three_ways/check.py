"""All forms of an operation three ways, what was compared, and who disagrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from flexconf.checks.three_ways.forms import Form
from flexconf.checks.three_ways.reasons import LOWERING_REFUSES, LOWERING_TAKES, REASONS, Reason
from flexconf.checks.three_ways.values import KEYS, QUERIES
from flexconf.checks.three_ways.ways import GROUP, Result, eager, lowered, oracle, refused

LEAST: Final = 5000
"""As many points a check of all operations has to compare, or it has not checked."""


@dataclass(frozen=True)
class Disagreement:
    """One form on which the three do not agree: whose fault, by the oracle or by two against one, and where."""

    form: Form
    who: str
    detail: str

    def __str__(self) -> str:
        return f"{self.form.text}: {self.who}: {self.detail}"


@dataclass
class Tally:
    """What became of an operation's forms.

    `compared`: points at which eager, the oracle and the lowering at every width were held against each other.
    `excluded`: points that the oracle leaves open. `refused`: forms that eager and the lowering both refuse.
    `excused`: points or forms that a reason of `reasons.REASONS` covers, by that reason's key.
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


def check(forms: Sequence[Form]) -> dict[str, Tally]:
    """Hold every form's values against each other: integers and booleans must be equal, floats within the bound.

    The tallies are by operation. Several operations share a kernel, so the more forms at once the less time.
    """
    tallies = {form.operation: Tally() for form in forms}
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


def _refused(form: Form, first: Result, tally: Tally) -> None:
    """PyTorch refuses the form, or a reason has it that the lowering does: so the lowering must."""
    refusal = refused(form)
    if refusal and first.value is None:
        tally.refused += 1
    elif first.value is None:
        _report(form, LOWERING_TAKES, f"PyTorch refuses: {first.refusal}", tally)
    elif refusal:
        _report(form, LOWERING_REFUSES, refusal, tally)
    else:
        tally.disagreements.append(Disagreement(form, "the lowering takes it", "a reason has it that it does not"))


def compare(form: Form, first: Result, certain: Result, seen: dict[int, Result], tally: Tally) -> None:
    """Hold the three results of a form that all should take against each other; `seen` is by vector width."""
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
    decided = ~certain.bound.isinf()
    distinct = _distinct(form)
    tally.compared += int((decided & distinct).sum())
    tally.excluded += int((~decided & distinct).sum())
    wrong = {way: decided & outside(value, certain.value, certain.bound) for way, value in ways.items()}
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
    """Where `value` is not within `bound` of `centre`; a certain zero has its sign, an infinity or NaN is matched."""
    if not centre.dtype.is_floating_point:
        return (value != centre) & (bound == 0) | ((value.double() - centre.double()).abs() > bound)
    same = (value == centre) | (value.isnan() & centre.isnan())
    distance = (value - centre).abs().nan_to_num(nan=torch.inf)
    signs = (centre == 0) & (bound == 0) & (value.signbit() != centre.signbit())
    return (~same & (distance > bound)) | signs


def _distinct(form: Form) -> Tensor:
    """Of the (M, N) points those that differ in what the form reads."""
    rows = torch.ones(QUERIES, 1, dtype=torch.bool) if form.over_queries else torch.arange(QUERIES).view(-1, 1) == 0
    columns = torch.ones(KEYS, dtype=torch.bool) if form.over_keys else torch.arange(KEYS) == 0
    return rows & columns


def _report(form: Form, who: str, detail: str, tally: Tally) -> None:
    known = _expected(form, who)
    if known is None:
        tally.disagreements.append(Disagreement(form, who, detail))
    else:
        tally.excused[known.key] = tally.excused.get(known.key, 0) + 1


def _expected(form: Form, who: str) -> Reason | None:
    return next((r for r in REASONS if r.who == who and r.covers(form)), None)
