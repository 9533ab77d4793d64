"""A Decision as one self-contained HTML file."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from flexconf.cases import clauses
from flexconf.gate.model import Component, Decision, Effect, Row
from flexconf.gate.report.plain import advice, kind, kinds, ordered
from flexconf.verdict.outcome import Outcome

_LEVELS = 4
_CELL = 4  # pixels
_HEADS = 3  # heads drawn for each tensor of a map
_WORST = 10  # worst elements listed for each failure
_OPEN = 3  # up to so many failures are shown expanded; more are shown collapsed, so that the list can be scanned
_TEXT = 40_000  # characters of one kernel, repro or log
_SAID = 2_000  # characters of an outcome's message
_EVIDENCE = 3_000_000  # bytes of maps, kernels, repros and logs in total: they keep the page below 5 MB


def html(decision: Decision) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=PackageLoader("flexconf.gate.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= {"seconds": _seconds, "plural": _plural}
    rows = ordered(decision.rows)
    bad = [r for r in rows if r.effect is not Effect.FINE]
    shelf = _Shelf()
    shown = [_failure(row, n, decision, shelf) for n, row in enumerate(bad, 1)]
    fine = [r for r in rows if r.effect is Effect.FINE]
    return environment.get_template("page.html.j2").render(
        d=decision,
        advice=advice(decision),
        counted=[*kinds(rows)],
        groups=_groups(rows, shown),
        failures=shown,
        few=len(shown) <= _OPEN,
        kinds=[(name, [*of]) for name, of in itertools.groupby(shown, key=lambda f: (f["row"].effect, f["kind"]))],
        kernels=shelf.kernels,
        fine={group: [r for r in fine if r.group == group] for group in sorted({r.group for r in fine})},
        titles=_titles(),
        differing=[c for c in decision.components if c.differs],
        same=[c for c in decision.components if not c.differs],
    )


class _Shelf:
    """The room left for evidence, and the kernels, which failures share. The gravest failures get room first."""

    def __init__(self) -> None:
        self.left = _EVIDENCE
        self.kernels: dict[str, str] = {}

    def takes(self, text: str) -> bool:
        """Whether `text`, escaped as in the page, fits. Once a text does not fit, no later one does."""
        size = len(str(escape(text)).encode()) if self.left else 0
        self.left = max(0, self.left - size)
        return self.left > 0

    def kernel(self, text: str) -> str:
        """The name under which the page shows a rendered text once. Returns "" if there is no text, or no room."""
        name = "kernel-" + hashlib.sha256(text.encode()).hexdigest()[:10]
        if not text or (name not in self.kernels and not self.takes(text[:_TEXT])):
            return ""
        self.kernels[name] = _cut(text)
        return name

    def text(self, text: str) -> str:
        """A repro or log, cut to `_TEXT` characters. Returns "" if there is no room."""
        return _cut(text) if text and self.takes(text[:_TEXT]) else ""


def _cut(text: str) -> str:
    if len(text) <= _TEXT:
        return text
    return f"{text[:_TEXT]}\n... and {len(text) - _TEXT:,} characters more, which report.json has"


def _titles() -> dict[str, str]:
    """The title of each clause group. A case with several clauses belongs to the group of its first clause."""
    return {"": "No clause of its own"} | {g: f"{g} {title}" for g, title in clauses.groups().items()}


def _groups(rows: Sequence[Row], shown: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """{group: one line for each subject}: counts of rows by effect and kind, and the first failure's id."""
    first: dict[tuple[str, str], str] = {}
    for failure in shown:
        first.setdefault((failure["row"].group, failure["row"].subject), failure["id"])
    found: dict[str, list[dict[str, Any]]] = {}
    for group, subject in sorted({(r.group, r.subject) for r in rows}):
        of = [r for r in rows if (r.group, r.subject) == (group, subject)]
        found.setdefault(group, []).append(
            {
                "subject": subject,
                "total": len(of),
                "counts": kinds(of),
                "fails": sum(r.effect is Effect.FAILS for r in of),
                "open": sum(r.effect is Effect.OPEN for r in of),
                "first": first.get((group, subject), ""),
            }
        )
    return found


def _failure(row: Row, number: int, decision: Decision, shelf: _Shelf) -> dict[str, Any]:
    """The template's values for a row that is not fine. Equal kernels share a name and are shown once, at the end."""
    evidence = row.evidence
    kernel, repro, log = shelf.kernel(evidence.kernel), shelf.text(evidence.repro), shelf.text(evidence.log)
    maps = _maps(evidence.map or {}) if shelf.left else []
    drawn = [m for m in maps if all(shelf.takes(h["svg"]) for h in m["heads"])]
    whole = (bool(kernel), bool(repro), bool(log)) == tuple(
        bool(t) for t in (evidence.kernel, evidence.repro, evidence.log)
    )
    return {
        "row": row,
        "kind": kind(row),
        "id": f"failure-{number}",
        "outcome": f"{_place(row.baseline)} → {_place(row.candidate)}",
        "says": _unsaid(row),
        "suspects": _suspects(row, decision.components),
        "maps": drawn,
        "kernel": kernel,
        "repro": repro,
        "log": log,
        "worst": [_worst(w) for w in evidence.worst[:_WORST]],
        "cut": not whole or not shelf.left,
    }


