"""What a failing case is cut down to: everything smaller that is still legal, the largest cuts first."""

from __future__ import annotations

import ast
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.fuzz import cuts
from flexconf.fuzz.driver import Driver
from flexconf.fuzz.judged import discarded
from flexconf.fuzz.plan import Plan
from flexconf.fuzz.round import Round
from flexconf.fuzz.stream import Reader, RecordWriter
from flexconf.strategies import cases
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers.isolated import Isolated


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (
            "x = q * 3\nscore + x",
            "score",
            ["score", "x = q * 3\nx", "score + q * 3", "score + score", "x = q\nscore + x"],
        ),
        ("torch.tanh(score) * 2", "score", ["score", "torch.tanh(score)", "score * 2"]),
        ("(q - kv).to(torch.float32)", "score", ["q - kv", "q.to(torch.float32)"]),
        ("-(score / 3)", "score", ["score / 3", "-score"]),
        ("score + torch.exp(score).to(torch.int64)", "score", ["score + q.to(torch.int64)"]),
        ("score + bias[q - kv, h]", "score", ["score + (q - kv)", "score + h", "score + q", "bias[q - kv, h]"]),
        ("~(kv < 2) & (q > kv)", "mask", ["~(kv < 2)", "q > kv", "(kv < 2) & (q > kv)"]),
        ("torch.where(q - kv > 3, score, -inf)", "score", ["score", "torch.where(q > 3, score, -inf)"]),
    ],
)
def test_operands_and_positions_take_the_place_of_operations(text: str, kind: str, expected: list[str]) -> None:
    left = list(cuts.texts(text, kind))
    assert [e for e in expected if e not in left] == []


def test_a_sum_times_a_number_loses_the_number_and_then_terms() -> None:
    left = [c.score_mod for c in cuts.sums(Case("a", score_mod="(score + q) * 0.0625"))]
    assert left == ["score + q", "score * 0.0625", "q * 0.0625"]


def test_parts_of_a_sum_the_largest_first() -> None:
    left = [c.score_mod for c in cuts.sums(Case("a", score_mod="score + q + kv + h"))]
    assert left[:2] == ["score + q", "kv + h"] and left[2:6] == ["score", "q", "kv", "h"]
    assert left[6:] == ["q + kv + h", "score + kv + h", "score + q + h", "score + q + kv"]


def test_no_index_is_touched_nor_what_one_is_computed_from() -> None:
    text = "i = (q - kv) % 4\ny = kv * 2\nscore + bias[i] * y"
    for left in cuts.texts(text, "score"):
        if "bias[" in left:
            assert "i = (q - kv) % 4" in left and "bias[i]" in left
        assert "bias[q" not in left


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("score + q % torch.clamp(kv - q, 1, 20)", "torch.clamp(kv - q, 1, 20)"),
        ("(score + q) / torch.clamp(score, 1, 9)", "torch.clamp(score, 1, 9)"),
        ("score + torch.fmod(q, torch.clamp(kv, 1, 20))", "torch.clamp(kv, 1, 20)"),
        ("score + (q << torch.clamp(kv, 0, 3))", "torch.clamp(kv, 0, 3)"),
        ("score + torch.clamp(score, -9, 9).to(torch.int8)", "torch.clamp(score, -9, 9)"),
        ("score + torch.log(torch.clamp(score, 1, 9))", "torch.clamp(score, 1, 9)"),
        ("x = torch.clamp(kv, 1, 20)\nscore + q % x", "torch.clamp(kv, 1, 20)"),
        ("x = kv * 2\ny = torch.clamp(x, 1, 20)\nscore + q // y", "kv * 2"),
    ],
)
def test_what_has_to_lie_in_a_range_stays(text: str, kept: str) -> None:
    """Whatever divides, shifts or is cast does so by the same term as before, or not at all."""
    whole = [
        left for left in cuts.texts(text, "score") if any(o in left for o in ("%", "/", "fmod", "<<", ".to", "log"))
    ]
    assert whole and all(kept in left for left in whole)


def test_a_condition_stays_one() -> None:
    left = set(cuts.texts("~(q < 3) & (kv > q + 1)", "mask"))
    assert left == {"~(q < 3)", "kv > q + 1", "(q < 3) & (kv > q + 1)", "~(q < 3) & (kv > q)"}
    left = set(cuts.texts("torch.where((q > 3) | (kv < 2), score, 0.0)", "score"))
    assert "torch.where(kv < 2, score, 0.0)" in left
    assert not left & {"torch.where(q, score, 0.0)", "torch.where(q | (kv < 2), score, 0.0)"}


def test_a_cut_brings_no_failure_of_its_own() -> None:
    """On the healthy reference everything that is left of generated cases is right, or no case at all."""
    ran: Counter[str] = Counter()
    with Isolated() as isolated:
        for case in _generated(12):
            for number, left in enumerate(c for one in cuts.PASSES for c in one(case)):
                if number % 17 == 0:
                    outcome = isolated.run(left, "reference.host", Options(vector_width=2))
                    assert outcome.ok or discarded(outcome) or outcome.symptom is Symptom.REFUSED, left.to_toml()
                    ran["right" if outcome.ok else "other"] += 1
    assert ran["right"] > 30, ran


