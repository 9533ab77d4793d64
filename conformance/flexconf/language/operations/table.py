"""The table itself. A new operation is one entry here; its order decides what a seed of the generator draws."""

from __future__ import annotations

import math
from typing import Any

from flexconf.language.operations import ranges
from flexconf.language.operations.rows import (
    ALL,
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED,
    UNKNOWN,
    Domain,
    Ends,
    FunctionRow,
    More,
    Range,
    Second,
    Signature,
    Text,
)

_NN = "torch.nn.functional."
_BITS = (*INTEGERS, "bool")
_BOUNDED: Range = (-1e3, 1e3)
_DIVIDED = Domain(floats=_BOUNDED)
_DIVISOR = Second("close", "nonzero", Domain((0.25, 20), (1, 20)))
_DISTANCE = Second(integers="shift", domain=Domain(integers=(0, 3)))
_FACTOR = Domain((-100, 100), (-4, 4))
_SQUARED = Domain((-30, 30), (-30, 30), int8=(-4, 4))
_COMPARED: dict[str, Any] = {"result": "bool", "feature": "booleans"}


def _in(lo: float, hi: float) -> Domain:
    return Domain((lo, hi), (lo, hi))


def _row(
    call: str,
    dtypes: tuple[str, ...],
    text: str = "",
    *more: Text,
    name: str = "",
    keywords: str = "",
    most: int = 0,
    also: tuple[str, ...] = (),
    ends: Ends | None = None,
    reads: int = 1,
    texts: tuple[Text, ...] = (),
    **facts: Any,
) -> FunctionRow:
    """The row of a function `torch.<call>` of `reads` operands, with further positional arguments up to `most`.

    `text` is by default the call of x, or of x and y. `ends` is the range of its result. `texts` replace it. `also`
    are other names that take the operands alone.
    """
    signature = Signature(reads, most or reads, frozenset(keywords.split()))
    own = Text(text or f"torch.{call}({'x, y' if reads == 2 else 'x'})", ends=ends)
    calls = {f"torch.{call}": signature, **{f"torch.{other}": Signature(reads, reads) for other in also}}
    return FunctionRow(name or call.rpartition(".")[2], dtypes, calls, texts or (own, *more), **facts)


def _function(call: str, domain: Range, result: Range, dtypes: tuple[str, ...] = ALL, **facts: Any) -> FunctionRow:
    """The row of a float function of one operand.

    The ranges of x and of the result stay away from poles and overflow, in float16 too.
    """
    kind = {"result": "float"} if dtypes != FLOATS else {}
    return _row(call, dtypes, domain=_in(*domain), range=result, **{**kind, **facts})


def _activation(function: str, domain: Range, result: Range, *more: Text, **facts: Any) -> FunctionRow:
    return _row(
        f"nn.functional.{function}", FLOATS, f"{_NN}{function}(x)", *more, domain=_in(*domain), range=result, **facts
    )


