"""What the tests of fuzzing run: a small strategy, and subjects that fail in known ways. Importable by workers."""

from __future__ import annotations

import dataclasses
import os
import re
import time

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flexconf.cases.case import Capture, Case
from flexconf.cases.problem import Problem
from flexconf.inputs import Inputs
from flexconf.language import modtext
from flexconf.subjects import reference, trial
from flexconf.subjects.trial import Attended, Options, StageClock
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers.pool import Report
from flexconf.workers.tasks import CaseTask

_PROBLEM = Problem(B=1, H=1, Hkv=1, M=4, N=5, D=16, Dv=16)


def cases() -> SearchStrategy[Case]:
    """Sums of a few terms, on a small problem."""
    constant = st.integers(1, 9).map(str)
    leaf = st.sampled_from(["score", "q", "kv", "q - kv"])
    unary = st.sampled_from(["torch.sin", "torch.tanh", "torch.abs", "torch.exp"])
    called = st.tuples(unary, leaf).map(lambda t: f"{t[0]}({t[1]} * 0.125)")
    term = st.one_of(leaf, constant, called, st.just("bias[q - kv]"))
    modulo = st.tuples(leaf, st.integers(2, 5)).map(lambda t: f"({t[0]}) % {t[1]}")
    terms = st.lists(st.one_of(term, modulo), min_size=0, max_size=4)
    return st.tuples(terms, st.integers(1, 6), st.integers(0, 9)).map(_case)


def _case(drawn: tuple[list[str], int, int]) -> Case:
    terms, keys, seed = drawn
    text = " + ".join(["score", *terms])
    captures = (Capture("bias", ("M+N",)),) if "bias" in text else ()
    problem = Problem(**{**vars(_PROBLEM), "N": keys})
    case = Case("fuzz", score_mod=text, captures=captures, problem=problem, seed=seed)
    return case.replace(name=f"fuzz-{case.digest()[:12]}")


def widths() -> SearchStrategy[int]:
    """Vector widths."""
    return st.sampled_from([1, 2, 4, 8])


def right(task: CaseTask, report: Report) -> Outcome:
    """A subject that is always right, at once."""
    return _outcome(task, Stage.OUTPUT, Symptom.OK, "fine")


def faulty(task: CaseTask, report: Report) -> Outcome:
    """Wrong for a remainder, ends its process for exp, wrong for a sine at a width above 2; discards what has 7s."""
    text = task.case.score_mod or ""
    width = (task.options.vector_width if task.options is not None else None) or 1
    report("compile")
    if "7" in text:
        return _outcome(task, Stage.OUTPUT, Symptom.MISSING, "too many", excluded=3)
    if "exp" in text:
        os._exit(1)
    if "%" in text:
        return _outcome(task, Stage.OUTPUT, Symptom.WRONG, "2 of 9 elements exceed their bound")
    if "sin" in text and width > 2:
        return _outcome(task, Stage.LSE, Symptom.NONFINITE, "1 of 9 elements are NaN")
    return _outcome(task, Stage.OUTPUT, Symptom.OK, "fine")


def slow(task: CaseTask, report: Report) -> Outcome:
    """Right, after a hundredth of a second."""
    time.sleep(0.01)
    return right(task, report)


def planted(task: CaseTask, report: Report) -> Outcome:
    """reference.host with C's remainder in the place of Python's."""
    return trial.run_on(task.case, task.subject, task.options, report, attend=_c_remainder, keep=task.keep)


def _c_remainder(given: Inputs, clock: StageClock, options: Options) -> Attended:
    text = re.sub(r"\(([^()]*)\) % (\d)", r"torch.fmod(\1, \2)", given.case.score_mod or "score")
    mod = modtext.compile_mod(text, "score", given.captures, given.case.constants())
    return reference.host(dataclasses.replace(given, score_mod=mod), clock, options)


def _outcome(task: CaseTask, stage: Stage, symptom: Symptom, message: str, excluded: int = 0) -> Outcome:
    ok = symptom is Symptom.OK
    comparison = {
        "elements": 9, "excluded_elements": excluded, "rows": 4, "excluded_rows": excluded,
        "max_ratio": 0.5 if ok else 3.0, "worst": None, "telling": 72,
    }  # fmt: skip
    return Outcome(task.case.name, task.case.digest(), task.subject.name, stage, symptom, message, comparison)
