"""How far the result of one operation may be from the exact value: constants, and the table `OPS` with its sources.

A figure of k ulp means that the result of a correct implementation is within k units in the last place of the exact
value of the operation on its own inputs. CUDA documents its figures relative to the *correctly rounded* result, so this
table adds half an ulp to them ("+ 0.5" in a source). Between 2**n and 2**(n+1) one ulp of float32 is 2**(n-23), so
k ulp are at most `k * 2**-23 * |value|`. `relative` computes this.

Nothing in this module depends on how the code under test is written, and no figure is tuned to make that code pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

# Unit roundoffs: half an ulp, relative to the value (round to nearest).
UNIT_ROUNDOFF: Final[dict[torch.dtype, float]] = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
SIGNIFICAND_BITS: Final[dict[torch.dtype, int]] = {
    torch.float64: 53,
    torch.float32: 24,
    torch.float16: 11,
    torch.bfloat16: 8,
}
U32: Final = UNIT_ROUNDOFF[torch.float32]
FLT_MAX: Final = float(torch.finfo(torch.float32).max)
FLT_MIN: Final = 2.0**-126
"""The smallest normal float32. GPU code compiled with flush-to-zero replaces smaller inputs and outputs by 0."""

FLT_OVERFLOW: Final = 2.0**128 * (1 - 2.0**-25)
"""The smallest magnitude that round-to-nearest turns into a float32 infinity."""

LARGEST: Final[dict[torch.dtype, float]] = {dtype: float(torch.finfo(dtype).max) for dtype in UNIT_ROUNDOFF}

# The oracle computes in float64. Its own rounding is below 2**-28 of any float32 bound. Widening every relative bound
# by 2**-20 covers it amply, and is too small to hide a fault.
ORACLE_SLACK: Final = 1 + 2.0**-20

EXP_ARGUMENT: Final = 1.25
"""The error of the exponent, in unit roundoffs of |x|, where exp(x) is computed as exp2(x * log2(e)).

The rounding of the product counts 1, and the rounding of log2(e) to float32 counts 0.224.
"""

KEYS_PER_RESCALE: Final = 8
"""The oracle assumes that an online softmax rescales its accumulators at most once per this many keys.