def _generated(count: int) -> list[Case]:
    found: list[Case] = []

    @settings(max_examples=11, phases=[Phase.generate], database=None, deadline=None, derandomize=True)
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found[-count:]


def _indices(text: str | None) -> set[str]:
    tree = ast.parse(text) if text is not None else ast.Module([], [])
    return {ast.unparse(n.slice) for n in ast.walk(tree) if isinstance(n, ast.Subscript)}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_what_is_left_is_a_case_with_the_same_indices_and_captures(case: Case) -> None:
    there = {c.name for c in case.captures}
    for left in (c for one in cuts.PASSES for c in one(case)):
        assert {c.name for c in left.captures} <= there
        for mod in ("score_mod", "mask_mod"):
            assert _indices(getattr(left, mod)) <= _indices(getattr(case, mod))
        if case.captures or case.block.kind == "lists":
            sizes = ("B", "H", "Hkv", "M", "N", "D", "Dv")
            assert [getattr(left.problem, s) for s in sizes] == [getattr(case.problem, s) for s in sizes]


def _round(tmp_path: Path, fails: Any, shrink_seconds: float, others: Symptom = Symptom.OK) -> tuple[Round, Case]:
    """A round that has just found a large failing case; `fails` says what else does, `others` what is of the rest."""

    class Answers:
        def run(self, case: Case, subject: str, options: Any = None, keep: Any = None) -> Outcome:
            symptom = Symptom.WRONG if fails(case) else others
            return Outcome(case.name, case.digest(), subject, Stage.OUTPUT, symptom, "")

    plan = Plan("reference.host", tmp_path, 60.0, shrink_seconds=shrink_seconds)
    driver = Driver(plan, 0, Answers(), time.monotonic() + 60.0)
    tmp_path.mkdir(exist_ok=True)
    driver.writer = RecordWriter(tmp_path, 0)
    terms = [f"torch.sin(q * {n})" for n in range(2, 9)]
    big = Case(
        "big",
        score_mod=" + ".join(["x = kv * 2\nscore", *terms, "torch.exp(torch.round(x / 4)) * t[q]"]),
        mask_mod="q >= kv",
        captures=(Capture("t", ("M",)),),
        problem=Problem(B=2, H=2, Hkv=1, M=9, N=7, D=8, Dv=8, scale=0.5, layout="bmhd"),
        block=BlockSpec(q=4, kv=4),
    )
    turn = Round(driver)
    with pytest.raises(AssertionError):
        turn.example(big, 4)
    return turn, big


def test_a_large_case_is_cut_to_what_it_fails_for(tmp_path: Path) -> None:
    turn, _ = _round(tmp_path, lambda case: "torch.round" in (case.score_mod or ""), 60.0)
    turn.cut()
    assert turn.best is not None and turn.finished
    left = turn.best.case
    assert (left.score_mod, left.mask_mod, left.captures) == ("torch.round(score)", None, ())
    assert left.problem == Problem(B=1, H=1, Hkv=1, M=9, N=7, D=8, Dv=8, scale=0.5) and left.block == BlockSpec()
    assert turn.driver.examples < 80
    assert all(r.shrinking for r in list(Reader(tmp_path).new())[1:])


def test_a_cut_that_ends_the_failure_is_not_kept_and_time_ends_cutting(tmp_path: Path) -> None:
    turn, big = _round(tmp_path / "a", lambda case: case.mask_mod is not None and len(case.captures) == 1, 60.0)
    turn.cut()
    assert turn.best is not None and turn.best.case.mask_mod is not None and len(turn.best.case.captures) == 1
    turn, big = _round(tmp_path / "b", lambda case: True, 0.0)
    turn.cut()
    assert turn.best is not None and turn.best.case == big and not turn.finished


def test_a_failure_of_another_kind_that_cutting_brings_about_is_no_finding(tmp_path: Path) -> None:
    turn, _ = _round(tmp_path, lambda case: "torch.round" in (case.score_mod or ""), 60.0, Symptom.CRASH)
    turn.cut()
    assert turn.best is not None and turn.best.case.score_mod == "torch.round(score)"
    first, *cut = Reader(tmp_path).new()
    assert first.verdict == "failed" and {r.verdict for r in cut} == {"failed", "discarded"}
    assert all("brought about by cutting" in r.why and not r.toml for r in cut if r.verdict == "discarded")
    assert list(turn.driver.aside) == ["wrong values"]
    drawn = Case("drawn", score_mod="score")
    assert turn.driver.judge(drawn, 1, shrinking=True, cutting="wrong values").verdict == "discarded"
    assert turn.driver.judge(drawn, 1, shrinking=False).verdict == "failed"
