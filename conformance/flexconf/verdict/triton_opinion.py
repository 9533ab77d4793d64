"""A second oracle: what Triton flex attention returned for the same case.

It is no authority, it is a witness. Where it is itself within the certified bounds, a subject is compared with it
element by element; where it is not, it says so, and where it agrees with a failing subject against math64, it is
math64 or the case that deserves a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from flexconf.oracles.math64 import Certified
from flexconf.verdict import compare
from flexconf.verdict.compare import Comparison

TILE = (64, 32)
"""Queries and keys of a tile of the witness. torch's own, 128 by 128, is for speed: a thread then has 128 scores, all
unrolled, which takes seconds to compile, and with a few captures more shared memory than there is: no opinion."""


@dataclass(frozen=True)
class Opinion:
    """What the witness says of a subject's result.

    verdict: "agrees" (both within the certified bounds, and of each other), "differs" (the witness is within its
    bounds, the subject is not near it), "sides" (the witness is outside the bounds, and near the subject: suspect the
    oracle) or "none" (the witness is outside its bounds, or gave nothing). comparison: subject against witness, or
    None.
    """

    verdict: str
    sentence: str
    comparison: Comparison | None = None


def opinion(subject: Mapping[str, Tensor], witness: Mapping[str, Tensor], certified: Certified) -> Opinion:
    """Hold `subject` against `witness`, each {"out": (B, H, M, Dv), "lse": (B, H, M)}.

    The distance allowed is twice the certified bound: either may lie at its end. Elements without a finite bound are
    not compared.
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
