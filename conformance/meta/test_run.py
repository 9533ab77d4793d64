"""A run: outcomes held against what their cases expect, the figures of the summary, and the file of results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.runs import run as runner
from flexconf.runs.judging import Result, judge
from flexconf.runs.run import summarize
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Lost
from flexconf.workers.tasks import CaseTask, of_lost

PLAIN = Case("plain", score_mod="score")
REFUSED = Case("refused", score_mod="torch.cumsum(score, 0)", expect="refused:trace", reason_contains="cumsum")


def compared(elements: int, ratio: float | str, excluded: int = 0, rows: int = 0) -> dict[str, Any]:
    """A Comparison as JSON, as far as a summary reads it."""
    worst = {"tensor": "out", "index": [0, 1, 2, 3]} if elements else None
    return {
        "elements": elements,
        "excluded_elements": excluded,
        "excluded_rows": rows,
        "max_ratio": ratio,
        "worst": worst,
        "empty": False,
    }


def outcome(
    case: Case,
    symptom: str = "ok",
    stage: str = "output",
    message: str = "",
    comparison: dict[str, Any] | None = None,
    **timings: float,
) -> Outcome:
    return Outcome(
        case.name, case.digest(), "reference.host", Stage(stage), Symptom(symptom), message, comparison, timings
    )


# --- the verdict on one case


def test_a_case_passes_only_when_it_is_ok_and_something_was_compared() -> None:
    assert judge(PLAIN, outcome(PLAIN, comparison=compared(5, 0.5))) == Result(
        PLAIN, outcome(PLAIN, comparison=compared(5, 0.5)), True, ""
    )
    for nothing in (None, compared(0, 0.0)):
        assert not judge(PLAIN, outcome(PLAIN, comparison=nothing)).passed


@pytest.mark.parametrize("symptom", [s for s in Symptom if s is not Symptom.OK])
def test_every_other_symptom_fails_and_says_where(symptom: str) -> None:
    result = judge(PLAIN, outcome(PLAIN, symptom, "lse", "what happened", compared(5, 2.0)))
    assert not result.passed
    assert result.why == f"lse: {symptom}: what happened"


@pytest.mark.parametrize(
    ("symptom", "stage", "message", "why"),
    [
        ("refused", "trace", "aten.cumsum has no spelling", ""),
        ("refused", "render", "aten.cumsum has no spelling", "expected refused:trace, but render: refused"),
        ("refused", "trace", "no", "expected a refusal that says 'cumsum', but it says: no"),
        ("crash", "trace", "cumsum", "expected refused:trace, but trace: crash: cumsum"),
        ("ok", "output", "", "expected refused:trace, but output: ok"),
        ("missing", "trace", "cumsum", "expected refused:trace, but trace: missing"),
    ],
    ids=["expected", "wrong stage", "other text", "crash", "not refused", "missing"],
)
def test_a_refusal_is_expected_with_its_stage_and_text(symptom: str, stage: str, message: str, why: str) -> None:
    result = judge(REFUSED, outcome(REFUSED, symptom, stage, message, compared(5, 0.5) if symptom == "ok" else None))
    assert result.passed == (why == "")
    assert result.why.startswith(why)


@pytest.mark.parametrize(
    ("lost", "symptom", "stage"),
    [
        (Lost("signal", "signal SIGABRT", "compile", ""), "crash", "compile"),
        (Lost("signal", "signal SIGSEGV", "launch", ""), "illegal-access", "launch"),
        (Lost("exception", "RuntimeError", "launch", "CUDA: illegal memory access"), "illegal-access", "launch"),
        (Lost("timeout", "time limit of 3 s", "oracle", ""), "timeout", "output"),
        (Lost("exit", "exit code 1", "inputs", ""), "crash", "trace"),
        (Lost("exit", "exit code 0", "", ""), "crash", "trace"),
        (Lost("exception", "InputError", "inputs", "bad", InputError("bad")), "missing", "trace"),
    ],
    ids=lambda value: value.how if isinstance(value, Lost) else "",
)
def test_a_lost_case_is_a_failure_with_the_stage_it_reached(lost: Lost, symptom: str, stage: str) -> None:
    task = CaseTask(PLAIN, subjects.get("reference.host"))
    found = of_lost(task, lost)
    assert (found.case, found.case_digest) == ("plain", PLAIN.digest())
    assert (found.symptom, found.stage) == (symptom, stage)
    assert lost.how in found.message
    assert not judge(PLAIN, found).passed


# --- the figures of a run


def test_the_summarys_figures() -> None:
    cases = [replace(PLAIN, name=f"case{i}") for i in range(5)]
    results = [
        judge(cases[0], outcome(cases[0], comparison=compared(100, 0.2), trace=1.0, launch=1.0)),
        judge(cases[1], outcome(cases[1], comparison=compared(900, 0.9, 7, 2) | {"rows": 300}, trace=3.0, launch=0.5)),
        judge(cases[2], outcome(cases[2], "wrong", comparison=compared(50, 1.5), trace=2.0)),
        judge(cases[3], outcome(cases[3], "timeout", "compile")),
        judge(cases[4], outcome(cases[4], comparison=compared(0, 0.0) | {"empty": True})),
        judge(REFUSED, outcome(REFUSED, "refused", "trace", "cumsum")),
    ]
    s = summarize(results, "reference.host", 2, 1.5)
    assert (s.cases, s.passed, s.refused_as_expected, s.ok) == (6, 4, 1, False)
    assert s.failures == {"compile/timeout": 1, "output/wrong": 1}
    assert (s.elements, s.excluded, s.excluded_rows) == (1050, 7, 2)
    assert (s.worst, s.worst_at) == (1.5, "case2 out[0, 1, 2, 3]")
    assert s.median == 0.9, "an empty problem has no ratio"
    assert s.stage_medians["trace"] == 1.5, "of 1, 3, 2 and, for the empty problem, 0"
    assert s.stage_medians["launch"] == 0.25
    assert s.case_median == 2.0
    assert (s.seconds, s.workers) == (1.5, 2)
    assert json.loads(json.dumps(s.to_json(), allow_nan=False))["ok"] is False


def test_an_infinite_ratio_is_the_worst() -> None:
    results = [
        judge(PLAIN, outcome(PLAIN, comparison=compared(10, 0.5))),
        judge(PLAIN, outcome(PLAIN, "nonfinite", comparison=compared(10, "inf"))),
    ]
    s = summarize(results, "reference.host", 1, 1.0)
    assert s.worst == math.inf
    assert json.loads(json.dumps(s.to_json(), allow_nan=False))["worst"] == "inf"
    only = summarize(results[1:], "reference.host", 1, 1.0)
    assert json.loads(json.dumps(only.to_json(), allow_nan=False))["median"] == "inf"


def test_nothing_run_and_nothing_compared_are_no_success() -> None:
    empty = summarize([], "reference.host", 1, 0.0)
    assert not empty.ok
    assert empty.to_json()["median"] is None
    lost = summarize([judge(PLAIN, outcome(PLAIN, "crash", "compile"))], "reference.host", 1, 1.0)
    assert (lost.ok, lost.elements, lost.worst_at) == (False, 0, "nothing compared")
    assert lost.to_json()["case_median"] is None


def test_all_passed_is_a_success() -> None:
    results = [
        judge(PLAIN, outcome(PLAIN, comparison=compared(10, 0.5))),
        judge(REFUSED, outcome(REFUSED, "refused", "trace", "cumsum")),
    ]
    assert summarize(results, "reference.host", 1, 1.0).ok


# --- the run itself


def test_what_cannot_be_run_is_refused_before_any_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "run_many", lambda *_, **__: pytest.fail("a worker was asked for"))
    with pytest.raises(InputError, match="no cases"):
        runner.run([])
    with pytest.raises(InputError, match="two cases are named 'plain'"):
        runner.run([PLAIN, REFUSED, PLAIN])
    with pytest.raises(InputError, match=r"unknown subject 'magic'; there are reference\.mods, reference\.host"):
        runner.run([PLAIN], subject="magic")
    written = tmp_path / "results.jsonl"
    written.write_text("from another run\n")
    with pytest.raises(InputError, match="exists"):
        runner.run([PLAIN], results=written)
    assert written.read_text() == "from another run\n"
    with pytest.raises(InputError, match="cannot be written: No such file"):
        runner.run([PLAIN], results=tmp_path / "no folder" / "results.jsonl")


def test_a_case_that_no_worker_returns_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_one(tasks: Sequence[CaseTask], *_: Any, on_result: Callable[..., None], **__: Any) -> None:
        on_result(tasks[0], outcome(tasks[0].case, comparison=compared(3, 0.1)))

    monkeypatch.setattr(pool, "run_many", forget_one)
    summary = runner.run([PLAIN, REFUSED])
    assert (summary.cases, summary.passed, summary.ok) == (2, 1, False)
    assert summary.failures == {"launch/missing": 1}


def test_an_interrupted_run_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tasks: Sequence[CaseTask], *_: Any, on_result: Callable[..., None], **__: Any) -> None:
        on_result(tasks[0], Lost("signal", "signal SIGSEGV", "launch", "last words"))
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_many", interrupted)
    file = tmp_path / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        runner.run([PLAIN, REFUSED], results=file)
    (line,) = file.read_text().splitlines()
    assert Outcome.from_json(json.loads(line)).symptom is Symptom.ILLEGAL_ACCESS


def test_two_cases_of_the_catalogue_through_workers(tmp_path: Path) -> None:
    chosen = catalogue.select(catalogue.load(), ["alibi", "refused_cumsum"])
    file = tmp_path / "results.jsonl"
    seen: list[Result] = []
    summary = runner.run(chosen, workers=1, options=Options(vector_width=4), results=file, on_result=seen.append)
    assert summary.ok
    assert (summary.cases, summary.refused_as_expected, summary.workers) == (2, 1, 1)
    outcomes = {o.case: o for o in (Outcome.from_json(json.loads(line)) for line in file.read_text().splitlines())}
    assert [r.outcome for r in seen] == list(outcomes.values())
    problem = chosen[0].problem
    alibi = outcomes["alibi"].comparison
    assert alibi is not None
    assert summary.elements == alibi["elements"] == problem.B * problem.H * problem.M * (problem.Dv + 1)
    assert 0 < summary.worst == summary.median == alibi["max_ratio"] <= 1
    assert outcomes["alibi"].case_digest == chosen[0].digest()
    assert {"q", "k", "v", "kernel", "out", "lse"} <= {*outcomes["alibi"].digests}
