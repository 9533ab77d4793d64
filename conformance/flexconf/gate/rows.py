"""One row of a decision: how one case on one subject changed between two bundles.

Whether a candidate's result is wrong depends on certified bounds, not on the baseline. The baseline only decides
whether the error is new.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flexconf import subjects
from flexconf.errors import InputError
from flexconf.gate import components, drift
from flexconf.gate.bundle import Bundle, BundleRecord, Planned
from flexconf.gate.model import Change, Effect, Evidence, Row
from flexconf.runs import expectations
from flexconf.runs.expectations import Expectation
from flexconf.verdict.outcome import Outcome, Stage, Symptom, merge

_RESULTS = ("out", "lse", "kernel", "ptx")
_QUOTED = 240


class Grade(enum.IntEnum):
    """The grade of an outcome. A graver failure has a greater number; silently wrong values are the gravest."""

    RIGHT = 0
    FLAKY = 1
    REFUSED = 2
    CRASHED = 3
    ACCEPTED = 4
    WRONG = 5


_CHANGE = {
    Grade.REFUSED: Change.REFUSED,
    Grade.CRASHED: Change.CRASHED,
    Grade.ACCEPTED: Change.ACCEPTED,
    Grade.WRONG: Change.WRONG,
}
_VALUES = (Stage.OUTPUT, Stage.LSE)


@dataclass(frozen=True)
class Half:
    """The result of one case on one subject in one bundle. Without a result `grade` is None and `trouble` says why.

    `skip` is why the bundle skipped the subject, "" if it did not. `known` are the expectations about this case that
    apply in the bundle's environment.
    """

    planned: Planned | None
    record: BundleRecord | None
    outcome: Outcome | None
    grade: Grade | None
    trouble: str
    skip: str
    known: tuple[Expectation, ...] = ()

    @property
    def right(self) -> bool:
        return self.grade is Grade.RIGHT

    @property
    def launches(self) -> tuple[float, ...]:
        """Seconds of each timed launch, over all right attempts."""
        attempts = self.record.attempts if self.record is not None else ()
        return tuple(seconds for outcome in attempts if outcome.ok for seconds in outcome.launches)


def half(bundle: Bundle, planned: Planned | None, subject: str, known: Sequence[Expectation] = ()) -> Half:
    """The result of case `planned` on `subject` in `bundle`. `planned` is None if the bundle's list lacks the case."""
    if planned is None:
        return Half(None, None, None, None, "its list does not have the case", "")
    record = bundle.records.get((planned.case, subject))
    if record is None or not record.attempts:
        skip = bundle.skips.get(subject, "")
        if subject in bundle.skips:
            return Half(planned, None, None, None, f"{subject} was not asked: {skip}", skip or "no reason is given")
        asked = subject in bundle.subjects
        return Half(planned, None, None, None, "there is no result" if asked else f"{subject} was not recorded", "")
    try:
        outcome = merge(record.attempts)
    except InputError as error:
        return Half(planned, record, None, None, f"its attempts do not belong together: {error}", "")
    assert outcome is not None
    if (outcome.case, outcome.case_digest) != (planned.case, planned.digest):
        return Half(planned, record, outcome, None, f"its result is of another version of the case, {outcome.case}", "")
    grade, trouble = graded(planned, outcome)
    mine = tuple(e for e in known if e.claims(planned.case))
    return Half(planned, record, outcome, grade, trouble, "", mine)


def graded(planned: Planned, outcome: Outcome) -> tuple[Grade | None, str]:
    """(its grade, "") if `outcome` is a result, else (None, why it is none)."""
    symptom = outcome.symptom
    if symptom is Symptom.NONDETERMINISTIC:
        seen = [(Stage(s), Symptom(y)) for s, _, y in (o.partition("/") for o in outcome.observed)]
        failing = [(s, y) for s, y in seen if y is not Symptom.MISSING]
        if not failing or any(y in (Symptom.OK, Symptom.NONDETERMINISTIC) for _, y in failing):
            return Grade.FLAKY, ""
        # No repeat is right, so the case is not flaky, even if the repeats fail in different ways. A MISSING repeat
        # gave no result, or too little to judge; it does not excuse the repeats that failed.
        return max(_failure(planned, s, y) for s, y in failing), ""
    if symptom is Symptom.MISSING and outcome.stage not in _VALUES:
        return None, f"there is no result: {quoted(outcome)}"
    if planned.expect == "ok" and outcome.ok:
        return Grade.RIGHT, ""
    if planned.expect == "ok" and outcome.open:
        return None, f"too little was compared: {outcome.open}"
    if planned.expect == f"refused:{outcome.stage}" and symptom is Symptom.REFUSED:
        return Grade.RIGHT, ""
    if planned.expect == "ok" and symptom is Symptom.OK:
        return None, "nothing was compared"
    return _failure(planned, outcome.stage, symptom), ""


