"""The verdict: it counts what it compared, passes only what is within its bound, and never passes nothing."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from flexconf.oracles.math64 import Certified
from flexconf.verdict.compare import compare, compare_scores

INF, NAN = math.inf, math.nan


def certified(out: float = 1.0, bound: float = 0.1, rows: int = 4) -> Certified:
    shape = (1, 1, rows, 8)
    return Certified(
        out=torch.full(shape, out, dtype=torch.float64),
        lse=torch.full(shape[:3], 2.0, dtype=torch.float64),
        out_bound=torch.full(shape, bound, dtype=torch.float64),
        lse_bound=torch.full(shape[:3], 0.01, dtype=torch.float64),
        excluded=torch.zeros(shape[:3], dtype=torch.bool),
        indeterminate=0,
        out_dtype=torch.bfloat16,
    )


def results(out: float = 1.0, lse: float = 2.0, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 1, rows, 8), out, dtype=torch.bfloat16), torch.full((1, 1, rows), lse)


def test_equal_is_ok_and_counts() -> None:
    result = compare(*results(), certified())
    assert result.passed and result.symptom == "ok"
    assert (result.elements, result.rows, result.max_ratio) == (36, 4, 0.0)
    assert result.worst is not None


def test_the_worst_element_is_named() -> None:
    out, lse = results()
    out[0, 0, 2, 5] = 1.25
    result = compare(out, lse, certified())
    assert (result.passed, result.symptom, result.over_1, result.over_half) == (False, "wrong", 1, 1)
    assert result.worst is not None
    assert (result.worst["tensor"], result.worst["index"], result.worst["observed"]) == (
        "out",
        [0, 0, 2, 5],
        1.25,
    )
    assert result.max_ratio == pytest.approx(2.5)
    assert "out[0, 0, 2, 5] is 1.25, expected 1" in result.reason


def test_the_lse_counts_as_much_as_the_output() -> None:
    out, lse = results()
    lse[0, 0, 1] = 2.02
    result = compare(out, lse, certified())
    assert result.symptom == "wrong" and result.worst is not None and result.worst["tensor"] == "lse"


@pytest.mark.parametrize("factor", [0.6931471805599453, 1.4426950408889634])
def test_an_lse_of_another_base_is_called_so(factor: float) -> None:
    result = compare(*results(lse=2.0 * factor), certified())
    assert (result.passed, result.symptom) == (False, "wrong-base")
    assert "another base" in result.reason and f"{factor:.4g}" in result.reason


def test_another_base_hides_nothing_else() -> None:
    out, lse = results(lse=2.0 * 0.6931471805599453)
    off = lse.clone()
    off[0, 0, 1] = 2.0
    assert compare(out, off, certified()).symptom == "wrong"
    off[0, 0, 1] = float("nan")
    assert compare(out, off, certified()).symptom == "nonfinite"
    out[0, 0, 2, 5] = 1.25
    result = compare(out, lse, certified())
    assert result.symptom == "wrong" and result.worst is not None and result.worst["tensor"] == "out"


def test_just_inside_passes() -> None:
    result = compare(*results(out=1.0625), certified(bound=0.0625))
    assert result.passed and result.max_ratio == 1.0 and result.over_half == 32


def test_bound_zero_asks_for_equality_but_not_for_the_sign_of_zero() -> None:
    assert compare(*results(out=-0.0), certified(out=0.0, bound=0.0)).passed
    result = compare(*results(out=1e-30), certified(out=0.0, bound=0.0))
    assert result.symptom == "wrong" and result.max_ratio == INF
    assert json.loads(json.dumps(result.to_json()))["max_ratio"] == "inf"


@pytest.mark.parametrize(
    ("observed", "expected"), [(NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, INF), (INF, -INF), (NAN, INF)]
)
def test_special_values_belong_exactly_where_they_are_expected(observed: float, expected: float) -> None:
    result = compare(*results(out=observed), certified(out=expected))
    assert result.symptom == "nonfinite" and result.special_mismatches == 32 and not result.passed


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values_in_their_place_pass(value: float) -> None:
    assert compare(*results(out=value), certified(out=value, bound=0.0)).passed


@pytest.mark.parametrize(("expected", "telling"), [(0.0, 4), (NAN, 4), (-INF, 4), (1.0, 36)])
def test_elements_that_tell_something_are_counted(expected: float, telling: int) -> None:
    """Zeros are what a kernel that does nothing leaves behind; the LSE of `certified` is finite, and counts."""
    assert compare(*results(out=expected), certified(out=expected, bound=0.0)).telling == telling


def test_comparing_nothing_fails() -> None:
    nothing = dataclasses.replace(certified(), excluded=torch.ones(1, 1, 4, dtype=torch.bool))
    result = compare(*results(), nothing)
    assert (result.passed, result.symptom, result.elements, result.excluded_elements) == (
        False,
        "missing",
        0,
        36,
    )


def test_a_problem_without_rows_says_so() -> None:
    result = compare(*results(rows=0), certified(rows=0))
    assert result.passed and result.empty and result.elements == 0 and "no rows" in result.reason


def test_excluded_rows_are_not_compared_but_counted() -> None:
    excluded = torch.zeros(1, 1, 200, dtype=torch.bool)
    excluded[0, 0, :2] = True
    out, lse = results(rows=200)
    out[0, 0, 0] = NAN
    result = compare(out, lse, dataclasses.replace(certified(rows=200), excluded=excluded))
    assert result.passed and result.excluded_rows == 2 and result.excluded_elements == 18
    excluded[0, 0, 2] = True
    result = compare(out, lse, dataclasses.replace(certified(rows=200), excluded=excluded))
    assert not result.passed and "1%" in result.reason


def test_elements_without_a_bound_are_not_compared() -> None:
    bound = certified(rows=200).out_bound.clone()
    bound[0, 0, 0, 0] = INF
    out, lse = results(rows=200)
    out[0, 0, 0, 0] = NAN
    result = compare(out, lse, dataclasses.replace(certified(rows=200), out_bound=bound))
    assert result.passed and result.excluded_elements == 1


def test_more_than_one_percent_of_elements_without_a_bound_is_no_evidence() -> None:
    """Rows in which some elements have no bound are not open, so that elements have a limit of their own."""
    sure = certified(rows=100)
    out, lse = results(rows=100)
    for excluded, passed in ((8, True), (9, False), (799, False)):
        bound = sure.out_bound.clone()
        bound.view(-1)[:excluded] = INF
        result = compare(out, lse, dataclasses.replace(sure, out_bound=bound))
        assert (result.passed, result.excluded_rows, result.excluded_elements) == (passed, 0, excluded)
        assert passed or (result.symptom == "missing" and "elements of out have no bound" in result.reason)
    # The LSE is few elements beside the output, and is judged by itself.
    result = compare(out, lse, dataclasses.replace(sure, lse_bound=torch.full((1, 1, 100), INF)))
    assert result.symptom == "missing" and "100 of 100 elements of lse" in result.reason


def test_scores_without_a_bound_have_the_same_limit() -> None:
    scores, bound = torch.zeros(1, 1, 10, 20), torch.zeros(1, 1, 10, 20, dtype=torch.float64)
    for excluded, passed in ((2, True), (3, False), (199, False), (200, False)):
        bound.view(-1)[:excluded] = INF
        result = compare_scores(scores, scores.double(), bound)
        assert result.passed is passed and result.excluded_elements == excluded
    bound.fill_(INF)[0, 0, 0, 0] = 0.0
    assert compare_scores(scores + 1, scores.double(), bound).symptom == "wrong", "wrong outranks open"


def test_wrong_outranks_open() -> None:
    """One certified element that is wrong decides, however many rows and elements are open."""
    excluded = torch.ones(1, 1, 4, dtype=torch.bool)
    excluded[0, 0, 3] = False
    out, lse = results()
    out[0, 0, 3, 0] = 1.5
    result = compare(out, lse, dataclasses.replace(certified(), excluded=excluded))
    assert (result.symptom, result.elements, result.excluded_rows) == ("wrong", 9, 3)
    out[0, 0, 3, 0] = NAN
    assert compare(out, lse, dataclasses.replace(certified(), excluded=excluded)).symptom == "nonfinite"


def test_missing_and_malformed_results() -> None:
    out, lse = results()
    for result, symptom, words in (
        (compare(None, lse, certified()), "missing", "out was not returned"),
        (compare(out, None, certified()), "missing", "lse was not returned"),
        (compare(out[:, :, :3], lse, certified()), "wrong", "shape (1, 1, 3, 8)"),
        (compare(out.float(), lse, certified()), "wrong", "torch.float32"),
        (compare(out, lse.double(), certified()), "wrong", "torch.float64"),
    ):
        assert not result.passed and result.symptom == symptom and words in result.reason
        assert result.elements == 0
