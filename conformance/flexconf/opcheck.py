"""Every operation of L7.6, one by one: at each vector width, for every dtype it takes, on values that hurt.

Operations run in the rendered mods of real kernels, several to a kernel (head h runs operation h). A float result is
held against its certified float64 value and bound; an integer or boolean one must equal PyTorch's exactly.
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
from flexconf import modtext, worker
from flexconf.errors import InputError
from flexconf.oracles import math64
from flexconf.oracles.error_model import OPS, power_ulps
from flexconf.subjects import trial
from flexconf.worker import Lost, Report
from flexflash.launch.host import VECTOR_WIDTHS, HostLauncher

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
ALL = (*NUMBERS, "bool")
GROUP = 8


@dataclass(frozen=True)
class Operation:
    """One operation: the key of its error model, its text over `x` and `y`, the dtypes of both, and where y lies.

    `y`: any, nonzero, shift (0 to the width less one), power (not negative), close (moderate floats).
    """

    name: str
    text: str
    dtypes: tuple[str, ...]
    y: str = "any"


@dataclass(frozen=True)
class Row:
    """What was seen of one operation in one dtype.

    `max_ulp`: the largest error in ulp of the result's nominal format; `ulps`: the operation's own figure in the
    error model, with its `source`. `max_ratio`: the largest error over its certified bound, which also holds what
    reaches the operation through its argument; 1 is the limit. `rounded` and `widest`: how tight the bound is, over a
    dense sample (`tightness.Figure`); None where nothing has a bound. `explained`: why it is no tighter, or nothing.
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
        """Whether every element was within its bound, and some were compared."""
        return self.verdict == "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _unary(names: str, dtypes: tuple[str, ...], prefix: str = "torch.") -> list[Operation]:
    return [Operation(name, f"{prefix}{name}(x)", dtypes) for name in names.split()]


def _binary(pairs: dict[str, str], dtypes: tuple[str, ...], y: str = "any") -> list[Operation]:
    return [Operation(name.split("/")[0], text, dtypes, y) for name, text in pairs.items()]


