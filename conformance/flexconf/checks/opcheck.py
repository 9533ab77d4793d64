"""Checks every operation of L7.6: at each vector width, for every dtype that it takes, on difficult values.

The operations run in the rendered mods of real kernels, several to a kernel (head h runs operation h). A float result
must lie within the certified bound around its float64 value. An integer or bool result must equal PyTorch's exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import flexflash
from flexconf.checks import tightness
from flexconf.checks.operands import Y_KINDS, operand_values, ulp_of
from flexconf.errors import InputError
from flexconf.language import modtext
from flexconf.language.operations import ALL, OPERATIONS, Operation, row_of
from flexconf.oracles import math64
from flexconf.oracles.error_model import OPS, power_ulps
from flexconf.subjects import trial
from flexconf.workers import pool
from flexconf.workers.pool import Lost, Report
from flexflash.launch.entry import VECTOR_WIDTHS
from flexflash.launch.host import HostLauncher

GROUP = 8


@dataclass(frozen=True)
class OperationRow:
    """The result of checking one operation in one dtype.

    `max_ulp` is the largest error in ulp of the result's nominal format. `ulps` is the operation's own figure in the
    error model, and `source` its source. `max_ratio` is the largest error over its certified bound; the limit is 1. The
    bound includes errors that reach the operation through its argument. `verdict` is "ok" or says what failed.
    `rounded` and `widest` say how tight the bound is over a dense sample (`tightness.Figure`), None if no result has a
    bound. `explained` says why the bound is not tighter, "" if that needs no explanation.
    """

    name: str
    text: str
    dtype: str
    widths: tuple[int, ...]
    elements: int
    indeterminate: int
    max_ulp: float
    max_ratio: float
    ulps: float
    source: str
    verdict: str
    rounded: float | None = None
    widest: float | None = None
    explained: str = ""

    @property
    def passed(self) -> bool:
        """Whether elements were compared, and all of them are within their bounds."""
        return self.verdict == "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """Operations on one dtype that share a kernel."""

    dtype: str
    operations: tuple[Operation, ...]

    @property
    def name(self) -> str:
        """A readable identifier."""
        return f"{self.dtype}: {', '.join(o.text for o in self.operations)}"


def plan(names: Sequence[str] = ()) -> list[Group]:
    """The operations by dtype, in groups that share a kernel: all, or those with the given names.

    Raises InputError for an unknown name.
    """
    known = {o.name for o in OPERATIONS}
    for name in names:
        if name not in known:
            raise InputError(f"no operation {name!r}; there are {', '.join(sorted(known))}")
    groups = []
    for dtype in ALL:
        chosen = [o for o in OPERATIONS if dtype in o.dtypes and (not names or o.name in names)]
        # Exact results and results with a bound are checked differently.
        for subset in ([o for o in chosen if not _is_float(o, dtype)], [o for o in chosen if _is_float(o, dtype)]):
            groups += [Group(dtype, tuple(subset[i : i + GROUP])) for i in range(0, len(subset), GROUP)]
    return groups


def run(
    groups: Sequence[Group],
    *,
    workers: int | None = None,
    time_limit: float = 300.0,
    on_group: Callable[[], None] = lambda: None,
) -> list[OperationRow]:
    """Check groups in isolated workers. Returns the rows in the order of `groups`.

    If a group kills its worker, all its operations fail.
    """
    done: dict[str, list[OperationRow]] = {}

    def take(group: Group, ended: list[OperationRow] | Lost) -> None:
        if isinstance(ended, Lost):
            verdict = pool.describe(ended)
            ended = [_row(o, group.dtype, VECTOR_WIDTHS, verdict) for o in group.operations]
        done[group.name] = ended
        on_group()

    pool.run_many(
        groups,
        _run_group,
        workers=workers or pool.default_workers(),
        time_limit=time_limit,
        on_result=take,
        prepare=trial.single_threaded,
    )
    return [row for group in groups for row in done[group.name]]


def _run_group(group: Group, report: Report) -> list[OperationRow]:
    report("compile")
    rows = check_group(group)
    report("tightness")
    found = [tightness.measure(operation, group.dtype) for operation in group.operations]
    return [
        replace(
            row,
            rounded=figure.rounded,
            widest=figure.widest,
            explained=tightness.EXPLAINED.get(row.text, "") if figure.remarkable else "",
        )
        for row, figure in zip(rows, found, strict=True)
    ]


def check_group(group: Group, widths: Sequence[int] = VECTOR_WIDTHS) -> list[OperationRow]:
    """Check the operations of a group at every vector width. If the shared kernel fails, each one runs alone."""
    try:
        return _check(group, widths)
    except Exception as error:  # the compiler's errors have no common base
        if len(group.operations) > 1:
            return [row for o in group.operations for row in check_group(Group(group.dtype, (o,)), widths)]
        operation = group.operations[0]
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [_row(operation, group.dtype, widths, verdict=message)]


def _check(group: Group, widths: Sequence[int]) -> list[OperationRow]:
    captures = {"x": operand_values(group.dtype)}
    queries, keys = len(captures["x"]), len(captures["x"])
    for kind in Y_KINDS:  # shorter lists are repeated, so that all operations have one shape
        y = operand_values(group.dtype, kind)
        assert len(y) <= queries, f"{kind}: {len(y)} operands, of which {queries} would be used"
        captures[f"y_{kind}"] = y.repeat(-(-queries // len(y)))[:queries]
    floats = _is_float(group.operations[0], group.dtype)
    heads = len(group.operations)
    for i, operation in enumerate(group.operations):
        want = _eager(operation, captures, queries, keys)
        captures[f"want{i}"] = want
        if want.dtype is torch.float64:
            captures[f"per_ulp{i}"] = 1.0 / ulp_of(want, torch.float64)
    text = _text(group, captures, floats)
    used = {name: captures[name] for name in modtext.free_names(text)}
    mod = modtext.compile_mod(text, "score", used, {}, f"ops_{group.dtype}")
    q = torch.zeros(1, heads, queries, 8, dtype=torch.bfloat16)
    k = torch.zeros(1, heads, keys, 8, dtype=torch.bfloat16)
    kernel = flexflash.lower(q, k, k, mod)
    zero = torch.zeros(1, heads, queries, keys)
    seen = [HostLauncher(width).evaluate(kernel, zero)[0].double() for width in widths]
    certified = math64.evaluate(mod, "score", (zero.double(), None), 1, heads, queries, keys)
    value, error = certified.value[0].double(), certified.error[0]
    rows = []
    for i, operation in enumerate(group.operations):
        nominal = captures[f"want{i}"].dtype
        results = [s[i] for s in seen]
        rows.append(_judge(operation, group.dtype, widths, results, value[i], error[i], floats, nominal))
    return rows


def _judge(
    operation: Operation,
    dtype: str,
    widths: Sequence[int],
    results: Sequence[Tensor],
    value: Tensor,
    error: Tensor,
    floats: bool,
    nominal: torch.dtype,
) -> OperationRow:
    """The row of one operation, from its `results` at each width, (queries, keys) like `value` and `error`.

    `value` and `error` are the certified value and bound of the text by `_text`. That is the operation itself, or for
    an exact operation 0 where it equals PyTorch's result and 1 elsewhere, or in float64 the distance from PyTorch's
    result in ulp.
    """
    determinate = error.isfinite()
    worst, ratio, verdict = 0.0, 0.0, "ok"
    for width, result in zip(widths, results, strict=True):
        same = (result == value) | (result.isnan() & value.isnan())
        distance = torch.where(same, 0.0, (result - value).abs().nan_to_num(nan=math.inf))
        wrong = determinate & (distance > error)
        finite = determinate & distance.isfinite() & value.isfinite()
        if bool(finite.any()) and floats:
            ulps = distance if nominal is torch.float64 else distance / ulp_of(value, nominal)
            worst = max(worst, float(torch.where(finite, ulps, 0.0).max()))
            ratios = torch.where(distance > 0, distance / error, 0.0)
            ratio = max(ratio, float(torch.where(finite, ratios, 0.0).max()))
        if bool(wrong.any()) and verdict == "ok":
            at = tuple(int(n) for n in wrong.nonzero()[0])
            got, want, bound = float(result[at]), float(value[at]), float(error[at])
            verdict = f"wrong at width {width}, y[{at[0]}], x[{at[1]}]: {got:.9g}, expected {want:.9g} +- {bound:.3g}"
    compared = int(determinate.sum()) * len(widths)
    if compared == 0:
        verdict = "nothing compared"
    return replace(
        _row(operation, dtype, widths, verdict),
        elements=compared,
        indeterminate=int((~determinate).sum()) * len(widths),
        max_ulp=worst,
        max_ratio=ratio,
    )


def _row(operation: Operation, dtype: str, widths: Sequence[int], verdict: str) -> OperationRow:
    model = OPS[row_of(operation.name).model or operation.name]
    power = re.fullmatch(r"x \*\* (-?[\d.]+)", operation.text)
    ulps = power_ulps(float(power[1])) if power else model.ulps
    return OperationRow(
        operation.name, operation.text, dtype, tuple(widths), 0, 0, 0.0, 0.0, ulps, model.source, verdict
    )


def _text(group: Group, captures: dict[str, Tensor], floats: bool) -> str:
    lines = []
    for i, operation in enumerate(group.operations):
        lines.append(f"r{i} = {_over_captures(operation)}")
        if not floats:
            lines.append(f"s{i} = torch.where(r{i} == want{i}[q, kv], 0.0, 1.0)")
        elif f"per_ulp{i}" in captures:
            # A float64 value does not fit into the score. Its distance from PyTorch's result, in float64 ulp, does.
            lines.append(f"s{i} = ((r{i} - want{i}[q, kv]) * per_ulp{i}[q, kv]).to(torch.float32)")
        else:
            lines.append(f"s{i} = r{i}.to(torch.float32)")
    chosen = f"s{len(group.operations) - 1}"
    for i in reversed(range(len(group.operations) - 1)):
        chosen = f"torch.where(h == {i}, s{i}, {chosen})"
    return "\n".join([*lines, chosen])


def _over_captures(operation: Operation) -> str:
    names = {"x": "x[kv]", "y": f"y_{operation.y}[q]"}
    return re.sub(r"(?<![\w.])[xy](?!\w)", lambda found: names[found[0]], operation.text)


def _eager(operation: Operation, captures: dict[str, Tensor], queries: int, keys: int) -> Tensor:
    """PyTorch's result (queries, keys), in its own dtype."""
    given = {name: captures[name] for name in ("x", f"y_{operation.y}")}
    text = _over_captures(operation)
    given = {name: given[name] for name in modtext.free_names(text)}
    mod = modtext.compile_mod(text, "score", given, {}, "eager")
    q, kv = torch.arange(queries).view(-1, 1), torch.arange(keys)
    return mod(torch.zeros(()), q * 0, q * 0, q, kv).expand(queries, keys).contiguous()


def _is_float(operation: Operation, dtype: str) -> bool:
    captures = {"x": operand_values(dtype)[:1], f"y_{operation.y}": operand_values(dtype, operation.y)[:1]}
    return _eager(operation, captures, 1, 1).dtype.is_floating_point
