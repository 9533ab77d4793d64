"""Small `@cute.jit` functions that a rendered module contains if its mods call them.

They exist because CuTe has no gather and no erf on a CPU, and because its remainders, minima and shifts follow C and
not PyTorch. A rendered module is self-contained, so the text of these functions is part of it. Each function is written
once and is right at any vector width (L6.5).
"""

from __future__ import annotations

import math
from typing import Final

_GATHER = '''
@cute.jit
def gather(buffer, index, dtype: cutlass.Constexpr):
    """One element of `buffer` for each lane; a lane's index counts elements colexicographically."""
    lanes = cute.make_rmem_tensor(index.shape, dtype)
    for lane in cutlass.range_constexpr(cute.size(index.shape)):
        lanes[lane] = buffer[index[lane]].to(dtype)
    return lanes.load()
'''

MAX_RANK: Final = 4
"""The largest rank of a capture (L7.5)."""

_GATHER_AT = '''
@cute.jit
def gather{rank}(buffer, {names}, dtype: cutlass.Constexpr):
    """One element of `buffer` for each lane, at that lane's coordinates."""
    lanes = cute.make_rmem_tensor(i.shape, dtype)
    for lane in cutlass.range_constexpr(cute.size(i.shape)):
        lanes[lane] = buffer[{lanes}].to(dtype)
    return lanes.load()
'''

_SHIFT_LEFT = '''
@cute.jit
def shift_left(x, amount):
    """`x << amount`; an amount outside the type's width gives 0, as in PyTorch."""
    inside = (amount >= 0) & (amount < x.dtype.width)
    zero = cute.zeros_like(x)
    safe = cute.where(inside, amount, zero)
    return cute.where(inside, cute.TensorSSA(x << safe, x.shape, x.dtype), zero)
'''

_SHIFT_RIGHT = '''
@cute.jit
def shift_right(x, amount):
    """Arithmetic `x >> amount`; by the width of the type or more, what is left is the sign, and 0 if unsigned."""
    last = cute.full_like(x, x.dtype.width - 1)
    inside = (amount >= 0) & (amount < x.dtype.width)
    shifted = cute.TensorSSA(x >> cute.where(inside, amount, last), x.shape, x.dtype)
    if cutlass.const_expr(x.dtype.signed):
        return shifted
    return cute.where(inside, shifted, cute.zeros_like(x))
'''

_REMAINDER = '''
@cute.jit
def remainder(x, y):
    """Float remainder with the divisor's sign (`%` alone is C's, with the dividend's)."""
    r = x % y
    return cute.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)
'''

_FLOOR_DIVIDE = '''
@cute.jit
def floor_divide(x, y):
    """Float floor division as PyTorch and Python define it: exact remainder first, then one rounding."""
    r = x % y
    quotient = (x - r) / y
    quotient = cute.where((r != 0) & ((r < 0) != (y < 0)), quotient - 1.0, quotient)
    floored = cute.math.floor(quotient)
    floored = cute.where(quotient - floored > 0.5, floored + 1.0, floored)
    floored = cute.where(floored == 0, cute.math.copysign(floored, x / y), floored)  # -1 // -3 is 0, not -0
    return cute.where(y == 0, x / y, floored)
'''

_TRUNCATE_DIVIDE = '''
@cute.jit
def truncate_divide(x, y):
    """Integer division that rounds towards zero (`//` floors)."""
    q = x // y
    return cute.where((x - q * y != 0) & ((x < 0) != (y < 0)), q + cute.ones_like(q), q)
'''

_DIVISOR = '''
@cute.jit
def divisor(y):
    """`y`, but 1 for 0: by which an integer has no quotient."""
    return cute.where(y == 0, cute.ones_like(y), y)
'''

_DIVISOR_OF = '''
@cute.jit
def divisor_of(x, y):
    """`divisor(y)`, and 1 for -1 where `x` is the smallest integer, whose negative is itself."""
    smallest = (x == -x) & (x != 0)
    return cute.where((y == 0) | ((y == -1) & smallest), cute.ones_like(y), y)
'''

