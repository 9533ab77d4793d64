"""The subject `reference.mods`: the rendered mods alone, on the CPU. It maps scores to scores, without an attention.

So it shows faults of the code generator, and no faults of other layers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import flexflash
from flexconf import inputs, tampering
from flexconf.cases.case import Case
from flexconf.inputs import Inputs
from flexconf.oracles import error_model, math64
from flexconf.subjects import Subject, get, saved
from flexconf.subjects.trial import Options, StageClock, Unjudged, asked, error_symptom
from flexconf.verdict import compare
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexflash.launch.host import HostLauncher

NAME = "reference.mods"


def run_case(
    case: Case,
    subject: str = NAME,
    options: Options | None = None,
    stage: Callable[[str], None] | None = None,
    *,
    given: Inputs | None = None,
    keep: Path | None = None,
) -> Outcome:
    """Passes every score of `case` through score_mod and then mask_mod, and compares it with the float64 oracle.

    The input scores are scale * Q K^T rounded to float32; the oracle takes them as exact. The block lists are ignored:
    mask_mod decides every element. `stage` and `given` are as in `trial.run_case`. `keep` is a folder that receives the
    scores. A refusal is an outcome. Raises InputError for a case that cannot be judged, or options that the subject
    does not have.
    """
    return run_on(case, get(subject), options, stage, given=given, keep=keep)


def run_on(
    case: Case,
    what: Subject,
    options: Options | None = None,
    stage: Callable[[str], None] | None = None,
    *,
    given: Inputs | None = None,
    keep: Path | None = None,
) -> Outcome:
    """`run_case` on the subject itself."""
    options = options if options is not None else Options()
    what.check(options)
    subject = tampering.labelled(what.name)
    clock = StageClock(stage)
    clock.enter("inputs")
    exact = given if given is not None else inputs.materialize(case)
    launcher = HostLauncher(options.vector_width, clock.enter)
    scores = _scores(exact)
    certified: tuple[Tensor, Tensor] | None = None
    if case.expect == "ok":
        clock.enter("oracle")
        with contextlib.suppress(Unjudged):  # the lowering names the operation and its line, which helps more
            certified = _expected(exact, scores)

    def ended(at: str, symptom: Symptom, message: str) -> Outcome:
        clock.close()
        known = Stage(at) if at in {s.value for s in Stage} else Stage.LAUNCH
        return Outcome(case.name, case.digest(), subject, known, symptom, message, None, clock.seconds, exact.digests)

    try:
        kernel = flexflash.lower(
            exact.q, exact.k, exact.v, exact.score_mod, exact.block_mask, exact.scale, on_stage=clock.enter
        )
        observed = launcher.evaluate(kernel, scores) if scores.numel() else scores
    except flexflash.FlexFlashError as error:
        return ended(error.stage, Symptom.REFUSED, str(error))
    except Exception as error:  # compilers' own exceptions have no common base
        return ended(clock.stage or "launch", *error_symptom(error))
    if keep is not None:
        saved.save(keep, case.name, subject, {"scores": observed})
    if certified is None:
        clock.enter("oracle")
        certified = _expected(exact, scores)
    clock.enter("output")
    comparison = compare.compare_scores(observed, *certified)
    clock.close()
    return Outcome(
        case=case.name,
        case_digest=case.digest(),
        subject=subject,
        stage=Stage.OUTPUT,
        symptom=Symptom(comparison.symptom),
        message=comparison.reason,
        comparison=comparison.to_json(),
        timings=clock.seconds,
        digests={**exact.digests, "kernel": kernel.digest},
    )


def _scores(given: Inputs) -> Tensor:
    group = given.q.shape[1] // given.k.shape[1]
    keys = given.k.double().repeat_interleave(group, dim=1)
    return ((given.q.double() @ keys.transpose(2, 3)) * given.scale).float()


def _expected(given: Inputs, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(value, bound), both float64 (B, H, M, N). Raises InputError and Unjudged, as `trial.certify` does."""
    return asked(given, lambda: _bounded(given, scores))


def _bounded(given: Inputs, scores: Tensor) -> tuple[Tensor, Tensor]:
    value, bound = scores.double(), torch.zeros(scores.shape, dtype=torch.float64)
    B, H, M, N = scores.shape
    if not scores.numel():
        return value, bound
    if given.score_mod is not None:
        modified = math64.evaluate(given.score_mod, "score", (value, None), B, H, M, N)
        value, bound = modified.value.expand(scores.shape), modified.error.expand(scores.shape)
        if modified.dtype != torch.float32:  # the conversion to a score rounds once more
            bound = bound + torch.where(value.isfinite(), value.abs() * 2 * error_model.U32, 0.0)
    if given.block_mask is not None and given.block_mask.mask_mod is not None:
        mask = math64.evaluate(given.block_mask.mask_mod, "mask", None, B, H, M, N)
        value = torch.where(mask.value, value, -math.inf)
        bound = torch.where(mask.value, bound, 0.0)
        bound = torch.where(mask.error > 0, math.inf, bound)
    return value, bound
