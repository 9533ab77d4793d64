"""Attributes a failure: a failing case runs again on other layers, and a sentence names the layer to blame.

The rendered text of the reference runs as mods alone, in attention on the CPU, in a plain GPU kernel, and in
flash-attn-4. PyTorch's own lowerings run the same mods. The layers that are right and wrong show where the fault lies.
An attribution never claims more than these runs can show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flexconf import tampering
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.verdict.outcome import Outcome, Stage

if TYPE_CHECKING:
    from flexconf.runs.judging import Result
    from flexconf.subjects.trial import Options
    from flexconf.workers.isolated import Isolated

MODS, HOST, SIMT, FA4 = "reference.mods", "reference.host", "reference.simt", "reference.fa4"
CODEGEN, FLASH, TRITON, EAGER = "torch-codegen", "torch-flash", "torch-triton", "torch-eager"
REFERENCE = (MODS, HOST, SIMT, FA4)
LAYERS = (*REFERENCE, CODEGEN, FLASH, TRITON, EAGER)
STAND_INS = "torch-codegen with the reference's functions"
"""torch-codegen with the reference's functions in the place of CuTe's. It is a witness only, not a subject."""
NONE = "not reproduced"
_BEFORE_A_KERNEL = (Stage.TRACE, Stage.ELIGIBILITY, Stage.RENDER)


@dataclass(frozen=True)
class Attribution:
    """An attribution: the `layer` with the fault, a `sentence` that gives the reason, and the `evidence`.

    The evidence maps every layer that was run to its "stage/symptom".

    Layers: codegen, lowering, block lists, GPU compiler, simt kernel, flash-attn-4, CuTe, torch-codegen, torch-flash,
    torch-triton, torch-eager, oracle, not reproduced, undecided.
    """

    layer: str
    sentence: str
    evidence: Mapping[str, str] = field(default_factory=dict)


def attribute(subject: str, observed: Mapping[str, Outcome | None]) -> Attribution:
    """The layer to blame for the failure of `subject`, according to the outcomes of the layers.

    `observed` holds `subject` itself, and may hold STAND_INS. None means that a layer was not run. A pure function.
    """
    seen = _Seen({name: outcome for name, outcome in observed.items() if outcome is not None})
    if subject not in seen.outcomes:
        return seen.verdict("undecided", f"{subject} was not run again")
    if seen.right(subject):
        return seen.verdict(NONE, f"{subject} is right when it is run again: it is flaky, or was disturbed")
    if not any(seen.right(name) for name in (*LAYERS, STAND_INS)) and seen.wrong(EAGER) and seen.wrong(HOST):
        wrong = ", ".join(name for name in LAYERS if seen.wrong(name))
        return seen.verdict("oracle", f"everything that was run is wrong ({wrong}): suspect the oracle or the case")
    if subject in REFERENCE:
        return _of_reference(subject, seen)
    return _of_production(subject, seen)


def investigate(case: Case, subject: str, run: Callable[[Case, str], Outcome], available: Sequence[str]) -> Attribution:
    """Run `case` again on `subject` and on as many other layers as needed, and attribute the failure.

    `run(case, subject)` returns an outcome however the case ends. `available` are the subjects that can run here, and
    STAND_INS if `run` accepts it. Raises InputError if the case itself is at fault.
    """
    observed: dict[str, Outcome | None] = {subject: run(case, subject)}

    def look(*names: str) -> None:
        for name in names:
            if name not in observed:
                observed[name] = run(case, name) if name in available else None

    again = observed[subject]
    assert again is not None
    if again.bad_input:
        raise InputError(again.bad_input)
    if again.ok:
        return attribute(subject, observed)
    if subject not in REFERENCE:
        look(HOST)
        if again.stage not in _BEFORE_A_KERNEL and subject != CODEGEN:
            look(*((CODEGEN,) if subject == FLASH else ()), SIMT, FA4)
        generated = observed.get(CODEGEN)
        if generated is not None and not generated.ok and generated.stage not in _BEFORE_A_KERNEL:
            look(STAND_INS)
        if not any(o is not None and o.ok for name, o in observed.items() if name != subject):
            look(MODS, SIMT, FA4, TRITON, EAGER)
        return attribute(subject, observed)
    look(MODS)
    if subject in (SIMT, FA4):
        look(HOST)
    if all(o is None or not o.ok for o in observed.values()):
        look(HOST, EAGER)  # to see whether any layer is right
    elif subject in (SIMT, FA4) and _is_right(observed[HOST]):
        look(SIMT, FA4)
    return attribute(subject, observed)


def of_case(case: Case, subject: str, options: Options | None = None, time_limit: float | None = None) -> Attribution:
    """Attribute the failure of `case` on `subject` on this machine. It starts an isolated worker for the runs.

    Raises InputError if the case itself is at fault.
    """
    from flexconf.workers.isolated import Isolated

    with Isolated(time_limit=time_limit) as isolated:
        return in_worker(isolated, case, subject, options)


def of_results(
    failed: Sequence[Result], options: Options | None = None, on_case: Callable[[], None] = lambda: None
) -> dict[str, Attribution]:
    """The attributions of failed results, by name of the case. Cases that expect a refusal are left out."""
    from flexconf.workers.isolated import Isolated

    found: dict[str, Attribution] = {}
    with Isolated() as isolated:
        for result in failed:
            if result.case.expect == "ok":
                subject, _ = tampering.split(result.outcome.subject)
                found[result.case.name] = in_worker(isolated, result.case, subject, options)
            on_case()
    return found


def in_worker(isolated: Isolated, case: Case, subject: str, options: Options | None) -> Attribution:
    """Attribute the failure of `case` on `subject`, with runs in the worker `isolated`."""
    from flexconf import subjects
    from flexconf.subjects.trial import Options

    available = [name for name, s in subjects.SUBJECTS.items() if not s.why_not()]
    # The other subjects run once and without fast_math: both options belong to the subject under test.
    plain = Options(vector_width=options.vector_width if options is not None else None)
    capability = options.capability if options is not None else None

    def run(case: Case, name: str) -> Outcome:
        if name == STAND_INS:
            return isolated.run(case, CODEGEN, replace(plain, stand_ins=True, capability=capability))
        return isolated.run(case, name, options if name == subject else plain)

    return investigate(case, subject, run, [*available, STAND_INS] if CODEGEN in available else available)


def _is_right(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.ok


@dataclass(frozen=True)
class _Seen:
    """The outcomes of the layers that were run."""

    outcomes: Mapping[str, Outcome]

    def right(self, name: str) -> bool:
        return name in self.outcomes and self.outcomes[name].ok

    def wrong(self, name: str) -> bool:
        return name in self.outcomes and not self.outcomes[name].ok

    def how(self, name: str) -> str:
        """The symptom and stage of a failure, such as "wrong at output"."""
        outcome = self.outcomes[name]
        return f"{outcome.symptom} at {outcome.stage}"

    def verdict(self, layer: str, sentence: str) -> Attribution:
        evidence = {name: f"{o.stage}/{o.symptom}" for name, o in self.outcomes.items()}
        return Attribution(layer, sentence, evidence)


def _of_reference(subject: str, seen: _Seen) -> Attribution:
    if seen.wrong(MODS):
        first = seen.outcomes[MODS]
        if first.stage in _BEFORE_A_KERNEL:
            return seen.verdict("lowering", f"the reference lowering does not render it ({seen.how(MODS)})")
        return seen.verdict("codegen", f"the mods alone are wrong already, on the CPU ({seen.how(MODS)}): codegen")
    if seen.wrong(HOST):
        if seen.right(MODS):
            return seen.verdict(
                "block lists",
                f"the mods alone are right, but attention around them on the CPU is not ({seen.how(HOST)}): "
                "the block lists, the arguments or the template",
            )
        return seen.verdict("lowering", f"it is wrong on the CPU ({seen.how(HOST)}); the mods alone were not run")
    if not seen.right(HOST):
        return seen.verdict("undecided", f"{subject} is {seen.how(subject)}; the CPU was not asked")
    if seen.wrong(SIMT):
        if seen.right(FA4):
            return seen.verdict(
                "simt kernel",
                f"right on the CPU and in flash-attn-4, but {seen.how(SIMT)} in the plain kernel: the plain kernel",
            )
        if seen.wrong(FA4):
            return seen.verdict(
                "GPU compiler",
                f"right on the CPU, but {seen.how(SIMT)} in the plain kernel and {seen.how(FA4)} in flash-attn-4: "
                "CuTe's GPU compiler, or the driver",
            )
        return seen.verdict(
            "GPU compiler",
            f"right on the CPU, but {seen.how(SIMT)} in the plain kernel: CuTe's GPU compiler, the driver, or the "
            "plain kernel; flash-attn-4 was not run",
        )
    if seen.right(SIMT):
        return seen.verdict(
            "flash-attn-4",
            f"right on the CPU and in the plain kernel, but {seen.how(FA4)} in flash-attn-4: its attention kernel, or "
            "its walk over the block lists",
        )
    return seen.verdict(
        "flash-attn-4",
        f"right on the CPU, but {seen.how(FA4)} in flash-attn-4: flash-attn-4, or CuTe's GPU compiler; the plain "
        "kernel was not run",
    )


_NAMES = {
    CODEGEN: "PyTorch's CuTeDSL code generator, before any kernel",
    FLASH: "PyTorch's FLASH lowering",
    TRITON: "PyTorch's Triton lowering",
    EAGER: "PyTorch eager, or a difference of contract",
}


def _of_production(subject: str, seen: _Seen) -> Attribution:
    own = _NAMES[subject]
    failed = seen.outcomes[subject]
    if subject in (CODEGEN, FLASH) and seen.wrong(CODEGEN) and seen.right(STAND_INS):
        return seen.verdict(
            "CuTe",
            f"{subject} is {seen.how(subject)}; on the CPU, what PyTorch generates is {seen.how(CODEGEN)}, and right "
            "where the reference's functions stand in for those of cute.math: a function of CuTe's, or its compiler",
        )
    witnesses = [name for name in LAYERS if name != subject and seen.right(name)]
    if not witnesses:
        return seen.verdict("undecided", f"{subject} is {seen.how(subject)}, and nothing that was run is right")
    said = f"{' and '.join(witnesses)} {'is' if len(witnesses) == 1 else 'are'} right"
    early = failed.stage in _BEFORE_A_KERNEL
    if subject == FLASH and seen.wrong(CODEGEN):
        return seen.verdict(
            CODEGEN,
            f"{subject} is {seen.how(subject)}, and what it generates is {seen.how(CODEGEN)} on the CPU already, while "
            f"{said}: {_NAMES[CODEGEN]}",
        )
    if subject == FLASH and not early and seen.wrong(FA4):
        if seen.right(HOST) and seen.right(SIMT):
            return seen.verdict(
                "flash-attn-4",
                f"{subject} is {seen.how(subject)} and reference.fa4 is {seen.how(FA4)}, while {said}: flash-attn-4",
            )
        return seen.verdict(
            "undecided",
            f"{subject} is {seen.how(subject)}, but so is what the reference has on a GPU ({seen.how(FA4)}), "
            f"while {said}",
        )
    if subject == FLASH and not early and FA4 not in seen.outcomes:
        return seen.verdict(
            "torch-flash", f"{subject} is {seen.how(subject)}, while {said}: {own}, or flash-attn-4, which was not run"
        )
    return seen.verdict(subject, f"{subject} is {seen.how(subject)}, while {said}: {own}")
