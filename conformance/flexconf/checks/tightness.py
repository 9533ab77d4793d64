"""Measures how near correct results come to the bound of each operation. A bound that none comes near hides faults.

Nothing is compiled. The bounds come from `oracles.evaluation` over a dense sample of operands. The error that a correct
implementation can reach is computed: on exact operands it is the error of the correctly rounded result; on inexact
operands it is the distance of the exact result at either end of the operand's interval, plus half an ulp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from flexconf.checks.operands import operand_values, ulp_of
from flexconf.language import modtext
from flexconf.language.operations import FLOATS, HALVES, INTEGERS, Operation
from flexconf.oracles.evaluation import evaluate
from flexconf.oracles.shadow import Shadow

NEAR: Final = 1 / 8
"""The share of the bound that a correctly rounded result must reach somewhere. Otherwise `EXPLAINED` must say why."""
WIDE: Final = 16.0
"""The widest bound, in ulp of the result, that needs no entry in `EXPLAINED`."""
INEXACT: Final = 2.0**-22
"""The relative error of inexact operands: four float32 roundoffs, so that the operation's own rounding still counts."""
KINDS: Final = {
    "float32": ("float32",),
    "float64": ("float64",),
    "half": HALVES,
    "integer": (*INTEGERS, "bool"),
}
"""The operand dtypes by kind. The figures of a kind are merged."""
_POINTS: Final = 256
_NORMAL: Final = {
    torch.float64: 2.0**-900,
    torch.float32: 2.0**-110,
    torch.bfloat16: 2.0**-110,
    torch.float16: 2.0**-14,
}
"""The magnitude by dtype from which on no result is flushed to 0 on the way. silu may be flushed below 2**-119."""


_DOCUMENTED = "correctly rounded is 0.5 of the {0} ulp that CUDA documents for {1}, and 0.5"
_DOUBLE = "in float64 the figure for float32 is asked, and an ulp for the oracle's own rounding"
_ARGUMENT = "exp2(x * log2(e)) is off by 1.25 roundoffs of x, which is what Triton and ex2.approx show: {0} ulp at {1}"
_CANCELS = "the {0} cancel, and their roundings stay: many ulp of a small result"
_JUMPS = "the quotient is rounded before the jump, so that either side of it is right"
_GELU = " cancels in every form that PyTorch has, so the roundings of what is near 1 stay: many ulp of a small result"
EXPLAINED: Final[dict[str, str]] = {
    "torch.pow(x, y)": _DOCUMENTED.format(4, "powf"),
    "x ** -0.5": _DOCUMENTED.format(4, "powf") + "; eager PyTorch takes rsqrt, compiled PyTorch powf",
    "2.0 ** x": _DOCUMENTED.format(4, "powf") + "; eager PyTorch takes powf, compiled PyTorch exp2",
    "torch.tan(x)": _DOCUMENTED.format(4, "tanf"),
    "torch.acosh(x)": _DOCUMENTED.format(4, "acoshf"),
    "torch.erfc(x)": _DOCUMENTED.format(4, "erfcf"),
    "torch.round(x, decimals=-1)": "a quotient of 2 ulp and a product; and " + _JUMPS,
    "torch.round(x, decimals=1)": _JUMPS,
    'torch.div(x, y, rounding_mode="trunc")': _JUMPS,
    **dict.fromkeys(
        (f"torch.{name}" for name in ("sinh(x)", "asinh(x)", "atanh(x)", "atan2(x, y)", "hypot(x, y)")), _DOUBLE
    ),
    "torch.exp(x)": _ARGUMENT.format(111, 88),
    "torch.sigmoid(x)": _ARGUMENT.format(100, -80),
    "torch.nn.functional.silu(x)": _ARGUMENT.format(100, -80),
    "torch.nn.functional.softplus(x)": _ARGUMENT.format(100, -80),
    "torch.nn.functional.softplus(x, 2, 5)": _ARGUMENT.format(100, -40),
    "torch.nn.functional.logsigmoid(x)": _ARGUMENT.format(100, 80),
    "torch.nn.functional.gelu(x)": "1 + erf" + _GELU,
    'torch.nn.functional.gelu(x, approximate="tanh")': "1 + tanh" + _GELU,
    **dict.fromkeys(("torch.add(x, y, alpha=3)", "torch.sub(x, y, alpha=3)"), _CANCELS.format("product and x")),
    "torch.addcmul(x, x, y, value=0.5)": _CANCELS.format("product and x"),
    "torch.addcdiv(x, x, y, value=0.5)": _CANCELS.format("quotient and x"),
    **dict.fromkeys(
        ("torch.logaddexp(x, y)", "torch.logaddexp2(x, y)"), _CANCELS.format("larger operand and the rest")
    ),
    **dict.fromkeys(("torch.logit(x)", "torch.logit(x, 0.01)"), "the quotient's rounding stays in its log near 1"),
    "torch.nn.functional.tanhshrink(x)": _CANCELS.format("argument and its tanh"),
    "torch.sinc(x)": "pi * x is rounded, which is many ulp of a small sine",
    "torch.nn.functional.mish(x)": "exp's roundings of its argument stay: " + _ARGUMENT.format(100, -80),
    "torch.nn.functional.celu(x, -0.5)": "the quotient's rounding grows with the argument of expm1; " + _DOUBLE,
    **dict.fromkeys(("torch.nn.functional.celu(x)", "torch.xlogy(x, y)"), _DOUBLE),
    **dict.fromkeys((f"torch.lerp(x, y, {w})" for w in (0.25, 0.75)), _CANCELS.format("start and weighted span")),
}
"""The text of an operation -> why correctly rounded results stay below the share `NEAR` of its bound for some kind of
dtype, or why the bound is wider than `WIDE` somewhere."""


