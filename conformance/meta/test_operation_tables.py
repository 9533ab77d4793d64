"""The harness's rows, the lowering's spellings and the oracle's models speak of the same operations.

The three tables are written apart, so that a mistake in one is no mistake in another. This holds them together by name.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from flexconf.checks.operands import operand_values
from flexconf.fuzz import outline
from flexconf.language import modtext
from flexconf.language.operations import FLOATS, NUMBERS, OPERATIONS, ROWS, FunctionRow, Operation, row_of
from flexconf.oracles.error_model import OPS
from flexflash import ops, trace

OTHER_NAMES = {
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift", "log_sigmoid_forward": "log_sigmoid", "true_divide": "div",
}  # fmt: skip
"""Names of ATen under which an operation of a row is recorded as well."""

NO_TEXT = {"clone", "isneginf", "isposinf", "masked_fill", "_prelu_kernel", "special_entr", "special_xlog1py", "index"}
"""What a mod that is a function reaches, and none that is text, so that `flexconf ops` cannot ask it."""

CHECKED = {row.name for row in OPERATIONS}
SPELT = {str(overload).split(".")[1] for overload in ops.supported()}


def _recorded(row: Operation) -> set[str]:
    """The names in ATen of what the lowering records of a row."""
    dtype = getattr(torch, row.dtypes[0])
    captures = {name: torch.ones(4, dtype=dtype) for name in ("x", "y")}
    text = re.sub(r"(?<![\w.])([xy])(?!\w)", r"\1[kv]", row.text)
    used = {name: captures[name] for name in modtext.free_names(text)}
    mod = modtext.compile_mod(text, "score", used, {}, "row")

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return mod(score, b, h, q, kv).to(torch.float32)

    nodes = trace(score_mod, "score").graph_module.graph.nodes
    return {node.target.overloadpacket.__name__ for node in nodes if isinstance(node.target, torch._ops.OpOverload)}


def test_every_spelling_and_every_model_belongs_to_a_row() -> None:
    known = CHECKED | set(OTHER_NAMES) | NO_TEXT
    assert known >= SPELT, sorted(SPELT - known)
    assert set(OPS) <= known, sorted(set(OPS) - known)
    assert set(OTHER_NAMES.values()) <= CHECKED and not NO_TEXT & CHECKED


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.text} of {row.dtypes[0]}")
def test_every_row_is_recorded_as_what_is_spelt_and_has_a_model(row: Operation) -> None:
    unspelt = _recorded(row) - SPELT - {"index", "full"}  # a read and a constant, which the code generator writes
    assert not unspelt, sorted(unspelt)
    assert (row_of(row.name).model or row.name) in OPS


def _eager(text: str, x: Tensor) -> Tensor:
    """PyTorch's results of a text on every element of x, with the elements in reverse order as y."""
    placed = re.sub(r"(?<![\w.])([xy])(?!\w)", r"\1[kv]", text)
    operands = {"x": x, "y": x.flip(0)}
    mod = modtext.compile_mod(placed, "score", {n: operands[n] for n in modtext.free_names(placed)}, {}, "row")
    index, zero = torch.arange(len(x)), torch.zeros((), dtype=torch.int32)
    return mod(torch.zeros(()), zero, zero, zero, index)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_can_be_drawn_and_is_checked_or_says_why_not(row: FunctionRow) -> None:
    assert bool(row.texts) != row.refused
    assert (row.name in CHECKED) == (not row.refused and not row.filled)
    assert row.refused or row.dtypes
    assert row.calls or row.name in ("rsub", "_to_copy"), "neither a function nor an operator calls it"


@pytest.mark.parametrize("row", [row for row in ROWS if not row.refused], ids=lambda row: row.name)
def test_every_call_of_a_row_is_recorded_as_what_is_spelt(row: FunctionRow) -> None:
    for call, signature in row.calls.items():
        if row.filled or signature.least == 3:
            continue  # their texts are calls already
        operands = {"torch.clamp": "x, 1, 2"}.get(call, "x, y" if signature.least == 2 else "x")
        unspelt = _recorded(Operation(row.name, f"{call}({operands})", row.dtypes)) - SPELT - {"index", "full"}
        assert not unspelt, (call, sorted(unspelt))


@pytest.mark.parametrize("row", [row for row in ROWS if row.texts and row.name != "_to_copy"], ids=lambda row: row.name)
def test_every_row_names_the_dtype_of_its_result(row: FunctionRow) -> None:
    text = row.texts[0]
    for dtype in text.dtypes or row.dtypes:
        result = str(_eager(text.text, torch.ones(2, dtype=getattr(torch, dtype))).dtype).removeprefix("torch.")
        same = dtype if row.result == "same" or dtype in FLOATS else "float32"
        assert result == ("bool" if row.result == "bool" else same), dtype
        seen, _ = outline.of_text(f"torch.neg({text.text})", {"x": (dtype, 0), "y": (dtype, 0)})
        assert seen[-1] == outline.UsedOperation("neg", result), "the outline of a mod says another dtype"


@pytest.mark.parametrize("row", [row for row in ROWS if row.every], ids=lambda row: row.name)
def test_what_takes_every_number_does_and_stays_finite(row: FunctionRow) -> None:
    for dtype in NUMBERS:
        values = operand_values(dtype)
        x = values[values.double().isfinite()]
        result = _eager(row.texts[0].text, x)
        assert len(x) > 10 and bool(result.double().isfinite().all()), dtype
