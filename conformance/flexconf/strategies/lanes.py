"""Draws indices with one operand that is the same for all keys of a vector, and another operand that differs.

A lowering that loads once per vector must look at all operands. The index in `table[torch.where(kv % 2 == 0, h, b)]`
differs by lane, although both branches are the same in all lanes. So does the index in `table[q % (kv + 1)]`, although
the dividend is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import strategies as st

from flexconf.cases.case import Capture
from flexconf.strategies import tables
from flexconf.strategies.draws import Draw, one
from flexconf.strategies.scope import Scope
from flexconf.strategies.terms import Term

# u and v are the same in all lanes, from 0 to 15; l differs by lane. lc is a condition that differs by lane, and uc one
# that does not.
FORMS = (
    *["torch.where({lc}, {u}, {v})"] * 4,
    *["torch.where({uc}, {l}, {v})", "torch.where({uc}, {u}, {l})"] * 2,
    "({u} + {l})", "({l} - {u})", "({u} - {l})", "({u} * {l})", "(({u} + 1) * {l})",
    "({u} // ({l} + 1))", "({l} // ({u} + 1))", "({u} % ({l} + 1))", "({l} % ({u} + 1))",
    "torch.fmod({u}, {l} + 1)", "torch.div({u}, {l} + 1, rounding_mode='trunc')",
    "({u} & {l})", "({l} | {u})", "({u} ^ {l})", "({u} | {l})",
    "({u} << ({l} & 3))", "({u} >> ({l} & 3))", "({l} >> ({u} & 3))",
    "torch.minimum({u}, {l})", "torch.maximum({l}, {u})", "torch.clamp({u}, max={l})", "torch.clamp({u}, min={l})",
    "torch.clamp({l}, min={u})", "torch.clamp({u}, {l}, {v})", "torch.clamp({u}, {v}, {l})",
    "(({u} < {l}).to(torch.int32) * 3)", "(({u} >= {l}).to(torch.int32) * 5)", "(({u} == {l}).to(torch.int32) + 2)",
    "(({u} + 1) << ({l} & 1))", "(({lc}) & ({uc})).to(torch.int32)", "(({uc}) | ({lc})).to(torch.int32)",
    "torch.abs({u} - {l})", "torch.pow({u} & 3, {l} & 3)", "torch.relu({u} - {l})",
    "torch.bitwise_xor({l}, {u})", "torch.logical_xor({uc}, {lc}).to(torch.int32)",
)  # fmt: skip
_LANES = ("(kv % 5)", "(kv & 7)", "(15 - kv % 16)", "(kv // 2 % 4)")
_SAME = ("(q % 7)", "(q & 3)", "(q // 2 % 8)")
_NUMBERS = ("3", "0", "11")
_LANE_CONDITIONS = ("kv % 2 == 0", "kv & 2 == 2", "kv < q", "kv % 3 != 1", "(kv % 2).to(torch.bool)", "q - kv > 1")
_SAME_CONDITIONS = ("q % 2 == 0", "q > 1", "(q & 1).to(torch.bool)", "h < 1")
_MOST = 16
_READS = 3  # the most reads of one table: an index costs little compared with a capture, and each has one form only

TABLE = "t"
"""The name of the table in `examples`."""


def examples() -> Iterator[str]:
    """Reads of a table at every form of an index, over every sort of operand."""
    for form in dict.fromkeys(FORMS):
        for u, v in ((_SAME[0], _SAME[1]), *([("3", "0")] if form.startswith("torch.where") else [])):
            for lane, same in itertools.product(_LANE_CONDITIONS[:2], _SAME_CONDITIONS[:2]):
                yield f"{TABLE}[{form.format(u=u, v=v, l=_LANES[0], lc=lane, uc=same)}]"


def laned(draw: Draw, scope: Scope) -> Term | None:
    """The sum of the elements of a table at up to three such indices. Returns None if no more captures are allowed."""
    if not scope.features.captures or scope.free_name() is None:
        return None
    indices = [_index(draw, scope) for _ in range(draw(st.integers(1, _READS)))]
    name = scope.free_name()
    assert name is not None
    # Every element differs from its neighbours by more than the error bound of a score.
    values, ends = one(draw, (("arange(-4, 0.5)", (-4.0, 4.0)), ("normal", (-3.5, 3.5))))
    dtype = one(draw, ("float32", "float32", "float16", "int32"))
    if dtype == "int32":
        values, ends = "permutation", (0.0, float(_MOST))
    first = tables.made(scope, Capture(name, (_MOST,), dtype, values), ends, [Term(indices[0], "int32", 0, _MOST - 1)])
    reads = [first.text, *(f"{name}[{index}]" for index in indices[1:])]
    if len(reads) == 1:
        return first
    return Term(f"({' + '.join(reads)})", dtype, len(reads) * ends[0], len(reads) * ends[1])


def _index(draw: Draw, scope: Scope) -> str:
    form = one(draw, FORMS)
    lanes, conditions = [*_LANES], [*_LANE_CONDITIONS]
    if scope.kind == "score" and scope.problem.qkv == "normal":
        conditions.append("score > 0")
    same = [*_SAME, *(t.text for t in scope.parameters()[2:] if 0 < t.hi < _MOST), *_loaded(scope)]
    if form.startswith("torch.where") or "torch." not in form:
        same += _NUMBERS  # the other functions take no Python number
    u, v = draw(st.lists(st.sampled_from(same), min_size=2, max_size=2, unique=True))
    one_head = scope.problem.H == 1
    same_conditions = [c for c in _SAME_CONDITIONS if not (one_head and c.startswith("h "))]
    lane_condition, same_condition = one(draw, conditions), one(draw, same_conditions)
    index: str = form.format(u=u, v=v, l=one(draw, lanes), lc=lane_condition, uc=same_condition)
    return index if "{lc}, {u}" in form else f"({index} % {_MOST})"


def _loaded(scope: Scope) -> list[str]:
    """The old 0-dim integer captures whose values can be indices: they are the same for all keys."""
    found = []
    for c in scope.captures:
        lo, hi, special = scope.values[c.name]
        if c.dtype in ("int32", "int64") and not c.shape and lo >= 0 and hi < _MOST and not special:
            found.append(c.name)
    return found