Kernels rescale once per 64 keys or more.
"""


def gamma(n: float) -> float:
    """Higham's gamma_n for float32: n sequential roundings change a value by at most this fraction of its magnitude.

    Raises ValueError if n is too large for the formula.
    """
    if n * U32 >= 0.5:
        raise ValueError(f"gamma({n}) is meaningless in float32")
    return n * U32 / (1 - n * U32)


def unit(nominal: torch.dtype) -> float:
    """The roundoff of the arithmetic within one operation: float64 for float64, float32 for everything else."""
    return UNIT_ROUNDOFF[torch.float64] if nominal == torch.float64 else U32


CUDA: Final = "CUDA C++ Programming Guide, mathematical functions, single precision, maximum ulp error of {0} is {1}"
IEEE: Final = "IEEE 754: correctly rounded, 0.5 ulp"
EXACT: Final = "exact: the result is one of the inputs, or a value that its dtype holds"
COMPOSED: Final = "composed from the entries of its parts: {0}"
INTEGER: Final = "exact on integers (wraps as its dtype does); discontinuous where it reads an inexact float"


@dataclass(frozen=True)
class OpModel:
    """The accuracy that one operation must have.

    name: aten packet name, such as `exp`. ulps: largest error of the operation itself, in ulp of the float32 result,
    measured from the exact value; 0 for an exact operation. source: where the figure comes from. rule: the propagation
    rule that `propagate` applies to the errors of its inputs. discontinuous: whether the function has jumps.
    """

    name: str
    ulps: float
    source: str
    rule: str
    discontinuous: bool = False

    def relative(self, nominal: torch.dtype) -> float:
        """A bound on the operation's own error, relative to the magnitude of its result, for the dtype `nominal`.

        An operation on float16 or bfloat16 is computed in float32, and its result may be rounded once more (L7.2,
        accuracy point 2).
        """
        return relative(self.ulps, nominal)


def relative(ulps: float, nominal: torch.dtype) -> float:
    """`ulps` of float32 as a relative error, with `ORACLE_SLACK`. If `nominal` is float64, `ulps` are of float64."""
    if nominal == torch.float64:
        return (2 * ulps + 2) * UNIT_ROUNDOFF[torch.float64]  # + 2: the oracle's own float64 rounding
    rounding = 2 * ulps * U32
    if nominal in (torch.float16, torch.bfloat16):
        unit = UNIT_ROUNDOFF[nominal]
        rounding = rounding + unit + rounding * unit
    return rounding * ORACLE_SLACK


def _table() -> dict[str, OpModel]:
    models: list[OpModel] = []

    def put(names: str, ulps: float, source: str, rule: str, discontinuous: bool = False) -> None:
        models.extend(OpModel(name, ulps, source, rule, discontinuous) for name in names.split())

    # Arithmetic
    put("add sub rsub", 0.5, IEEE, "sum")
    put("mul", 0.5, IEEE, "product")
    put("square", 0.5, IEEE, "square")
    put("div true_divide", 2.0, "PTX ISA: div.full.f32, at most 2 ulp; exact by a power of two", "quotient")
    put(
        "reciprocal",
        2.0,
        "PTX ISA: div.full.f32 of 1 / x, at most 2 ulp; exact for a power of two",
        "quotient",
    )
    put(
        "floor_divide",
        0.5,
        "PyTorch: the floor of the exact quotient, then one rounding",
        "floor_divide",
        True,
    )
    put(
        "remainder",
        0.5,
        "CUDA: fmodf 0 ulp; then one IEEE addition for the divisor's sign",
        "remainder",
        True,
    )
    put("fmod", 0.0, CUDA.format("fmodf", 0), "fmod", True)
    put("addcmul", 0.5, COMPOSED.format("two IEEE products, and one sum"), "addcmul")
    put("lerp", 0.5, COMPOSED.format("start + weight * span or end - span * (1 - weight): IEEE operations"), "lerp")
    put("neg abs positive", 0.0, EXACT, "lipschitz")
    put("copysign", 0.0, EXACT, "copysign", True)
    put("pow", 4.5, CUDA.format("powf", 4) + "; + 0.5; a number in the text may be another form: `power_ulps`", "power")
    put("hypot", 3.5, CUDA.format("hypotf", 3) + "; + 0.5", "hypot")

    # Selection
    put("where masked_fill", 0.0, EXACT, "select")
    put("minimum maximum fmin fmax clamp clamp_min clamp_max relu hardtanh", 0.0, EXACT, "order")
    put("leaky_relu", 1.0, COMPOSED.format("below zero one product with the rounded slope, else exact"), "rectified")

    # Rounding to integers
    put("floor ceil trunc", 0.0, EXACT, "step", True)
    put("round", 0.5, EXACT + "; to decimals, two IEEE operations around it", "round", True)
    put("sign sgn", 0.0, EXACT, "step", True)
    put("frac", 0.0, EXACT, "frac", True)

    # Exponentials and logarithms
    put("exp", 2.5, CUDA.format("expf", 2) + "; + 0.5; and x * log2(e) in float32 when written as exp2", "exp")
    put("exp2", 2.5, CUDA.format("exp2f", 2) + "; + 0.5; ex2.approx: 2 ulp", "exp2")
    put("expm1", 1.5, CUDA.format("expm1f", 1) + "; + 0.5", "monotone")
    put("log", 1.5, CUDA.format("logf", 1) + "; + 0.5", "log")
    put("log2", 1.5, CUDA.format("log2f", 1) + "; + 0.5", "log")
    put("log10", 2.5, CUDA.format("log10f", 2) + "; + 0.5", "log")
    put("log1p", 1.5, CUDA.format("log1pf", 1) + "; + 0.5", "monotone")
    put("sqrt", 1.5, CUDA.format("sqrtf", "0 (-prec-sqrt=true), else 1") + "; + 0.5", "monotone")
    put("rsqrt", 2.5, CUDA.format("rsqrtf", 2) + "; + 0.5", "monotone")

    # Trigonometry
    put("sin", 2.5, CUDA.format("sinf", 2) + "; + 0.5", "sine")
    put("cos", 2.5, CUDA.format("cosf", 2) + "; + 0.5", "sine")
    put("tan", 4.5, CUDA.format("tanf", 4) + "; + 0.5", "tangent")
    put("asin", 2.5, CUDA.format("asinf", 2) + "; + 0.5", "monotone")
    put("acos", 2.5, CUDA.format("acosf", 2) + "; + 0.5", "monotone")
    put("atan", 2.5, CUDA.format("atanf", 2) + "; + 0.5", "monotone")
    put("atan2", 3.5, CUDA.format("atan2f", 3) + "; + 0.5", "angle", True)
    put("sinh", 3.5, CUDA.format("sinhf", 3) + "; + 0.5", "monotone")
    put("cosh", 2.5, CUDA.format("coshf", 2) + "; + 0.5", "cosh")
    put("tanh", 2.5, CUDA.format("tanhf", 2) + "; + 0.5", "tanh")
    put("asinh", 3.5, CUDA.format("asinhf", 3) + "; + 0.5", "monotone")
    put("acosh", 4.5, CUDA.format("acoshf", 4) + "; + 0.5", "monotone")
    put("atanh", 3.5, CUDA.format("atanhf", 3) + "; + 0.5", "monotone")

    # Composed functions of machine learning
    put("erf", 2.5, CUDA.format("erff", 2) + "; + 0.5", "monotone")
    put("erfc", 4.5, CUDA.format("erfcf", 4) + "; + 0.5", "monotone")
    put(
        "sigmoid",
        2.5,
        COMPOSED.format("1 / (1 + exp(-x)): sum 0.5, quotient 2; exp weighted by 1 - value"),
        "sigmoid",
    )
    put("silu", 3.0, COMPOSED.format("x / (1 + exp(-x)), or x * sigmoid(x)"), "silu")
    gelu = "x / 2 * (1 + g): sum and product 0.5 each; g = erf or tanh, 2.5 ulp and its argument's roundings, absolute"
    put("gelu", 1.0, COMPOSED.format(gelu), "gelu")
    put(
        "softplus",
        2.0,
        COMPOSED.format(
            "log1p(exp(beta * x)) / beta: log1p 1.5, sum 0.5; exp; a quotient 2 and beta 0.5 if beta is"
            " no power of two; x beyond the threshold"
        ),
        "softplus",
    )
    put(
        "log_sigmoid_forward",
        2.0,
        COMPOSED.format("min(x, 0) - log1p(exp(-|x|)): log1p 1.5, sum 0.5; exp"),
        "log_sigmoid",
    )
    put("elu", 2.5, COMPOSED.format("alpha * expm1(x): expm1 1.5, two products; above zero x"), "rectified")

    # Operations composed of others. The bound is computed piece by piece (oracles/pieces.py). The figure here is the
    # worst case, in which the errors of all pieces add up.
    put("xlogy special_xlog1py", 2.0, COMPOSED.format("x * log(y): log 1.5, product 0.5"), "pieces")
    put("special_entr", 2.0, COMPOSED.format("-x * log(x): log 1.5, product 0.5"), "pieces")
    put("logaddexp", 4.5, COMPOSED.format("max + log1p(exp(-distance)): exp 2.5, log1p 1.5, sum 0.5"), "pieces")
    put("logaddexp2", 6.5, COMPOSED.format("as logaddexp, and a quotient by log(2): 2"), "pieces")
    put("heaviside nan_to_num hardshrink threshold", 0.0, EXACT, "pieces", True)
    put("softshrink", 0.5, COMPOSED.format("one sum, or exact"), "pieces")
    put("addcdiv", 3.0, COMPOSED.format("self + value * (t1 / t2): quotient 2, product 0.5, sum 0.5"), "pieces")
    put("celu", 4.0, COMPOSED.format("alpha * expm1(x / alpha): quotient 2, expm1 1.5, product 0.5"), "pieces")
    put("hardsigmoid", 2.5, COMPOSED.format("min(max(x + 3, 0), 6) / 6: sum 0.5, quotient 2"), "pieces")
    put("hardswish", 3.0, COMPOSED.format("x * min(max(x + 3, 0), 6) / 6: sum, product 0.5, quotient 2"), "pieces")
    put("mish", 6.5, COMPOSED.format("x * tanh(softplus(x)): softplus 3.5, tanh 2.5, product 0.5"), "pieces")
    put("_prelu_kernel", 0.5, COMPOSED.format("one product, or exact"), "pieces")
    put("logit", 4.0, COMPOSED.format("log(x / (1 - x)): difference 0.5, quotient 2, log 1.5"), "pieces")
    put("deg2rad rad2deg", 1.0, COMPOSED.format("one product with a rounded constant"), "pieces")
    put("sinc", 5.5, COMPOSED.format("sin(pi * x) / (pi * x): product 1, sin 2.5, quotient 2"), "pieces")
    put("signbit", 0.0, EXACT, "pieces", True)

    # Comparison, logic, bits
    put("eq ne lt le gt ge", 0.0, EXACT, "comparison", True)
    put("isnan isinf isfinite isposinf isneginf", 0.0, EXACT, "classification")
    put("logical_and logical_or logical_xor logical_not", 0.0, INTEGER, "logic")
    put("bitwise_and bitwise_or bitwise_xor bitwise_not __and__ __or__ __xor__", 0.0, INTEGER, "logic")
    put("bitwise_left_shift bitwise_right_shift __lshift__ __rshift__", 0.0, INTEGER, "integer")

    # Movement and conversion
    put("index", 0.0, EXACT, "gather")
    put(
        "_to_copy",
        0.5,
        "IEEE 754 conversion: correctly rounded; to float16 and bfloat16 it may be kept wider",
        "cast",
        True,
    )
    return {model.name: model for model in models}


OPS: Final[dict[str, OpModel]] = _table()
"""aten packet name -> OpModel, for every operation that changes values. Views and constants have no error."""

RECIPROCAL_POWERS: Final = 32
"""x ** n may be computed as products if n is a whole number and |n| is below this, as in PyTorch's generated code."""