@dataclass(frozen=True)
class Figure:
    """The tightness of the bounds of one operation over a dense sample.

    `points` counts the results with a finite value and bound. `bounded` counts those with a bound that is not 0; the
    others are exact. `rounded` is the largest error of the correctly rounded result over its bound, and `widest` is the
    widest bound in ulp of the result. Both consider only float operands, and results too large to be flushed to 0.
    `carried` is for an inexact operand: the largest error of a correct result over its bound, as the median over all
    results. Of two operands, the one with the smaller median counts. The last three are None if no result qualifies.
    """

    points: int
    bounded: int
    rounded: float | None
    widest: float | None
    carried: float | None

    def merged(self, other: Figure) -> Figure:
        """The worse figures of both: a bound counts as tight as for the dtype for which it is least tight."""
        return Figure(
            self.points + other.points,
            self.bounded + other.bounded,
            _worse(min, self.rounded, other.rounded),
            _worse(max, self.widest, other.widest),
            _worse(min, self.carried, other.carried),
        )

    @property
    def remarkable(self) -> bool:
        """Whether the bound needs an explanation."""
        far = self.rounded is not None and self.rounded < NEAR
        return far or (self.widest is not None and self.widest > WIDE)


def _worse(of: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else of(a, b)


def figures(operation: Operation) -> dict[str, Figure]:
    """The figures of an operation by kind of dtype (`KINDS`), for the kinds that it takes."""
    found: dict[str, Figure] = {}
    for kind, dtypes in KINDS.items():
        for dtype in dtypes:
            if dtype in operation.dtypes:
                figure = measure(operation, dtype)
                found[kind] = found[kind].merged(figure) if kind in found else figure
    return found


def measure(operation: Operation, dtype: str) -> Figure:
    """The figure of an operation on operands of one dtype. `carried` is measured for float32 only."""
    x, y = _operands(operation, dtype)
    shadow = _shadow(operation.text, {"x": x, "y": y})
    exact = _finite(shadow)
    carried = None
    if dtype == "float32" and shadow.nominal.is_floating_point:
        shares = [_carried(operation.text, {"x": x, "y": y}, role, shadow.error() > 0) for role in _names(operation)]
        carried = min((s for s in shares if s is not None), default=None)
    if shadow.nominal.is_floating_point:
        open_sign = (shadow.v == 0) & (shadow.error() <= 2.0**-149)  # only the sign of the zero is open
        bounded = exact & (shadow.error() > 0) & ~open_sign
        normal = bounded & (shadow.v.abs() >= _NORMAL[shadow.nominal])
    else:
        bounded = exact & shadow.error().bool()
        normal = torch.zeros_like(bounded)
    if dtype not in FLOATS:  # too few operands for a dense sample
        normal = torch.zeros_like(bounded)
    rounded = widest = None
    if bool(normal.any()):
        ulp = ulp_of(shadow.v, shadow.nominal)
        rounded = float((_off(shadow, ulp) / shadow.error())[normal].max())
        widest = float((shadow.error() / ulp)[normal].max())
    return Figure(int(exact.sum()), int(bounded.sum()), rounded, widest, carried)


def _off(shadow: Shadow, ulp: Tensor) -> Tensor:
    """The distance of the correctly rounded result from `v`. In float64 it is half an ulp: `v` itself is rounded."""
    if shadow.nominal is torch.float64:
        return ulp / 2
    return (shadow.v.to(shadow.nominal).double() - shadow.v).abs()


def _carried(text: str, operands: dict[str, Tensor], role: str, rounds: Tensor) -> float | None:
    centre = operands[role].double()
    error = centre.abs() * INEXACT
    wide = _shadow(text, operands, role, centre, error)
    ends = [_shadow(text, operands, role, end, None).v for end in (centre - error, centre + error)]
    if not wide.nominal.is_floating_point:
        return None
    own = torch.where(rounds, ulp_of(wide.v, wide.nominal) / 2, 0.0)
    reached = torch.stack([(end - wide.v).abs() for end in ends]).amax(0) + own
    usable = _finite(wide) & (wide.error() > 0) & reached.isfinite() & (wide.v.abs() >= _NORMAL[wide.nominal])
    return float((reached / wide.error())[usable].median()) if bool(usable.any()) else None


def _finite(shadow: Shadow) -> Tensor:
    return shadow.v.double().isfinite() & shadow.error().isfinite()


def _names(operation: Operation) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w.])[xy](?!\w)", operation.text)))


