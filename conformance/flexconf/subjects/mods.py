"""The subject `reference.mods`: the rendered mods alone, on the CPU. It maps scores to scores, without an attention.

So it shows faults of the code generator, and no faults of other layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import flexflash
from flexconf.inputs import Inputs
from flexconf.oracles import error_model, math64
from flexconf.subjects.trial import Attended, Options, Refused, StageClock, asked
from flexconf.verdict import compare
from flexconf.verdict.compare import Comparison
from flexflash.launch.host import HostLauncher


def modify(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `reference.mods`: passes every score through score_mod and then mask_mod.

    The input scores are scale * Q K^T rounded to float32. The block lists are ignored: mask_mod decides every element.
    """
    launcher = HostLauncher(options.vector_width, clock.enter)
    try:
        kernel = flexflash.lower(
            given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, on_stage=clock.enter
        )
        scores = _scores(given)
        modified = launcher.evaluate(kernel, scores) if scores.numel() else scores
    except flexflash.FlexFlashError as error:
        raise Refused(error.stage, str(error)) from error
    return Attended(None, None, digests={"kernel": kernel.digest}, scores=modified)


def judge(exact: Inputs, options: Options) -> Callable[[Mapping[str, Tensor]], Comparison]:
    """The Judge of modified scores. The oracle takes the input scores as exact."""
    value, bound = asked(exact, lambda: _bounded(exact, _scores(exact)))
    return lambda returned: compare.compare_scores(returned["scores"], value, bound)


def _scores(given: Inputs) -> Tensor:
    group = given.q.shape[1] // given.k.shape[1]
    keys = given.k.double().repeat_interleave(group, dim=1)
    return ((given.q.double() @ keys.transpose(2, 3)) * given.scale).float()


def _bounded(given: Inputs, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(value, bound), both float64 (B, H, M, N)."""
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