def _operations() -> tuple[Operation, ...]:
    nn = "torch.nn.functional."
    return (
        *_binary({"add": "x + y", "add/alpha": "torch.add(x, y, alpha=3)", "mul": "x * y"}, NUMBERS),
        *_binary({"sub": "x - y", "sub/alpha": "torch.sub(x, y, alpha=3)", "rsub": "1 - x"}, NUMBERS),
        *_binary({"add": "x + y", "mul": "x * y"}, ("bool",)),
        *_binary({"div": "x / y"}, ALL),
        *_binary({"floor_divide": "x // y", "remainder": "x % y", "fmod": "torch.fmod(x, y)"}, INTEGERS, "nonzero"),
        *_binary({"div/trunc": 'torch.div(x, y, rounding_mode="trunc")'}, INTEGERS, "nonzero"),
        *_binary({"floor_divide": "x // y", "remainder": "x % y", "fmod": "torch.fmod(x, y)"}, FLOATS, "close"),
        *_binary({"div/trunc": 'torch.div(x, y, rounding_mode="trunc")'}, FLOATS, "close"),
        *_binary({"floor_divide/const": "x // 7", "remainder/const": "x % 7"}, INTEGERS),
        *_binary({"remainder/negative": "x % -7"}, SIGNED),
        *_unary("neg abs sign", NUMBERS),
        *_unary("reciprocal", ALL),
        *_binary({"pow": "torch.pow(x, y)"}, FLOATS, "close"),
        *_binary({"pow": "torch.pow(x, y)"}, INTEGERS, "power"),
        *_binary({"pow/square": "x ** 2", "pow/cube": "x ** 3", "square": "torch.square(x)"}, NUMBERS),
        *_binary({"pow/half": "x ** 0.5", "pow/minus half": "x ** -0.5", "pow/two": "2.0 ** x"}, ALL),
        *_binary({"pow/minus one": "x ** -1"}, FLOATS),
        *_binary({name: f"torch.{name}(x, y)" for name in ["eq", "ne", "lt", "le", "gt", "ge"]}, ALL),
        *_binary({"lt/const": "x < 3", "eq/const": "x == 0"}, ALL),
        *_unary("logical_not", ALL),
        *_binary({f"logical_{name}": f"torch.logical_{name}(x, y)" for name in ("and", "or", "xor")}, ALL),
        *_binary(
            {f"bitwise_{name}": f"torch.bitwise_{name}(x, y)" for name in ("and", "or", "xor")}, (*INTEGERS, "bool")
        ),
        *_unary("bitwise_not", (*INTEGERS, "bool")),
        *_binary({"bitwise_left_shift": "x << y", "bitwise_right_shift": "x >> y"}, INTEGERS, "shift"),
        *_binary({"bitwise_left_shift/const": "x << 3", "bitwise_right_shift/const": "x >> 3"}, INTEGERS),
        *_binary({"where": "torch.where(x > y, x, y)", "where/const": "torch.where(x > 0, x, 0)"}, ALL),
        *_binary({"minimum": "torch.minimum(x, y)", "maximum": "torch.maximum(x, y)"}, ALL),
        *_binary({"fmin": "torch.fmin(x, y)", "fmax": "torch.fmax(x, y)"}, NUMBERS),
        *_binary({"clamp": "torch.clamp(x, -2, 3)", "clamp_min": "torch.clamp(x, min=1)"}, (*FLOATS, *SIGNED)),
        *_binary({"clamp_max": "torch.clamp(x, max=1)", "clamp_max/overload": "torch.clamp_max(x, 1)"}, NUMBERS),
        *_binary({"clamp/tensor": "torch.clamp(x, max=y)", "clamp_min/tensor": "torch.clamp_min(x, y)"}, NUMBERS),
        *_unary("relu", NUMBERS),
        *_unary("leaky_relu relu6 hardtanh", FLOATS, nn),
        *_binary(
            {"leaky_relu/slope": f"{nn}leaky_relu(x, 0.25)", "hardtanh/bounds": f"{nn}hardtanh(x, -0.5, 2)"}, FLOATS
        ),
        *_unary("floor ceil trunc round", NUMBERS),
        *_binary({f"round/{n}": f"torch.round(x, decimals={n})" for n in (1, -1)}, FLOATS),
        *_unary("frac", FLOATS),
        *_unary("exp exp2 expm1 log log1p log2 log10 sqrt rsqrt", ALL),
        *_unary("sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh", ALL),
        *_binary({"atan2": "torch.atan2(x, y)"}, ALL),
        *_binary({"hypot": "torch.hypot(x, y)", "copysign": "torch.copysign(x, y)"}, FLOATS),
        *_unary("sigmoid erf", ALL),
        *_unary("erfc", tuple(d for d in ALL if d != "float64")),
        *_unary("silu gelu softplus elu", FLOATS, nn),
        *_binary({"softplus/beta": f"{nn}softplus(x, 2, 5)", "elu/alpha": f"{nn}elu(x, 0.5)"}, FLOATS),
        *_binary({"log_sigmoid": f"{nn}logsigmoid(x)"}, FLOATS),
        *_binary({f"lerp/{weight}": f"torch.lerp(x, y, {weight})" for weight in (0.25, 0.75)}, FLOATS),
        *_unary("celu selu hardsigmoid hardswish mish softsign softshrink hardshrink tanhshrink", FLOATS, nn),
        *_binary({"celu/alpha": f"{nn}celu(x, -0.5)", "softshrink/lambd": f"{nn}softshrink(x, 2)"}, FLOATS),
        *_binary({"threshold": f"{nn}threshold(x, 1, 7)"}, NUMBERS),
        *_unary("deg2rad rad2deg sinc signbit nan_to_num", ALL),
        *_unary("sgn positive", NUMBERS),
        *_binary({"logit": "torch.logit(x)", "logit/eps": "torch.logit(x, 0.01)"}, FLOATS),
        *_binary({"nan_to_num/values": "torch.nan_to_num(x, nan=0.5, posinf=7.0, neginf=-7.0)"}, FLOATS),
        *_binary({"xlogy": "torch.xlogy(x, y)", "heaviside": "torch.heaviside(x, y)"}, ALL),
        *_binary({"logaddexp": "torch.logaddexp(x, y)", "logaddexp2": "torch.logaddexp2(x, y)"}, FLOATS),
        *_binary({"addcmul": "torch.addcmul(x, x, y, value=0.5)"}, FLOATS),
        *_binary({"addcmul": "torch.addcmul(x, x, y, value=3)"}, INTEGERS),
        *_binary({"addcdiv": "torch.addcdiv(x, x, y, value=0.5)"}, FLOATS, "close"),
        *_binary({"gelu/tanh": f'{nn}gelu(x, approximate="tanh")'}, FLOATS),
        *_unary("isnan isinf isfinite", ALL),
        *(Operation("_to_copy", f"x.to(torch.{target})", ("bool", "uint8", *SIGNED), "any") for target in FLOATS),
        *(Operation("_to_copy", f"x.to(torch.{target})", FLOATS, "any") for target in FLOATS),
        *(Operation("_to_copy", f"x.to(torch.{target})", (*INTEGERS, "bool"), "any") for target in INTEGERS),
        *(Operation("_to_copy", f"torch.clamp(x, 0, 100).to(torch.{target})", FLOATS, "any") for target in INTEGERS),
        Operation("_to_copy", "x.to(torch.bool)", ALL),
    )


