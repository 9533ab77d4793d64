"""A shadow: the exact value of a tensor in the user's mod, and how far an implementation may be from it.

Floats: `v` is float64, and `e` is a float64 bound >= 0 on |implementation - v|; inf means indeterminate (any value is
legal, NaN included). Integers: `v` has the tensor's own dtype, and `e` > 0 only in results of a discontinuity that
could go either way. Booleans: `e` is a boolean tensor, true where either outcome is legal. `e is None` means that all
elements are exact. Most index arithmetic is exact, and needs no computation of errors. `e` broadcasts to `v`, so it may
have fewer elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from flexconf.oracles import error_model as em

Scalar: TypeAlias = bool | int | float
HALVES = (torch.float16, torch.bfloat16)
_CALM = {torch.float64: 1e300, torch.float32: 1e38, torch.bfloat16: 1e38, torch.float16: 6e4}


@dataclass(frozen=True)
class Shadow:
    """Value and error of one tensor; `nominal` is the dtype that PyTorch gives it.

    mixed: some elements may be exact while others are not. wild: some errors may be infinite. real: `v` is the tensor
    that PyTorch computed itself (integers and booleans that depend on no float). number: it stands for a Python number
    in the mod's text.
    """

    v: Tensor
    e: Tensor | None
    nominal: torch.dtype
    mixed: bool = False
    wild: bool = False
    real: bool = False
    number: bool = False

    @property
    def exact(self) -> bool:
        return self.e is None

    def error(self) -> Tensor:
        """`e` as float64, zeros included; an uncertain boolean counts as 1."""
        if self.e is None:
            return torch.zeros((), dtype=torch.float64)
        return self.e.double() if self.e.dtype == torch.bool else self.e


def source(real: Tensor) -> Shadow:
    """The shadow of a tensor that no operation computed: a capture, an index, a constant.

    Its elements are exact, except that a subnormal float32 or bfloat16 may be read as 0.
    """
    if not real.dtype.is_floating_point:
        return Shadow(real, None, real.dtype, real=True)
    v = real.detach().to(torch.float64)
    if real.dtype in (torch.float64, torch.float16):
        return Shadow(v, None, real.dtype)
    size = v.abs()
    flushed = (size < em.FLT_MIN) & (size > 0)
    if bool(flushed.any()):
        return Shadow(v, torch.where(flushed, em.FLT_MIN, 0.0).double(), real.dtype, mixed=True)
    return Shadow(v, None, real.dtype)


def number(value: Scalar, nominal: torch.dtype) -> Tensor:
    """A Python number as a tensor of the integer dtype `nominal`. A number that does not fit wraps around."""
    return torch.tensor(value).to(nominal)


def scalar(value: Scalar, nominal: torch.dtype) -> Shadow:
    """The shadow of a Python number that meets a tensor of dtype `nominal`, rounded to that dtype.

    For float16 and bfloat16 the number is rounded to float32, and may be rounded to the dtype itself.
    """
    if not nominal.is_floating_point:
        return Shadow(number(value, nominal), None, nominal, real=True)
    if nominal == torch.float64:
        return Shadow(torch.tensor(float(value), dtype=torch.float64), None, nominal)
    # PyTorch rounds an integer once, from int64: by way of float64, 2**53 + 2**29 + 1 would become another float32.
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    given = torch.tensor(value, dtype=torch.int64 if whole else torch.float64)
    return as_float(Shadow(given.to(torch.float32).double(), None, torch.float32), nominal)


def represented(value: float, nominal: torch.dtype) -> bool:
    """Whether a Python number keeps its value where it meets a tensor of dtype `nominal`.

    For float16 and bfloat16, it must keep its value in float32.
    """
    return nominal == torch.float64 or float(torch.tensor(value, dtype=torch.float32)) == value


def as_float(x: Shadow, nominal: torch.dtype) -> Shadow:
    """`x` converted to the floating-point dtype `nominal`, with the error of the conversion's rounding."""
    if x.nominal == nominal:
        return x
    v = x.v if x.v.dtype == torch.float64 else x.v.double()
    e = None if x.e is None else x.error()
    widening = x.nominal.is_floating_point and (
        em.SIGNIFICAND_BITS[x.nominal] <= em.SIGNIFICAND_BITS[nominal] and nominal != torch.float16
    )
    if widening or x.nominal in (torch.bool, torch.uint8, torch.int8):
        return Shadow(v, e, nominal, x.mixed, x.wild)
    whole = not x.nominal.is_floating_point  # exact up to 2**bits
    if whole and (v.numel() == 0 or float(v.abs().max()) <= 2.0 ** em.SIGNIFICAND_BITS[nominal]):
        return Shadow(v, e, nominal, x.mixed, x.wild)
    if e is None:
        return exact_result(v, nominal)
    return rounded(v, e, nominal, (x,), ulps=0.5, ieee=True)


def exact_result(v: Tensor, nominal: torch.dtype, *, half_rounds: bool = True) -> Shadow:
    """The shadow of one correctly rounded operation on exact inputs, whose exact result is `v`.

    An element has an error only if rounding or flushing to zero may change it. `half_rounds`: the result may be rounded
    to a `nominal` of float16 or bfloat16.
    """
    if nominal == torch.float64:
        return _float64_result(v)
    single = v.to(torch.float32).double()
    e = (single - v).abs_().nan_to_num_(nan=0.0)  # NaN - NaN and inf - inf: the special value is certain
    size = single.abs()
    e = torch.where(size == math.inf, 0.0, e)
    e = torch.where((size < em.FLT_MIN) & (v != 0), em.FLT_MIN, e)
    v = torch.where((size == math.inf) & v.isfinite(), single, v)
    if nominal in HALVES and half_rounds:
        half = v.to(nominal).double()
        e = e + torch.where(half == v, 0.0, (half - v).abs())
        e = torch.where(v.isfinite(), e, 0.0)  # inf where the half overflows and v does not: either is legal
    wild = bool(e.isinf().any())
    if not bool((e > 0).any()):
        return Shadow(v, None, nominal)
    return Shadow(v, e * em.ORACLE_SLACK, nominal, mixed=True, wild=wild)