def _place(outcome: Outcome | None) -> str:
    return "no result" if outcome is None else f"{outcome.stage}/{outcome.symptom}"


def _unsaid(row: Row) -> str:
    """The message of the candidate's outcome. Returns "" if `why` already quotes all of it."""
    said = "" if row.candidate is None else row.candidate.message.strip()
    if not said or " ".join(said.split()) in " ".join(row.why.split()):
        return ""
    return said if len(said) <= _SAID else f"{said[: _SAID - 3]}..."


def _suspects(row: Row, components: Iterable[Component]) -> list[str]:
    known = {c.name: f"{c.name} {c.before or 'none'} → {c.after or 'none'}" for c in components}
    return [known.get(name, name) for name in row.suspects]


def _worst(element: Mapping[str, object]) -> dict[str, str]:
    index = element.get("index")
    at = ", ".join(map(str, index)) if isinstance(index, (list, tuple)) else ""
    observed, expected, bound = (element.get(name) for name in ("observed", "expected", "bound"))
    ratio = ""
    if isinstance(observed, float) and isinstance(expected, float) and isinstance(bound, float) and bound > 0:
        ratio = f"{abs(observed - expected) / bound:.3g}"
    return {
        "where": f"{element.get('tensor', '')}[{at}]",
        "observed": _figure(observed),
        "expected": _figure(expected),
        "bound": _figure(bound),
        "ratio": ratio,
    }


def _maps(found: Mapping[str, object]) -> list[dict[str, Any]]:
    """The pictures of the heads of each tensor. Malformed maps are left out: a bundle can have been edited."""
    maps: list[dict[str, Any]] = []
    for tensor, facts in sorted(found.items(), reverse=True):  # out, then lse
        heads = facts.get("heads") if isinstance(facts, Mapping) else None
        wrong = [h for h in heads if _drawable(h)] if isinstance(heads, list) else []
        if not wrong:
            continue
        assert isinstance(facts, Mapping)
        cells, rows, columns = (wrong[0][name] for name in ("cells", "rows", "columns"))
        most = max(max(line) for head in wrong for line in head["cells"])
        down, across = -(-rows // len(cells)), -(-columns // len(cells[0]))
        maps.append(
            {
                "tensor": tensor,
                "heads": [
                    {"name": f"b={h['b']} h={h['h']}", "svg": _svg(h["cells"], most, f"{tensor}, {h['b']}, {h['h']}")}
                    for h in wrong[:_HEADS]
                ],
                "more": len(wrong) - _HEADS,
                "rows": rows,
                "columns": columns,
                "cell": _plural(down, "element") if columns == 1 else f"{down} by {across} elements",
                "most": most,
                "beyond": _count(facts.get("beyond")),
                "compared": _count(facts.get("compared")),
            }
        )
    return maps


def _drawable(head: object) -> bool:
    """Whether `head` is a well-formed map of a head with at least one wrong element."""
    if not isinstance(head, Mapping) or not all(isinstance(head.get(n), int) for n in ("b", "h", "rows", "columns")):
        return False
    cells = head.get("cells")
    if not isinstance(cells, list) or not cells or not all(isinstance(line, list) and line for line in cells):
        return False
    if not all(len(line) == len(cells[0]) and all(type(n) is int for n in line) for line in cells):
        return False
    return max(map(len, (cells, cells[0]))) <= 128 and any(n > 0 for line in cells for n in line)


def _svg(cells: Sequence[Sequence[int]], most: int, label: str) -> Markup:
    """The cells as an SVG picture. A cell is the darker, the more of its elements are wrong.

    Each shade is one path; each run of equal cells in a line is one stroke of it.
    """
    shades = {count: _level(count, most) for count in {*itertools.chain(*cells)}}
    paths = [""] * (_LEVELS + 1)
    for y, line in enumerate(cells):
        x = 0
        for level, run in itertools.groupby(line, key=shades.__getitem__):
            wide = len([*run])
            if level:
                paths[level] += f"M{x} {y}h{wide}"
            x += wide
    wide, high = len(cells[0]), len(cells)
    drawn = "".join(f'<path class="m{n}" d="{d}"/>' for n, d in enumerate(paths) if d)
    size = f'width="{max(24, wide * _CELL)}" height="{max(24, high * _CELL)}" viewBox="0 -.5 {wide} {high}"'
    return Markup(f'<svg {size} preserveAspectRatio="none" role="img" aria-label="{escape(label)}">{drawn}</svg>')


def _level(count: int, most: int) -> int:
    return 0 if count <= 0 else max(1, math.ceil(_LEVELS * count / most))


def _count(value: object) -> str:
    return f"{value:,}" if type(value) is int else "?"


def _plural(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
