"""The problem of a case: the sizes, the dtype and the memory layout of q, k and v."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flexconf.errors import InputError
from flexconf.language.arithmetic import SYMBOLS

DTYPES = ("bfloat16", "float16")
"""The dtypes that q, k and v may have."""

PROBLEM_LAYOUTS = (
    "contiguous", "bmhd", "packed_qkv", "packed_kv", "expanded_heads", "expanded_batch", "padded", "offset",
)  # fmt: skip
DISTRIBUTIONS = ("normal", "large", "tiny", "constant", "zeros", "infinite")

LARGEST = 1 << 24  # elements of one tensor: cases are meant to be small


def whole(value: object, what: str, least: int = 0, most: int = 1 << 20) -> int:
    """`value`, a whole number from `least` to `most`. `what` names it in the InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{what} is {value!r}, but must be a whole number from {least} to {most}")
    return value


def one_of(value: object, choices: Sequence[str], what: str) -> str:
    """`value`, one of `choices`. `what` names it in the InputError for anything else."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(choices)}"
        raise InputError(f"{what} is {value!r}; {hint}")
    return str(value)


@dataclass(frozen=True)
class Problem:
    """Sizes, dtype and layout of q (B, H, M, D), k (B, Hkv, N, D) and v (B, Hkv, N, Dv).

    `layout` is one of PROBLEM_LAYOUTS, the memory layouts of q, k and v. `scale` None means 1/sqrt(D). `qkv` is one of
    DISTRIBUTIONS, the values of q, k and v. Raises InputError if a field is out of range or two fields do not fit
    together.
    """

    B: int = 1
    H: int = 2
    Hkv: int = 2
    M: int = 160
    N: int = 192
    D: int = 64
    Dv: int = 64
    dtype: str = "bfloat16"
    layout: str = "contiguous"
    scale: float | None = None
    qkv: str = "normal"

    def __post_init__(self) -> None:
        for name in ("B", "M", "N"):
            whole(getattr(self, name), f"{name} of the problem")
        for name in ("H", "Hkv"):
            whole(getattr(self, name), f"{name} of the problem", 1, 4096)
        for name in ("D", "Dv"):
            size = whole(getattr(self, name), f"{name} of the problem", 8, 256)
            if size % 8:
                raise InputError(f"{name} of the problem is {size}, but must be a multiple of 8 from 8 to 256")
        if self.H % self.Hkv:
            raise InputError(
                f"H={self.H} query heads do not divide into Hkv={self.Hkv} key/value heads; H is a multiple"
            )
        one_of(self.dtype, DTYPES, "dtype of the problem")
        one_of(self.layout, PROBLEM_LAYOUTS, "layout of the problem")
        one_of(self.qkv, DISTRIBUTIONS, "qkv of the problem")
        if self.scale is not None and (
            isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not math.isfinite(self.scale)
        ):
            raise InputError(f"scale of the problem is {self.scale!r}, but must be a finite number")
        if self.layout == "packed_qkv" and (self.M != self.N or self.Dv != self.D):
            raise InputError(
                f"layout packed_qkv needs M == N and D == Dv, not M={self.M}, N={self.N}, D={self.D}, Dv={self.Dv}"
            )
        if self.layout == "packed_kv" and self.Dv != self.D:
            raise InputError(f"layout packed_kv needs D == Dv, not D={self.D}, Dv={self.Dv}")
        largest = max(self.B * self.H * max(self.M, 1) * max(self.N, 1), self.B * self.H * max(self.M, self.N) * self.D)
        if largest > 4 * LARGEST:
            raise InputError(f"the problem has {largest:,} score elements; at most {4 * LARGEST:,} are allowed")

    @classmethod
    def parse_shape(cls, text: str, **changes: Any) -> Problem:
        """Parses `B,H,Hkv,M,N,D` or `B,H,Hkv,M,N,D,Dv`. Dv is D by default.

        `changes` are other fields, such as dtype, layout, scale or qkv. Raises InputError.

        >>> problem = Problem.parse_shape("2,4,2,300,200,64", dtype="float16")
        >>> problem.H, problem.Hkv, problem.D, problem.Dv, problem.dtype
        (4, 2, 64, 64, 'float16')
        >>> Problem.parse_shape("2,4,3,300,200,64")
        Traceback (most recent call last):
            ...
        flexconf.errors.InputError: H=4 query heads do not divide into Hkv=3 key/value heads; H is a multiple
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) not in (6, 7) or not all(part.isdecimal() and len(part) <= 8 for part in parts):
            raise InputError(f"shape {text[:60]!r}: write B,H,Hkv,M,N,D or B,H,Hkv,M,N,D,Dv, such as 2,4,2,300,200,64")
        numbers = [int(part) for part in parts]
        if len(numbers) == 6:
            numbers.append(numbers[5])
        return cls(**(dict(zip(SYMBOLS, numbers, strict=True)) | changes))

    def symbols(self) -> dict[str, int]:
        """The sizes by name: B, H, Hkv, M, N, D, Dv."""
        return {name: getattr(self, name) for name in SYMBOLS}

    @property
    def effective_scale(self) -> float:
        """The factor on Q K^T: `scale`, or 1/sqrt(D) if `scale` is None."""
        return 1.0 / math.sqrt(self.D) if self.scale is None else float(self.scale)