def power_ulps(exponent: float) -> float:
    """The largest error of `x ** exponent` in ulp of the float32 result, for an exponent that is a number in the mod.

    PyTorch treats some exponents specially, in eager mode (aten/src/ATen/native/cpu and cuda, PowKernel) as well as
    compiled (torch/_inductor/lowering.py, `pow`): 0 and 1 are exact, 2 and 3 are products, 0.5 is sqrt and -1 is the
    reciprocal. For these exponents no larger error is allowed. For other whole numbers, compiled PyTorch multiplies x
    or its reciprocal, and eager PyTorch calls powf; the figure allows both.
    """
    if exponent in (0, 1):
        return 0.0
    if exponent == 0.5:
        return OPS["sqrt"].ulps
    if exponent == -1:
        return OPS["reciprocal"].ulps
    if not float(exponent).is_integer() or abs(exponent) >= RECIPROCAL_POWERS:
        return OPS["pow"].ulps
    products = 0.5 * (abs(exponent) - 1)
    if exponent in (2, 3):
        return products
    return max(OPS["pow"].ulps, products + (OPS["reciprocal"].ulps * abs(exponent) if exponent < 0 else 0.0))


TANH_APPROX: Final = 2.0**-11
"""PTX ISA: the largest relative error of tanh.approx.f32."""
LG2_APPROX: Final = 2.0**-22
"""PTX ISA: the largest error of lg2.approx.f32. It is absolute for inputs between 0.5 and 2, and relative elsewhere."""
DIVISOR_APPROX: Final = 2.0**126
"""PTX ISA: for a larger divisor div.approx.f32 returns 0, or NaN if the dividend is infinite."""


