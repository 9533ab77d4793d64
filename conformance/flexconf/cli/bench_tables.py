"""The tables of `flexconf bench`, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flexconf.bench.record import FAILED, OK, WRONG, BenchRecording, Measurement, SpeedChange, same_code, speed

if TYPE_CHECKING:
    from flexconf.bench.workloads import Workload

_RIVALS = ("torch-flash", "torch-triton")
_MEMORY_BOUND = 16  # up to this query length the bandwidth limits the speed


def workload(w: Workload, measurements: Sequence[Measurement]) -> RenderableType:
    """One line for each provider, with notes below: why one was not measured, or why its speed does not count."""
    table = _table(f"{w.name}  [not bold]{escape(w.shape)}, {escape(w.about)}[/]")
    memory = w.M <= _MEMORY_BOUND
    names = ["ms", "+- %", "TB/s" if memory else "TFLOP/s", "vs\nflash", "vs\ntriton"]
    table.add_column("provider", style="bold", no_wrap=True)
    for name in (*names, "graph\nms", "host\nus", "compile\ns", "ulp", "note"):
        table.add_column(name, justify="right", no_wrap=True)
    rivals = {m.provider: m for m in measurements}
    notes: list[str] = []
    for m in measurements:
        marks = []
        for text in [*_reasons(m), *_same_code(m, measurements)]:
            if text not in notes:
                notes.append(text)
            marks.append(f"({notes.index(text) + 1})")
        table.add_row(
            escape(m.provider),
            _figure(m.median, 4) if m.ranked else Text(m.status.upper(), _colour(m.status)),
            _figure(100 * m.spread, 2) if m.ranked and m.spread is not None else "",
            _figure(m.bandwidth if memory else m.tflops, 3),
            *(_speed(m, rivals.get(name)) for name in _RIVALS),
            _figure(m.graph, 4),
            _figure(m.host, 3),
            _figure(m.compile, 3),
            "" if m.ulp is None else f"{m.ulp:.1f}",
            " ".join(marks),
        )
    below = Table.grid(padding=(0, 1))
    for n, text in enumerate(notes, 1):
        below.add_row(f"({n})", escape(text))
    return Group(table, below) if notes else table


def summary(recording: BenchRecording) -> RenderableType:
    """The closing lines: the verdict, and how to read the tables."""
    counts: dict[str, int] = {}
    for m in recording.measurements:
        counts[m.status] = counts.get(m.status, 0) + 1
    state = Text("PASS", "bold green") if recording.ok else Text("FAIL", "bold red")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("verdict", state)
    facts.add_row("measurements", ", ".join(f"{n} {status}" for status, n in counts.items()) or "none")
    facts.add_row("checked", f"{sum(m.checked for m in recording.measurements):,} elements against float64 attention")
    facts.add_row("gpu", ", ".join(_gpus(recording.environment)) or "none")
    facts.add_row(
        "columns",
        "ms: median of single runs, L2 cleared, +- half of the distance from the 20 % to the 80 % quantile; TFLOP/s: "
        "useful work; vs flash, vs triton: torch-flash's or torch-triton's ms over the provider's, the median of the "
        "turns' own ratios (with --processes: the processes'), above 1 is faster; +- half of the range that holds that "
        "median with 95 %, and = where that range holds 1, so that no difference was seen; "
        "graph: the run as a CUDA graph; host: CPU time of a run; ulp: largest error of the output, at the size of the "
        "row's sum of p |v|",
    )
    return facts


def changes(found: Iterable[SpeedChange], before: BenchRecording, after: BenchRecording) -> RenderableType:
    """One line for each provider and workload of two benches, and the differences of their environments."""
    table = _table()
    for name in ("workload", "provider"):
        table.add_column(name, style="bold", overflow="fold")
    for name in ("before\nms", "+- %", "after\nms", "+- %", "after /\nbefore"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=6)
    colours = {"faster": "green", "slower": "red"}
    for c in found:
        cells = []
        for m in (c.before, c.after):
            ranked = m is not None and m.ranked
            cells.append(_figure(m.median, 4) if m is not None and ranked else "")
            cells.append(_figure(100 * m.spread, 2) if m is not None and ranked and m.spread is not None else "")
        ratio = "" if c.ratio is None else f"{c.ratio:.3f}"
        verdict = Text(c.verdict, colours.get(c.verdict, ""))
        table.add_row(escape(c.workload), escape(c.provider), *cells, ratio, verdict)
    differing = Table.grid(padding=(0, 2))
    for name, old, new in _differences(before.environment, after.environment):
        differing.add_row(escape(name), escape(f"{old} before, {new} after"))
    return Group(table, differing)


def _differences(a: Mapping[str, object], b: Mapping[str, object]) -> list[tuple[str, object, object]]:
    flat = []
    for facts in (a, b):
        packages = facts.get("packages")
        flat.append({**facts, **(packages if isinstance(packages, dict) else {}), "packages": None})
        flat[-1]["gpus"] = ", ".join(_gpus(facts))
    return [(k, flat[0].get(k), flat[1].get(k)) for k in {**flat[0], **flat[1]} if flat[0].get(k) != flat[1].get(k)]


def _gpus(facts: Mapping[str, object]) -> list[str]:
    gpus = facts.get("gpus")
    return [str(g.get("name")) for g in gpus if isinstance(g, dict)] if isinstance(gpus, (list, tuple)) else []


def _reasons(m: Measurement) -> list[str]:
    reasons = []
    if m.status != OK or m.reason:
        reasons.append(f"{m.provider} {m.status}: {m.reason}")
    if m.graph_reason:
        reasons.append(f"{m.provider}: no CUDA graph: {m.graph_reason}")
    return reasons


def _same_code(m: Measurement, measurements: Sequence[Measurement]) -> list[str]:
    """A note naming the providers with the same machine code as `m`. Returns [] unless `m` is the reference."""
    if m.provider != "reference":
        return []
    twins = [other.provider for other in measurements if other is not m and same_code(m, other)]
    return [f"the same machine code, byte for byte: {', '.join((m.provider, *twins))}"] if twins else []


def _speed(m: Measurement, rival: Measurement | None) -> str:
    found = speed(m, rival) if rival is not None and rival is not m else None
    if found is None:
        return "1" if m.ranked and rival is m else ""
    digits = 3 if 0.1 < found.ratio < 10 else 1
    if found.low == found.high:
        return f"{found.ratio:.{digits}f}"
    return f"{'= ' if found.equal else ''}{found.ratio:.{digits}f} +-{found.margin:.{digits}f}"


def _colour(status: str) -> str:
    return "bold red" if status in (WRONG, FAILED) else "yellow"


def _figure(value: float | None, digits: int) -> str:
    """`value` with `digits` significant digits. From 1 to 1e7 without an exponent; "" for None."""
    if value is None:
        return ""
    text = f"{value:#.{digits}g}".rstrip(".")
    return f"{value:.0f}" if "e" in text and abs(value) < 1e7 and abs(value) >= 1 else text


def _table(title: str | None = None) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
