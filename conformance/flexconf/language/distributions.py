"""Values of tensors, bitwise equal on every platform and library version.

All values are computed from raw Philox words with integer operations and the correctly rounded IEEE operations
(`+ - * /` and `sqrt`) in float64. Library distributions and transcendental functions are not used: their results
differ between versions and machines.

A case names its values by these words. `lo` is inclusive, `hi` is exclusive. Arguments may use the symbols of the
problem.

====================== =====================================================================================
`normal`, `normal(s)`  near-normal with mean 0 and deviation 1 (or s), within 3.47 deviations
`uniform(a, b)`        uniform in [a, b)
`integers(lo, hi)`     uniform integers
`bool(p)`              true with probability p
`bits`                 random bits over the whole dtype (integers and bool only)
`constant(c)`          c everywhere; c may be inf, -inf or nan
`arange(a, step)`      a + i * step along the last dimension (default 0, 1)
`linspace(a, b)`       from a to b, both included, along the last dimension
`steps(k)`             i // k along the last dimension: ids of runs of length k
`documents(n)`         ids 0..n-1 of n runs of random length along the last dimension, in increasing order
`permutation`          a random order of 0..size-1 along the last dimension
`sprinkle(c, p)`       normal, but each element is c (such as -inf) with probability p
`list(x, y, ...)`      exactly these numbers, in row-major order
`alibi_slopes`         the ALiBi slope of each head along the last dimension (Press et al. 2022)
`ancestors(k)`         over the last two dimensions (i, j): whether j is node i or an ancestor of it in a k-ary heap
`distance`             over the last two dimensions (i, j): |i - j|
====================== =====================================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexconf.errors import InputError
from flexconf.language.arithmetic import evaluate, split_arguments

__all__ = ["INTEGER_BITS", "KINDS", "check", "draw", "words"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

INTEGER_BITS: Mapping[str, int] = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint8": 8}


def words(seed: int, name: str, count: int) -> npt.NDArray[np.uint64]:
    """The first `count` 64-bit words of the Philox stream with the key (seed, name).

    >>> words(0, "q", 2).tolist() == words(0, "q", 3).tolist()[:2]
    True
    >>> words(0, "q", 2).tolist() == words(0, "k", 2).tolist()
    False
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    raw: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return raw


def draw(spec: str, shape: Shape, seed: int, name: str, symbols: Mapping[str, int], dtype: str) -> Array:
    """Draws the values of `spec`: a float64, int64 or bool array of `shape`, not yet rounded to `dtype`.

    `seed` and `name` (of the tensor) choose the random words. Raises InputError for an unknown kind, a wrong number of
    arguments, or values that do not suit the shape or `dtype`.

    >>> draw("steps(3)", (8,), seed=0, name="capture:doc", symbols={}, dtype="int32").tolist()
    [0, 0, 0, 1, 1, 1, 2, 2]
    >>> draw("integers(0, N)", (2, 3), seed=0, name="capture:index", symbols={"N": 100}, dtype="int64").tolist()
    [[24, 24, 0], [29, 63, 99]]
    >>> draw("ancestors(2)", (3, 3), seed=0, name="capture:tree", symbols={}, dtype="bool").astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    kind, arguments = _parse(spec, symbols)
    function, least, most = KINDS[kind]
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise InputError(f"values {spec!r}: {kind} takes {wanted} arguments, not {len(arguments)}")
    count = math.prod(shape)
    return function(_Request(spec, shape, words(seed, name, count), tuple(arguments), dtype))


def check(spec: str, symbols: Mapping[str, int]) -> None:
    """Raises InputError if `spec` has an unknown kind or a wrong number of arguments."""
    kind, arguments = _parse(spec, symbols)
    _, least, most = KINDS[kind]
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise InputError(f"values {spec!r}: {kind} takes {wanted} arguments, not {len(arguments)}")


def _parse(spec: str, symbols: Mapping[str, int]) -> tuple[str, list[int | float]]:
    head, bracket, rest = spec.strip().partition("(")
    kind = head.strip()
    if kind not in KINDS or (bracket and not rest.endswith(")")):
        raise InputError(f"values {spec!r}: unknown; the vocabulary is {', '.join(KINDS)}")
    if not bracket or not rest[:-1].strip():
        return kind, []
    return kind, [evaluate(part, symbols, f"values {spec!r}") for part in split_arguments(rest[:-1])]


class _Request:
    """One draw: its text, the shape, one raw word per element, the arguments, and the target dtype."""

    def __init__(
        self,
        spec: str,
        shape: Shape,
        raw: npt.NDArray[np.uint64],
        arguments: tuple[int | float, ...],
        dtype: str,
    ) -> None:
        self.spec = spec
        self.shape = shape
        self.raw = raw.reshape(shape)
        self.arguments = arguments
        self.dtype = dtype

    def argument(self, position: int, default: int | float) -> int | float:
        return self.arguments[position] if position < len(self.arguments) else default

    def along_last(self) -> npt.NDArray[np.int64]:
        """The index along the last dimension, broadcast over the shape."""
        if not self.shape:
            return np.zeros((), dtype=np.int64)
        return np.broadcast_to(np.arange(self.shape[-1], dtype=np.int64), self.shape)

    def last_two(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The indices along the last two dimensions, broadcast over the shape. Raises InputError if the rank is < 2."""
        if len(self.shape) < 2:
            raise InputError(f"values {self.spec!r} need at least two dimensions")
        rows = np.arange(self.shape[-2], dtype=np.int64)[:, None]
        columns = np.arange(self.shape[-1], dtype=np.int64)[None, :]
        return np.broadcast_to(rows, self.shape), np.broadcast_to(columns, self.shape)