_SIGN = '''
@cute.jit
def sign(x):
    """-1, 0 or 1 in the type of `x`; NaN gives 0, as in PyTorch."""
    one = cute.ones_like(x)
    zero = cute.zeros_like(x)
    return cute.where(x > 0, one, cute.where(x < 0, -one, zero))
'''

_MINIMUM = '''
@cute.jit
def minimum(x, y):
    """The smaller of two floats; NaN if either is (CuTe's own minimum drops a NaN)."""
    return cute.where((x < y) | (x != x), x, y)
'''

_MAXIMUM = '''
@cute.jit
def maximum(x, y):
    """The larger of two floats; NaN if either is (CuTe's own maximum drops a NaN)."""
    return cute.where((x > y) | (x != x), x, y)
'''

_INTEGER_POWER = '''
@cute.jit
def integer_power(base, exponent):
    """Integer power by squaring; a negative exponent gives 0 unless the base is 1 or -1, as in PyTorch."""
    one = cute.ones_like(base)
    zero = cute.zeros_like(base)
    result = one
    square = base
    remaining = exponent
    for _ in cutlass.range_constexpr(exponent.dtype.width - int(exponent.dtype.signed)):
        half = remaining // (one + one)
        result = cute.where(remaining - half - half != 0, result * square, result)
        square = square * square
        remaining = half
    odd = exponent - (exponent // (one + one)) * (one + one) != 0
    unit = cute.where(base == -one, cute.where(odd, base, one), zero)
    return cute.where(exponent < 0, cute.where(base == one, one, unit), result)
'''

_HYPOT = '''
@cute.jit
def hypot(x, y):
    """sqrt(x*x + y*y) without overflow on the way; infinite if either is."""
    a, b = cute.math.abs(x), cute.math.abs(y)
    large = cute.where(a > b, a, b)
    small = cute.where(a > b, b, a)
    ratio = small / cute.where(large > 0, large, cute.ones_like(large))
    finite = large * cute.math.sqrt(1.0 + ratio * ratio)
    infinite = (a == float("inf")) | (b == float("inf"))
    return cute.where(infinite, cute.full_like(x, float("inf")), finite)
'''

_ATAN2 = '''
@cute.jit
def atan2(y, x):
    """The angle of the point (x, y). Of two zeros, the one that their signs give: CuTe's own is NaN where the compiler
    knows both to be 0, as of `kv % 1`, since it folds y / x."""
    behind = cute.math.copysign(cute.ones_like(x), x) < 0
    angle = cute.where(behind, cute.math.copysign(cute.full_like(y, {pi}), y), y)
    return cute.where((x == 0) & (y == 0), angle, cute.math.atan2(y, x))
'''

_LOG1P = '''
@cute.jit
def log1p(x):
    """log(1 + x), accurate near 0 (CuTe's own is log(1 + x) as written); the rounding of 1 + x is put back."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    correction = cute.where((lost == lost) & (lost != 0), lost / u, cute.zeros_like(x))
    return cute.where(x == 0, x, cute.math.log(u) + correction)  # of -0 it is -0
'''

# Coefficients of (exp(x) - 1 - x) / x**2 on [-1, 1], by Chebyshev interpolation in 40 digits. The error of the fit is
# 2.5e-10 (Float32) and 8e-24 (Float64).
_EXPM1_32 = (
    0.5,
    0.166666666,
    0.0416666666,
    0.00833334524,
    0.00138888988,
    0.000198369885,
    2.47980259e-5,
    2.81264443e-6,
    2.80309381e-7,
)
_EXPM1_64 = (
    0.5,
    0.16666666666666666,
    0.041666666666666664,
    0.008333333333333333,
    0.001388888888888889,
    0.0001984126984126984,
    2.4801587301587163e-05,
    2.7557319223985825e-06,
    2.7557319224058087e-07,
    2.505210838547607e-08,
    2.087675696701749e-09,
    1.605904382690051e-10,
    1.1470749134156202e-11,
    7.647165414593481e-13,
    4.7791278946285004e-14,
    2.8112909646770106e-15,
    1.5805226028003757e-16,
    8.309171941866942e-18,
)

