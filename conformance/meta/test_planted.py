"""The tester is tested: planted errors are caught, corrections taken back are seen, and the bound is tight.

`docs/accuracy.md` says why each of these must show: the bound is certified, so it may not be generous either.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.subjects import reference, trial
from flexconf.verdict.outcome import Outcome
from flexflash.launch.host import HostLauncher
from flexflash.traced import Traced


@functools.cache
def _catalogue() -> dict[str, Case]:
    return {case.name: case for case in catalogue.load()}


class OneUlpInAHundred(HostLauncher):
    """One bfloat16 ulp too much in 1 % of the probabilities, at places drawn from a fixed seed."""

    def probabilities(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        rounded = super().probabilities(weights, dtype)
        chosen = torch.rand(rounded.shape, generator=torch.Generator().manual_seed(1)) < 0.01
        _, exponent = torch.frexp(rounded)
        ulp = torch.ldexp(torch.full_like(rounded, torch.finfo(dtype).eps), exponent - 1)
        return torch.where(chosen & (rounded > 0), rounded + ulp, rounded)


class OneKeyOff(HostLauncher):
    """One row of each head attends to its neighbour's keys: the scores of row 5 are those of row 6."""

    def modify(self, scores: Tensor, *arguments: Any, **keywords: Any) -> None:
        super().modify(scores, *arguments, **keywords)
        row = min(5, scores.shape[2] - 2)
        scores[:, :, row] = scores[:, :, row].roll(1, dims=-1)


def _wrong_element(case: Case) -> inputs.Inputs:
    """The case's inputs for the oracle, but with one element of the first float capture changed for the subject."""
    given = inputs.materialize(case)
    name = next(n for n, t in given.captures.items() if t.is_floating_point() and t.dim())
    table = given.captures[name]
    changed = table.detach().clone()
    changed[(0,) * (table.dim() - 1) + (table.shape[-1] // 2,)] += 1.0
    other = inputs.materialize(case)
    view = other.captures[name]
    view.copy_(changed)
    return other


def _run(case: Case, launcher: Callable[..., HostLauncher]) -> Outcome:
    return trial.run_case(case, attend=reference.through(launcher))


_PEAKED = ("causal", "sliding_window", "document", "softcap", "alibi", "streaming", "dilated", "chunked")


def _names(*starts: str) -> list[str]:
    return [n for n, c in _catalogue().items() if c.expect == "ok" and n.split("@")[0] in starts]


def _caught(launcher: Callable[[], HostLauncher], names: list[str]) -> list[str]:
    return [n for n in names if not _run(_catalogue()[n], launcher).ok]


def test_one_ulp_in_one_percent_of_the_probabilities_is_caught() -> None:
    names = [n for n in _names(*_PEAKED) if _catalogue()[n].problem.dtype == "bfloat16"][:12]
    assert all(_run(_catalogue()[n], HostLauncher).ok for n in names), "silent without the fault"
    caught = _caught(OneUlpInAHundred, names)
    assert len(caught) >= 3, f"caught on {caught} of {names}"


def test_one_row_off_by_one_key_is_caught() -> None:
    names = _names("alibi", "softcap", "causal")[:8]
    caught = _caught(OneKeyOff, names)
    assert len(caught) >= 3, f"caught on {caught} of {names}"


def test_one_wrong_element_of_a_table_is_caught() -> None:
    caught = []
    names = [n for n, c in _catalogue().items() if "@" not in n and n.startswith(("relative_bias", "dtype_", "rank"))]
    for name in names:
        case = _catalogue()[name]
        if not any(c.dtype.startswith(("float", "bfloat")) and c.shape for c in case.captures):
            continue
        honest, changed = inputs.materialize(case), _wrong_element(case)
        # The subject reads the changed table through its own mod; the oracle reads the honest one.
        lowered = trial.run_case(case, given=changed)
        assert lowered.ok, f"{name}: consistent inputs must pass"
        mixed = dataclasses.replace(
            honest, score_mod=_split(changed.score_mod, honest.score_mod), captures=honest.captures
        )
        if not trial.run_case(case, given=mixed).ok:
            caught.append(name)
    assert len(caught) >= 3, f"caught on {caught} of {names}"


def _split(for_subject: Any, for_oracle: Any) -> Any:
    """A mod that is one function under the lowering's trace and another under the oracle."""

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        chosen = for_subject if isinstance(score, Traced) else for_oracle
        return chosen(score, b, h, q, kv)  # type: ignore[no-any-return]

    return mod


def test_the_bound_is_tight_and_never_exceeded() -> None:
    """Over every seventh case: no ratio above 1, and a median of the cases' largest ratios far above 0.05."""
    ratios = []
    for case in list(_catalogue().values())[::7]:
        if case.expect != "ok":
            continue
        outcome = trial.run_case(case)
        assert outcome.ok, f"{case.name}: {outcome.message}"
        assert outcome.comparison is not None
        if outcome.comparison["elements"]:
            ratios.append(float(outcome.comparison["max_ratio"]))
    assert len(ratios) > 30
    assert max(ratios) <= 1.0
    assert statistics.median(ratios) >= 0.05


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_guarded_captures_stay_unread(width: int) -> None:
    """Captures lie between guard elements; a lane past the last key must not let one in."""
    for name in _names("relative_bias_negative", "relative_bias_1d")[:3]:
        assert trial.run_case(_catalogue()[name], options=trial.Options(vector_width=width)).ok