def _unit(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1): the upper 53 bits of each word, without rounding."""
    unit: npt.NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


def _normal(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The sum of the four 16-bit parts of each word, centred and scaled to deviation 1.

    The sum is an exact integer. The scaling is one rounded product.
    """
    part = np.uint64(0xFFFF)
    total = np.zeros(raw.shape, dtype=np.int64)
    for shift in (0, 16, 32, 48):
        total += ((raw >> np.uint64(shift)) & part).astype(np.int64)
    centred = (2 * total - 4 * 0xFFFF).astype(np.float64) * 2.0**-17  # sum of four uniforms in [0, 1), minus its mean
    scaled: npt.NDArray[np.float64] = centred * math.sqrt(3.0)
    return scaled


def _below(raw: npt.NDArray[np.uint64], span: int) -> npt.NDArray[np.int64]:
    """Integers in [0, span): multiply-shift of the upper 32 bits, or the remainder if span is above 2^31."""
    if span <= 2**31:
        return (((raw >> np.uint64(32)) * np.uint64(span)) >> np.uint64(32)).astype(np.int64)
    return (raw % np.uint64(span)).astype(np.int64)


def _draw_normal(request: _Request) -> Array:
    return _normal(request.raw) * float(request.argument(0, 1.0))


def _draw_uniform(request: _Request) -> Array:
    low, high = (float(bound) for bound in request.arguments)
    return low + (high - low) * _unit(request.raw)


def _draw_integers(request: _Request) -> Array:
    low, high = request.arguments
    if not (isinstance(low, int) and isinstance(high, int)) or not -(2**63) <= low < high <= 2**63:
        if request.raw.size == 0:
            return np.zeros(request.shape, dtype=np.int64)
        raise InputError(f"values {request.spec!r}: the bounds must be integers with lo < hi, here {low}, {high}")
    return low + _below(request.raw, high - low)


def _draw_bool(request: _Request) -> Array:
    return _unit(request.raw) < float(request.arguments[0])


def _draw_bits(request: _Request) -> Array:
    if request.dtype == "bool":
        return (request.raw & np.uint64(1)).astype(np.bool_)
    width = INTEGER_BITS.get(request.dtype)
    if width is None:
        raise InputError(f"values {request.spec!r} suit integers and bool, not {request.dtype}")
    unsigned = request.raw >> np.uint64(64 - width)
    if request.dtype == "uint8":
        return unsigned.astype(np.int64)
    signed: Array = (unsigned << np.uint64(64 - width)).view(np.int64) >> np.int64(64 - width)
    return signed


def _draw_constant(request: _Request) -> Array:
    return np.full(request.shape, request.arguments[0])


def _draw_arange(request: _Request) -> Array:
    start, step = request.argument(0, 0), request.argument(1, 1)
    return start + request.along_last() * step


def _draw_linspace(request: _Request) -> Array:
    first, last = (float(bound) for bound in request.arguments)
    intervals = max(request.shape[-1] - 1, 1) if request.shape else 1
    return first + (last - first) * request.along_last().astype(np.float64) / float(intervals)


