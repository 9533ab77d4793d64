"""The operations that mods may use: how each is called, for which dtypes, and which values its second operand takes.

`flexconf ops`, the generator of cases and the coverage report of fuzzing read this table. The lowering
(`flexflash.ops`) and the oracle (`flexconf.oracles.error_model`) have tables of their own, so that a mistake here is
not repeated there.
"""

from __future__ import annotations

from dataclasses import dataclass

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
ALL = (*NUMBERS, "bool")


@dataclass(frozen=True)
class Operation:
    """One operation: its name in the error model, its text over `x` and `y`, their dtypes, and the values of y.

    `y` is "any", "nonzero" (integers other than 0 and -1), "shift" (0 or more, also the dtype's width and beyond),
    "power" (integers of 0 or more), or "close" (floats of moderate size, not 0).
    """

    name: str
    text: str
    dtypes: tuple[str, ...]
    y: str = "any"


def _unary(names: str, dtypes: tuple[str, ...], prefix: str = "torch.") -> list[Operation]:
    return [Operation(name, f"{prefix}{name}(x)", dtypes) for name in names.split()]


def _binary(pairs: dict[str, str], dtypes: tuple[str, ...], y: str = "any") -> list[Operation]:
    """Operations from {name: text}. A name may be "NAME/VARIANT": the variant only keeps the keys apart."""
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