_EXPM1 = '''
@cute.jit
def expm1{suffix}(x):
    """exp(x) - 1, accurate near 0 (CuTe's own is exp(x) - 1 as written)."""
    small = cute.math.abs(x) < 1.0
    t = cute.where(small, x, cute.zeros_like(x))
    p = cute.full_like(t, {last})
{horner}
    near = cute.where(x == 0, x, x + t * t * p)  # -0 plus 0 would be 0
    return cute.where(small, near, cute.math.exp(x) - 1.0)
'''

_ASINH = '''
@cute.jit
def asinh(x):
    """Inverse hyperbolic sine (CuTe's own does not compile for a CPU)."""
    a = cute.math.abs(x)
    large = a > 1e9
    bounded = cute.where(large, cute.ones_like(a), a)
    square = bounded * bounded
    near = log1p(bounded + square / (1.0 + cute.math.sqrt(square + 1.0)))
    far = cute.math.log(cute.where(large, a, cute.ones_like(a))) + {ln2}
    result = cute.where(large, far, near)
    result = cute.where(a == a, result, a)
    return cute.where(x < 0, -result, cute.where(x == 0, x, result))
'''

_ACOSH = '''
@cute.jit
def acosh(x):
    """Inverse hyperbolic cosine (CuTe's own does not compile for a CPU)."""
    large = x > 1e9
    t = cute.where(large, cute.ones_like(x), x) - 1.0
    near = log1p(t + cute.math.sqrt(t * (t + 2.0)))
    far = cute.math.log(cute.where(large, x, cute.ones_like(x))) + {ln2}
    result = cute.where(large, far, near)
    return cute.where(x < 1.0, cute.full_like(x, float("nan")), result)
'''

_ATANH = '''
@cute.jit
def atanh(x):
    """Inverse hyperbolic tangent (CuTe's own does not compile for a CPU)."""
    a = cute.math.abs(x)
    result = 0.5 * log1p(2.0 * a / (1.0 - a))
    return cute.where(x < 0, -result, cute.where(x == 0, x, result))
'''

# Coefficients by Chebyshev interpolation in 40 digits. _SMALL: erf(sqrt(t))/sqrt(t) - 1 on [0, 1]. _LARGE:
# exp(x*x)*erfc(x)*x in t = (x - 2) / (x + 2), for x from 0.5 (Float32) or 1 (Float64) to 10.5. The largest relative
# errors are 1.4e-9 and 1.5e-9 (Float32), 1.5e-19 and 2.5e-19 (Float64): rounding, not the fit, limits the accuracy.
_SMALL32 = (0.12837917, -0.376126267, 0.112835947, -0.026854212, 0.00518908742, -0.000801686429, 7.87587506e-5)
_LARGE32 = (
    0.510791352,
    0.167211017,
    -0.203844252,
    0.121514605,
    -0.0289774499,
    -0.00751101339,
    0.00479280611,
    0.00109786452,
    -0.000775580705,
    -0.000234504074,
    0.000119144151,
)
_SMALL64 = (
    0.12837916709551257,
    -0.376126389031837481,
    0.112837916709548787,
    -0.0268661706450767932,
    0.00522397762481801447,
    -0.000854832698083378991,
    0.000120553311116427109,
    -1.49255952668311816e-5,
    1.6461000484121368e-6,
    -1.6350312701054695e-7,
    1.46597752740474358e-8,
    -1.13728488566917e-9,
    5.9571761477489e-11,
)
_LARGE64 = (
    0.5107913526210115,
    0.1672110104141062,
    -0.20384429592887796,
    0.12151493052458948,
    -0.028976446698176225,
    -0.007515738411011282,
    0.004784898563062366,
    0.001126658004539453,
    -0.0007501847739401126,
    -0.00031435119361471106,
    8.94210518938665e-05,
    8.931217244647945e-05,
    6.224087221802544e-06,
    -1.8926973115559153e-05,
    -8.583277895581396e-06,
    1.3110773067852301e-06,
    2.5699362115174223e-06,
    1.1657503730176323e-06,
    1.854245340426936e-07,
    -1.4299116244203626e-06,
    5.011090807367729e-07,
)