def _draw_steps(request: _Request) -> Array:
    return request.along_last() // max(int(request.arguments[0]), 1)


def _draw_documents(request: _Request) -> Array:
    """Cuts each row at n - 1 different random places. A row of fewer than n elements is cut between all of them."""
    count = int(request.arguments[0])
    ids = np.zeros(request.shape, dtype=np.int64)
    if not request.shape or ids.size == 0:
        return ids
    rows, raw = ids.reshape(-1, request.shape[-1]), request.raw.reshape(-1, request.shape[-1])
    for row, row_words in zip(rows, raw, strict=True):
        places = np.sort(np.argsort(row_words[1:], kind="stable")[: max(count - 1, 0)]) + 1
        row[places] = 1
        row[:] = np.cumsum(row)
    return ids


def _draw_permutation(request: _Request) -> Array:
    if not request.shape:
        return np.zeros((), dtype=np.int64)
    return np.argsort(request.raw, axis=-1, kind="stable").astype(np.int64)


def _draw_sprinkle(request: _Request) -> Array:
    value, part = request.arguments
    # `_normal` uses every bit of the word. So that choice and value are unrelated, the choice uses other bits: the top
    # bits of the word times an odd constant.
    choice = _unit(request.raw * np.uint64(0x9E3779B97F4A7C15))
    return np.where(choice < float(part), float(value), _normal(request.raw))


def _draw_list(request: _Request) -> Array:
    count = math.prod(request.shape)
    if len(request.arguments) != count:
        raise InputError(f"values {request.spec!r}: {count} numbers are needed, {len(request.arguments)} given")
    return np.array(request.arguments).reshape(request.shape)


def _draw_alibi_slopes(request: _Request) -> Array:
    if not request.shape:
        return np.array(_slopes(1)[0])
    return np.broadcast_to(np.array(_slopes(request.shape[-1]), dtype=np.float64), request.shape)


def _slopes(heads: int) -> Sequence[float]:
    """The ALiBi slopes of `heads` heads.

    Let n be the largest power of two up to `heads`. The first n slopes are 2^(-8 i / n), i = 1..n. The others are the
    1st, 3rd, 5th, ... slope of 2n heads.

    >>> _slopes(6)
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    power = 1
    while power * 2 <= heads:
        power *= 2
    slopes = [_eighth_power(i, power) for i in range(1, power + 1)]
    extra = [_eighth_power(i, 2 * power) for i in range(1, 2 * power + 1, 2)]
    return [*slopes, *extra][:heads]


def _eighth_power(i: int, n: int) -> float:
    """2^(-8 i / n) for a power of two n, by square roots and products only."""
    whole, rest = divmod(8 * i, n)
    value, root, bit = 2.0**-whole, 0.5, n
    while rest and bit > 1:
        root, bit = math.sqrt(root), bit // 2
        if rest >= bit:
            value, rest = value * root, rest - bit
    return value


def _draw_ancestors(request: _Request) -> Array:
    arity = int(request.arguments[0])
    node, candidate = request.last_two()
    found = np.zeros(request.shape, dtype=np.bool_)
    walk = node.copy()
    while walk.size:
        found |= walk == candidate
        if not walk.any():
            break
        walk = np.where(walk > 0, (walk - 1) // arity, 0)
    return found


def _draw_distance(request: _Request) -> Array:
    row, column = request.last_two()
    apart: Array = np.abs(row - column)
    return apart


KINDS: Mapping[str, tuple[Callable[[_Request], Array], int, int]] = {
    "normal": (_draw_normal, 0, 1),
    "uniform": (_draw_uniform, 2, 2),
    "integers": (_draw_integers, 2, 2),
    "bool": (_draw_bool, 1, 1),
    "bits": (_draw_bits, 0, 0),
    "constant": (_draw_constant, 1, 1),
    "arange": (_draw_arange, 0, 2),
    "linspace": (_draw_linspace, 2, 2),
    "steps": (_draw_steps, 1, 1),
    "documents": (_draw_documents, 1, 1),
    "permutation": (_draw_permutation, 0, 0),
    "sprinkle": (_draw_sprinkle, 2, 2),
    "list": (_draw_list, 0, 1024),
    "alibi_slopes": (_draw_alibi_slopes, 0, 0),
    "ancestors": (_draw_ancestors, 1, 1),
    "distance": (_draw_distance, 0, 0),
}