def _shadow(
    text: str,
    operands: dict[str, Tensor],
    role: str = "",
    score: Tensor | None = None,
    error: Tensor | None = None,
) -> Shadow:
    """The value and bound of the last operation of `text`, at every operand.

    `role` ("x" or "y") is the operand that the score replaces. `score` and `error` are its values and their errors.
    """
    n = operands["x"].numel()
    placed = {"x": "x[kv]", "y": "y[kv]", role: "score"}
    mod = _compiled(re.sub(r"(?<![\w.])[xy](?!\w)", lambda found: placed[found[0]], text), operands)
    scores = torch.zeros(n).double() if score is None else score
    row = (scores.view(1, 1, 1, n), None if error is None else error.view(1, 1, 1, n))
    last: list[Shadow] = []
    whole = evaluate(mod, "score", row, 1, 1, 1, n, on_result=lambda name, real, shadow: last.append(shadow))
    shadow = last[-1] if last else Shadow(whole.value, whole.error, torch.float32)  # a cast to the dtype it has already
    v, e = (t.expand(1, 1, 1, n).reshape(n) for t in (shadow.v, shadow.error()))
    return Shadow(v, e, shadow.nominal)


def _compiled(text: str, operands: dict[str, Tensor]) -> Callable[..., Tensor]:
    used = {name: operands[name] for name in modtext.free_names(text)}
    return modtext.compile_mod(text, "score", used, {}, "tightness")


@cache
def _floats() -> tuple[Tensor, Tensor]:
    """Dense float operands x and y. The values of x cover all magnitudes, moderate ones, and evenly four ranges."""
    i = torch.arange(1, _POINTS + 1).double()
    u, sign = (i * (math.sqrt(5) - 1) / 2) % 1.0, torch.where(i % 2 == 0, 1.0, -1.0)
    x = torch.cat(
        [sign * 2.0 ** (u * 250 - 125), sign * 2.0 ** (u * 40 - 20), *((2 * u - 1) * r for r in (1, 4, 20, 90))]
    )
    j = torch.arange(len(x)).double()
    y = torch.where((j // 2) % 2 == 0, 1.0, -1.0) * 2.0 ** ((j * math.sqrt(2)) % 1.0 * 9 - 4)
    return x, y


def _operands(operation: Operation, dtype: str) -> tuple[Tensor, Tensor]:
    """Operands x and y of the given dtype and equal length. Integer values of y are those that the operation allows."""
    if dtype in FLOATS:
        x, y = (t.to(getattr(torch, dtype)) for t in _floats())
        usable = x.isfinite()
        return x[usable], y[usable]
    x, y = operand_values(dtype), operand_values(dtype, operation.y)
    return x.repeat_interleave(len(y)), y.repeat(len(x))