_ERFC_TAIL = '''
@cute.jit
def erfc_tail{suffix}(a):
    """erfc(a) for a >= 0.5; a*a is split in two, so that its rounding does not reach the exponential."""
    a = cute.where(a > {largest}, cute.full_like(a, {largest}), a)
    t = (a - 2.0) / (a + 2.0)
    p = cute.full_like(a, {last})
{horner}
    high = a.to(cutlass.{shorter}).to(cutlass.{dtype})
    return cute.math.exp(-high * high) * cute.math.exp((high - a) * (high + a)) * p / a
'''

_ERF_CORE = '''
@cute.jit
def erf_core{suffix}(x):
    """erf(x) for |x| <= 1; the leading x is added last and exactly."""
    t = x * x
    p = cute.full_like(x, {last})
{horner}
    return x + x * p
'''

_ERF = '''
@cute.jit
def erf{suffix}(x):
    """The error function (CuTe's own does not compile for a CPU)."""
    a = cute.math.abs(x)
    tail = 1.0 - erfc_tail{suffix}(cute.where(a > 1.0, a, cute.ones_like(a)))
    tail = cute.where(x < 0, -tail, tail)
    return cute.where(a > 1.0, tail, erf_core{suffix}(x))
'''

_ERFC = '''
@cute.jit
def erfc(x):
    """1 - erf(x), without the cancellation for large x."""
    a = cute.math.abs(x)
    tail = erfc_tail(cute.where(a > 0.75, a, cute.ones_like(a)))
    tail = cute.where(x < 0, 2.0 - tail, tail)
    return cute.where(a > 0.75, tail, 1.0 - erf_core(x))
'''


# With fast_math, the GPU's approximate instruction replaces a function. It is called lane by lane: on a whole vector,
# CuTe sets a flag that lets the compiler assume that neither NaN nor infinity occurs.
_APPROXIMATE = '''
@cute.jit
def {name}({parameters}):
    """fast_math: {about}."""
    lanes = cute.make_rmem_tensor(x.shape, cutlass.Float32)
    for lane in cutlass.range_constexpr(cute.size(x.shape)):
        lanes[lane] = {expression}
    return lanes.load()
'''


def _approximate() -> dict[str, str]:
    lg2 = "cute.math.log2(x[lane], approx=True)"
    entries = {
        "tanh_approx": (
            "x",
            "tanh.approx.f32, off by up to 2^-11 of the result",
            "cute.math.tanh(x[lane], approx=True)",
        ),
        "div_approx": (
            "x, y",
            "div.approx.ftz.f32, 2 ulp for |y| from 2^-126 to 2^126",
            "cute.math.div(x[lane], y[lane], approx=True, ftz=True)",
        ),
        "rcp_approx": ("x", "rcp.approx.ftz.f32, 1 ulp", "cute.math.rcp(x[lane], approx=True, ftz=True)"),
        "exp2_approx": ("x", "ex2.approx.ftz.f32, 2 ulp", "cute.math.exp2(x[lane], approx=True, ftz=True)"),
        "log_approx": ("x", "lg2.approx.f32, off by 2^-22 near 1, times log(2)", f"{lg2} * {math.log(2)!r}"),
        "log2_approx": ("x", "lg2.approx.f32, off by 2^-22 near 1", lg2),
        "log10_approx": ("x", "lg2.approx.f32, off by 2^-22 near 1, times log10(2)", f"{lg2} * {math.log10(2)!r}"),
        "sqrt_approx": ("x", "sqrt.approx.ftz.f32, 1 ulp", "cute.math.sqrt(x[lane], approx=True, ftz=True)"),
    }
    return {
        name: _APPROXIMATE.format(name=name, parameters=parameters, about=about, expression=expression)
        for name, (parameters, about, expression) in entries.items()
    }


