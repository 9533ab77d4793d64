"""The reference lowering as a subject: `reference.host` runs the rendered text on the CPU.

`run_case` is the whole life of one case in one process: inputs, lowering, launch, oracle, comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import flexflash
from flexconf import compare, inputs
from flexconf.case import Case
from flexconf.oracles import math64
from flexconf.outcome import Outcome, Stage, Symptom
from flexflash.launch.host import HostLauncher


class StageClock:
    """Seconds spent in each stage; told of every stage as it begins, it passes the news on."""

    def __init__(self, listener: Callable[[str], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.stage: str | None = None
        self._since = 0.0
        self._listener = listener

    def enter(self, stage: str) -> None:
        """Close the running stage and begin `stage`; coming back to a stage adds to it."""
        self.close()
        self.stage, self._since = stage, time.perf_counter()
        if self._listener is not None:
            self._listener(stage)

    def close(self) -> None:
        """Close the running stage."""
        if self.stage is not None:
            spent = time.perf_counter() - self._since
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + spent
            self.stage = None


def run_case(
    case: Case,
    subject: str = "reference.host",
    vector_width: int | None = None,
    stage: Callable[[str], None] | None = None,
    launcher: HostLauncher | None = None,
    given: inputs.Inputs | None = None,
) -> Outcome:
    """Run `case` on `subject` and compare with float64 mathematics, element by element.

    `stage` is told of each stage as it begins (inputs, trace, eligibility, render, compile, launch, oracle,
    output), so that the parent of a dying process knows where it died. `launcher` overrides the default one, for
    tests that plant a fault; `given` the case's own inputs, for mods that are no text. A refusal by the lowering is an
    outcome; InputError and defects of the harness raise.
    """
    clock = StageClock(stage)
    clock.enter("inputs")
    given = given if given is not None else inputs.materialize(case)
    host = launcher if launcher is not None else HostLauncher(vector_width)
    host.on_stage = clock.enter
    kernel: flexflash.RenderedKernel | None = None
    try:
        kernel = flexflash.lower(
            given.q,
            given.k,
            given.v,
            given.score_mod,
            given.block_mask,
            given.scale,
            profile=host.profile,
            on_stage=clock.enter,
        )
        out, lse = kernel.allocate()
        if 0 not in (*out.shape[:3], given.k.shape[2]):
            host.run(kernel, kernel.arguments(given.q, given.k, given.v, out, lse))
    except flexflash.FlexFlashError as error:
        clock.close()
        return _outcome(case, subject, error.stage, Symptom.REFUSED, str(error), clock, given)
    except Exception as error:  # the compiler's own exceptions have no common base
        reached = clock.stage or "launch"
        clock.close()
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return _outcome(case, subject, reached, Symptom.CRASH, message, clock, given)
    clock.enter("oracle")
    certified = math64.attention(
        given.q,
        given.k,
        given.v,
        score_mod=given.score_mod,
        mask_mod=given.mask_mod,
        block_mask=given.block_mask,
        scale=given.scale,
    )
    clock.enter("output")
    comparison = compare.compare(out, lse, certified)
    clock.close()
    where = Stage.LSE if comparison.worst and comparison.worst.get("tensor") == "lse" else Stage.OUTPUT
    return Outcome(
        case=case.name,
        case_digest=case.digest(),
        subject=subject,
        stage=where,
        symptom=Symptom(comparison.symptom),
        message=comparison.reason,
        comparison=comparison.to_json(),
        timings=clock.seconds,
        digests={
            **given.digests,
            "kernel": kernel.digest,
            "out": inputs.digest(out),
            "lse": inputs.digest(lse),
        },
    )


def _outcome(
    case: Case,
    subject: str,
    stage: str,
    symptom: Symptom,
    message: str,
    clock: StageClock,
    given: inputs.Inputs,
) -> Outcome:
    known = {s.value for s in Stage}
    return Outcome(
        case=case.name,
        case_digest=case.digest(),
        subject=subject,
        stage=Stage(stage if stage in known else "launch"),
        symptom=symptom,
        message=message,
        comparison=None,
        timings=clock.seconds,
        digests=dict(given.digests),
    )


def single_threaded() -> None:
    """One thread a worker: the workers share the cores, and float32 sums keep one order."""
    torch.set_num_threads(1)