OPERATIONS = _operations()
_ALIASES = {
    "relu6": "hardtanh",
    "log_sigmoid": "log_sigmoid_forward",
    "selu": "elu",
    "softsign": "div",
    "tanhshrink": "sub",
}


@dataclass(frozen=True)
class Group:
    """Operations on one dtype that share a kernel, and the first of them in `plan`'s order."""

    dtype: str
    operations: tuple[Operation, ...]

    @property
    def name(self) -> str:
        """A readable identifier."""
        return f"{self.dtype}: {', '.join(o.text for o in self.operations)}"


def plan(names: Sequence[str] = ()) -> list[Group]:
    """All operations by dtype, in groups that share a kernel. `names` selects; an unknown one raises InputError."""
    known = {o.name for o in OPERATIONS}
    for name in names:
        if name not in known:
            raise InputError(f"no operation {name!r}; there are {', '.join(sorted(known))}")
    groups = []
    for dtype in ALL:
        chosen = [o for o in OPERATIONS if dtype in o.dtypes and (not names or o.name in names)]
        # Results that must be exact and results that have a bound are checked differently.
        for subset in ([o for o in chosen if not _is_float(o, dtype)], [o for o in chosen if _is_float(o, dtype)]):
            groups += [Group(dtype, tuple(subset[i : i + GROUP])) for i in range(0, len(subset), GROUP)]
    return groups