def _fast_table() -> dict[str, OpModel]:
    def ulps(relative_error: float) -> float:
        return relative_error / (2 * U32)

    lg2 = "PTX ISA: lg2.approx.f32, at most 2^-22, absolute from 0.5 to 2 and relative elsewhere"
    product = lg2 + "; times a rounded constant, then one rounding"
    quotient = (
        "PTX ISA: div.approx.f32, at most 2 ulp for divisors from 2^-126 to 2^126 and open beyond; exact by a "
        "constant power of two"
    )
    reciprocal = "PTX ISA: rcp.approx.f32, at most 1 ulp, or what is allowed without fast_math; not known to be exact"
    gelu = "as without fast_math, and tanh 2^-11 when approximate='tanh'"
    models = [
        OpModel("tanh", ulps(TANH_APPROX), "PTX ISA: tanh.approx.f32, largest relative error 2^-11", "tanh"),
        OpModel("gelu", OPS["gelu"].ulps, COMPOSED.format(gelu), "gelu"),
        OpModel("log2", ulps(LG2_APPROX), lg2, "log"),
        OpModel("log", ulps(LG2_APPROX) + 1.0, product, "log"),
        OpModel("log10", ulps(LG2_APPROX) + 1.0, product, "log"),
        OpModel("div", 2.0, quotient, "quotient"),
        OpModel("true_divide", 2.0, quotient, "quotient"),
        OpModel("reciprocal", 2.0, reciprocal, "quotient"),
    ]
    return {model.name: model for model in models}


FAST: Final[dict[str, OpModel]] = _fast_table()
"""The entries that replace those of `OPS` under the kernel option fast_math, unless the nominal dtype is float64.

fast_math also approximates exp, exp2, sigmoid, silu and sqrt, but these stay within their entries in `OPS`: ex2.approx
and div.approx are within 2 ulp, and rcp.approx and sqrt.approx are within 1 ulp.
"""
