"""The summary lines at the end of a test session: the comparisons that it made on GPUs."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def lines(figures: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each subject: cases, elements, worst and median ratio, Triton's opinions, worker seconds.

    A figure is about one case on one subject: {"subject", "passed", "known", "unexpected", "elements", "ratio",
    "opinion", "between", "seconds"}. "unexpected" is the name of the case if a known defect did not show, else None.
    "seconds" are by stage. If the case was not run, the figure is {"subject", "absent"}; "absent" is the reason.
    """
    by_subject: dict[str, list[Mapping[str, Any]]] = {}
    for figure in figures:
        by_subject.setdefault(str(figure["subject"]), []).append(figure)
    return [f"{subject}: {_line(of)}" for subject, of in sorted(by_subject.items())]


def _line(given: list[Mapping[str, Any]]) -> str:
    absent = Counter(str(f["absent"]) for f in given if "absent" in f)
    of = [f for f in given if "absent" not in f]
    missed = [f"not run {n} times: {why}" for why, n in sorted(absent.items())]
    if not of:
        return ", ".join(missed)
    known = sum(bool(f["known"]) for f in of)
    parts = [f"{len(of)} cases, {sum(bool(f['passed']) for f in of)} passed"]
    if known:
        parts[0] += f" ({known} of them known defects)"
    sound = [f for f in of if not f["known"] and f["elements"]]
    ratios = [float(f["ratio"]) for f in sound]
    parts.append(f"{sum(int(f['elements']) for f in sound):,} elements")
    if ratios:
        worst = math.nan if any(math.isnan(r) for r in ratios) else max(ratios)
        parts.append(f"worst ratio {worst:.3f}, median {statistics.median(ratios):.3f}")
    opinions = Counter(str(f["opinion"]) for f in of if f["opinion"] is not None)
    if opinions:
        between = sum(int(f["between"]) for f in of if f["opinion"] == "agrees")
        counted = ", ".join(f"{verdict} {n}" for verdict, n in sorted(opinions.items()))
        parts.append(f"Triton's opinion: {counted}; {between:,} elements compared with it")
    parts += _seconds(of)
    unexpected = sorted(str(f["unexpected"]) for f in of if f.get("unexpected"))
    if unexpected:
        parts.append(f"known defects that did not show: {', '.join(unexpected)}")
    return ", ".join([*parts, *missed])


def _seconds(of: list[Mapping[str, Any]]) -> list[str]:
    """The total time of the cases in their workers, and the three stages that took most of it. [] if none is known."""
    stages: Counter[str] = Counter()
    for figure in of:
        stages.update({str(stage): float(s) for stage, s in figure.get("seconds", {}).items()})
    if not stages:
        return []
    largest = ", ".join(f"{stage} {seconds:,.0f}" for stage, seconds in stages.most_common(3))
    return [f"{sum(stages.values()):,.0f} worker seconds ({largest})"]
