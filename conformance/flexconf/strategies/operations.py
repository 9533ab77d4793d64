"""The operations for the generator: the range in which an argument may lie, and the range of the result.

The operations, their texts and their dtypes are those that `flexconf ops` checks one by one.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping

from flexconf.language.operations import ALL, OPERATIONS, Operation
from flexconf.strategies.terms import INTEGER_RANGES, Term, result_dtype, substitute

Range = tuple[float, float]
_COMPARED: Range = (0, 1)
_LONGEST = 600
_UNKNOWN: Range = (-math.inf, math.inf)

# The range in which the argument of a float function is kept, and the range of the result. Both stay away from poles
# and overflow, in float16 too.
_FUNCTIONS: Mapping[str, tuple[Range, Range]] = {
    "exp": ((-20, 5), (0, 149)),
    "exp2": ((-20, 7), (0, 128)),
    "expm1": ((-20, 5), (-1, 148)),
    "log": ((0.01, 1e4), (-5, 10)),
    "log1p": ((-0.9, 1e4), (-3, 10)),
    "log2": ((0.01, 1e4), (-7, 14)),
    "log10": ((0.01, 1e4), (-2, 4)),
    "sqrt": ((0, 1e4), (0, 100)),
    "rsqrt": ((0.01, 1e4), (0, 10)),
    "reciprocal": ((0.01, 1e4), (0, 100)),
    "sin": ((-50, 50), (-1, 1)),
    "cos": ((-50, 50), (-1, 1)),
    "tan": ((-1.2, 1.2), (-3, 3)),
    "asin": ((-0.95, 0.95), (-1.6, 1.6)),
    "acos": ((-0.95, 0.95), (0, 3.2)),
    "atan": ((-1e4, 1e4), (-1.6, 1.6)),
    "sinh": ((-5, 5), (-75, 75)),
    "cosh": ((-5, 5), (1, 75)),
    "tanh": ((-1e4, 1e4), (-1, 1)),
    "asinh": ((-1e4, 1e4), (-10, 10)),
    "acosh": ((1.05, 1e4), (0, 10)),
    "atanh": ((-0.95, 0.95), (-2, 2)),
    "sigmoid": ((-1e4, 1e4), (0, 1)),
    "erf": ((-1e4, 1e4), (-1, 1)),
    "erfc": ((-5, 3), (0, 2)),
    "silu": ((-1e3, 1e3), (-1, 1e3)),
    "gelu": ((-8, 1e3), (-1, 1e3)),
    "softplus": ((-50, 1e3), (0, 1e3)),
    "elu": ((-50, 1e3), (-1, 1e3)),
    "relu6": ((-1e4, 1e4), (0, 6)),
    "hardtanh": ((-1e4, 1e4), (-1, 1)),
    "frac": ((-1e3, 1e3), (-1, 1)),
    "log_sigmoid": ((-50, 1e3), (-51, 0)),
    "celu": ((-50, 1e3), (-1, 1e3)),
    "selu": ((-50, 1e3), (-1.8, 1.06e3)),
    "hardsigmoid": ((-1e4, 1e4), (0, 1)),
    "hardswish": ((-1e3, 1e3), (-1, 1e3)),
    "mish": ((-50, 1e3), (-1, 1e3)),
    "softsign": ((-1e4, 1e4), (-1, 1)),
    "softshrink": ((-1e4, 1e4), (-1e4, 1e4)),
    "hardshrink": ((-1e4, 1e4), (-1e4, 1e4)),
    "tanhshrink": ((-1e3, 1e3), (-1e3, 1e3)),
    "logit": ((0.01, 0.99), (-5, 5)),
    "deg2rad": ((-1e4, 1e4), (-175, 175)),
    "rad2deg": ((-500, 500), (-3e4, 3e4)),
    "sinc": ((-50, 50), (-0.3, 1)),
    "full_like": ((-math.inf, math.inf), (3, 3)),
    "zeros_like": ((-math.inf, math.inf), (0, 0)),
    "ones_like": ((-math.inf, math.inf), (1, 1)),
}


def catalogue(dtype: str) -> tuple[Operation, ...]:
    """The operations that take `dtype`."""
    return _BY_DTYPE[dtype]


# `flexconf ops` cannot check these operations, because their result does not depend on x. The generator uses them.
_MORE = (
    Operation("full_like", "torch.full_like(x, 3)", ALL),
    Operation("zeros_like", "torch.zeros_like(x)", ALL),
    Operation("ones_like", "torch.ones_like(x)", ALL),
)
_BY_DTYPE = {d: tuple(o for o in (*OPERATIONS, *_MORE) if d in o.dtypes) for d in ALL}


def takes_two(operation: Operation) -> bool:
    """Whether the text of the operation reads y."""
    return _reads_y(operation.text)


@functools.cache
def _reads_y(text: str) -> bool:
    return re.search(r"(?<![\w.])y\b", text) is not None


def domain(operation: Operation, dtype: str) -> Range:
    """The range in which the argument x must lie."""
    if dtype == "bool":
        return (0, 1)
    if operation.text in ("x ** 0.5", "x ** -0.5", "x ** -1"):
        return (0.01, 1e4)
    if operation.text == "2.0 ** x":
        return (-20, 7)
    if operation.name in _FUNCTIONS:
        return _FUNCTIONS[operation.name][0]
    if operation.text.startswith("torch.pow(x"):
        return (0.1, 8) if dtype not in INTEGER_RANGES else (-3, 3)
    if operation.name in ("floor_divide", "remainder", "fmod", "div") and dtype not in INTEGER_RANGES:
        return (-1e3, 1e3)
    if operation.name in ("addcmul", "addcdiv"):
        return (-100, 100) if dtype not in INTEGER_RANGES else (-4, 4)
    if operation.name.startswith(("pow", "square")):
        return (-30, 30) if dtype != "int8" else (-4, 4)
    return _UNKNOWN


def partner(operation: Operation, dtype: str) -> Range:
    """The range in which the second argument y must lie."""
    if operation.y == "shift":
        return (0, 3)
    if operation.y == "power":
        return (0, INTEGER_RANGES[dtype][1])  # a power outside its dtype wraps around
    if operation.text.startswith("torch.pow("):
        return (-2, 3)
    if operation.name == "xlogy":
        return (0.01, 1e4) if dtype not in INTEGER_RANGES else (1, 100)
    if operation.name == "addcmul":
        return (-100, 100) if dtype not in INTEGER_RANGES else (-4, 4)
    if operation.name == "addcdiv":
        return (0.25, 20)
    if operation.y == "nonzero":
        return (1, 20)
    if operation.name in ("div", "floor_divide", "remainder", "fmod"):
        return (0.25, 20)
    return _UNKNOWN


def apply(operation: Operation, x: Term, y: Term | None) -> Term | None:
    """The operation applied to terms in its domain.

    Returns None if PyTorch refuses it, if it might overflow, if an integer result may be NaN or infinite, or if the
    text gets too long.
    """
    text = operation.text
    dtype = result_dtype(text, x.dtype, y.dtype if y is not None else None)
    if not dtype:
        return None
    lo, hi = _range(operation, x, y, dtype)
    if math.isnan(lo) or math.isnan(hi):
        lo, hi = _UNKNOWN
    if dtype == "uint8" and lo < 0 and operation.name in ("neg", "sub", "rsub"):
        lo, hi = INTEGER_RANGES[dtype]  # values below 0 wrap around
    special = (x.special or (y is not None and y.special)) and dtype != "bool"
    found = Term(substitute(text, x, y), dtype, lo, hi, special)
    if special and found.is_integer:
        return None  # NaN and infinity have no integer value, and an index may be computed from it
    if len(found.text) > _LONGEST:
        return None  # a text that reads an operand twice doubles in length, and the length of a mod is limited
    return found if found.fits() or (found.is_float and math.isinf(found.size)) else None


def with_number(symbol: str, x: Term, number: float) -> Term | None:
    """`x symbol number`, such as `x % -3`. Returns None if PyTorch refuses it or it might overflow."""
    text = f"x {symbol} {number!r}"
    dtype = result_dtype(text, x.dtype)
    if not dtype:
        return None
    constant = Term(repr(number), "int64" if isinstance(number, int) else "float64", number, number)
    if dtype == "bool":
        lo, hi = _COMPARED
    elif symbol == "%" and number < 0:
        lo, hi = (number + 1 if x.is_integer and isinstance(number, int) else number), 0
    elif symbol == "//" and number < 0:
        lo, hi = (-x.hi, -x.lo)
    elif symbol in ("&", "|", "^"):
        lo, hi = _bits(x, constant)
    else:
        lo, hi = _RANGES[f"x {symbol} y"](x, constant)
    if dtype == "uint8" and number < 0:
        lo, hi = INTEGER_RANGES[dtype]  # the number wraps around
    if math.isnan(lo) or math.isnan(hi):
        lo, hi = _UNKNOWN
    found = Term(substitute(text, x), dtype, lo, hi, x.special and dtype != "bool")
    return found if found.fits() or (found.is_float and math.isinf(found.size)) else None


def shifted(symbol: str, x: Term, number: int) -> Term | None:
    """`x << number` or `x >> number`. A shift by the width of the dtype or more leaves 0, or -1 for `>>` of x < 0."""
    least, most = INTEGER_RANGES[x.dtype]
    if 2**number <= most - least:
        return with_number(symbol, x, number)
    lo = -1 if symbol == ">>" and x.lo < 0 else 0
    return Term(f"(({x.text}) {symbol} {number})", x.dtype, lo, 0)


def _range(operation: Operation, x: Term, y: Term | None, dtype: str) -> Range:
    name, text = operation.name, operation.text
    if dtype == "bool":
        return (0, 1)
    for exact, function in _RANGES.items():
        if text == exact:
            return function(x, y or x)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name][1]
    if ".to(torch." in text:
        return (0, 100) if text.startswith("torch.clamp") else (x.lo, x.hi)
    if dtype in INTEGER_RANGES:
        return INTEGER_RANGES[dtype]
    return _UNKNOWN


def _corners(function: Callable[[float, float], float]) -> Callable[[Term, Term], Range]:
    def ranged(x: Term, y: Term) -> Range:
        values = [function(a, b) for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        return (min(values), max(values)) if not any(math.isnan(v) for v in values) else _UNKNOWN

    return ranged


def _times(a: float, b: float) -> float:
    return 0 if a == 0 or b == 0 else a * b


def _power(exponent: int) -> Callable[[Term, Term], Range]:
    def ranged(x: Term, y: Term) -> Range:
        ends = (x.lo**exponent, x.hi**exponent)
        return (0 if x.lo <= 0 <= x.hi else min(ends), max(ends)) if exponent % 2 == 0 else ends

    return ranged


def _integer_power(x: Term, y: Term) -> Range:
    return (-27, 27) if y.within(0, 3) and x.within(-3, 3) else INTEGER_RANGES[x.dtype]


def _bits(x: Term, y: Term) -> Range:
    """The range of `&`, `|` and `^`: except for the sign, no bit is set above the highest bit of both operands."""
    end = 1 << max(int(max(t.hi, -t.lo - 1)).bit_length() for t in (x, y))
    return (-end if x.lo < 0 or y.lo < 0 else 0, end - 1)


def _magnitude(x: Term, y: Term) -> Range:
    return (0 if x.lo <= 0 <= x.hi else min(abs(x.lo), abs(x.hi)), x.size)


def _remainder(x: Term, y: Term) -> Range:
    """The range of `x % y` for y > 0. If both are integers, the remainder is at most y - 1."""
    return (0, y.hi - 1 if x.is_integer and y.is_integer else y.hi)


def _c_remainder(x: Term, y: Term) -> Range:
    most = min(x.size, y.hi - 1 if x.is_integer and y.is_integer else y.hi)
    return (-most if x.lo < 0 else 0, most if x.hi > 0 else 0)


def _quotient(rounded: Callable[[float], float]) -> Callable[[Term, Term], Range]:
    def ranged(x: Term, y: Term) -> Range:
        if not math.isfinite(x.size) or y.lo <= 0:
            return _UNKNOWN
        if x.is_integer and y.is_integer:
            down = rounded is math.floor
            ends = [a // b if down else -(-a // b) if a < 0 else a // b for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        else:
            ends = [rounded(a / b) for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
        return min(ends), max(ends)

    return ranged


def _rounded(x: Term, y: Term) -> Range:
    return (x.lo - 1, x.hi + 1) if x.is_float else (x.lo, x.hi)


def _log_of_sum(x: Term, y: Term) -> Range:
    return max(x.lo, y.lo), max(x.hi, y.hi) + 1


def _around(size: float) -> Range:
    return -size, size


def _to_decimals(number: int) -> Callable[[Term, Term], Range]:
    most = 10.0**-number
    return lambda x, _: (x.lo - most, x.hi + most)


_RANGES: dict[str, Callable[[Term, Term], Range]] = {
    "x + y": _corners(lambda a, b: a + b),
    "x - y": _corners(lambda a, b: a - b),
    "x * y": _corners(_times),
    "1 - x": lambda x, _: (1 - x.hi, 1 - x.lo),
    "torch.add(x, y, alpha=3)": _corners(lambda a, b: a + 3 * b),
    "torch.sub(x, y, alpha=3)": _corners(lambda a, b: a - 3 * b),
    "torch.neg(x)": lambda x, _: (-x.hi, -x.lo),
    "torch.abs(x)": _magnitude,
    "torch.sign(x)": lambda x, _: (-1 if x.lo < 0 else 0, 1 if x.hi > 0 else 0),
    "x ** 2": _power(2),
    "torch.square(x)": _power(2),
    "x ** 3": _power(3),
    "x % y": _remainder,
    "x % 7": lambda x, _: (0, 6 if x.is_integer else 7),
    "x % -7": lambda x, _: (-6 if x.is_integer else -7, 0),
    "torch.fmod(x, y)": _c_remainder,
    "x // y": _quotient(math.floor),
    "x // 7": lambda x, _: (x.lo // 7, x.hi // 7),
    'torch.div(x, y, rounding_mode="trunc")': _quotient(math.trunc),
    "torch.where(x > y, x, y)": lambda x, y: (max(x.lo, y.lo), max(x.hi, y.hi)),
    "torch.where(x > 0, x, 0)": lambda x, _: (0, max(x.hi, 0)),
    "torch.minimum(x, y)": lambda x, y: (min(x.lo, y.lo), min(x.hi, y.hi)),
    "torch.maximum(x, y)": lambda x, y: (max(x.lo, y.lo), max(x.hi, y.hi)),
    "torch.fmin(x, y)": lambda x, y: (min(x.lo, y.lo), min(x.hi, y.hi)),
    "torch.fmax(x, y)": lambda x, y: (max(x.lo, y.lo), max(x.hi, y.hi)),
    "torch.clamp(x, -2, 3)": lambda x, _: (-2, 3),
    "torch.clamp(x, min=1)": lambda x, _: (max(x.lo, 1), max(x.hi, 1)),
    **{f"torch.clamp{form}": lambda x, _: (min(x.lo, 1), min(x.hi, 1)) for form in ("(x, max=1)", "_max(x, 1)")},
    "torch.clamp(x, max=y)": lambda x, y: (min(x.lo, y.lo), min(x.hi, y.hi)),
    "torch.clamp_min(x, y)": lambda x, y: (max(x.lo, y.lo), max(x.hi, y.hi)),
    "torch.nn.functional.hardtanh(x, -0.5, 2)": lambda x, _: (-0.5, 2),
    "torch.relu(x)": lambda x, _: (max(x.lo, 0), max(x.hi, 0)),
    **{f"torch.nn.functional.leaky_relu(x{slope})": lambda x, _: (x.lo, x.hi) for slope in ("", ", 0.25")},
    **{f"torch.{name}(x)": _rounded for name in ("floor", "ceil", "trunc", "round")},
    **{f"torch.round(x, decimals={n})": _to_decimals(n) for n in (1, -1)},
    "torch.sgn(x)": lambda x, _: (-1 if x.lo < 0 else 0, 1 if x.hi > 0 else 0),
    "torch.positive(x)": lambda x, _: (x.lo, x.hi),
    "torch.nan_to_num(x)": lambda x, _: _UNKNOWN if x.special else (x.lo, x.hi),
    "torch.nan_to_num(x, nan=0.5, posinf=7.0, neginf=-7.0)": lambda x, _: (min(x.lo, -7), max(x.hi, 7)),
    "torch.nn.functional.threshold(x, 1, 7)": lambda x, _: (min(max(x.lo, 1), 7), max(x.hi, 7)),
    "torch.xlogy(x, y)": lambda x, y: (-10 * x.size, 10 * x.size) if y.lo > 0 else _UNKNOWN,
    "torch.heaviside(x, y)": lambda x, y: (min(0, y.lo), max(1, y.hi)),
    **{f"torch.{name}(x, y)": _log_of_sum for name in ("logaddexp", "logaddexp2")},
    "torch.addcmul(x, x, y, value=0.5)": lambda x, y: _around(x.size + 0.5 * x.size * y.size),
    "torch.addcmul(x, x, y, value=3)": lambda x, y: _around(x.size + 3 * x.size * y.size),
    "torch.addcdiv(x, x, y, value=0.5)": lambda x, y: _around(x.size + 2 * x.size) if y.lo >= 0.25 else _UNKNOWN,
    "x << 3": lambda x, _: (x.lo * 8, x.hi * 8),
    "x << y": lambda x, y: (min(x.lo * 2**y.hi, x.lo), max(x.hi * 2**y.hi, x.hi)) if y.hi < 64 else _UNKNOWN,
    "x >> 3": lambda x, _: (x.lo // 8, x.hi // 8),
    "x >> y": lambda x, _: (min(x.lo, -1 if x.lo < 0 else 0), max(x.hi, 0)),
    **{f"torch.bitwise_{name}(x, y)": _bits for name in ("and", "or", "xor")},
    "torch.bitwise_not(x)": lambda x, _: (0, 255) if x.dtype == "uint8" else (-x.hi - 1, -x.lo - 1),
    "torch.copysign(x, y)": lambda x, _: (-x.size, x.size),
    **{f"torch.lerp(x, y, {weight})": lambda x, y: (min(x.lo, y.lo), max(x.hi, y.hi)) for weight in (0.25, 0.75)},
    "torch.hypot(x, y)": lambda x, y: (0, x.size + y.size),
    "torch.atan2(x, y)": lambda x, _: (-3.2, 3.2),
    "x / y": _corners(lambda a, b: a / b if b else math.nan),
    "x ** -1": lambda x, _: (0, 100),
    "torch.pow(x, y)": lambda x, y: _integer_power(x, y) if x.is_integer else (0, 1000),
}
