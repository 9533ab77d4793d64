"""The components that the gate suspects of a failure."""

from __future__ import annotations

import dataclasses

import pytest
from bundles import (
    FA4,
    HOST,
    TRITON,
    Made,
    environment,
    other_bits,
    outcome,
)
from deciding import PASS, WRONG, decided, row

from flexconf.gate import components
from flexconf.gate.model import Change, Effect, Evidence
from flexconf.verdict.outcome import Outcome


def test_every_recorded_fact_is_a_component() -> None:
    before = environment()
    after = {**environment("590.12.01", torch="2.14.0", triton=None), "cuda": None, "firmware": {"vbios": "96"}}
    after["git"] = {"commit": "fedcba9876543210", "changes": "5eed"}
    found = {c.name: (c.before, c.after) for c in components.compare(before, after) if c.differs}
    assert found == {
        "driver": ("580.95.05", "590.12.01"),
        "CUDA": ("12.8", ""),
        "torch": ("2.13.0", "2.14.0"),
        "triton": ("3.6.0", ""),
        "suite commit": ("0123456789ab", "fedcba987654 and changes 5eed"),
        "firmware.vbios": ("", "96"),
    }
    assert components.compare({}, {}) == ()
    names = [c.name for c in components.compare(before, before)]
    assert {"GPU", "driver", "CUDA", "python", "platform", "cpu", "torch", "suite commit"} <= {*names}


EVERYTHING = environment(
    "590.12.01", gpu="B200", cuda="13.0", planted="f", git={"commit": "other", "changes": ""}, cpu="other",
    **dict.fromkeys(("torch", "nvidia_cutlass_dsl", "flash_attn_4", "quack_kernels", "triton", "sympy"), "9"),
)  # fmt: skip
DEVICE = {"driver", "CUDA", "GPU"}


@pytest.mark.parametrize(
    ("subject", "layer", "with_", "without"),
    [
        (HOST, "", {"torch", "nvidia-cutlass-dsl", "cpu"}, {*DEVICE, "flash-attn-4", "triton"}),
        (HOST, "codegen", {"torch", "suite commit", "sympy"}, {*DEVICE, "flash-attn-4", "triton"}),
        (FA4, "", {*DEVICE, "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl"}, {"triton"}),
        (FA4, "flash-attn-4", {"flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels"}, {"triton", "torch", "sympy"}),
        (FA4, "GPU compiler", {"nvidia-cutlass-dsl", "CUDA", "driver"}, {"torch", "flash-attn-4", "triton"}),
        (FA4, "lowering", {"suite commit", "torch"}, {*DEVICE, "flash-attn-4", "triton"}),
        (TRITON, "", {"torch", "triton", "driver"}, {"flash-attn-4", "nvidia-cutlass-dsl"}),
        (TRITON, "torch-triton", {"torch", "triton", "driver"}, {"flash-attn-4", "nvidia-cutlass-dsl"}),
        ("torch-flash", "torch-flash", {"torch", "flash-attn-4", "driver"}, {"triton"}),
        ("torch-codegen", "torch-codegen", {"torch", "sympy"}, {*DEVICE, "flash-attn-4", "triton"}),
        ("torch-codegen", "CuTe", {"nvidia-cutlass-dsl"}, {*DEVICE, "torch", "flash-attn-4", "triton"}),
        ("a new subject", "", {"torch", "triton", "driver"}, set()),
    ],
)
def test_suspects(subject: str, layer: str, with_: set[str], without: set[str]) -> None:
    parts = components.compare(environment(), EVERYTHING)
    gpu = components.on_gpu(subject, EVERYTHING)
    found = components.suspects(parts, subject, layer, gpu=gpu)
    assert found[0] == "planted fault"
    assert with_ <= {*found} and not without & {*found}
    assert components.suspects(components.compare(environment(), environment()), subject, layer, gpu=gpu) == ()


def test_the_attribution_narrows_the_suspects_and_the_same_text_clears_the_lowering() -> None:
    after = Made(environment=environment("590.12.01", torch="2.14.0")).at("alibi", WRONG)
    after.evidence["alibi", FA4] = Evidence(layer="GPU compiler", sentence="It is the compiler.")
    found = decided(Made(), after)
    assert row(found).suspects == ("driver",) and row(found).evidence.layer == "GPU compiler"
    assert "the same text was rendered in both" in row(found).why
    after.evidence.clear()
    assert row(decided(Made(), after)).suspects == ("driver",)
    after.attempts("alibi", outcome("alibi", at=WRONG, digests={**outcome("alibi", at=WRONG).digests, "kernel": "new"}))
    seen = row(decided(Made(), after))
    assert seen.suspects == ("driver", "torch")
    assert seen.why.endswith("its rendered text changed, though the suite is the same")


@pytest.mark.parametrize(
    ("kernel", "code", "says", "order"),
    [
        ("text", "a", "the same PTX ran in both", ("driver", "nvidia-cutlass-dsl", "flash-attn-4")),
        ("text", "b", "the same text was compiled to other PTX", ("nvidia-cutlass-dsl", "flash-attn-4", "driver")),
        ("new", "b", "its PTX changed", ("nvidia-cutlass-dsl", "flash-attn-4", "torch", "driver")),
        ("text", "", "the same text was rendered in both", ("driver", "flash-attn-4", "nvidia-cutlass-dsl")),
    ],
)
def test_the_ptx_says_which_side_of_it_to_suspect(kernel: str, code: str, says: str, order: tuple[str, ...]) -> None:
    def with_code(o: Outcome, kernel: str, code: str) -> Outcome:
        return dataclasses.replace(o, digests={**o.digests, "kernel": kernel, **({"ptx": code} if code else {})})

    before = Made().attempts("alibi", with_code(outcome("alibi"), "text", "a"))
    newer = environment("590.12.01", torch="2.14.0", nvidia_cutlass_dsl="4.9", flash_attn_4="4.0.0b37")
    after = Made(environment=newer).attempts("alibi", with_code(outcome("alibi", at=WRONG), kernel, code))
    seen = row(decided(before, after))
    assert seen.change is Change.WRONG and says in seen.why
    assert {*seen.suspects} == {*order} and (not code or seen.suspects[0] in order[:2])
    assert not code or (seen.suspects.index("driver") == len(order) - 1) is (code == "b")
    drifted = row(decided(before, Made().attempts("alibi", with_code(other_bits(outcome("alibi")), kernel, code))))
    assert (drifted.change, drifted.effect) == (Change.DRIFT, Effect.FINE) and says in drifted.why


def test_other_ptx_is_no_other_input_and_the_same_bits_are_identical() -> None:
    before, after = (
        Made().attempts("alibi", dataclasses.replace(o, digests={**o.digests, **code}))
        for o, code in ((outcome("alibi"), {"ptx": "a"}), (outcome("alibi"), {"ptx": "b"}))
    )
    for one, other in ((before, after), (before, Made()), (Made(), before)):
        assert decided(one, other).verdict is PASS and row(decided(one, other)).change is Change.IDENTICAL


def test_a_fact_that_is_new_to_this_version_is_a_suspect() -> None:
    after = Made(environment={**environment(), "firmware": "97"}).at("alibi", WRONG)
    assert row(decided(Made(), after)).suspects == ("firmware",)
