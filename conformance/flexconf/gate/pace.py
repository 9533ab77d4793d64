"""Is the candidate slower? Of one case, and of a whole subject. A false alarm costs more trust than a few per cent.

A case is slower when its median is more than `slower` times the baseline's, its fastest launch is slower than the
baseline's slowest, and the difference is several times the noise. The noise is the range of the samples over their
median; of five samples or more the slowest is not looked at, since interruptions only ever make a launch slower. With
few samples a range says little, so more of it is asked (`_TIMES`): with seven samples that scatter by 10 %, none of
400 000 draws raises a false alarm, and of cases that take twice the time 99.6 % are found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from flexconf.errors import InputError
from flexconf.gate.model import Pace

SLOWER = 1.25
SAMPLES = 3
"""With fewer samples there is no pace."""

LATENCY = 10e-6
"""Seconds. A shorter launch counts as one of this length: a twentieth of it is what CUDA's events can tell apart."""

_TIMES = ((7, 2.0), (5, 3.0), (0, 5.0))
"""(samples, how many times the noise a difference must be)."""

_CASES = 8
"""A subject with fewer timed cases has no pace of its own."""

_SHARE = 0.4
"""A subject's mean over many cases scatters less, so that less is allowed: 1.10 where a case may take 1.25."""


def check(slower: float) -> float:
    """`slower` itself. Raises InputError for what is no factor above 1."""
    if not math.isfinite(slower) or slower <= 1:
        raise InputError(
            f"slower is {slower:g}, but must be a factor above 1, such as {SLOWER}: 1.25 allows 25 % more time"
        )
    return slower


def usable(launches: Sequence[float]) -> bool:
    """Whether these seconds are enough, and seconds, for a pace."""
    return len(launches) >= SAMPLES and all(math.isfinite(s) and s > 0 for s in launches)


def of(baseline: Sequence[float], candidate: Sequence[float], slower: float = SLOWER) -> Pace | None:
    """The pace of seconds of launches; None for fewer than `SAMPLES` on a side, or seconds that are none."""
    if not (usable(baseline) and usable(candidate)):
        return None
    few = min(len(baseline), len(candidate))
    before, after = statistics.median(baseline), statistics.median(candidate)
    noise = max(_noise(baseline), _noise(candidate))
    counted = _counted(before, after)
    times = next(k for n, k in _TIMES if few >= n)
    late = counted > slower and min(candidate) > _calm(baseline)[-1] and counted - 1 > times * noise
    return Pace(before, after, after / before, noise, few, late)


def _calm(samples: Sequence[float]) -> list[float]:
    ordered = sorted(samples)
    return ordered[:-1] if len(ordered) >= 5 else ordered


def _noise(samples: Sequence[float]) -> float:
    calm = _calm(samples)
    return (calm[-1] - calm[0]) / statistics.median(samples)


def _counted(before: float, after: float) -> float:
    return max(after, LATENCY) / max(before, LATENCY)


def overall(paces: Sequence[Pace], slower: float = SLOWER, *, gpu: bool = True) -> Pace | None:
    """The pace of many cases, as geometric means; None without any.

    `samples` are the cases, `noise` three standard errors of the mean ratio. Slower when the ratio less its noise, and
    the median case too, are beyond what is allowed. On a CPU, which others use as well, a subject is allowed what a
    case is.
    """
    if not paces:
        return None
    ratios = [math.log(p.ratio) for p in paces]
    mean = statistics.fmean(ratios)
    error = 3 * statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.log1p(paces[0].noise)
    judged = [math.log(_counted(p.baseline, p.candidate)) for p in paces if max(p.baseline, p.candidate) >= LATENCY]
    late = False
    if len(judged) >= _CASES:
        allowed = math.log(1 + (slower - 1) * (_SHARE if gpu else 1))
        spread = 3 * statistics.stdev(judged) / math.sqrt(len(judged))
        late = statistics.fmean(judged) - spread > allowed and statistics.median(judged) > allowed
    return Pace(
        baseline=math.exp(statistics.fmean(math.log(p.baseline) for p in paces)),
        candidate=math.exp(statistics.fmean(math.log(p.candidate) for p in paces)),
        ratio=math.exp(mean),
        noise=math.expm1(error),
        samples=len(paces),
        slower=late,
    )
