"""The interface of the operations: their values, the code generator as they see it, and PyTorch's promotion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import torch

from ..numbers import Scalar

CUTE_NAMES: Final[dict[torch.dtype, str]] = {
    torch.float16: "Float16",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float32",
    torch.float64: "Float64",
    torch.int8: "Int8",
    torch.int16: "Int16",
    torch.int32: "Int32",
    torch.int64: "Int64",
    torch.uint8: "Uint8",
    torch.bool: "Boolean",
}


def cute_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> `cutlass.Float32`. Raises KeyError for a dtype that L7.5 does not name."""
    return f"cutlass.{CUTE_NAMES[dtype]}"


@dataclass(frozen=True)
class Value:
    """The value of a node in the text: a Python `constant`, or the vector that `text` names.

    `dtype` is PyTorch's nominal dtype; a vector holds `compute_dtype(dtype)`. `uniform`: the value is the same in every
    lane, since it depends only on b, h and q. `nonnegative`: the integer or bool is certainly not below zero, so as an
    index it needs no wrapping; of a float or a constant, nothing reads it. `limit`: the largest magnitude of an
    integer, or None if only its dtype is known.
    `difference`: (x, y) if the value is the integer x - y, exactly one of them is uniform, and the magnitudes of all
    three are at most 2^24.
    """

    text: str
    dtype: torch.dtype
    constant: Scalar | None = None
    uniform: bool = False
    nonnegative: bool = False
    limit: int | None = None
    difference: tuple[Value, Value] | None = None


Argument: TypeAlias = "Value | Scalar | str | torch.dtype | None"


class Writer(Protocol):
    """The code generator, as an entry sees it.

    `smooth`: the result of this operation reaches the mod's output through smooth operations alone, so its last bit
    does not matter. `fast_math`: the kernel option of that name.
    """

    smooth: bool
    fast_math: bool

    def vector(self, value: Argument, dtype: torch.dtype) -> str:
        """The name of a vector that holds `value` in `compute_dtype(dtype)`; a constant is broadcast to all lanes."""

    def operand(self, value: Argument, dtype: torch.dtype) -> str:
        """Like `vector`, but a constant stays a literal. Operators take a literal on either side."""

    def assign(self, expression: str, hint: str) -> str:
        """The name of a variable that holds `expression`. Equal expressions are computed once."""

    def use(self, helper: str) -> str:
        """The name of a prelude function, which the rendered module then contains."""


Emitter: TypeAlias = Callable[[Writer, Sequence[Argument], dict[str, Argument], torch.dtype], Value]


def operand_dtype(*arguments: Argument) -> torch.dtype:
    """The dtype to which PyTorch promotes the arguments: zero-dimensional tensors and Python scalars (L7.2)."""
    result: torch.dtype | None = None
    scalars: list[Scalar] = []
    for a in arguments:
        if isinstance(a, Value):
            result = a.dtype if result is None else torch.promote_types(result, a.dtype)
        elif isinstance(a, (bool, int, float)):
            scalars.append(a)
    probe = torch.empty((), dtype=result, device="meta") if result is not None else None
    for s in scalars:
        probe = torch.empty((), dtype=torch.result_type(probe, s) if probe is not None else None, device="meta")
    assert probe is not None
    return probe.dtype


def constant(number: Scalar, dtype: torch.dtype) -> Value:
    """The value of a node that is the Python number `number`."""
    return Value(repr(number), dtype, number, uniform=True)


def given(
    args: Sequence[Argument], kw: Mapping[str, Argument], position: int, name: str, default: Argument = None
) -> Argument:
    """An argument that may be left out: by position, else by name, else `default`. PyTorch leaves out defaults."""
    return args[position] if position < len(args) else kw.get(name, default)


def is_uniform(*arguments: Argument) -> bool:
    """Whether all arguments are the same in every lane."""
    return all(a.uniform or a.constant is not None for a in arguments if isinstance(a, Value))


def constant_of(argument: Argument) -> Scalar | None:
    """The Python number of an argument. Returns None if the argument is not a constant number."""
    if isinstance(argument, Value):
        return argument.constant
    return argument if isinstance(argument, (bool, int, float)) else None
