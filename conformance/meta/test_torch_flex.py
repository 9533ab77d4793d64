"""What torch.compile raises is put down to the part that raised it."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError, Unsupported
from torch._inductor.exc import InductorError, LoweringException

from flexconf.cases import catalogue
from flexconf.subjects import torch_flex, trial
from flexconf.subjects.trial import Refused, StageClock
from flexconf.verdict.outcome import Stage, Symptom

RULER = "=" * 80


def _wrapped(cause: Exception) -> Exception:
    """As torch.compile raises what a lowering raised."""
    lowering = LoweringException(cause, "flex_attention", [], {})
    lowering.__cause__ = cause
    outer = InductorError(lowering, None)
    outer.__cause__ = lowering
    return outer


def _judged(error: Exception) -> str:
    clock = StageClock()
    clock.enter("trace")
    try:
        torch_flex.judge(error, clock)
    except Refused as refused:
        return f"refused at {refused.stage}: {refused}"
    return f"failed at {clock.stage}"


def test_a_refused_operation_is_named_without_ornament() -> None:
    cause = RuntimeError(f"CuteDSL template failed: {RULER} UNSUPPORTED CUTEDSL OPERATION: 'ceil' {RULER} This")
    assert _judged(_wrapped(cause)) == (
        "refused at render: RuntimeError: CuteDSL template failed: UNSUPPORTED CUTEDSL OPERATION: 'ceil' This"
    )


def test_a_refusal_says_at_which_stage() -> None:
    ineligible = RuntimeError("BACKEND='FLASH' but flash attention cannot be used: Input buffers require gradients")
    assert _judged(_wrapped(ineligible)).startswith("refused at eligibility: RuntimeError: BACKEND='FLASH'")
    assert _judged(_wrapped(NotImplementedError("NYI: E=8"))) == "refused at render: NotImplementedError: NYI: E=8"


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        (_wrapped(AttributeError("two graphs")), "render"),
        (_wrapped(KeyError("x")), "render"),
        (InternalTorchDynamoError("inside"), "trace"),
        (ValueError("Type mismatch, store Float64 to Tensor with element type Float32"), "compile"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "launch"),
        (torch.OutOfMemoryError("200 GiB"), "launch"),
    ],
)
def test_a_crash_is_no_refusal(error: Exception, stage: str) -> None:
    assert _judged(error) == f"failed at {stage}"


def test_what_dynamo_does_not_trace_is_refused() -> None:
    assert _judged(Unsupported("data-dependent branching")).startswith("refused at trace: Unsupported: data-dep")


@pytest.mark.parametrize("name", ["alibi", "causal", "alibi_causal@mqa8", "softcap"])
def test_eager_is_right(name: str) -> None:
    (case,) = catalogue.select(catalogue.load(), [name])
    outcome = trial.run_case(case, "torch-eager")
    assert outcome.ok, outcome.message
    assert outcome.comparison is not None
    assert outcome.comparison["elements"] > 10_000


def test_eager_reads_no_block_lists() -> None:
    """A difference of contract (L8.4) that shows by itself: eager asks the mask_mod, whatever the lists say."""
    (case,) = catalogue.select(catalogue.load(), ["lists_without_mask"])
    outcome = trial.run_case(case, "torch-eager")
    assert (outcome.stage, outcome.symptom) == (Stage.OUTPUT, Symptom.WRONG)


def test_a_tensor_that_is_not_returned_is_missing() -> None:
    (case,) = catalogue.select(catalogue.load(), ["identity@no_queries"])
    outcome = trial.run_case(case, "torch-eager")
    assert outcome.symptom is Symptom.MISSING
    assert "lse was not returned" in outcome.message
