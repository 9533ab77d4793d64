"""The bounds are no wider than they were: what a dense sample shows of each operation is held in `tightness.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from flexconf.checks import tightness
from flexconf.checks.tightness import Figure
from flexconf.language.operations import OPERATIONS, Operation
from flexconf.oracles import error_model as em
from flexconf.oracles import evaluation
from flexconf.oracles.operation import Call
from flexconf.oracles.shadow import Shadow

ROOM = 1.15
"""By how much a figure may differ from the table's."""
_TEXTS = sorted({operation.text for operation in OPERATIONS})


def _table() -> dict[str, dict[str, list[float | str]]]:
    with Path(__file__).with_name("tightness.toml").open("rb") as file:
        return tomllib.load(file)


TABLE = _table()


@cache
def _figures(text: str) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for operation in OPERATIONS:
        if operation.text == text:
            for kind, figure in tightness.figures(operation).items():
                found[kind] = found[kind].merged(figure) if kind in found else figure
    return found


def _held(figure: Figure) -> list[float | str]:
    """What the table holds: "exact" where nothing is bounded, or the three figures; "-" for one that there is not."""
    if not figure.bounded and figure.carried is None:
        return ["exact"]
    return ["-" if v is None else float(f"{v:.3g}") for v in (figure.rounded, figure.widest, figure.carried)]


def _agree(seen: list[float | str], held: list[float | str]) -> bool:
    def near(a: float | str, b: float | str) -> bool:
        return a == b if isinstance(a, str) or isinstance(b, str) else b / ROOM <= a <= b * ROOM

    return len(seen) == len(held) and all(map(near, seen, held))


def _line(text: str) -> str:
    kinds = ", ".join(f"{kind} = {_held(figure)}" for kind, figure in _figures(text).items())
    return f"'{text}' = {{ {kinds} }}".replace("= ['exact']", '= ["exact"]').replace("'-'", '"-"')


@pytest.mark.parametrize("text", _TEXTS)
def test_the_bounds_of_an_operation_are_as_tight_as_the_table_says(text: str) -> None:
    """An operation without figures, figures that are wider, and figures that are tighter: all are to be looked at."""
    seen = {kind: _held(figure) for kind, figure in _figures(text).items()}
    assert all(figure.points for figure in _figures(text).values())
    held = TABLE.get(text, {})
    same = seen.keys() == held.keys() and all(_agree(seen[kind], held[kind]) for kind in seen)
    assert same, f"the table has {held or 'nothing'}; tightness.toml would say, if that is right:\n{_line(text)}"


def test_the_table_holds_no_other_operation() -> None:
    assert sorted(TABLE) == _TEXTS


@pytest.mark.parametrize("text", _TEXTS)
def test_a_bound_that_no_result_comes_near_is_explained(text: str) -> None:
    """And one that is many ulp wide; an explanation that nothing needs is stale."""
    needed = [kind for kind, figure in _figures(text).items() if figure.remarkable]
    assert bool(needed) == (text in tightness.EXPLAINED), (needed, tightness.EXPLAINED.get(text))


def test_explanations_are_of_operations() -> None:
    assert set(tightness.EXPLAINED) <= set(_TEXTS)


# --- faults: one operation's bound wider than it should be ---------------------------------------------------------


def _recorded(operation: Operation, dtype: str) -> list[str]:
    """The names of the ATen operations that a text is made of."""
    names: list[str] = []

    def record(call: Call) -> Shadow:
        names.append(call.name)
        return _SHADOW_OF(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "shadow_of", record)
        tightness.measure(operation, dtype)
    return names


_SHADOW_OF: Callable[[Call], Shadow] = evaluation.shadow_of


@cache
def _measured() -> dict[str, Operation]:
    """By the name of a float operation of the error model, a text that ends with it and has a bound."""
    found: dict[str, Operation] = {}
    for operation in OPERATIONS:
        if "float32" in operation.dtypes and _held(_figures(operation.text)["float32"]) != ["exact"]:
            found.setdefault(_recorded(operation, "float32")[-1], operation)
    return found


# No float that could be inexact comes of them, or nothing of L7.6 ends with them.
_NOT_MEASURED = {
    "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "isposinf", "isneginf", "sign", "sgn",
    "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor",
    "bitwise_not", "__and__", "__or__", "__xor__", "bitwise_left_shift", "bitwise_right_shift", "__lshift__",
    "__rshift__", "square", "true_divide", "positive", "masked_fill", "index",
    "heaviside", "signbit", "special_xlog1py", "special_entr", "_prelu_kernel",
}  # fmt: skip


def test_every_operation_of_the_error_model_is_measured() -> None:
    assert set(em.OPS) - set(_measured()) == _NOT_MEASURED


def _caught(operation: Operation) -> bool:
    return not _agree(_held(tightness.measure(operation, "float32")), TABLE[operation.text]["float32"])


@pytest.mark.parametrize("name", sorted(set(em.OPS) - _NOT_MEASURED))
def test_a_bound_four_times_too_wide_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = _measured()[name]
    assert not _caught(operation)

    def wider(call: Call) -> Shadow:
        shadow = _SHADOW_OF(call)
        return replace(shadow, e=shadow.e * 4) if call.name == name and shadow.e is not None else shadow

    monkeypatch.setattr(evaluation, "shadow_of", wider)
    assert _caught(operation)


# Rules whose own rounding is written with them, not taken from the table.
_BUILT_IN = {"floor_divide", "remainder", "round", "_to_copy"} | {n for n, m in em.OPS.items() if m.rule == "pieces"}


@pytest.mark.parametrize("name", sorted({n for n, m in em.OPS.items() if m.ulps} - _NOT_MEASURED - _BUILT_IN))
def test_a_figure_of_the_error_model_sixty_four_times_too_large_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = _measured()[name]
    assert not _caught(operation)
    monkeypatch.setitem(em.OPS, name, replace(em.OPS[name], ulps=64 * em.OPS[name].ulps))
    assert _caught(operation)
