"""Metamorphic relations: relations between runs that hold without knowing the right results.

A relation changes the inputs of a case in a way whose effect on the results is known. It runs both versions and
compares the results: for equal bits if the arithmetic is the same, otherwise within the sum of the error bounds of both
runs (docs/accuracy.md).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexconf import inputs
from flexconf.cases.case import BlockSpec, Case
from flexconf.errors import InputError
from flexconf.inputs import Inputs
from flexconf.inputs.block_lists import of_mask, relisted
from flexconf.language import layouts
from flexconf.subjects import get, trial
from flexconf.subjects.trial import Options, StageClock

__all__ = ["RELATIONS", "Related", "Relation", "check"]

Pair = tuple[Tensor, Tensor]
_CONSTANT = 2.0


@dataclass(frozen=True)
class RelationSide:
    """One changed run: its inputs and options.

    `back(out, lse)` arranges its results like those of the original. `ahead` is how much larger its LSE must be.
    """

    given: Inputs
    options: Options = field(default_factory=Options)
    back: Callable[[Tensor, Tensor], Pair] = lambda out, lse: (out, lse)
    ahead: float = 0.0


@dataclass(frozen=True)
class Relation:
    """One relation.

    `why_not(case)` returns why it does not apply to a case, "" if it applies. `sides` makes the runs to compare with
    the original: each alone or, if `merged`, merged by their LSE. `exact` asks for equal bits.
    """

    name: str
    about: str
    why_not: Callable[[Case], str]
    sides: Callable[[Inputs], list[RelationSide]]
    exact: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Related:
    """The result of a relation: the number of compared elements, and the largest difference over its bound.

    `reason` says why the relation fails, "" if it does not. `skipped` says why it does not apply, "" if it applies.
    """

    relation: str
    elements: int = 0
    max_ratio: float = 0.0
    reason: str = ""
    skipped: str = ""

    @property
    def holds(self) -> bool:
        """Whether elements were compared, and all of them agree."""
        return not self.reason and not self.skipped and self.elements > 0


def check(case: Case, relation: str, subject: str = "reference.host") -> Related:
    """Check a relation for `case` on a CPU subject, in this process. Raises InputError for an unknown relation."""
    if relation not in RELATIONS:
        raise InputError(f"unknown relation {relation!r}; there are {', '.join(RELATIONS)}")
    rule = RELATIONS[relation]
    skipped = _nothing(case) or rule.why_not(case)
    if skipped:
        return Related(relation, skipped=skipped)
    base = inputs.materialize(case)
    whole = _run(base, Options(), subject)
    certified = trial.certify(base, Options())
    allowed = (certified.out_bound, certified.lse_bound)
    sides = rule.sides(base)
    results = []
    for side in sides:
        out, lse = side.back(*_run(side.given, side.options, subject))
        results.append((out, lse - side.ahead))
    if rule.exact:
        return _equal(relation, whole, results)
    bounds = []
    for side in sides:
        other = trial.certify(side.given, side.options)
        bounds.append(side.back(other.out_bound, other.lse_bound))
    if rule.merged:
        merged, bound = _merge(results, bounds)
        results, bounds = [merged], [bound]
    compared = ~certified.excluded
    return _close(relation, whole, results, [(allowed[0] + o, allowed[1] + s) for o, s in bounds], compared)


def _run(given: Inputs, options: Options, subject: str) -> Pair:
    attended = get(subject).load()(given, StageClock(), options)
    assert attended.out is not None and attended.lse is not None, f"{subject} returned no LSE"
    return attended.out.detach().double(), attended.lse.detach().double()


def _equal(relation: str, whole: Pair, results: list[Pair]) -> Related:
    elements = 0
    for n, pair in enumerate(results, 1):
        for name, a, b in zip(("out", "lse"), whole, pair, strict=True):
            elements += a.numel()
            differs = (a != b) & ~(a.isnan() & b.isnan())
            if bool(differs.any()):
                return Related(relation, elements, float("inf"), f"{_where(name, a, b, differs)} (run {n})")
    return Related(relation, elements)


def _close(relation: str, whole: Pair, results: list[Pair], bounds: list[Pair], compared: Tensor) -> Related:
    elements, worst = 0, 0.0
    for pair, bound in zip(results, bounds, strict=True):
        for name, a, b, e in zip(("out", "lse"), whole, pair, bound, strict=True):
            same = (a == b) | (a.isnan() & b.isnan())
            # An element without a bound may have any value.
            sure = (compared.unsqueeze(-1) if name == "out" else compared) & (same | e.isfinite())
            ratio = torch.where(same, 0.0, (a - b).abs() / e)
            ratio = torch.where(sure, ratio.nan_to_num(nan=float("inf"), posinf=float("inf")), 0.0)
            elements += int(sure.sum())
            worst = max(worst, float(ratio.max()) if ratio.numel() else 0.0)
            if bool((ratio > 1).any()):
                return Related(relation, elements, worst, _where(name, a, b, ratio == ratio.max()))
    return Related(relation, elements, worst)


def _where(name: str, a: Tensor, b: Tensor, at: Tensor) -> str:
    place = [int(n) for n in at.nonzero()[0]]
    return f"{name}{place} is {float(a[tuple(place)]):.9g} in one run and {float(b[tuple(place)]):.9g} in the other"


def _merge(parts: list[Pair], bounds: list[Pair]) -> tuple[Pair, Pair]:
    """(results merged from two halves by their LSE, their error bounds to first order, from the bounds of both)."""
    (o1, l1), (o2, l2) = parts
    (eo1, el1), (eo2, el2) = bounds
    lse = torch.logaddexp(l1, l2)
    weights = [torch.where(part == -torch.inf, 0.0, (part - lse).exp()).unsqueeze(-1) for part in (l1, l2)]
    out = weights[0] * o1 + weights[1] * o2
    slack = (el1 + el2).unsqueeze(-1)
    error = weights[0] * eo1 + weights[1] * eo2 + 2 * slack * (weights[0] * o1.abs() + weights[1] * o2.abs())
    return (out, lse), (error, el1 + el2)


# ------------------------------------------------------------------------------------------------- what applies


def _nothing(case: Case) -> str:
    p = case.problem
    return "the problem is empty" if 0 in (p.B, p.M, p.N) else ""


def _reads(case: Case, *names: str) -> bool:
    text = f"{case.score_mod or ''} {case.mask_mod or ''}"
    return any(re.search(rf"\b{name}\b", text) for name in names)


def _of_all_alike(name: str, size: Callable[[Case], int], what: str) -> Callable[[Case], str]:
    def why_not(case: Case) -> str:
        if size(case) < 2:
            return f"there is one {what}"
        if _reads(case, name):
            return f"a mod reads {name}"
        return "block lists by hand may differ" if case.block.kind == "lists" else ""

    return why_not


def _not_by_hand(case: Case) -> str:
    return "block lists are by hand" if case.block.kind == "lists" else ""


# ---------------------------------------------------------------------------------------------------- relations


def _widths(base: Inputs) -> list[RelationSide]:
    return [RelationSide(base, Options(vector_width=width)) for width in (1, 2, 4, 8)]


def _flipped(dimension: int) -> Callable[[Inputs], list[RelationSide]]:
    def sides(base: Inputs) -> list[RelationSide]:
        q, k, v = (t.flip(dimension) for t in (base.q, base.k, base.v))
        return [
            RelationSide(
                dataclasses.replace(base, q=q, k=k, v=v),
                back=lambda out, lse: (out.flip(dimension), lse.flip(dimension)),
            )
        ]

    return sides


def _repeated_heads(base: Inputs) -> list[RelationSide]:
    group = base.q.shape[1] // base.k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (base.k, base.v))
    return [RelationSide(dataclasses.replace(base, k=k, v=v))]


def _shifted(base: Inputs) -> list[RelationSide]:
    own = base.score_mod

    def shifted(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (score if own is None else own(score, b, h, q, kv)) + _CONSTANT

    return [RelationSide(dataclasses.replace(base, score_mod=shifted), ahead=_CONSTANT)]


def _mask_as_score(base: Inputs) -> list[RelationSide]:
    own, mask = base.score_mod, base.mask_mod
    assert mask is not None

    def masked(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        inner = score if own is None else own(score, b, h, q, kv)
        return torch.where(mask(b, h, q, kv), inner, -torch.inf)

    return [RelationSide(dataclasses.replace(base, score_mod=masked, mask_mod=None, block_mask=None))]


def _other_blocks(base: Inputs) -> list[RelationSide]:
    spec = base.case.block
    others = [BlockSpec(q=q, kv=kv) for q, kv in ((64, 32), (16, 128)) if (q, kv) != (spec.q, spec.kv)]
    return [RelationSide(inputs.materialize(base.case.replace(block=other))) for other in others]


def _other_order(base: Inputs) -> list[RelationSide]:
    mask = base.block_mask
    assert mask is not None
    full = mask.full_kv_num_blocks
    other = relisted(
        mask,
        _backwards(mask.kv_num_blocks, mask.kv_indices),
        None if full is None or mask.full_kv_indices is None else _backwards(full, mask.full_kv_indices),
        mask.mask_mod,
    )
    return [RelationSide(dataclasses.replace(base, block_mask=other))]


def _backwards(count: Tensor, index: Tensor) -> Tensor:
    """The block indices with every list reversed. The entries behind the end of a list stay in place."""
    place = torch.arange(index.shape[-1], dtype=count.dtype).expand_as(index)
    last = count.unsqueeze(-1) - 1
    return index.gather(-1, torch.where(place <= last, last - place, place).long())


def _contiguous(base: Inputs) -> list[RelationSide]:
    case = base.case
    captures = tuple(dataclasses.replace(c, layout="contiguous") for c in case.captures)
    made = inputs.materialize(case.replace(captures=captures))
    q, k, v = (t.contiguous() for t in (base.q, base.k, base.v))
    return [RelationSide(dataclasses.replace(made, q=q, k=k, v=v))]


def _is_strided(case: Case) -> str:
    kinds = {layouts.parse(c.layout).kind for c in case.captures}
    if kinds & {"expanded", *layouts.SHARED}:
        return "a capture's elements are not its own"
    return "" if kinds - {"contiguous"} or case.problem.layout != "contiguous" else "everything is contiguous"


def _halves(base: Inputs) -> list[RelationSide]:
    """The first half of the keys and the second. The mods of both still see the original key numbers."""
    keys = base.k.shape[2]
    cut = (keys + 1) // 2
    return [RelationSide(_part(base, 0, cut)), RelationSide(_part(base, cut, keys))]


def _part(base: Inputs, first: int, last: int) -> Inputs:
    score_mod, mask_mod = base.score_mod, base.mask_mod
    if first:
        own, mask = base.score_mod, base.mask_mod

        # The parameters are written out because FlexAttention counts the parameters of a mod.
        def score_there(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            assert own is not None
            return own(score, b, h, q, kv + first)

        def mask_there(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            assert mask is not None
            return mask(b, h, q, kv + first)

        score_mod = score_there if own is not None else None
        mask_mod = mask_there if mask is not None else None
    block = None
    if mask_mod is not None:
        sizes = (base.q.shape[0], base.q.shape[1], base.q.shape[2], last - first)
        spec = base.case.block
        block = of_mask(mask_mod, *sizes, (spec.q, spec.kv))
    k, v = base.k[:, :, first:last], base.v[:, :, first:last]
    return dataclasses.replace(base, k=k, v=v, score_mod=score_mod, mask_mod=mask_mod, block_mask=block)


RELATIONS: dict[str, Relation] = {
    r.name: r
    for r in (
        Relation(
            "widths",
            "How many keys a mod sees at once changes no bit.",
            lambda case: "" if case.score_mod or case.mask_mod else "there is no mod",
            _widths,
            exact=True,
        ),
        Relation(
            "batches",
            "Batches in another order give results in another order.",
            _of_all_alike("b", lambda c: c.problem.B, "batch"),
            _flipped(0),
            exact=True,
        ),
        Relation(
            "heads",
            "Heads in another order give results in another order.",
            _of_all_alike("h", lambda c: c.problem.H, "head"),
            _flipped(1),
            exact=True,
        ),
        Relation(
            "gqa",
            "Shared key/value heads are the same as repeated ones (L8.3).",
            lambda c: "" if c.problem.Hkv < c.problem.H else "every query head has its own key/value head",
            _repeated_heads,
            exact=True,
        ),
        Relation(
            "constant",
            "A constant added to every score moves the LSE by it, and nothing else.",
            lambda c: "",
            _shifted,
        ),
        Relation(
            "mask-as-score",
            "What mask_mod removes, a score of -inf removes as well (L8.5).",
            lambda c: "there is no mask_mod" if c.mask_mod is None else _not_by_hand(c),
            _mask_as_score,
        ),
        Relation(
            "block-size",
            "The size of the mask's blocks does not matter.",
            lambda c: "there is no mask_mod" if c.mask_mod is None else _not_by_hand(c),
            _other_blocks,
        ),
        Relation(
            "list-order",
            "The order in which blocks are listed does not matter (L8.4).",
            lambda c: (
                ""
                if c.block.kind == "lists" or (c.mask_mod is not None and c.block.kind == "from_mask")
                else "no lists"
            ),
            _other_order,
        ),
        Relation(
            "strides",
            "Strided tensors are the same as contiguous ones (L2.4).",
            _is_strided,
            _contiguous,
            exact=True,
        ),
        Relation(
            "halves",
            "Attending to two halves of the keys and merging by LSE is attending to all of them.",
            lambda c: "there is one key" if c.problem.N < 2 else _not_by_hand(c),
            _halves,
            merged=True,
        ),
    )
}
"""All relations, by name."""
