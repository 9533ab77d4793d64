"""A Decision as JSON, as JUnit XML, and as Markdown for pull requests."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from flexconf.gate import components
from flexconf.gate.model import Change, Decision, Effect, Row, Verdict
from flexconf.gate.waivers import SLOWER, shown
from flexconf.verdict.outcome import Outcome

FORMAT = 1
_LISTED = 20
_MOST = 60_000  # characters; GitHub takes 65,536 in a comment
_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ICONS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.INCONCLUSIVE: "⚠️"}
GRAVITY = (
    Change.WRONG,
    Change.CRASHED,
    Change.ACCEPTED,
    Change.REFUSED,
    Change.FLAKY,
    Change.STILL,
    Change.MISSING,
    Change.SKIPPED,
    Change.KNOWN,
    Change.DRIFT,
    Change.FIXED,
    Change.IDENTICAL,
)


def ordered(rows: Iterable[Row]) -> list[Row]:
    """The rows, the gravest first: failing, open, then fine; within each by change, subject and case."""
    effects = (Effect.FAILS, Effect.OPEN, Effect.FINE)
    return sorted(rows, key=lambda r: (effects.index(r.effect), GRAVITY.index(r.change), r.subject, r.case))


def advice(decision: Decision) -> str:
    """What to do now, in a few sentences for the person who decides."""
    failing = [r for r in decision.rows if r.effect is Effect.FAILS]
    waived = sum(bool(r.waiver) for r in decision.rows)
    of = f"{len(failing):,} of {len(decision.rows):,} results fail"
    if decision.verdict is Verdict.PASS:
        excused = f" {waived:,} of the failures {'is' if waived == 1 else 'are'} waived." if waived else ""
        said = f"Fit to ship: nothing is worse than in the baseline.{excused}"
    elif decision.verdict is Verdict.INCONCLUSIVE:
        said = (
            "Not fit to ship yet: these bundles do not suffice to say. Mend what the reasons name, record again, and "
            "compare again."
        )
    elif failing and all(r.change is Change.STILL for r in failing):
        said = (
            f"Not fit to ship: {of}, as they did in the baseline. This upgrade did not do it; explain each with an "
            "expectation or a waiver, and compare again."
        )
    elif failing:
        said = (
            f"Not fit to ship: {of}. Keep the baseline, or mend what is suspected and record again; what may ship all "
            "the same needs a waiver."
        )
    elif any(w.state in ("expired", "stale") for w in decision.waivers):
        said = (
            "Not fit to ship: a waiver is expired or stale. Put the file of waivers right, and compare again; nothing "
            "needs to be recorded."
        )
    else:
        said = "Not fit to ship: it is slower as a whole. Keep the baseline, or find out what takes the time."
    planted = any(components.planted(side.environment) for side in (decision.baseline, decision.candidate))
    return f"A test of the gate, with a planted fault. {said}" if planted else said


def kind(row: Row) -> str:
    """The name under which a row is counted: its change, or "slower" if it fails only for its time."""
    return str(row.change) if row.effect is Effect.FINE else shown(row)


def kinds(rows: Iterable[Row]) -> dict[str, int]:
    """The number of rows of each kind, the gravest kind first."""
    counts = Counter(map(kind, rows))
    names = [str(change) for change in GRAVITY]
    names.insert(names.index(Change.KNOWN) + 1, SLOWER)
    return {name: counts[name] for name in names if counts[name]}


def as_json(decision: Decision) -> str:
    """The whole decision as one JSON object, one line for each row. A float that is not finite becomes a string."""
    facts = {
        "format": FORMAT,
        **_plain(decision),
        "advice": advice(decision),
        "counts": decision.counts(),
        "exit_code": decision.exit_code,
    }
    # Without indentation inside: a map has a thousand numbers, and the indenting encoder is slow.
    rows = ",\n  ".join(_dumped(row) for row in facts.pop("rows"))
    lines = [f'"{name}": {_dumped(value)}' for name, value in sorted(facts.items())]
    return "{\n " + ",\n ".join([*lines, f'"rows": [\n  {rows}\n ]']) + "\n}\n"


def _dumped(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Outcome):
        return _plain(value.to_json())
    if isinstance(value, enum.Enum):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        if all(type(v) is int for v in value):
            return list(value)  # a map has thousands of these
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def junit(decision: Decision) -> str:
    """JUnit XML with one test suite for each subject and one test for each case.

    It follows junit-10.xsd of Jenkins' xUnit plugin. A failing row is a failure; an open row or a crash is an error; a
    row that is waived, a known defect or skipped in both bundles is skipped. The verdict is a test too, so that a
    verdict that no row explains is red as well.
    """
    suites: dict[str, list[ET.Element]] = {"verdict": [_verdict_case(decision)]}
    for row in decision.rows:
        suites.setdefault(row.subject, []).append(_case(row))
    root = ET.Element("testsuites", name="flexconf gate")
    stamp = decision.candidate.recorded[:19]
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for name, cases in suites.items():
        counts = {
            "tests": len(cases),
            "failures": sum(c.find("failure") is not None for c in cases),
            "errors": sum(c.find("error") is not None for c in cases),
            "skipped": sum(c.find("skipped") is not None for c in cases),
        }
        seconds = sum(float(c.get("time", 0)) for c in cases)
        suite = ET.SubElement(root, "testsuite", name=_legal(name), hostname="localhost", timestamp=stamp)
        suite.set("time", f"{seconds:.3f}")
        for key, count in counts.items():
            suite.set(key, str(count))
            totals[key] += count
        properties = ET.SubElement(suite, "properties")
        for part in decision.components:
            text = f"{part.before} -> {part.after}" if part.differs else part.after
            ET.SubElement(properties, "property", name=_legal(part.name), value=_legal(text))
        suite.extend(cases)
    del totals["skipped"]  # the schema does not allow it on <testsuites>
    for key, count in totals.items():
        root.set(key, str(count))
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _verdict_case(decision: Decision) -> ET.Element:
    case = ET.Element("testcase", classname="flexconf.gate", name="verdict", time="0.000")
    if decision.verdict is not Verdict.PASS:
        kind = "failure" if decision.verdict is Verdict.FAIL else "error"
        found = ET.SubElement(case, kind, type=str(decision.verdict), message=_legal(decision.reasons[0]))
        found.text = _legal("\n".join((advice(decision), *decision.reasons)))
    return case


def _case(row: Row) -> ET.Element:
    seconds = sum(row.candidate.timings.values()) if row.candidate is not None else 0.0
    place = ".".join(filter(None, ("flexconf", row.subject, row.group)))
    case = ET.Element("testcase", classname=_legal(place), name=_legal(row.case), time=f"{seconds:.3f}")
    if row.waiver or (row.effect is Effect.FINE and row.change in (Change.SKIPPED, Change.KNOWN)):
        why = f"waived: {row.waiver} ({row.why})" if row.waiver else row.why
        ET.SubElement(case, "skipped", type=kind(row), message=_legal(why))
    elif row.effect is not Effect.FINE:
        broken = row.effect is Effect.OPEN or row.change is Change.CRASHED
        found = ET.SubElement(case, "error" if broken else "failure", type=kind(row), message=_legal(row.why))
        suspects = f"suspects: {', '.join(row.suspects)}" if row.suspects else ""
        found.text = _legal("\n".join(filter(None, (row.why, row.evidence.sentence, suspects, row.evidence.log))))
    return case


def _legal(text: str) -> str:
    """`text` with U+FFFD in the place of characters that XML cannot contain."""
    return _ILLEGAL.sub("\ufffd", text)


def markdown(decision: Decision) -> str:
    """A summary for a pull request, below 60,000 characters."""
    lines = [
        f"## {_ICONS[decision.verdict]} flex flash gate: {decision.verdict}",
        "",
        f"**{_cell(advice(decision))}**",
        "",
        f"{_cell(_name(decision.baseline.label, 'baseline'))} → {_cell(_name(decision.candidate.label, 'candidate'))}, "
        f"{decision.elements:,} elements compared",
        "",
        *(f"- {_cell(reason)}" for reason in decision.reasons),
        "",
    ]
    differing = [c for c in decision.components if c.differs]
    if differing:
        lines += ["| Component | before | after |", "| --- | --- | --- |"]
        lines += [
            f"| {_cell(c.name)} | {_cell(c.before or 'absent')} | {_cell(c.after or 'absent')} |" for c in differing
        ]
    else:
        lines.append("Nothing that is recorded of the two environments differs.")
    lines += ["", "| Outcome | results |", "| --- | ---: |"]
    lines += [f"| {change} | {count} |" for change, count in kinds(decision.rows).items()]
    bad = [r for r in ordered(decision.rows) if r.effect is not Effect.FINE]
    if bad:
        lines += [
            "",
            f"### {len(bad)} that fail or are open",
            "",
            "| Case | Subject | | Why |",
            "| --- | --- | --- | --- |",
        ]
        for row in bad[:_LISTED]:
            why = row.evidence.sentence or row.why
            lines.append(f"| {_cell(row.case)} | {_cell(row.subject)} | {kind(row)} | {_cell(why, 300)} |")
        if len(bad) > _LISTED:
            lines += ["", f"... and {len(bad) - _LISTED} more in report.html"]
    used = [w for w in decision.waivers if w.state != "not in scope"]
    if used:
        lines += [
            "",
            "### Waivers",
            "",
            "| Waiver | state | until | reason |",
            "| --- | --- | --- | --- |",
        ]
        lines += [f"| {_cell(w.name)} | {w.state} | {_cell(w.expires)} | {_cell(w.reason, 200)} |" for w in used]
    text = "\n".join(lines) + "\n"
    return (
        text if len(text) < _MOST else text[: _MOST - 40].rpartition("\n")[0] + "\n\n... the rest is in report.html\n"
    )


def _name(label: str, otherwise: str) -> str:
    return label or otherwise


def _cell(text: str, most: int = 500) -> str:
    """`text` on one line of at most `most` characters, escaped so that Markdown shows it as plain text."""
    line = " ".join(text.split())
    line = line if len(line) <= most else line[: most - 3] + "..."
    line = re.sub(r"(?<!\w)@", "@\u200b", line)  # so that no message mentions a GitHub user
    return re.sub(r"([\\`|*_<>\[\]#~&])", r"\\\1", line)
