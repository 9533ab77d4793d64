"""The three-way check itself: its forms hold what they should, and each of the three is noticed when it is wrong."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch

from flexconf.checks.three_ways import check, forms, reasons, values, ways
from flexconf.checks.three_ways.forms import Form
from flexconf.language.modtext import OPERATIONS

TEXTS = [form.text for found in forms.plan().values() for form in found]
_TABLE = r"[xy]_(?P<{0}>[a-z0-9]+)(?:_[a-z]+)?\[(?:q|kv)\]"
_SCALAR = r"z_(?P<{0}>[a-z0-9]+)_[a-z]+_\d+"


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_vocabulary_has_forms_with_each_of_its_keywords(name: str) -> None:
    if name in forms.UNCOVERED:
        return
    texts = [form.text for form in forms.plan()[name]]
    assert texts
    for keyword in OPERATIONS[name].keywords:
        assert any(f"{keyword}=" in text for text in texts), keyword


def test_every_pair_of_dtypes_is_there_in_every_pair_of_positions() -> None:
    seen = set()
    operand = "(?:{0}|{1})"
    pattern = re.compile(
        operand.format(_TABLE.format("a"), _SCALAR.format("b"))
        + r"[^\[\]]*?"
        + operand.format(_TABLE.format("c"), _SCALAR.format("d"))
    )
    for text in TEXTS:
        found = pattern.search(text)
        if found:
            first, second = found["a"] or found["b"], found["c"] or found["d"]
            seen.add((first, second, found["a"] is None, found["c"] is None))
    wanted = set(itertools.product(values.DTYPES, values.DTYPES, (False, True), (False, True)))
    assert not wanted - seen


@pytest.mark.parametrize("dtype", values.DTYPES)
def test_every_kind_of_number_stands_on_both_sides_of_every_dtype(dtype: str) -> None:
    for number in (r"(True|False)", r"\(?-?\d+\)?", r"\(?-?(\d+\.\d+|\d+(\.\d+)?e[+-]\d+|inf|nan)\)?"):
        operand = rf"[xyz]_{dtype}(_\w+)?(\[\w+\])?"
        for pattern in (rf"{operand} \S+ {number}", rf"{number} \S+ {operand}"):
            assert any(re.fullmatch(pattern, text) for text in TEXTS), pattern


def test_all_forms_of_one_call_are_more_than_the_suite_runs() -> None:
    some, every = forms.plan(), forms.plan(full=True)
    assert some.keys() == every.keys()
    assert all(len(every[name]) >= len(found) for name, found in some.items())


FORM = Form("torch.add", "torch.add(x_float32[kv], y_float32_any[q])")


def _compared(first: ways.WayResult, certain: ways.WayResult, seen: ways.WayResult) -> list[check.Disagreement]:
    tally = check.FormTally()
    check.compare(FORM, first, certain, {1: seen, 4: seen}, tally)
    return tally.disagreements


def _three() -> tuple[ways.WayResult, ways.WayResult, ways.WayResult]:
    first = ways.eager(FORM)
    [certain] = ways.oracle([FORM])
    [seen] = ways.lowered([FORM], [first])
    return first, certain, seen[4]


def _moved(result: ways.WayResult, by: float) -> ways.WayResult:
    assert result.value is not None
    return replace(result, value=result.value + by)


def test_whoever_is_wrong_is_named() -> None:
    first, certain, seen = _three()
    assert not _compared(first, certain, seen)
    [eager] = _compared(_moved(first, 1.0), certain, seen)
    assert eager.who == "eager outside"
    [lowering] = _compared(first, certain, _moved(seen, 1.0))
    assert lowering.who == "lowering outside"
    [oracle] = _compared(first, _moved(certain, 1.0), seen)
    assert oracle.who == "eager and lowering outside"
    [dtypes] = _compared(first, certain, replace(seen, dtype=torch.float64))
    assert dtypes.who == "dtypes"
    [refusal] = _compared(first, certain, ways.WayResult(None, refusal="no"))
    assert refusal.who == reasons.LOWERING_REFUSES


def test_an_integer_must_be_equal_and_a_zero_must_have_its_sign() -> None:
    zero, bound = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert check.outside(torch.tensor([0.0, -0.0]).double(), zero, bound).tolist() == [False, True]
    assert not check.outside(-zero, zero, bound + 2.0**-149).any()
    whole = torch.tensor([3, 2**53])
    assert check.outside(whole + 1, whole, bound).all()
    special = torch.tensor([torch.inf, torch.nan]).double()
    assert not check.outside(special, special, bound).any()
    assert check.outside(special.flip(0), special, bound + 1).all()


@pytest.mark.parametrize("dtype", values.DTYPES)
def test_every_bit_of_a_value_passes_through_scores(dtype: str) -> None:
    held = values.capture(f"x_{dtype}")
    wide = held.bool() if dtype == "bool" else held.double() if held.dtype.is_floating_point else held.long()
    scale = ways._scale(held) if dtype == "float64" else None
    parts = torch.stack(ways._told(held, scale)).double()
    back = ways._joined(parts, held.dtype, scale)
    assert ways._parts(held.dtype) == len(parts)
    torch.testing.assert_close(back, wide, rtol=0, atol=0, equal_nan=True)
    if held.dtype.is_floating_point:
        assert torch.equal(back.signbit()[held == 0], held.signbit()[held == 0])


def test_a_reason_that_covers_nothing_any_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = reasons.Reason("gone", "eager outside", ("torch.add",), "x_float32", "it was so once")
    monkeypatch.setattr(check, "REASONS", (stale,))
    [found] = check.check([FORM])["torch.add"].disagreements
    assert "gone" in str(found)


def test_what_pytorch_refuses_the_lowering_must_refuse() -> None:
    form = Form("torch.bitwise_and", "torch.bitwise_and(x_float32[kv], 1)")
    tally = check.check([form])["torch.bitwise_and"]
    assert tally.refused == 1 and not tally.disagreements and tally.compared == 0
