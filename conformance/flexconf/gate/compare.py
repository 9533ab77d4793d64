"""Compare two bundles and decide whether the candidate is fit to ship. docs/release-gate.md has the rules as a table.

If the candidate's bundle cannot be trusted, its failures are listed but decide nothing: the verdict is INCONCLUSIVE.
A wrong result in a trusted candidate fails the gate, whether or not the baseline can be trusted. A result that is only
worse than the baseline (slower, newly flaky) fails it only if the baseline can be trusted. An expired waiver always
fails it.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flexconf.cases import catalogue
from flexconf.gate import components, pace, reasons, rows
from flexconf.gate.bundle import Bundle, Planned
from flexconf.gate.model import Change, Component, Decision, Effect, Pace, Row, Verdict, WaiverUse
from flexconf.gate.rows import Half
from flexconf.gate.waivers import SLOWER, Waiver
from flexconf.golden import folder as goldens
from flexconf.runs.expectations import Expectation

_COMPARED = (Change.IDENTICAL, Change.DRIFT)
_STRICT = ("repeats", "timings", "timed", "time_limit")


def decide(
    baseline: Bundle,
    candidate: Bundle,
    waivers: Sequence[Waiver] = (),
    *,
    slower: float = pace.SLOWER,
    today: datetime.date | None = None,
) -> Decision:
    """Compare `candidate` with `baseline`.

    A case may take up to `slower` times the baseline's time. A waiver has expired if its last day is before `today`
    (default: the current date). Nothing is run and this machine is not inspected: the environments are those that the
    bundles state. Raises InputError unless `slower` is a finite number above 1.
    """
    pace.check(slower)
    comparison = _Comparison(baseline, candidate, slower)
    found = comparison.rows()
    in_force = [w for w in waivers if not w.expired(today or datetime.date.today())]
    in_scope = [w for w in in_force if not w.why_not(candidate.side.environment)]
    excused: dict[str, list[str]] = {w.name: [] for w in waivers}
    found = [_waived(row, in_scope, excused) for row in found]
    by_subject = comparison.paces(found)
    judged = {subject: comparison.unlike(subject) for subject in by_subject}
    late = [s for s, p in by_subject.items() if p.slower and not _all_waived(s, found, in_scope, excused)]
    late = late if not baseline.problems else []
    uses = tuple(_use(w, in_force, in_scope, excused[w.name], found, bool(candidate.problems)) for w in waivers)

    elements = comparison.elements(found)
    untrusted = [
        *reasons.of_problems("candidate", candidate.problems),
        *reasons.of_problems("baseline", baseline.problems),
    ]
    fails = [
        *reasons.failing(found, comparison.parts),
        *(reasons.of_pace(s, by_subject[s], comparison.slow_suspects(s)) for s in late),
    ]
    expired = reasons.of_waivers(uses)
    opens = [*comparison.doubts(found), *reasons.undecided(found)]
    if elements == 0:
        opens.insert(0, "not one element was compared: that says nothing")
    if expired or (fails and not candidate.problems):
        verdict = Verdict.FAIL
    elif untrusted or fails or opens:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.PASS
    grave = [*untrusted, *fails] if candidate.problems else [*fails, *untrusted]
    return Decision(
        verdict=verdict,
        reasons=(
            *grave,
            *expired,
            *opens,
            reasons.summary(found, elements),
            *reasons.skipped(found),
            *reasons.paces(by_subject, judged),
            *comparison.notes(found),
            reasons.changed(comparison.parts),
        ),
        baseline=baseline.side,
        candidate=candidate.side,
        components=comparison.parts,
        rows=tuple(found),
        waivers=uses,
        elements=elements,
        pace=_pace(by_subject, late, found),
    )


@dataclass(frozen=True)
class _Comparison:
    """Two bundles, and the factor of time that a case may take."""

    baseline: Bundle
    candidate: Bundle
    slower: float

    @property
    def parts(self) -> tuple[Component, ...]:
        return components.compare(self.baseline.side.environment, self.candidate.side.environment)

    def asked(self) -> list[tuple[str, str]]:
        """Every (case, subject) of either bundle. Only reference subjects are asked for cases that must be refused."""
        before, after = _plans(self.baseline), _plans(self.candidate)
        sides = (self.baseline, self.candidate)
        names = dict.fromkeys(s for b in sides for s in (*b.subjects, *b.skips))
        return [
            (case, subject)
            for case in dict.fromkeys([*before, *after])
            for subject in names
            if "ok" in {p.expect for p in (before.get(case), after.get(case)) if p} or subject.startswith("reference.")
        ]

    def rows(self) -> list[Row]:
        """One row for each (case, subject) of `asked`, with pace and suspects, before waivers are applied."""
        before, after = _plans(self.baseline), _plans(self.candidate)
        sides = {"baseline": self.baseline, "candidate": self.candidate}
        parts = self.parts
        known: dict[str, tuple[tuple[Expectation, ...], tuple[Expectation, ...]]] = {}
        suite = not any(c.differs for c in parts if c.name in (components.SUITE, components.COMMIT, components.FAULT))
        found = []
        for case, subject in self.asked():
            if subject not in known:
                known[subject] = (rows.in_force(self.baseline, subject), rows.in_force(self.candidate, subject))
            old = rows.half(self.baseline, before.get(case), subject, known[subject][0])
            new = rows.half(self.candidate, after.get(case), subject, known[subject][1])
            row = self._paced(rows.judge(case, subject, old, new, sides, suite), old, new)
            if self.baseline.problems and row.effect is Effect.FAILS and row.change in (*_COMPARED, Change.FLAKY):
                row = replace(row, effect=Effect.OPEN, why=f"{row.why}; the baseline cannot be trusted")
            found.append(self._suspected(row, old, new, parts))
        return found

    def _paced(self, row: Row, old: Half, new: Half) -> Row:
        if row.change not in _COMPARED or row.effect is not Effect.FINE:
            return row
        seen = pace.of(old.launches, new.launches, self.slower)
        if seen is not None and seen.slower and self.unlike(row.subject):
            seen = replace(seen, slower=False)
        if seen is None or not seen.slower:
            return replace(row, pace=seen)
        why = f"{row.why}; {seen.ratio:.2f} times slower ({_time(seen.baseline)} -> {_time(seen.candidate)})"
        return replace(row, pace=seen, effect=Effect.FAILS, why=why)

    def _suspected(self, row: Row, old: Half, new: Half, parts: Sequence[Component]) -> Row:
        if row.effect is Effect.FINE or row.change in (Change.STILL, Change.MISSING, Change.SKIPPED):
            return row
        gpu = self.on_gpu(row.subject)
        if row.change in _COMPARED:
            return replace(row, suspects=components.of_pace(parts, row.subject, gpu=gpu))
        names = components.suspects(
            parts,
            row.subject,
            row.evidence.layer,
            gpu=gpu,
            same_text=row.subject.startswith("reference.") and bool(rows.same(old, new, "kernel")),
            same_ptx=rows.same(old, new, "ptx"),
        )
        why = f"{row.why}{rows.of_code(old, new)}"
        return replace(row, why=why, suspects=names)

    def on_gpu(self, subject: str) -> bool:
        """Whether the candidate runs `subject` on a GPU."""
        return components.on_gpu(subject, self.candidate.side.environment)

    def unlike(self, subject: str) -> str:
        """Why the times of `subject` come from different machines. Returns "" if they do not."""
        watched = ("GPU",) if self.on_gpu(subject) else ("cpu", "cpus")
        differing = [c for c in self.parts if c.name in watched and c.differs]
        return f"the {differing[0].name} is another" if differing else ""

    def paces(self, found: Sequence[Row]) -> dict[str, Pace]:
        """The pace of each subject with timed cases, over all of them."""
        timed: dict[str, list[Pace]] = {}
        for row in found:
            if row.pace is not None:
                timed.setdefault(row.subject, []).append(row.pace)
        result = {}
        for subject, seen in timed.items():
            whole = pace.overall(seen, self.slower, gpu=self.on_gpu(subject))
            assert whole is not None
            result[subject] = replace(whole, slower=False) if self.unlike(subject) else whole
        return result

    def slow_suspects(self, subject: str) -> str:
        """The components that can have made `subject` slower, as the end of a sentence."""
        return components.told(self.parts, components.of_pace(self.parts, subject, gpu=self.on_gpu(subject)))

    def elements(self, found: Sequence[Row]) -> int:
        """How many elements of the candidate were compared, over its right rows that have a baseline."""
        right = (*_COMPARED, Change.FIXED)
        compared = [r.candidate.comparison or {} for r in found if r.change in right and r.candidate is not None]
        return sum(int(c.get("elements", 0)) for c in compared)

    def doubts(self, found: Sequence[Row]) -> list[str]:
        """Sentences on why the verdict stays open that concern a bundle or a subject as a whole, not one row."""
        doubts = []
        for side, bundle in (("baseline", self.baseline), ("candidate", self.candidate)):
            fault = components.planted(bundle.side.environment)
            if fault:
                doubts.append(f"the {side} was recorded with the planted fault {fault}: its results are no results")
            names = [p.case for p in bundle.cases]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                doubts.append(f"the {side}'s list has {twice[0]} twice")
            stray = sorted(bundle.records.keys() - {*self.asked()})
            if stray:
                case, subject = stray[0]
                doubts.append(f"the {side} has {len(stray)} results that nobody asked for, such as {case} on {subject}")
            used = [s for s in self.compared(found) if components.needs_gpu(s)]
            if used and not bundle.side.environment.get("gpus"):
                doubts.append(f"the {side} ran {used[0]} and does not say on which GPU: is nvidia-smi there?")
            if components.uncommitted(bundle.side.environment) and self._differs(components.COMMIT):
                doubts.append(f"the {side} is of a checkout with uncommitted changes, which the other was not")
        doubts += self._asked_otherwise()
        used_parts, idle = components.idle(self.parts, self.compared(found))
        if idle and not used_parts and self.compared(found):
            doubts.append(
                f"nothing that was compared depends on what changed ({_named(idle)}): record subjects that do"
            )
        for subject in dict.fromkeys(row.subject for row in found):
            alone = {
                side: [r.case for r in found if r.subject == subject and self._timed_only(r, side)]
                for side in ("baseline", "candidate")
            }
            doubts += [
                f"{subject}: {len(cases)} cases were timed in the {side} only, such as {cases[0]}: record both with "
                "timings, or both without"
                for side, cases in alone.items()
                if cases
            ]
        return doubts

    def compared(self, found: Sequence[Row]) -> dict[str, bool]:
        """{subject: whether it runs on a GPU}, for each subject with a row that was compared."""
        none = (Change.MISSING, Change.SKIPPED)
        return {row.subject: self.on_gpu(row.subject) for row in found if row.change not in none}

    def notes(self, found: Sequence[Row]) -> list[str]:
        """Sentences on what the verdict does not cover."""
        notes = []
        listed = {case.name for case in goldens.must_pass()}
        left = listed - {row.case for row in found}
        if left:
            notes.append(f"a part of the gate's list: {len(listed) - len(left)} of its {len(listed)} cases")
        noisy = [r for r in found if r.pace and not r.pace.slower and self._late(r.pace) and not self.unlike(r.subject)]
        if noisy:
            worst = max(noisy, key=lambda r: r.pace.ratio if r.pace else 0.0)
            assert worst.pace is not None
            notes.append(
                f"too noisy to judge, and more than {self.slower:g} times the baseline's time: {len(noisy)} rows, "
                f"at most {worst.pace.ratio:.2f} times, {worst.case} on {worst.subject}"
            )
        untimed = [s for s in self.compared(found) if not any(r.pace for r in found if r.subject == s)]
        if untimed:
            notes.append(f"nothing is said of the pace of {', '.join(untimed)}: no launches were timed")
        used, idle = components.idle(self.parts, self.compared(found))
        if used and idle:
            notes.append(f"nothing that was compared depends on {_named(idle)}")
        if self.baseline.side.digest and self.baseline.side.digest == self.candidate.side.digest:
            notes.append("baseline and candidate are one recording: that says nothing of an upgrade")
        return notes

    def _late(self, seen: Pace) -> bool:
        return seen.ratio > self.slower and seen.candidate >= pace.LATENCY

    def _asked_otherwise(self) -> list[str]:
        """A sentence for each recording option that differs and makes one bundle stricter than the other."""
        before, after = self.baseline.options, self.candidate.options
        differing = [n for n in _STRICT if before.get(n) != after.get(n)]
        return [
            f"the bundles were recorded with different options ({n} {before.get(n)} and {after.get(n)}): record both "
            "with the same"
            for n in differing
        ]

    def _differs(self, name: str) -> bool:
        return any(c.differs for c in self.parts if c.name == name)

    def _timed_only(self, row: Row, side: str) -> bool:
        if row.change not in _COMPARED or row.pace is not None:
            return False
        before, after = (
            pace.usable([s for o in b.records[row.case, row.subject].attempts if o.ok for s in o.launches])
            for b in (self.baseline, self.candidate)
        )
        return before and not after if side == "baseline" else after and not before


def _plans(bundle: Bundle) -> Mapping[str, Planned]:
    return {planned.case: planned for planned in bundle.cases}


def _named(parts: Sequence[Component]) -> str:
    return ", ".join(f"{c.name} {c.before or 'none'} -> {c.after or 'none'}" for c in parts)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _waived(row: Row, in_scope: Sequence[Waiver], excused: dict[str, list[str]]) -> Row:
    for waiver in in_scope:
        if waiver.excuses(row):
            excused[waiver.name].append(row.case)
            return replace(row, effect=Effect.FINE, waiver=waiver.reason)
    return row


def _all_waived(subject: str, found: Sequence[Row], in_scope: Sequence[Waiver], excused: dict[str, list[str]]) -> bool:
    """Whether one waiver excuses slowness of every timed case of `subject`, and so of the subject as a whole."""
    timed = [row.case for row in found if row.subject == subject and row.pace is not None]
    for waiver in in_scope:
        if SLOWER in waiver.changes and all(waiver.names(case, subject) for case in timed):
            excused[waiver.name] += timed
            return True
    return False


def _use(
    waiver: Waiver,
    in_force: Sequence[Waiver],
    in_scope: Sequence[Waiver],
    cases: Sequence[str],
    found: Sequence[Row],
    untrusted: bool,
) -> WaiverUse:
    if waiver not in in_force:
        state = "expired"  # even if it is not in scope: its last day is a commitment
    elif cases:
        state = "used"
    elif waiver not in in_scope or untrusted or _silent(waiver, found):
        state = "not in scope"
    else:
        state = "stale"
    return WaiverUse(
        waiver.name, waiver.reason, waiver.link, waiver.expires.isoformat(), state, tuple(dict.fromkeys(cases))
    )


def _silent(waiver: Waiver, found: Sequence[Row]) -> bool:
    """Whether `found` cannot show that `waiver`, which excuses no row of it, is stale."""
    mine = [row for row in found if waiver.names(row.case, row.subject)]
    if not mine:
        subjects = {row.subject for row in found}
        asked = any(fnmatch.filter(subjects, pattern) for pattern in waiver.subjects)
        if not asked:
            return True
        # The bundles may hold only a part of the catalogue, so a waiver for another part of it is not stale. A waiver
        # for cases that the catalogue does not have is a mistake.
        elsewhere = [case.name for case in catalogue.load()]
        return any(fnmatch.filter(elsewhere, pattern) for pattern in waiver.cases)
    unsettled = any(row.change in (Change.MISSING, Change.SKIPPED) for row in mine)
    untimed = waiver.changes == (SLOWER,) and all(row.pace is None for row in mine)
    # A flaky case may pass in these bundles.
    return unsettled or untimed or Change.FLAKY in waiver.changes


def _pace(by_subject: Mapping[str, Pace], late: Sequence[str], found: Sequence[Row]) -> Pace | None:
    """The pace over all timed rows; `slower` if a row or a subject fails for its time. None if no row was timed."""
    whole = pace.overall([row.pace for row in found if row.pace is not None])
    failing = any(r.pace is not None and r.pace.slower and r.effect is Effect.FAILS for r in found)
    return None if whole is None else replace(whole, slower=bool(late) or failing)
