"""The row of a function or operator that mods may use: everything that the harness knows about it, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
ALL = (*NUMBERS, "bool")
INTEGER_RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 2**8 - 1),
}

Range = tuple[float, float]
UNKNOWN: Range = (-math.inf, math.inf)
Feature = Literal["functions", "integers", "booleans", "casts"]


class Operand(Protocol):
    """An operand as the ranges of results need it: its dtype, and its least and largest value."""

    @property
    def dtype(self) -> str: ...
    @property
    def lo(self) -> float: ...
    @property
    def hi(self) -> float: ...
    @property
    def special(self) -> bool: ...
    @property
    def size(self) -> float: ...
    @property
    def is_float(self) -> bool: ...
    @property
    def is_integer(self) -> bool: ...
    def within(self, lo: float, hi: float) -> bool: ...


Ends = Callable[[Operand, Operand], Range]
"""The range of a result, from its operands x and y. A text without y gets x twice."""


@dataclass(frozen=True)
class Signature:
    """How an operation may be called: the least and most arguments (positional, `min=`, `max=`), and the keywords."""

    least: int
    most: int
    keywords: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Domain:
    """The range in which generated arguments are kept, for floats, for integers, and for int8 if that is narrower."""

    floats: Range = UNKNOWN
    integers: Range = UNKNOWN
    int8: Range | None = None

    def of(self, dtype: str) -> Range:
        """The range for a dtype."""
        if dtype not in INTEGER_RANGES:
            return self.floats
        return self.int8 if dtype == "int8" and self.int8 is not None else self.integers


@dataclass(frozen=True)
class Second:
    """The values of the second operand y.

    `floats` and `integers` are the kinds of values on which `flexconf ops` runs the operation: "any", "nonzero"
    (integers other than 0 and -1), "shift" (0 or more, also the dtype's width and beyond), "power" (integers of 0 or
    more), or "close" (floats of moderate size, not 0). `domain` is the range in which the generator keeps y.
    """

    floats: str = "any"
    integers: str = "any"
    domain: Domain = field(default_factory=Domain)


@dataclass(frozen=True)
class Text:
    """One text of an operation over `x` and `y`.

    `ends` gives the range of its result. None in the other fields stands for the value of the row.
    """

    text: str
    dtypes: tuple[str, ...] | None = None
    ends: Ends | None = None
    domain: Domain | None = None
    second: Second | None = None


@dataclass(frozen=True)
class FunctionRow:
    """One function or operator.

    `name` is its name in ATen, `calls` gives the signature of each dotted name in mods, and `texts` are the texts on
    which it is checked. `dtypes` are the dtypes that it takes. `result` is "bool", "float" (an integer operand gives
    float32), or "same" (the promoted dtype). `domain` restricts x and `second` restricts y. `range` holds the result of
    every call, if x is in the domain.

    `feature` is the switch of `strategies.Features` that the generator needs for it. `rounding` marks functions that
    need float operands between integers. `often` is the weight among the operations of a focus. `every`: the function
    takes every number of any dtype, and its result is finite if the operands are. `filled`: the result does not depend
    on the values of x, so that `flexconf ops` does not check it. `refused`: the function is not in clause L7.6, and is
    here for cases that expect its refusal. `model` is its name in the error model, "" if that is `name`.
    """

    name: str
    dtypes: tuple[str, ...] = ()
    calls: Mapping[str, Signature] = field(default_factory=dict)
    texts: tuple[Text, ...] = ()
    result: Literal["same", "bool", "float"] = "same"
    domain: Domain = field(default_factory=Domain)
    range: Range | None = None
    second: Second = field(default_factory=Second)
    feature: Feature = "functions"
    rounding: bool = False
    often: int = 1
    every: bool = False
    filled: bool = False
    refused: bool = False
    model: str = ""


@dataclass(frozen=True)
class More:
    """More texts of a row that stands before. They are apart because draws depend on the order of the texts."""

    name: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Operation:
    """One text of a row on the dtypes that share a kind of y (`Second`): its name, text, dtypes, and that kind."""

    name: str
    text: str
    dtypes: tuple[str, ...]
    y: str = "any"
