"""A witness beside the oracle: compares a subject with the result of Triton flex attention for the same case.

The witness decides nothing. If its own result is within the certified bounds, the subject is compared with it element
by element. If not, the opinion says so. If the witness and a failing subject agree with each other against math64,
math64 or the case may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from flexconf.oracles.math64 import Certified
from flexconf.verdict import compare
from flexconf.verdict.compare import Comparison

TILE = (64, 32)
"""Queries and keys per tile of the witness. PyTorch's default, 128 by 128, is chosen for speed: each thread then has
128 unrolled scores. It takes seconds to compile. With a few captures it needs more shared memory than the GPU has, and
then there is no opinion."""


@dataclass(frozen=True)
class Opinion:
    """The opinion of the witness about a subject's result.

    `verdict` is one of:

    - "agrees": the witness is within the certified bounds, and the subject is near it.
    - "differs": the witness is within the certified bounds, and the subject is not near it.
    - "sides": the witness is outside the certified bounds, and the subject is near it. The oracle may be wrong.
    - "none": the witness is outside the certified bounds and the subject is not near it, or the witness gave no output
      and LSE of this shape.

    Near means within two bounds. `comparison` compares the subject with the witness, or is None if that gave nothing.
    """

    verdict: str
    sentence: str
    comparison: Comparison | None = None


def opinion(subject: Mapping[str, Tensor], witness: Mapping[str, Tensor], certified: Certified) -> Opinion:
    """Compares `subject` with `witness`, each {"out": (B, H, M, Dv), "lse": (B, H, M)}.

    They may be two certified bounds apart, since each may be one bound away from the value. Elements without a finite
    bound are not compared.
    """
    if "out" not in witness or "lse" not in witness or witness["out"].shape != certified.out.shape:
        return Opinion("none", "Triton gave no output and LSE of this shape")
    of_witness = compare.compare(witness["out"], witness["lse"], certified)
    between = replace(
        certified,
        out=witness["out"].double(),
        lse=witness["lse"].double(),
        out_bound=2 * certified.out_bound,
        lse_bound=2 * certified.lse_bound,
    )
    found = compare.compare(subject.get("out"), subject.get("lse"), between)
    if of_witness.passed:
        if found.passed:
            return Opinion("agrees", f"agrees with Triton in {found.elements} elements", found)
        return Opinion("differs", f"Triton is within its bounds and differs: {found.reason}", found)
    if found.passed and found.elements:
        return Opinion(
            "sides",
            "Triton and the subject agree with each other against math64: suspect the oracle or the case",
            found,
        )
    return Opinion("none", f"Triton is itself outside its bounds: {of_witness.reason}", found)
