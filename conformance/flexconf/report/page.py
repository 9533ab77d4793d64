"""A Decision as one HTML file that needs nothing else."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flexconf.gate.model import Change, Decision, Effect, Evidence, Row
from flexconf.outcome import Outcome
from flexconf.report.plain import ordered

_LEVELS = 4
_CELL = 4  # pixels
_HEADS = 4  # of a map are drawn
_TEXT = 40_000  # characters of one kernel or repro


def html(decision: Decision) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("flexconf.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= {"seconds": _seconds, "figure": _figure}
    rows = ordered(decision.rows)
    bad = [r for r in rows if r.effect is not Effect.FINE]
    kernels: dict[str, str] = {}
    shown = [_failure(row, n, kernels) for n, row in enumerate(bad, 1)]
    fine = [r for r in rows if r.effect is Effect.FINE]
    return environment.get_template("page.html.j2").render(
        d=decision,
        changes=[c for c in Change if any(r.change is c for r in rows)],
        groups=_groups(rows),
        failures=shown,
        kernels=kernels,
        fine={group: [r for r in fine if r.group == group] for group in sorted({r.group for r in fine})},
        differing=[c for c in decision.components if c.differs],
        same=[c for c in decision.components if not c.differs],
        described=_described,
    )


def _groups(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each group and subject: how many rows, by effect and change."""
    found = []
    for group, subject in sorted({(r.group, r.subject) for r in rows}):
        of = [r for r in rows if (r.group, r.subject) == (group, subject)]
        found.append(
            {
                "group": group,
                "subject": subject,
                "total": len(of),
                "counts": Counter(r.change for r in of),
                "fails": sum(r.effect is Effect.FAILS for r in of),
                "open": sum(r.effect is Effect.OPEN for r in of),
            }
        )
    return found


def _failure(row: Row, number: int, kernels: dict[str, str]) -> dict[str, Any]:
    """What is shown of a row that is not fine. Equal kernels are shown once, at the end, under one name."""
    kernel = ""
    if row.evidence.kernel:
        kernel = "kernel-" + hashlib.sha256(row.evidence.kernel.encode()).hexdigest()[:10]
        kernels[kernel] = row.evidence.kernel[:_TEXT]
    return {
        "row": row,
        "id": f"failure-{number}",
        "maps": _maps(row.evidence),
        "kernel": kernel,
        "repro": row.evidence.repro[:_TEXT],
        "worst": [_worst(w) for w in row.evidence.worst[:10]],
    }


def _described(outcome: Outcome | None) -> str:
    if outcome is None:
        return "no result"
    return f"{outcome.stage}/{outcome.symptom}" + (f": {outcome.message}" if outcome.message else "")


def _worst(element: Mapping[str, object]) -> dict[str, str]:
    index = element.get("index")
    at = ", ".join(map(str, index)) if isinstance(index, (list, tuple)) else ""
    return {
        "where": f"{element.get('tensor', '')}[{at}]",
        **{name: _figure(element.get(name)) for name in ("observed", "expected", "bound")},
    }


def _maps(evidence: Evidence) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tensor, facts in sorted((evidence.map or {}).items()):
        if not isinstance(facts, Mapping) or not isinstance(facts.get("heads"), list):
            continue
        for head in facts["heads"][:_HEADS]:
            if isinstance(head, Mapping) and any(any(line) for line in head["cells"]):
                found.append(
                    {
                        "tensor": tensor,
                        "b": head["b"],
                        "h": head["h"],
                        "rows": head["rows"],
                        "columns": head["columns"],
                        "svg": _svg(head["cells"]),
                        "beyond": facts.get("beyond", 0),
                        "compared": facts.get("compared", 0),
                    }
                )
    return found


def _svg(cells: Sequence[Sequence[int]]) -> Markup:
    """The cells as a picture: the darker, the more of their elements are wrong. One path a shade, runs joined."""
    most = max(max(line) for line in cells)
    paths = [""] * _LEVELS
    for y, line in enumerate(cells):
        x = 0
        while x < len(line):
            level, start = _level(line[x], most), x
            while x < len(line) and _level(line[x], most) == level:
                x += 1
            if level:
                paths[level - 1] += f"M{start} {y}h{x - start}v1h{start - x}z"
    wide, high = len(cells[0]), len(cells)
    drawn = "".join(f'<path class="m{n}" d="{d}"/>' for n, d in enumerate(paths, 1) if d)
    size = f'width="{max(24, wide * _CELL)}" height="{max(24, high * _CELL)}" viewBox="0 0 {wide} {high}"'
    return Markup(f'<svg {size} preserveAspectRatio="none" role="img" shape-rendering="crispEdges">{drawn}</svg>')


def _level(count: int, most: int) -> int:
    return 0 if count <= 0 or most <= 0 else max(1, math.ceil(_LEVELS * count / most))


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
