"""Scripts that call PyTorch's flex_attention as a user does."""

from __future__ import annotations

from flexconf.cases.case import Case
from flexconf.machine import devices
from flexconf.repro import literals
from flexconf.repro.script import GUARD, NEEDS_GPU, standalone
from flexconf.verdict.outcome import Outcome

_CALL = """\
    return {function}(
        q, k, v, score_mod={score}, block_mask=block_mask, scale={scale}, enable_gqa=H != Hkv, return_lse=True{options}
    )"""


def _call(case: Case, backend: str | None) -> str:
    compiled = "torch.compile(flex_attention, dynamic=False, fullgraph=True)"
    return _CALL.format(
        function="flex_attention" if backend is None else compiled,
        score="score_mod" if case.score_mod is not None else "None",
        scale=literals.number(case.problem.effective_scale),
        options=f', kernel_options={{"BACKEND": "{backend}"}}' if backend is not None else "",
    )


def flash(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    guard = GUARD.format(more="\n    import flash_attn.cute.interface") + NEEDS_GPU
    return standalone(case, subject, outcome, exact, '"cuda"', guard, _call(case, "FLASH"))


def triton(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    guard = GUARD.format(more="\n    import triton") + NEEDS_GPU
    return standalone(case, subject, outcome, exact, '"cuda"', guard, _call(case, "TRITON"))


def eager(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    on_gpu = devices.count() > 0
    guard = GUARD.format(more="") + (NEEDS_GPU if on_gpu else "")
    return standalone(case, subject, outcome, exact, '"cuda"' if on_gpu else '"cpu"', guard, _call(case, None))


def codegen(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    """With a GPU, the script calls flex_attention. Without one, this project runs the text that torch generates.

    If the outcome is for a compute capability that was asked for, the GPU must have it.
    """
    there = "torch.cuda.is_available()"
    if outcome.capability is not None:
        major, minor = outcome.capability.split(".")
        there += f" and torch.cuda.get_device_capability() == ({major}, {minor})"
    device = f'"cuda" if {there} else "cpu"'
    options = f"Options(vector_width={width})"
    if outcome.capability is not None:
        options = f"Options(vector_width={width}, capability={outcome.capability!r})"
    fallback = _THROUGH_THE_PROJECT.format(subject=subject, toml=case.to_toml(), options=options)
    guard = GUARD.format(more="")
    return standalone(case, subject, outcome, exact, device, guard, _call(case, "FLASH"), fallback, _FIRST)


_FIRST = """\
    if DEVICE == "cpu":
        return through_the_project()
"""

_THROUGH_THE_PROJECT = '''\
def through_the_project():
    """Without a GPU: what torch generates, compiled for the CPU by the CuTe DSL compiler. Needs
    flexflash-conformance."""
    try:
        from flexconf import subjects
        from flexconf.cases import catalogue
        from flexconf.workers.isolated import Isolated
        from flexconf.subjects.trial import Options
    except ImportError as error:
        print(f"cannot be run: no GPU, and {{error}}")
        return 2
    why = subjects.get({subject!r}).why_not()
    if why:
        print(f"cannot be run: {{why}}")
        return 2
    (case,) = catalogue.load_text(CASE, "repro")
    with Isolated(prepare={subject!r}) as isolated:
        outcome = isolated.run(case, {subject!r}, {options})
    print(f"{{'gone' if outcome.ok else 'there'}}: {{outcome.stage}}/{{outcome.symptom}}: {{outcome.message}}")
    return 0 if outcome.ok else 1


CASE = r"""
{toml}"""'''
