"""The differences between the three ways that are allowed, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flexconf.checks.three_ways.forms import Form

LOWERING_TAKES: Final = "lowering takes it"
LOWERING_REFUSES: Final = "lowering refuses"


@dataclass(frozen=True)
class Reason:
    """An allowed disagreement.

    `who` is the kind of disagreement, in the words of `check`. It is allowed for the forms of `operations` whose text
    matches the pattern `text`. `why` is the reason.
    """

    key: str
    who: str
    operations: tuple[str, ...]
    text: str
    why: str

    def covers(self, form: Form) -> bool:
        """Whether the reason applies to this form."""
        return form.operation in self.operations and re.search(self.text, form.text) is not None


REASONS: Final[tuple[Reason, ...]] = (
    Reason(
        "erfc of float64",
        LOWERING_REFUSES,
        ("torch.erfc",),
        "float64",
        "CuTe has no erfc, and the prelude's has the accuracy of float32; the refusal says to cast",
    ),
    Reason(
        "shift with a bool",
        LOWERING_REFUSES,
        ("x << y", "x >> y"),
        r"^[xz]_bool|^(x_|z_|kv).* (<<|>>) [yz]_bool",
        "PyTorch's own meta kernel of << and >> takes no bool, where its CPU kernel does (torch 2.13)",
    ),
    Reason(
        "uint8 as a condition",
        LOWERING_REFUSES,
        ("torch.where",),
        r"where\(x_uint8",
        "PyTorch's own meta kernel of where takes none, where its CPU kernel warns that it is deprecated (torch 2.13)",
    ),
    Reason(
        "xlogy with a number beyond float32",
        LOWERING_REFUSES,
        ("torch.xlogy",),
        r"1e\+39",
        "PyTorch's own decomposition fills a float32 tensor with the number and raises, where its CPU kernel takes it",
    ),
    Reason(
        "a bool to the power True",
        "dtypes",
        ("torch.pow", "x ** y"),
        r"_bool\S*(, | \*\* )True",
        "PyTorch's own meta kernel says int64, its CPU kernel bool (torch 2.13); as a score both are the same number",
    ),
    Reason(
        "halves on a CPU: two roundings of rsqrt",
        "eager outside",
        ("torch.rsqrt", "torch.pow", "x ** y"),
        r"rsqrt\(.*float16|float16\S*(, | \*\* )\(-0\.5\)",
        "PyTorch's CPU kernel rounds the root to the half, then its reciprocal once more",
    ),
    Reason(
        "halves on a CPU: erf of a subnormal",
        "eager outside",
        ("torch.erf",),
        "float16",
        "PyTorch's CPU kernel gives 0 for the smallest numbers of float16 and bfloat16",
    ),
)