def _failure(planned: Planned, stage: Stage, symptom: Symptom) -> Grade:
    if symptom is Symptom.REFUSED:
        return Grade.REFUSED
    # A tensor that is not returned (MISSING) is a wrong result. Any result of a case that must be refused means that
    # the case was accepted, right or wrong.
    if symptom in (Symptom.OK, Symptom.WRONG, Symptom.WRONG_BASE, Symptom.NONFINITE, Symptom.MISSING):
        return Grade.WRONG if planned.expect == "ok" else Grade.ACCEPTED
    return Grade.CRASHED


def quoted(outcome: Outcome) -> str:
    """The stage, symptom and message of an outcome. The message is cut to `_QUOTED` characters."""
    said = " ".join(outcome.message.split())
    said = said if len(said) <= _QUOTED else f"{said[: _QUOTED - 3]}..."
    return f"{outcome.stage}/{outcome.symptom}" + (f": {said}" if said else "")


def in_force(bundle: Bundle, subject: str) -> tuple[Expectation, ...]:
    """The known defects of `subject` that apply in the environment of `bundle`, whatever is installed here.

    Returns () if the subject is unknown, or if a fault was planted: no expectation is about a planted fault.
    """
    environment = bundle.side.environment
    if subject not in subjects.SUBJECTS or components.planted(environment):
        return ()
    packages = components.packages(environment)
    device = subjects.get(subject).capability(None) or components.capability(environment)
    return tuple(e for e in expectations.load(subject) if e.applies(packages, device))


def explained(side: Half) -> Expectation | None:
    """The known defect that covers the outcome of `side`. Returns None if there is none."""
    outcome = side.outcome
    return next((e for e in side.known if outcome is not None and e.covers(outcome)), None)


def judge(case: str, subject: str, before: Half, after: Half, rows: Mapping[str, Bundle], suite: bool) -> Row:
    """The row of `case` on `subject`, without pace, suspects and waiver.

    `rows` maps "baseline" and "candidate" to their bundles. `suite` says whether the same suite recorded both.
    """
    planned = after.planned or before.planned
    assert planned is not None
    row = Row(
        case=case,
        subject=subject,
        group=planned.group,
        change=Change.IDENTICAL,
        effect=Effect.FINE,
        why="",
        baseline=before.outcome,
        candidate=after.outcome,
        evidence=after.record.evidence if after.record is not None else Evidence(),
        about=planned.about,
        clauses=planned.clauses,
    )
    if after.grade is None:
        return _no_result(row, before, after)
    incomparable = _incomparable(before, after)
    if after.right:
        if incomparable:
            return replace(row, change=Change.MISSING, effect=Effect.OPEN, why=f"not comparable: {incomparable}")
        if before.grade is None:
            change = Change.SKIPPED if before.skip else Change.MISSING
            return replace(
                row, change=change, effect=Effect.OPEN, why=f"it has no baseline: there, {before.trouble}; it is right"
            )
        found = _right(row, before, after, rows)
    else:
        found = _failed(row, before, after)
        if incomparable:
            found = replace(found, why=f"{found.why}; besides, {incomparable}")
    if same(before, after, "kernel") is False and subject.startswith("reference."):
        found = replace(
            found, why=f"{found.why}; its rendered text changed" + (", though the suite is the same" if suite else "")
        )
    return found


def same(before: Half, after: Half, what: str) -> bool | None:
    """Whether both have the same `what`: "kernel" (the rendered text) or "ptx". Returns None if one is unknown."""
    old, new = ((h.outcome.digests.get(what) if h.outcome else None) for h in (before, after))
    return old == new if old and new else None


def of_code(before: Half, after: Half) -> str:
    """Whether both ran the same text and PTX, as the end of a sentence. Returns "" if nothing is known."""
    text, code = same(before, after, "kernel"), same(before, after, "ptx")
    if code is None:
        return "; the same text was rendered in both" if text else ""
    if code:
        return "; the same PTX ran in both"
    return "; the same text was compiled to other PTX" if text else "; its PTX changed"


def _no_result(row: Row, before: Half, after: Half) -> Row:
    if after.skip and before.skip:
        if after.skip == before.skip:
            return replace(row, change=Change.SKIPPED, why=f"skipped in both: {after.skip}")
        why = f"skipped in both, for different reasons: {before.skip}; {after.skip}"
        return replace(row, change=Change.SKIPPED, effect=Effect.OPEN, why=why)
    if after.skip:
        why = f"an unexplained difference: the candidate skipped it ({after.skip}), the baseline did not"
        return replace(row, change=Change.SKIPPED, effect=Effect.OPEN, why=why)
    return replace(row, change=Change.MISSING, effect=Effect.OPEN, why=f"in the candidate, {after.trouble}")