def _float64_result(v: Tensor) -> Shadow:
    whole = (v == v.round()) & (v.abs() < 2.0**52)
    if bool((whole | ~v.isfinite()).all()):
        return Shadow(v, None, torch.float64)
    e = torch.where(whole | ~v.isfinite(), 0.0, v.abs() * em.relative(0.5, torch.float64))
    return Shadow(v, e, torch.float64, mixed=True)


def rounded(
    v: Tensor,
    propagated: Tensor | None,
    nominal: torch.dtype,
    inputs: Sequence[Shadow],
    *,
    ulps: float,
    ieee: bool = False,
    extra: Tensor | None = None,
    tiny: float = em.FLT_MIN,
    unsure: Callable[[], Tensor] | None = None,
) -> Shadow:
    """The shadow of an operation's result: `v`, which the errors of the inputs alone move by at most `propagated`.

    Adds the operation's own error: `ulps`, the absolute `extra`, and `tiny` where the result may be small enough to be
    flushed to 0. Settles special values: a certain infinity or NaN has error 0, and a possible overflow is
    indeterminate. `unsure` returns where an infinite or NaN `v` may be another value; by default that is where the
    propagated error is infinite. It is called only if a value is huge, infinite or NaN, or if an input's error may be
    infinite. With `ieee`, an exact and representable element stays exact.
    """
    if propagated is None and extra is None and ieee:
        return exact_result(v, nominal)
    wild_in = any(x.wild for x in inputs)
    mixed = any(x.mixed for x in inputs)
    e = torch.zeros((), dtype=torch.float64) if propagated is None else propagated
    relative = em.relative(ulps, nominal) if ulps or nominal in HALVES else 0.0
    size = v.abs()
    size = size.add_(e) if e.dim() <= size.dim() else size + e
    least, most = (float(t) for t in size.aminmax()) if size.numel() else (1.0, 1.0)  # NaN if an element is NaN
    calm = most < _CALM[nominal]
    total = torch.add(e, size, alpha=relative) if relative else e
    if extra is not None:
        total = total + extra
    if relative and nominal in (torch.float32, torch.bfloat16) and least >= tiny * 2.0**40:
        total = total.add_(tiny)  # negligible beside the rounding, and cheaper than a mask
    elif relative and nominal != torch.float64:
        smallest = tiny
        if nominal == torch.float16:  # 2**-25 is half the spacing of its subnormals, which begin below 2**-14
            tiny, smallest = max(tiny, 2.0**-25), max(tiny, 2.0**-14)
        # |result| >= |v| - total >= size - 2 * total
        total = total.add(size.sub(total, alpha=2) < smallest, alpha=tiny)
    elif relative:  # the float64 functions of the oracle and of PyTorch may be off by a few of the smallest subnormals
        total = total.add(size < 2.0**-1022, alpha=2.0**-1072)
    if mixed and ieee:
        keeps = (e == 0) & (v.to(nominal).double() == v)
        if nominal != torch.float64 and not least >= em.FLT_MIN:  # a subnormal result may be flushed
            keeps = keeps & ((size >= em.FLT_MIN) | (v == 0))
        if extra is not None:
            keeps = keeps & (extra == 0)
        total = torch.where(keeps, 0.0, total)
    if relative and not ieee and (propagated is None or mixed):
        nothing = (v == 0) & (e == 0)  # an error relative to 0 is 0
        total = torch.where(nothing if extra is None else nothing & (extra == 0), 0.0, total)
    if not wild_in and calm:
        return Shadow(v, total, nominal, mixed)
    special = e.isinf() if unsure is None else unsure()
    return _settled(v, total, nominal, inputs, mixed, special)


def _settled(
    v: Tensor,
    e: Tensor,
    nominal: torch.dtype,
    inputs: Sequence[Shadow],
    mixed: bool,
    special: Tensor,
) -> Shadow:
    finite = v.isfinite()
    doubtful = torch.zeros((), dtype=torch.bool)
    for x in inputs:
        if x.wild and x.e is not None:
            doubtful = doubtful | x.e.isinf()
    special = doubtful | special
    e = torch.where(finite, e.nan_to_num(nan=math.inf, posinf=math.inf), torch.where(special, math.inf, 0.0).double())
    e = torch.where(doubtful, math.inf, e)
    if nominal != torch.float64:
        size = v.abs()
        certain = finite & (size - e >= em.FLT_OVERFLOW)
        possible = finite & ~certain & (size + e > em.LARGEST[nominal])
        if nominal == torch.float16:
            possible = possible | certain  # extra precision may keep it finite
        else:
            v = torch.where(certain, torch.copysign(torch.full_like(v, math.inf), v), v)
        e = torch.where(possible, math.inf, torch.where(certain, 0.0, e))
    wild = bool(e.isinf().any())
    return Shadow(v, e, nominal, mixed or bool((e == 0).any()), wild)


def doubt(e: Tensor | None) -> Tensor:
    """A boolean tensor that tells where an error is infinite; a boolean error is returned as it is."""
    return torch.zeros((), dtype=torch.bool) if e is None else (e if e.dtype == torch.bool else e.isinf())
