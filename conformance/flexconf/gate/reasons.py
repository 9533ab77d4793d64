"""The reasons of a verdict as sentences, the gravest first. Rows with the same reason share one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flexconf.gate import components
from flexconf.gate.model import Change, Component, Effect, Pace, Row, WaiverUse
from flexconf.gate.waivers import SLOWER, shown

_NAMED = 6
_GRAVITY = (
    Change.WRONG, Change.ACCEPTED, Change.CRASHED, Change.REFUSED, Change.FLAKY, Change.KNOWN, SLOWER, Change.STILL,
    Change.MISSING, Change.SKIPPED,
)  # fmt: skip
_FAILS = {
    Change.WRONG: "newly out of bound",
    Change.ACCEPTED: "newly accepted that must be refused",
    Change.CRASHED: "newly crashing",
    Change.REFUSED: "newly refused",
    Change.FLAKY: "newly flaky",
    Change.KNOWN: "failing as a known defect of these versions does, and right or refused before (a waiver helps)",
    SLOWER: "slower",
    Change.STILL: "failing as in the baseline, unexplained; not this upgrade's doing, and a waiver lets it pass",
}
_OPEN = {
    Change.FLAKY: "flaky",
    Change.MISSING: "without a result to compare",
    Change.SKIPPED: "skipped in one bundle, or for different reasons",
    Change.KNOWN: "failing as a known defect says, without a baseline",
    SLOWER: "slower than an untrusted baseline",
}
_SUMMED = {
    Change.IDENTICAL: "identical",
    Change.DRIFT: "drifted",
    Change.FIXED: "fixed",
    Change.KNOWN: "known to fail",
    Change.WRONG: "out of bound",
    Change.REFUSED: "newly refused",
    Change.CRASHED: "crashed",
    Change.STILL: "still failing",
    Change.FLAKY: "flaky",
    Change.ACCEPTED: "wrongly accepted",
    Change.MISSING: "missing",
    Change.SKIPPED: "skipped",
}


def failing(rows: Iterable[Row], parts: Sequence[Component]) -> list[str]:
    """Sentences on the rows that fail, one for each group of rows with the same change, subject and suspects."""
    found = []
    for (kind, subject, why), group in _grouped(rows, Effect.FAILS):
        suspects = "" if kind == Change.STILL else f"; {components.told(parts, why)}"
        words = _FAILS.get(kind, kind)
        known = any(row.baseline for row in group)
        words = words if known else words.replace("newly ", "")
        where = subject if known else f"{subject}, without a baseline"
        times = (
            f" (up to {max(r.pace.ratio for r in group if r.pace):.2f} times the baseline)" if kind == SLOWER else ""
        )
        found.append(f"{_cases(len(group))} {words} on {where}{times}: {_names(r.case for r in group)}{suspects}")
    return found


def undecided(rows: Iterable[Row]) -> list[str]:
    """Sentences on the rows that leave the verdict open."""
    found = []
    for (kind, subject, _), group in _grouped(rows, Effect.OPEN):
        words = f"{_cases(len(group))} {_OPEN.get(kind, kind)} on {subject}"
        found.append(f"{words}: {_names(r.case for r in group)} ({group[0].why})")
    return found


def of_waivers(uses: Iterable[WaiverUse]) -> list[str]:
    """A sentence for each expired or stale waiver. Both fail the gate."""
    said = {
        "expired": "the waiver {0.name!r} expired on {0.expires} ({0.reason}): fix what it excuses, or renew it",
        "stale": "the waiver {0.name!r} excuses nothing any more ({0.reason}): take it out",
    }
    return [said[use.state].format(use) for use in uses if use.state in said]


def of_problems(side: str, problems: Sequence[str]) -> list[str]:
    """One sentence on why a bundle cannot be trusted. Returns [] if it has no problems."""
    more = [f"and {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
    return [f"the {side}'s bundle cannot be trusted: {'; '.join([*problems[:_NAMED], *more])}"] if problems else []


def of_pace(subject: str, pace: Pace, told: str) -> str:
    """The sentence on a subject that is slower as a whole. `told` names the suspects."""
    return f"{subject} is slower as a whole: {pace.ratio:.2f} times the baseline over {pace.samples} cases; {told}"


def summary(rows: Sequence[Row], elements: int) -> str:
    """How many cases, subjects and elements were compared, and how many rows show each change."""
    compared = [row for row in rows if row.change not in (Change.MISSING, Change.SKIPPED)]
    if not compared:
        return "nothing was compared"
    counts = Counter(row.change for row in rows)
    parts = []
    for change in Change:
        if not counts[change]:
            continue
        text = f"{counts[change]:,} {_SUMMED[change]}"
        if change is Change.DRIFT:
            sizes = [row.drift.max_ulp for row in rows if row.change is change and row.drift is not None]
            text += f" by at most {max(sizes):g} ulp" if sizes else ""
        parts.append(text)
    waived = sum(bool(row.waiver) for row in rows)
    parts += [f"{waived} of them waived"] if waived else []
    subjects = len({row.subject for row in compared})
    return (
        f"{_cases(len({row.case for row in compared}))} on {subjects} subject{'s' * (subjects != 1)}, "
        f"{elements:,} elements: {', '.join(parts)}"
    )


def skipped(rows: Iterable[Row]) -> list[str]:
    """A sentence for each subject that both bundles skipped for the same reason."""
    why = {row.subject: row.why for row in rows if row.change is Change.SKIPPED and row.effect is Effect.FINE}
    return [f"{subject} was {reason}" for subject, reason in why.items()]


def changed(parts: Sequence[Component]) -> str:
    """The components that changed between the environments, as a sentence."""
    differing = [c for c in parts if c.differs]
    if not differing:
        return "the environments are the same, as far as they are recorded"
    return "what changed: " + ", ".join(f"{c.name} {c.before or 'none'} -> {c.after or 'none'}" for c in differing)


def paces(by_subject: Mapping[str, Pace], judged: Mapping[str, str]) -> list[str]:
    """A sentence on the pace of each subject. `judged` says why a subject's pace is not judged, "" if it is judged."""
    return [
        f"pace of {subject}: {pace.ratio:.2f} times the baseline's, over {_cases(pace.samples)}"
        + (f"; not judged, since {judged[subject]}" if judged[subject] else "")
        for subject, pace in by_subject.items()
    ]


def _grouped(rows: Iterable[Row], effect: Effect) -> list[tuple[tuple[str, str, tuple[str, ...]], list[Row]]]:
    groups: dict[tuple[str, str, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        if row.effect is effect:
            # Missing and skipped rows with the same `why` share a sentence; other open rows with the same change do.
            same = row.suspects if effect is Effect.FAILS else (row.why if row.change in _LACKING else "",)
            groups.setdefault((shown(row), row.subject, same), []).append(row)
    return sorted(groups.items(), key=lambda group: _GRAVITY.index(group[0][0]))


_LACKING = (Change.MISSING, Change.SKIPPED)


def _cases(count: int) -> str:
    return f"{count:,} case{'s' * (count != 1)}"


def _names(cases: Iterable[str]) -> str:
    names = [*cases]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