def _incomparable(before: Half, after: Half) -> str:
    """Why two results cannot be compared. Returns "" if they can, or if one of them does not exist."""
    if before.planned is None or after.planned is None:
        return ""
    if before.planned.digest != after.planned.digest:
        return "the bundles have different versions of the case"
    if before.outcome is None or after.outcome is None or before.grade is None:
        return ""
    old, new = ({k: v for k, v in h.outcome.digests.items() if k not in _RESULTS} for h in (before, after) if h.outcome)
    both_ran = before.right and after.right
    differing = sorted(
        n for n in old.keys() | new.keys() if old.get(n) != new.get(n) and (both_ran or {n} <= old.keys() & new.keys())
    )
    if differing:
        return f"its inputs differ ({', '.join(differing)}), which must not depend on the environment"
    compared, were = (int((h.outcome.comparison or {}).get("elements", 0)) for h in (after, before) if h.outcome)
    # Elements that an oracle excludes are not compared, so an oracle that excludes more could hide errors.
    return f"{compared:,} of its elements were compared, and {were:,} before" if both_ran and compared < were else ""


def _right(row: Row, before: Half, after: Half, rows: Mapping[str, Bundle]) -> Row:
    assert before.outcome is not None and after.outcome is not None and after.planned is not None
    if before.grade is Grade.FLAKY:
        why = f"right in the candidate, but the baseline's repeats do not agree: {quoted(before.outcome)}"
        return replace(row, change=Change.FLAKY, effect=Effect.OPEN, why=why)
    if not before.right:
        return replace(row, change=Change.FIXED, why=f"right now; in the baseline, {quoted(before.outcome)}")
    if after.planned.expect != "ok":
        words = "" if before.outcome.message == after.outcome.message else f", in other words: {quoted(after.outcome)}"
        return replace(row, why=f"refused in both, as expected{words}")
    old, new = before.outcome.digests, after.outcome.digests
    if all(old.get(n) and old.get(n) == new.get(n) for n in ("out", "lse")):
        return replace(row, why="right in both, with the same bits")
    if not all(d.get(n) for d in (old, new) for n in ("out", "lse")):
        return replace(row, change=Change.DRIFT, why="right in both; whether the bits are the same is not recorded")
    old_rows, new_rows = (rows[side].rows(row.case, row.subject) for side in ("baseline", "candidate"))
    size, said = drift.measure(old_rows, new_rows, before.outcome, after.outcome)
    return replace(
        row, change=Change.DRIFT, drift=size, why=f"right in both, with other bits: {said}{of_code(before, after)}"
    )


def _failed(row: Row, before: Half, after: Half) -> Row:
    assert after.outcome is not None and after.grade is not None
    said = quoted(after.outcome)
    defect = explained(after)
    then = "" if before.outcome is None or before.grade is None else quoted(before.outcome)
    if defect is not None:
        return _known(row, before, after, defect, said)
    if after.grade is Grade.FLAKY:
        if before.grade is None:
            return replace(
                row, change=Change.FLAKY, effect=Effect.OPEN, why=f"{said}; in the baseline, {before.trouble}"
            )
        if before.grade is Grade.FLAKY:
            return replace(row, change=Change.FLAKY, effect=Effect.OPEN, why=f"{said}; the baseline is flaky too")
        was = "right" if before.right else then
        return replace(row, change=Change.FLAKY, effect=Effect.FAILS, why=f"{said}; in the baseline, always {was}")
    change = _CHANGE[after.grade]
    row = replace(row, change=change, effect=Effect.FAILS)
    if before.grade is None:
        return replace(row, why=f"{said}; whether that is new is not known: in the baseline, {before.trouble}")
    if before.right:
        return replace(row, why=f"right in the baseline; now {said}")
    if before.grade >= after.grade:
        why = (
            f"{said}; it failed in the baseline already ({then}), so this upgrade did not do it: a waiver with "
            f'changes = ["{Change.STILL}"] lets it pass'
        )
        return replace(row, change=Change.STILL, why=why)
    return replace(row, why=f"{said}; graver than in the baseline: {then}")


def _known(row: Row, before: Half, after: Half, defect: Expectation, said: str) -> Row:
    """The row of a failure that a known defect covers. The defect explains a regression, but does not excuse it."""
    assert after.grade is not None
    row = replace(row, change=Change.KNOWN)
    if before.grade is None:
        why = f"{said}; a known defect ({defect.reason}); whether it is new is open: in the baseline, {before.trouble}"
        return replace(row, effect=Effect.OPEN, why=why)
    if not before.right and before.grade >= after.grade:
        return replace(row, why=f"{said}; a known defect: {defect.reason}")
    if defect.flaky and defect in before.known:
        return replace(
            row, why=f"{said}; a known flaky defect, in the baseline too, where it did not show: {defect.reason}"
        )
    was = "right" if before.right or before.outcome is None else f"less grave ({quoted(before.outcome)})"
    why = (
        f"{said}; a known defect of these versions ({defect.reason}), but {was} in the baseline: to ship it all the "
        f'same, write a waiver with changes = ["{Change.KNOWN}"]'
    )
    return replace(row, effect=Effect.FAILS, why=why)
