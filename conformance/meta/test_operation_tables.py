"""The harness's rows, the lowering's spellings and the oracle's models speak of the same operations.

The three tables are written apart, so that a mistake in one is no mistake in another. This holds them together by name.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from flexconf.checks import opcheck
from flexconf.language import modtext
from flexconf.language.operations import OPERATIONS, Operation
from flexconf.oracles.error_model import OPS
from flexflash import ops, trace

OTHER_NAMES = {
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift", "log_sigmoid_forward": "log_sigmoid", "true_divide": "div",
}  # fmt: skip
"""Names of ATen under which an operation of a row is recorded as well."""

NO_TEXT = {"clone", "isneginf", "isposinf", "masked_fill", "_prelu_kernel", "special_entr", "special_xlog1py", "index"}
"""What a mod that is a function reaches, and none that is text, so that `flexconf ops` cannot ask it."""

ROWS = {row.name for row in OPERATIONS}
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
    known = ROWS | set(OTHER_NAMES) | NO_TEXT
    assert known >= SPELT, sorted(SPELT - known)
    assert set(OPS) <= known, sorted(set(OPS) - known)
    assert set(OTHER_NAMES.values()) <= ROWS and not NO_TEXT & ROWS


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.text} of {row.dtypes[0]}")
def test_every_row_is_recorded_as_what_is_spelt_and_has_a_model(row: Operation) -> None:
    unspelt = _recorded(row) - SPELT - {"index", "full"}  # a read and a constant, which the code generator writes
    assert not unspelt, sorted(unspelt)
    assert opcheck._ALIASES.get(row.name, row.name) in OPS
