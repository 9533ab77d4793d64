"""What torch.compile raises is put down to the part that raised it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch._dynamo.exc import InternalTorchDynamoError, TorchRuntimeError, Unsupported
from torch._inductor.exc import InductorError, LoweringException

from flexconf.cases import catalogue
from flexconf.subjects import torch_flex, trial
from flexconf.subjects.trial import Refused, StageClock
from flexconf.verdict.outcome import Stage, Symptom
from flexflash import releases
from flexflash.eligibility import NO_MASKS, REQUIRES_GRAD

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
    ineligible = RuntimeError(f"BACKEND='FLASH' but flash attention cannot be used: {REQUIRES_GRAD}")
    assert _judged(_wrapped(ineligible)) == f"refused at eligibility: RuntimeError: {ineligible}"
    assert _judged(_wrapped(NotImplementedError("NYI: E=8"))) == "refused at render: NotImplementedError: NYI: E=8"


@pytest.mark.parametrize(
    ("module", "judged"),
    [
        (
            "torch._higher_order_ops.flex_attention",
            "refused at trace: AssertionError: captured buffers that require grad",
        ),
        ("torch.nn.attention.flex_attention", "refused at trace: AssertionError: captured buffers that require grad"),
        ("torch._dynamo.utils", "failed at trace"),
    ],
)
def test_a_check_of_flex_attentions_own_is_a_refusal_however_dynamo_wraps_it(module: str, judged: str) -> None:
    def wrapped() -> Exception:
        names = {"__name__": module}
        exec("def check():\n    raise AssertionError('captured buffers that require grad')\n", names)
        try:
            try:
                names["check"]()  # type: ignore[operator]
            except AssertionError as error:
                raise RuntimeError("got AssertionError('captured buffers that require grad')") from error
        except RuntimeError as error:
            outer = TorchRuntimeError("Dynamo failed to run FX node with fake tensors")
            outer.__cause__ = error
            return outer
        raise AssertionError("nothing was raised")

    assert _judged(wrapped()) == judged


def test_a_mask_mods_capture_that_requires_grad_is_refused_while_tracing() -> None:
    (case,) = catalogue.load_text(
        """
        [ineligible]
        mask_mod = "bias[h, kv] > 0.0"
        captures = { bias = "H,N:float32:normal:contiguous:requires_grad" }
        problem = { H = 2, Hkv = 2, M = 16, N = 16, D = 16 }
        """,
        "a test",
    )
    outcome = trial.run_case(case, "torch-codegen")
    assert (outcome.stage, outcome.symptom) == (Stage.TRACE, Symptom.REFUSED)
    assert outcome.message == "AssertionError: Captured buffers from mask mod that require grad are not supported."


def test_every_reason_of_a_profile_is_an_eligibility_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for release in releases.TORCH.values():
        monkeypatch.setattr(torch, "__version__", f"{release.read}+cpu")
        for rule in release.rules:
            judged = _judged(_wrapped(RuntimeError(f"cannot be used:  {rule.reason}")))
            assert judged.startswith("refused at eligibility: RuntimeError: cannot be used: "), rule.refuses
            assert "profile" not in judged, rule.refuses


def test_an_eligibility_reason_that_the_release_does_not_have_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = _wrapped(RuntimeError(f"BACKEND='FLASH' but flash attention cannot be used: {NO_MASKS}"))
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert _judged(masks).endswith(NO_MASKS)
    monkeypatch.setattr(torch, "__version__", "2.13.1")
    assert _judged(masks).endswith(
        f"{NO_MASKS} (the eligibility profile of torch 2.13 has no such reason; it refuses: a captured number that is "
        "dynamic; flash-attn-4 is not installed; a capture of the score_mod requires grad)"
    )
    monkeypatch.setattr(torch, "__version__", "2.99.0a0+gitabc")
    assert _judged(masks).endswith("(no eligibility profile of torch 2.99.0a0+gitabc is known)")


def test_every_reason_stands_in_the_installed_torch_where_its_profile_says() -> None:
    release = releases.of(torch.__version__)
    if release is None or Version(torch.__version__).base_version != release.read:
        pytest.skip(f"no profile was read from torch {torch.__version__}")
    for rule in release.rules:
        file, line = rule.source.split(":")
        text = (Path(torch.__file__).parent / "_inductor" / "kernel" / "flex" / file).read_text(encoding="utf-8")
        assert any(_is_said(rule.reason, node) for node in ast.walk(ast.parse(text)) if _at(node, int(line))), rule


def _at(node: ast.AST, line: int) -> bool:
    return isinstance(node, ast.Constant | ast.JoinedStr) and node.lineno <= line <= (node.end_lineno or 0)


def _is_said(reason: str, node: ast.AST) -> bool:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    said = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return any(part.endswith(reason) or (len(said) < len(parts) and part.strip() in reason) for part in said)


def test_what_the_installed_torch_refuses_has_the_reason_of_its_profile() -> None:
    (case,) = catalogue.load_text(
        """
        [ineligible]
        score_mod = "score + bias[h]"
        captures = { bias = "H:float32:normal:contiguous:requires_grad" }
        problem = { H = 2, Hkv = 2, M = 16, N = 16, D = 16 }
        """,
        "a test",
    )
    outcome = trial.run_case(case, "torch-codegen")
    assert (outcome.stage, outcome.symptom) == (Stage.ELIGIBILITY, Symptom.REFUSED)
    assert outcome.message.endswith(REQUIRES_GRAD), "nothing of a profile that differs"


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