def _gathers() -> dict[str, str]:
    texts = {}
    for rank in range(2, MAX_RANK + 1):
        names = "ijkl"[:rank]
        texts[f"gather{rank}"] = _GATHER_AT.format(
            rank=rank, names=", ".join(names), lanes=", ".join(f"{name}[lane]" for name in names)
        )
    return texts


def _literal(value: float, dtype: str) -> str:
    return repr(value) if dtype == "Float32" else f"cutlass.{dtype}({value!r})"


def _horner(coefficients: tuple[float, ...], dtype: str) -> dict[str, str]:
    lines = [f"    p = p * t + {_literal(c, dtype)}" for c in reversed(coefficients[:-1])]
    return {"last": _literal(coefficients[-1], dtype), "horner": "\n".join(lines)}


def _error_functions(suffix: str, dtype: str) -> dict[str, str]:
    f64 = dtype == "Float64"
    tail = _ERFC_TAIL.format(
        suffix=suffix,
        largest=_literal(10.5, dtype),
        dtype=dtype,
        shorter="Float32" if f64 else "BFloat16",
        **_horner(_LARGE64 if f64 else _LARGE32, dtype),
    )
    core = _ERF_CORE.format(suffix=suffix, **_horner(_SMALL64 if f64 else _SMALL32, dtype))
    return {
        f"erfc_tail{suffix}": tail,
        f"erf_core{suffix}": core,
        f"erf{suffix}": _ERF.format(suffix=suffix),
    }


SOURCES: Final[dict[str, str]] = {
    "gather": _GATHER,
    **_gathers(),
    "shift_left": _SHIFT_LEFT,
    "shift_right": _SHIFT_RIGHT,
    "remainder": _REMAINDER,
    "floor_divide": _FLOOR_DIVIDE,
    "truncate_divide": _TRUNCATE_DIVIDE,
    "divisor": _DIVISOR,
    "divisor_of": _DIVISOR_OF,
    "sign": _SIGN,
    "minimum": _MINIMUM,
    "maximum": _MAXIMUM,
    "integer_power": _INTEGER_POWER,
    "log1p": _LOG1P,
    "expm1": _EXPM1.format(suffix="", **_horner(_EXPM1_32, "Float32")),
    "expm1_f64": _EXPM1.format(suffix="_f64", **_horner(_EXPM1_64, "Float64")),
    "hypot": _HYPOT,
    "atan2": _ATAN2.format(pi=repr(math.pi)),
    "asinh": _ASINH.format(ln2=repr(math.log(2.0))),
    "asinh_f64": _ASINH.replace("asinh", "asinh_f64").format(ln2=f"cutlass.Float64({math.log(2.0)!r})"),
    "acosh": _ACOSH.format(ln2=repr(math.log(2.0))),
    "acosh_f64": _ACOSH.replace("acosh", "acosh_f64").format(ln2=f"cutlass.Float64({math.log(2.0)!r})"),
    "atanh": _ATANH,
    **_error_functions("", "Float32"),
    "erfc": _ERFC,
    **_error_functions("_f64", "Float64"),
    **_approximate(),
}

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "erf": ("erfc_tail", "erf_core"),
    "erfc": ("erfc_tail", "erf_core"),
    "erf_f64": ("erfc_tail_f64", "erf_core_f64"),
    **dict.fromkeys(("asinh", "asinh_f64", "acosh", "acosh_f64", "atanh"), ("log1p",)),
}


def render(names: set[str]) -> str:
    """The text of the named functions and of the functions that they call, in the order of `SOURCES`."""
    wanted = names | {needed for name in names for needed in _NEEDS.get(name, ())}
    return "\n\n\n".join(text.strip("\n") for name, text in SOURCES.items() if name in wanted)
