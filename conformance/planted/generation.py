"""Faults of the code generator: casts, constants, vectors, and the arguments of a mod."""

from __future__ import annotations

import re
from typing import Any

import torch

from flexconf.cases.case import BlockSpec, Capture
from flexflash import codegen, prelude, template
from flexflash.kernel import RenderedKernel
from flexflash.ops import Value, values
from planted.fault import Fault
from planted.patching import attributes, everywhere, in_mod, mapping, substituted, text, with_statement
from planted.witness import mask, problem, score

_SCALE = "softmax_scale="


def _low_bit() -> list[tuple[Any, str, Any]]:
    true = codegen._Writer._cast

    def cast(self: Any, value: Value, dtype: torch.dtype) -> str:
        if dtype is torch.bool and value.dtype is not torch.bool and not value.dtype.is_floating_point:
            return self.assign(f"{value.text}.to(cutlass.Boolean)", "flag")  # type: ignore[no-any-return]
        return true(self, value, dtype)

    return [(codegen._Writer, "_cast", cast)]


def _loose_sharing() -> list[tuple[Any, str, Any]]:
    true = codegen._Writer.assign

    def assign(self: Any, expression: str, hint: str) -> str:
        if "aux" in expression or "[" in expression or "gather" in expression:
            return true(self, expression, hint)
        blurred = "blurred " + re.sub(r"\b\d+(\.\d+)?\b", "0", expression)
        known = self.by_expression.get(blurred)
        if known is None:
            known = self.by_expression[blurred] = true(self, expression, hint)
        return known  # type: ignore[no-any-return]

    return [(codegen._Writer, "assign", assign)]


def _first_lane() -> list[tuple[Any, str, Any]]:
    true = prelude.render

    def render(names: set[str]) -> str:
        # Only the right side of the assignment changes: every lane gets an element, but always the first lane's.
        return re.sub(r"buffer\[.*\]\.to", lambda m: m[0].replace("[lane]", "[0]"), true(names))

    assert true({"gather"}) != render({"gather"})
    return [(prelude, "render", render)]


def _uniform_if_any(*arguments: Any) -> bool:
    return any(a.uniform or a.constant is not None for a in arguments if isinstance(a, Value))


def _scaled_after(source: str, kernel: RenderedKernel) -> str:
    if "def score_mod" not in source:
        return source

    def edit(mod: str) -> str:
        head, result = mod.rsplit("    return ", 1)
        return f"{head}    return ({result}) * {kernel.scale!r}"

    edited = in_mod(source, "score_mod", edit)
    return substituted(edited, f"{_SCALE}{kernel.scale!r}", f"{_SCALE}1.0")


def _short_scale(source: str, kernel: RenderedKernel) -> str:
    return substituted(source, f"{_SCALE}{kernel.scale!r}", f"{_SCALE}{float(f'{kernel.scale:.2g}')!r}")


def _heads_of_keys(source: str, kernel: RenderedKernel) -> str:
    group = _group(source)
    if group == 1:
        return source
    return with_statement(source, "score_mod", f"h_idx = h_idx // {group}")


def _group(source: str) -> int:
    """The number of query heads per key/value head, from the facts in the text's docstring."""
    found = re.search(r"Q \(\d+, (\d+), .*?K \(\d+, (\d+), ", source)
    assert found is not None, "the text does not say its heads"
    return int(found[1]) // int(found[2])


_SCORE = template.PARAMETERS["score_mod"]
_MASK = template.PARAMETERS["mask_mod"]

GENERATION = (
    Fault(
        "low-bit-bool-cast",
        "code generator",
        "A cast of an integer to bool takes the lowest bit, as CuTe's own cast does: 2 becomes false.",
        attributes(_low_bit),
        mask("kv.to(torch.bool)"),
    ),
    Fault(
        "subexpressions-without-constants",
        "code generator",
        "Common subexpressions are looked up by operation and operands, but without their constants.",
        attributes(_loose_sharing),
        score("score + (q + 1) * (q + 2)"),
    ),
    Fault(
        "first-lane-of-a-gather",
        "code generator",
        "A load takes the index of the first lane for all lanes of the vector.",
        attributes(_first_lane),
        score("t[kv]", Capture("t", ("N",))),
        width=2,
    ),
    Fault(
        "one-uniform-operand-is-enough",
        "code generator",
        "A result counts as the same in all lanes if one of its operands is, so it is loaded once.",
        attributes(lambda: everywhere(values, "is_uniform", _uniform_if_any)),
        score("t[q + kv]", Capture("t", ("M+N",))),
        width=2,
    ),
    Fault(
        "scale-after-the-mod",
        "code generator",
        "The scale of Q K^T is applied to the result of score_mod instead of to its argument.",
        text(_scaled_after),
        score("score + q"),
    ),
    Fault(
        "key-head-for-h",
        "code generator",
        "score_mod receives the key/value head as h instead of the query head.",
        text(_heads_of_keys),
        score("score + h", at=problem(H=2)),
    ),
    Fault(
        "batch-and-head-swapped",
        "code generator",
        "The mods receive b and h in the order h, b.",
        mapping(
            template.PARAMETERS,
            {
                "score_mod": substituted(_SCORE, "b_idx, h_idx", "h_idx, b_idx"),
                "mask_mod": substituted(_MASK, "b_idx, h_idx", "h_idx, b_idx"),
            },
        ),
        score("score + h", at=problem(H=2, Hkv=2)),
    ),
    Fault(
        "query-and-key-swapped-in-masks",
        "code generator",
        "A mask_mod receives q and kv in the order kv, q.",
        mapping(template.PARAMETERS, {"mask_mod": substituted(_MASK, "q_idx, kv_idx", "kv_idx, q_idx")}),
        mask("kv < 2"),
    ),
    Fault(
        "mask-of-head-0",
        "code generator",
        "The mask is evaluated once, with h = 0, and used for every head.",
        text(lambda source, _: with_statement(source, "mask_mod", "h_idx = cute.zeros_like(h_idx)")),
        mask("kv > h", at=problem(H=2, Hkv=2)),
    ),
    Fault(
        "mask-of-batch-0",
        "code generator",
        "The mask is evaluated once, with b = 0, and used for every batch.",
        text(lambda source, _: with_statement(source, "mask_mod", "b_idx = cute.zeros_like(b_idx)")),
        mask("kv > b", at=problem(B=2)),
    ),
    Fault(
        "scale-printed-short",
        "template",
        "The scale of Q K^T is printed with two digits.",
        text(_short_scale),
        score("score", at=problem(D=8)),
    ),
    Fault(
        "block-size-swapped",
        "template",
        "The block size is printed as (keys, queries), but it is read as (queries, keys).",
        text(lambda source, kernel: _swapped_blocks(source, kernel)),
        mask("q < kv", block=BlockSpec(q=2, kv=4)),
    ),
)


def _swapped_blocks(source: str, kernel: RenderedKernel) -> str:
    if kernel.block_size is None:
        return source
    return substituted(source, f"block_size={kernel.block_size}", f"block_size={kernel.block_size[::-1]}")