def run(
    groups: Sequence[Group],
    *,
    workers: int | None = None,
    time_limit: float = 300.0,
    on_group: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Check groups in isolated workers; rows in the order of `groups`. A group that kills its worker fails as one."""
    done: dict[str, list[Row]] = {}

    def take(group: Group, ended: list[Row] | Lost) -> None:
        if isinstance(ended, Lost):
            verdict = worker.describe(ended)
            ended = [_row(o, group.dtype, VECTOR_WIDTHS, verdict) for o in group.operations]
        done[group.name] = ended
        on_group()

    worker.run_many(
        groups,
        _run_group,
        workers=workers or worker.default_workers(),
        time_limit=time_limit,
        on_result=take,
        prepare=trial.single_threaded,
    )
    return [row for group in groups for row in done[group.name]]


def _run_group(group: Group, report: Report) -> list[Row]:
    from flexconf import tightness  # it needs this module

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


def check_group(group: Group, widths: Sequence[int] = VECTOR_WIDTHS) -> list[Row]:
    """Check the operations of a group at every width; one kernel a width, each alone when the kernel fails."""
    try:
        return _check(group, widths)
    except Exception as error:  # the compiler's errors have no common base
        if len(group.operations) > 1:
            return [row for o in group.operations for row in check_group(Group(group.dtype, (o,)), widths)]
        operation = group.operations[0]
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [_row(operation, group.dtype, widths, verdict=message)]


def _check(group: Group, widths: Sequence[int]) -> list[Row]:
    captures = {"x": _values(group.dtype)}
    queries, keys = len(captures["x"]), len(captures["x"])
    for kind in _Y_KINDS:  # the shorter lists are repeated, so that one shape serves every operation
        y = _values(group.dtype, kind)
        assert len(y) <= queries, f"{kind}: {len(y)} operands, of which {queries} would be used"
        captures[f"y_{kind}"] = y.repeat(-(-queries // len(y)))[:queries]
    floats = _is_float(group.operations[0], group.dtype)
    heads = len(group.operations)
    for i, operation in enumerate(group.operations):
        want = _eager(operation, captures, queries, keys)
        captures[f"want{i}"] = want
        if want.dtype is torch.float64:
            captures[f"per_ulp{i}"] = 1.0 / _ulp(want, torch.float64)
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
) -> Row:
    """`value` and `error` (queries, keys): the certified result, or for exact operations 0 where they are equal."""
    decided = error.isfinite()
    worst, ratio, verdict = 0.0, 0.0, "ok"
    for width, result in zip(widths, results, strict=True):
        same = (result == value) | (result.isnan() & value.isnan())
        distance = torch.where(same, 0.0, (result - value).abs().nan_to_num(nan=math.inf))
        wrong = decided & (distance > error)
        finite = decided & distance.isfinite() & value.isfinite()
        if bool(finite.any()) and floats:
            ulps = distance if nominal is torch.float64 else distance / _ulp(value, nominal)
            worst = max(worst, float(torch.where(finite, ulps, 0.0).max()))
            ratios = torch.where(distance > 0, distance / error, 0.0)
            ratio = max(ratio, float(torch.where(finite, ratios, 0.0).max()))
        if bool(wrong.any()) and verdict == "ok":
            at = tuple(int(n) for n in wrong.nonzero()[0])
            got, want, bound = float(result[at]), float(value[at]), float(error[at])
            verdict = f"wrong at width {width}, y[{at[0]}], x[{at[1]}]: {got:.9g}, expected {want:.9g} +- {bound:.3g}"
    compared = int(decided.sum()) * len(widths)
    if compared == 0:
        verdict = "nothing compared"
    return replace(
        _row(operation, dtype, widths, verdict),
        elements=compared,
        indeterminate=int((~decided).sum()) * len(widths),
        max_ulp=worst,
        max_ratio=ratio,
    )


def _row(operation: Operation, dtype: str, widths: Sequence[int], verdict: str) -> Row:
    model = OPS[_ALIASES.get(operation.name, operation.name)]
    power = re.fullmatch(r"x \*\* (-?[\d.]+)", operation.text)
    ulps = power_ulps(float(power[1])) if power else model.ulps
    return Row(operation.name, operation.text, dtype, tuple(widths), 0, 0, 0.0, 0.0, ulps, model.source, verdict)


def _text(group: Group, captures: dict[str, Tensor], floats: bool) -> str:
    lines = []
    for i, operation in enumerate(group.operations):
        lines.append(f"r{i} = {_over_captures(operation)}")
        if not floats:
            lines.append(f"s{i} = torch.where(r{i} == want{i}[q, kv], 0.0, 1.0)")
        elif f"per_ulp{i}" in captures:
            # float64 does not fit the score: its distance from PyTorch's own result, in ulp of float64, does.
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
    """PyTorch's own result (queries, keys), in its own dtype."""
    given = {name: captures[name] for name in ("x", f"y_{operation.y}")}
    text = _over_captures(operation)
    given = {name: given[name] for name in modtext.free_names(text)}
    mod = modtext.compile_mod(text, "score", given, {}, "eager")
    q, kv = torch.arange(queries).view(-1, 1), torch.arange(keys)
    return mod(torch.zeros(()), q * 0, q * 0, q, kv).expand(queries, keys).contiguous()


def _is_float(operation: Operation, dtype: str) -> bool:
    captures = {"x": _values(dtype)[:1], f"y_{operation.y}": _values(dtype, operation.y)[:1]}
    return _eager(operation, captures, 1, 1).dtype.is_floating_point


def _ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of `dtype` at `value`, as float64; 1 for a value that is not finite."""
    info = torch.finfo(dtype)
    size = value.double().abs().clamp(min=info.tiny)
    exponent = torch.frexp(size).exponent - 1
    spacing = torch.ldexp(torch.full_like(size, info.eps), exponent)
    return torch.where(value.isfinite(), spacing, 1.0)


_Y_KINDS = ("any", "nonzero", "shift", "power", "close")
_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0, 2.5, -2.5, 3.0, -3.0, 7.0, 0.1, -0.1, 0.7, -0.9, 0.999,
    1e-3, -1e-3, 3.14159, -6.28318, 10.25, -10.25, 19.9, 20.1, 44.5, -44.5, 88.5, -88.5, 100.75, -100.75,
    1234.5, 3e4, -3e4, 1e6, 1e-6, -1e-6, 1e-20, -1e20, 1e30, math.inf, -math.inf, math.nan,
)  # fmt: skip


def _values(dtype: str, kind: str = "any") -> Tensor:
    """The operands: negatives, zeros, halves, infinities, NaN and the ends of the range, as far as `kind` allows."""
    torch_dtype = getattr(torch, dtype)
    if dtype == "bool":
        return torch.tensor([True, False, False, True] * 4)
    if torch_dtype.is_floating_point:
        info = torch.finfo(torch_dtype)
        if kind == "close":
            chosen = [v for v in _FLOATS if 0 < abs(v) < 50]
        elif kind == "any":
            chosen = [*_FLOATS, info.max, info.min, info.tiny, info.eps]
        else:
            chosen = [1.0]
        return torch.tensor(chosen, dtype=torch.float64).to(torch_dtype)
    limits = torch.iinfo(torch_dtype)
    if kind == "shift":
        # Also by the width of the type and by more, which is as defined in PyTorch as the rest.
        amounts = {0, 1, 2, 3, 5, 7, 31, 33, 63, 100, limits.bits - 1, limits.bits, limits.bits + 1}
        return torch.tensor(sorted(amounts)).to(torch_dtype)
    if kind == "power":
        return torch.tensor([0, 1, 2, 3, 4, 5, 7, 11, limits.max // 2 + 1, limits.max], dtype=torch_dtype)
    small = [0, 1, 2, 3, 5, 7, 8, 31, 100, 127]
    if limits.min < 0:
        small += [-1, -2, -3, -5, -7, -8, -31, -100, -127]
    if kind == "nonzero":
        # The lowest value divided by -1 is no integer of the type, and -1 would meet it; -2 and -3 remain.
        return torch.tensor([v for v in small if v not in (0, -1)], dtype=torch_dtype)
    if kind == "close":
        return torch.tensor([1, 2, 3], dtype=torch_dtype)
    return torch.tensor([*small, limits.max, limits.max - 1, limits.min, limits.min + 1], dtype=torch_dtype)
