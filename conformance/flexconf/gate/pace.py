"""Decide whether the candidate is slower, for one case and for a whole subject.

The rules avoid false alarms: a false alarm costs more trust than a missed slowdown of a few per cent.

A case is slower if all of these hold: its median is more than `slower` times the baseline's; its fastest launch is
slower than the baseline's slowest; the difference is several times the noise. The noise is the range of the samples
divided by their median. With five samples or more the slowest is left out, since interruptions only make a launch
slower. With few samples the range is a poor estimate, so the difference must be a larger multiple of it (`_TIMES`).
With seven samples that scatter by 10 %, none of 400 000 draws raises a false alarm, and 99.6 % of the cases that take
twice the time are found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from flexconf.errors import InputError
from flexconf.gate.model import Pace

SLOWER = 1.25
SAMPLES = 3
"""A case with fewer samples has no pace."""

LATENCY = 10e-6
"""Seconds. A shorter time counts as this. The resolution of CUDA events is a twentieth of it."""

_TIMES = ((7, 2.0), (5, 3.0), (0, 5.0))
"""(at least so many samples, how many times the noise the difference must be)."""

_CASES = 8
"""A subject with fewer timed cases is never slower as a whole."""

_SHARE = 0.4
"""A mean over many cases scatters less, so a subject is allowed less: 1.10 times where a case is allowed 1.25."""


def check(slower: float) -> float:
    """Returns `slower`. Raises InputError unless it is a finite number above 1."""
    if not math.isfinite(slower) or slower <= 1:
        raise InputError(
            f"slower is {slower:g}, but must be a factor above 1, such as {SLOWER}: 1.25 allows 25 % more time"
        )
    return slower


def usable(launches: Sequence[float]) -> bool:
    """Whether there are at least `SAMPLES` times, all of them finite and positive."""
    return len(launches) >= SAMPLES and all(math.isfinite(s) and s > 0 for s in launches)


def of(baseline: Sequence[float], candidate: Sequence[float], slower: float = SLOWER) -> Pace | None:
    """The pace of one case from the seconds of its launches. Returns None if one side's times are not `usable`."""
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
    """The pace of many cases: geometric means over them. Returns None if there are no cases.

    `samples` is the number of cases, `noise` three standard errors of the mean ratio. `slower` says that the mean ratio
    less its noise, and the median ratio, both exceed the allowed factor. Cases shorter than `LATENCY` on both sides are
    left out of that judgement. On a CPU, which other processes use too, a subject is allowed as much as a case.
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