TABLE: tuple[FunctionRow | More, ...] = (
    # ------------------------------------------------------------------------------------------------ arithmetic
    _row(
        "add", ALL, "x + y", Text("torch.add(x, y, alpha=3)", NUMBERS, ranges.corners(lambda a, b: a + 3 * b)),
        reads=2, keywords="alpha", ends=ranges.corners(lambda a, b: a + b),
    ),
    _row("mul", ALL, "x * y", reads=2, ends=ranges.corners(ranges.times)),
    _row(
        "sub", NUMBERS, "x - y", Text("torch.sub(x, y, alpha=3)", None, ranges.corners(lambda a, b: a - 3 * b)),
        reads=2, keywords="alpha", ends=ranges.corners(lambda a, b: a - b),
    ),
    FunctionRow("rsub", NUMBERS, texts=(Text("1 - x", ends=lambda x, y: (1 - x.hi, 1 - x.lo)),)),
    _row(
        "div", ALL, "x / y", reads=2, keywords="rounding_mode", also=("true_divide",), result="float", domain=_DIVIDED,
        second=Second(domain=_in(0.25, 20)), often=2, ends=ranges.corners(lambda a, b: a / b if b else math.nan),
    ),
    _row(
        "floor_divide", NUMBERS, "x // y", reads=2, domain=_DIVIDED, second=_DIVISOR, feature="integers", often=2,
        ends=ranges.quotient(math.floor),
    ),
    _row(
        "remainder", NUMBERS, "x % y", reads=2, domain=_DIVIDED, second=_DIVISOR, feature="integers", often=2,
        ends=ranges.remainder,
    ),
    _row(
        "fmod", NUMBERS, reads=2, domain=_DIVIDED, second=_DIVISOR, feature="integers", often=2,
        ends=ranges.c_remainder,
    ),
    More("div", (
        Text(
            'torch.div(x, y, rounding_mode="trunc")', NUMBERS, ranges.quotient(math.trunc), second=_DIVISOR
        ),
    )),
    More("floor_divide", (Text("x // 7", INTEGERS, lambda x, y: (x.lo // 7, x.hi // 7), second=Second()),)),
    More("remainder", (
        Text("x % 7", INTEGERS, lambda x, y: (0, 6 if x.is_integer else 7), second=Second()),
        Text("x % -7", SIGNED, lambda x, y: (-6 if x.is_integer else -7, 0), second=Second()),
    )),
    _row("neg", NUMBERS, ends=lambda x, y: (-x.hi, -x.lo), every=True),
    _row("abs", NUMBERS, ends=ranges.magnitude, every=True),
    _row("sign", NUMBERS, ends=ranges.sign, rounding=True, every=True),
    _function("reciprocal", (0.01, 1e4), (0, 100)),
    _row(
        "pow", (*FLOATS, *INTEGERS), "", Text("x ** 2", NUMBERS, ranges.power(2), _SQUARED, Second()),
        Text("x ** 3", NUMBERS, ranges.power(3), _SQUARED, Second()),
        reads=2, domain=Domain((0.1, 8), (-3, 3)), second=Second("close", "power", Domain((-2, 3))),
        ends=ranges.any_power,
    ),
    _row("square", NUMBERS, domain=_SQUARED, ends=ranges.power(2)),
    More("pow", (
        Text("x ** 0.5", ALL, None, _in(0.01, 1e4), Second()),
        Text("x ** -0.5", ALL, None, _in(0.01, 1e4), Second()),
        Text("2.0 ** x", ALL, None, _in(-20, 7), Second()),
        Text("x ** -1", FLOATS, ranges.constant(0, 100), _in(0.01, 1e4), Second()),
    )),
    # --------------------------------------------------------------------------------------- comparison and logic
    _row("eq", ALL, reads=2, every=True, **_COMPARED),
    _row("ne", ALL, reads=2, every=True, **_COMPARED),
    _row("lt", ALL, reads=2, every=True, **_COMPARED),
    _row("le", ALL, reads=2, every=True, **_COMPARED),
    _row("gt", ALL, reads=2, every=True, **_COMPARED),
    _row("ge", ALL, reads=2, every=True, **_COMPARED),
    More("lt", (Text("x < 3"),)),
    More("eq", (Text("x == 0"),)),
    _row("logical_not", ALL, every=True, **_COMPARED),
    _row("logical_and", ALL, reads=2, every=True, **_COMPARED),
    _row("logical_or", ALL, reads=2, every=True, **_COMPARED),
    _row("logical_xor", ALL, reads=2, every=True, **_COMPARED),
    _row("bitwise_and", _BITS, reads=2, feature="integers", ends=ranges.bits),
    _row("bitwise_or", _BITS, reads=2, feature="integers", ends=ranges.bits),
    _row("bitwise_xor", _BITS, reads=2, feature="integers", ends=ranges.bits),
    _row("bitwise_not", _BITS, feature="integers", ends=ranges.inverted),
    _row(
        "bitwise_left_shift", INTEGERS, "x << y", reads=2, second=_DISTANCE, feature="integers", often=2,
        ends=ranges.shifted_left,
    ),
    _row(
        "bitwise_right_shift", INTEGERS, "x >> y", reads=2, second=_DISTANCE, feature="integers", often=2,
        ends=ranges.shifted_right,
    ),
    More("bitwise_left_shift", (Text("x << 3", None, lambda x, y: (x.lo * 8, x.hi * 8), second=Second()),)),
    More("bitwise_right_shift", (Text("x >> 3", None, lambda x, y: (x.lo // 8, x.hi // 8), second=Second()),)),
    _row(
        "where", ALL, "torch.where(x > y, x, y)",
        Text("torch.where(x > 0, x, 0)", None, lambda x, y: (0, max(x.hi, 0))),
        reads=3, ends=ranges.larger, every=True,
    ),
    # ----------------------------------------------------------------------------------------- extrema and bounds
    _row("minimum", ALL, reads=2, ends=ranges.smaller, every=True),
    _row("maximum", ALL, reads=2, ends=ranges.larger, every=True),
    _row("fmin", NUMBERS, reads=2, ends=ranges.smaller, every=True),
    _row("fmax", NUMBERS, reads=2, ends=ranges.larger, every=True),
    _row(
        "clamp", (*FLOATS, *SIGNED), "torch.clamp(x, -2, 3)", keywords="min max", most=3,
        ends=ranges.constant(-2, 3),
    ),
    _row("clamp_min", (*FLOATS, *SIGNED), "torch.clamp(x, min=1)", reads=2, ends=ranges.at_least(1)),
    _row(
        "clamp_max", NUMBERS, "torch.clamp(x, max=1)", Text("torch.clamp_max(x, 1)", None, ranges.at_most(1)),
        reads=2, ends=ranges.at_most(1),
    ),
    More("clamp", (Text("torch.clamp(x, max=y)", NUMBERS, ranges.smaller),)),
    More("clamp_min", (Text("torch.clamp_min(x, y)", NUMBERS, ranges.larger),)),
    _row("relu", NUMBERS, also=("nn.functional.relu",), ends=ranges.at_least(0), every=True),
    _row(
        "nn.functional.leaky_relu", FLOATS, f"{_NN}leaky_relu(x)", keywords="negative_slope", most=2, ends=ranges.same,
    ),
    _activation("relu6", (-1e4, 1e4), (0, 6), model="hardtanh"),
    _activation("hardtanh", (-1e4, 1e4), (-1, 1), keywords="min_val max_val", most=3),
    More("leaky_relu", (Text(f"{_NN}leaky_relu(x, 0.25)", None, ranges.same),)),
    More("hardtanh", (Text(f"{_NN}hardtanh(x, -0.5, 2)", None, ranges.constant(-0.5, 2)),)),
    _row("floor", NUMBERS, ends=ranges.rounded, rounding=True, every=True),
    _row("ceil", NUMBERS, ends=ranges.rounded, rounding=True, every=True),
    _row("trunc", NUMBERS, ends=ranges.rounded, rounding=True, every=True),
    _row(
        "round", NUMBERS, "", Text("torch.round(x, decimals=1)", FLOATS, ranges.to_decimals(1)),
        Text("torch.round(x, decimals=-1)", FLOATS, ranges.to_decimals(-1)),
        keywords="decimals", ends=ranges.rounded, rounding=True, every=True,
    ),
    _function("frac", (-1e3, 1e3), (-1, 1), FLOATS, rounding=True),
    # -------------------------------------------------------------------------------------------- functions of floats
    _function("exp", (-20, 5), (0, 149)),
    _function("exp2", (-20, 7), (0, 128)),
    _function("expm1", (-20, 5), (-1, 148)),
    _function("log", (0.01, 1e4), (-5, 10)),
    _function("log1p", (-0.9, 1e4), (-3, 10)),
    _function("log2", (0.01, 1e4), (-7, 14)),
    _function("log10", (0.01, 1e4), (-2, 4)),
    _function("sqrt", (0, 1e4), (0, 100)),
    _function("rsqrt", (0.01, 1e4), (0, 10)),
    _function("sin", (-50, 50), (-1, 1)),
    _function("cos", (-50, 50), (-1, 1)),
    _function("tan", (-1.2, 1.2), (-3, 3)),
    _function("asin", (-0.95, 0.95), (-1.6, 1.6)),
    _function("acos", (-0.95, 0.95), (0, 3.2)),
    _function("atan", (-1e4, 1e4), (-1.6, 1.6)),
    _function("sinh", (-5, 5), (-75, 75)),
    _function("cosh", (-5, 5), (1, 75)),
    _function("tanh", (-1e4, 1e4), (-1, 1), every=True),
    _function("asinh", (-1e4, 1e4), (-10, 10)),
    _function("acosh", (1.05, 1e4), (0, 10)),
    _function("atanh", (-0.95, 0.95), (-2, 2)),
    _row("atan2", ALL, reads=2, result="float", ends=ranges.constant(-3.2, 3.2)),
    _row("hypot", FLOATS, reads=2, ends=lambda x, y: (0, x.size + y.size)),
    _row("copysign", FLOATS, reads=2, result="float", ends=lambda x, y: (-x.size, x.size)),
    _function("sigmoid", (-1e4, 1e4), (0, 1), every=True),
    _function("erf", (-1e4, 1e4), (-1, 1), every=True),
    _function("erfc", (-5, 3), (0, 2), tuple(d for d in ALL if d != "float64")),
    _activation("silu", (-1e3, 1e3), (-1, 1e3)),
    # The two forms of gelu differ by 5e-4 at most, so few arguments tell them apart.
    _activation("gelu", (-8, 1e3), (-1, 1e3), keywords="approximate", often=4),
    _activation("softplus", (-50, 1e3), (0, 1e3), keywords="beta threshold", most=3),
    _activation("elu", (-50, 1e3), (-1, 1e3), keywords="alpha", most=2),
    More("softplus", (Text(f"{_NN}softplus(x, 2, 5)"),)),
    More("elu", (Text(f"{_NN}elu(x, 0.5)"),)),
    _activation(
        "logsigmoid", (-50, 1e3), (-51, 0), name="log_sigmoid", model="log_sigmoid_forward",
    ),
    _row(
        "lerp", FLOATS, "torch.lerp(x, y, 0.25)", Text("torch.lerp(x, y, 0.75)", None, ranges.between),
        reads=3, ends=ranges.between,
    ),
    _activation("celu", (-50, 1e3), (-1, 1e3), keywords="alpha", most=2),
    _activation("selu", (-50, 1e3), (-1.8, 1.06e3), model="elu"),
    _activation("hardsigmoid", (-1e4, 1e4), (0, 1)),
    _activation("hardswish", (-1e3, 1e3), (-1, 1e3)),
    _activation("mish", (-50, 1e3), (-1, 1e3)),
    _activation("softsign", (-1e4, 1e4), (-1, 1), model="div"),
    _activation("softshrink", (-1e4, 1e4), (-1e4, 1e4), keywords="lambd", most=2),
    _activation("hardshrink", (-1e4, 1e4), (-1e4, 1e4), keywords="lambd", most=2),
    _activation("tanhshrink", (-1e3, 1e3), (-1e3, 1e3), model="sub"),
    More("celu", (Text(f"{_NN}celu(x, -0.5)"),)),
    More("softshrink", (Text(f"{_NN}softshrink(x, 2)"),)),
    _row(
        "nn.functional.threshold", NUMBERS, f"{_NN}threshold(x, 1, 7)", reads=3,
        ends=lambda x, y: (min(max(x.lo, 1), 7), max(x.hi, 7)),
    ),
    _function("deg2rad", (-1e4, 1e4), (-175, 175)),
    _function("rad2deg", (-500, 500), (-3e4, 3e4)),
    _function("sinc", (-50, 50), (-0.3, 1)),
    _row("signbit", ALL, result="bool", every=True),
    _row(
        "nan_to_num", ALL, keywords="nan posinf neginf", most=4,
        ends=lambda x, y: UNKNOWN if x.special else (x.lo, x.hi),
    ),
    _row("sgn", NUMBERS, ends=ranges.sign, every=True),
    _row("positive", NUMBERS, ends=ranges.same, every=True),
    _function("logit", (0.01, 0.99), (-5, 5), FLOATS, keywords="eps", most=2),
    More("logit", (Text("torch.logit(x, 0.01)"),)),
    More("nan_to_num", (
        Text(
            "torch.nan_to_num(x, nan=0.5, posinf=7.0, neginf=-7.0)", FLOATS,
            lambda x, y: (min(x.lo, -7), max(x.hi, 7)),
        ),
    )),
    _row(
        "xlogy", ALL, reads=2, result="float", second=Second(domain=Domain((0.01, 1e4), (1, 100))),
        ends=lambda x, y: (-10 * x.size, 10 * x.size) if y.lo > 0 else UNKNOWN,
    ),
    _row("heaviside", ALL, reads=2, ends=lambda x, y: (min(0, y.lo), max(1, y.hi))),
    _row("logaddexp", FLOATS, reads=2, ends=ranges.log_of_sum),
    _row("logaddexp2", FLOATS, reads=2, ends=ranges.log_of_sum),
    _row(
        "addcmul", NUMBERS, keywords="value", reads=3, domain=_FACTOR, second=Second(domain=_FACTOR),
        texts=(
            Text("torch.addcmul(x, x, y, value=0.5)", FLOATS, ranges.product_added(0.5)),
            Text("torch.addcmul(x, x, y, value=3)", INTEGERS, ranges.product_added(3)),
        ),
    ),
    _row(
        "addcdiv", FLOATS, "torch.addcdiv(x, x, y, value=0.5)", keywords="value", reads=3, domain=_FACTOR,
        second=Second("close", domain=_in(0.25, 20)), ends=ranges.quotient_added,
    ),
    More("gelu", (Text(f'{_NN}gelu(x, approximate="tanh")'),)),
    _row("isnan", ALL, every=True, **_COMPARED),
    _row("isinf", ALL, every=True, **_COMPARED),
    _row("isfinite", ALL, every=True, **_COMPARED),
    # ------------------------------------------------------------------------------- casts, filled, refused functions
    FunctionRow("_to_copy", ALL, feature="casts", texts=(
        *(Text(f"x.to(torch.{target})", ("bool", "uint8", *SIGNED), ranges.same) for target in FLOATS),
        *(Text(f"x.to(torch.{target})", FLOATS, ranges.same) for target in FLOATS),
        *(Text(f"x.to(torch.{target})", _BITS, ranges.same) for target in INTEGERS),
        *(
            Text(f"torch.clamp(x, 0, 100).to(torch.{target})", FLOATS, ranges.constant(0, 100))
            for target in INTEGERS
        ),
        Text("x.to(torch.bool)", ALL),
    )),
    _row("full_like", ALL, "torch.full_like(x, 3)", reads=2, keywords="dtype", range=(3, 3), filled=True, every=True),
    _row("zeros_like", ALL, keywords="dtype", range=(0, 0), filled=True, every=True),
    _row("ones_like", ALL, keywords="dtype", range=(1, 1), filled=True, every=True),
    FunctionRow("cumsum", calls={"torch.cumsum": Signature(2, 2)}, refused=True),
    FunctionRow("sum", calls={"torch.sum": Signature(1, 1)}, refused=True),
    FunctionRow("sort", calls={"torch.sort": Signature(1, 1)}, refused=True),
    FunctionRow("rand_like", calls={"torch.rand_like": Signature(1, 1)}, refused=True),
)  # fmt: skip
"""All rows, in the order in which the generator counts the operations that a dtype has. A new row stands before the
casts. Its texts may follow one another: `More` only keeps the order of draws that are older."""
