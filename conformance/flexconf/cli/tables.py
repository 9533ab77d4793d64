"""The tables of the commands, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flexconf.cases.case import Case
    from flexconf.checks.attribution import Attribution
    from flexconf.checks.opcheck import OperationRow
    from flexconf.machine.environment import Environment
    from flexconf.runs.expectations import Crash, Expectation
    from flexconf.runs.judging import Result
    from flexconf.runs.review import State
    from flexconf.runs.run import Summary
    from flexconf.subjects import Subject
    from flexconf.testing.clauses import Citation


def _table(title: str | None = None, caption: str | None = None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def summary(s: Summary, timings: bool) -> RenderableType:
    """The closing lines of a run."""
    state = Text("PASS", "bold green") if s.ok else Text("FAIL", "bold red")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("verdict", state)
    facts.add_row("subject", s.subject)
    if s.capability is not None:
        facts.add_row("capability", s.capability)
    facts.add_row("cases", _cases(s))
    if s.not_asked:
        facts.add_row("not asked", f"{s.not_asked} cases that state what the reference must refuse")
    facts.add_row("elements compared", f"{s.elements:,}")
    if s.elements:
        facts.add_row("elements excluded", f"{s.excluded:,} (in {s.excluded_rows:,} excluded rows)")
        facts.add_row("worst ratio", f"{s.worst:.3f} of the bound, at {escape(s.worst_at)}")
        facts.add_row("median ratio", f"{s.median:.3f} (of the cases' largest ratios)")
    facts.add_row("time", f"{s.seconds:.1f} s with {s.workers} worker{'s' * (s.workers != 1)}")
    if not timings or not s.stage_medians:
        return facts
    table = _table("Median seconds a case, in one worker")
    for name in (*s.stage_medians, "whole case"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{t:.3f}" for t in s.stage_medians.values()), f"{s.case_median:.3f}")
    return Group(facts, table)


def _cases(s: Summary) -> str:
    text = f"{s.cases}: {s.passed} passed"
    if s.refused_as_expected:
        text += f" ({s.refused_as_expected} of them refused, as expected)"
    if s.known:
        kinds = ", ".join(f"{n} {escape(kind)}" for kind, n in s.known.items())
        text += f" ({sum(s.known.values())} of them fail as expected: {kinds})"
    if s.cases != s.passed:
        kinds = ", ".join(f"{n} {escape(kind)}" for kind, n in s.failures.items())
        text += f", [bold red]{s.cases - s.passed} failed[/] ({kinds})"
    return text


def failures(results: Iterable[Result]) -> RenderableType:
    """One line for each failed case."""
    table = _table("Failures")
    table.add_column("case", overflow="fold", style="bold")
    table.add_column("stage")
    table.add_column("symptom")
    table.add_column("why", overflow="fold", ratio=1)
    for r in results:
        table.add_row(escape(r.case.name), r.outcome.stage, r.outcome.symptom, escape(r.why))
    return table


def attributions(found: Mapping[str, Attribution], failed: int) -> RenderableType:
    """One line for each attributed failure: the layer at fault, and why."""
    rest = failed - len(found)
    caption = f"{rest} more not attributed; `flexconf attribute CASE` does it" if rest else None
    table = _table("Who is wrong", caption)
    table.add_column("case", overflow="fold", style="bold")
    table.add_column("layer", overflow="fold", min_width=8)
    table.add_column("why", overflow="fold", ratio=1)
    for name, a in found.items():
        table.add_row(escape(name), a.layer, escape(a.sentence))
    return table


def attribution(case: str, subject: str, found: Attribution) -> RenderableType:
    """The attribution of one case: what was run, and the layer at fault."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("case", escape(case))
    facts.add_row("subject", subject)
    for name, outcome in found.evidence.items():
        facts.add_row("" if name != next(iter(found.evidence)) else "was run", f"{name}: {outcome}")
    facts.add_row("layer", Text(found.layer, "bold"))
    facts.add_row("why", escape(found.sentence))
    return facts


def expectations(states: Sequence[State]) -> RenderableType:
    """One line for each known defect."""
    table = _table(caption=f"{len(states)} known defect{'s' * (len(states) != 1)}")
    table.add_column("subject", style="bold", overflow="fold", min_width=11)
    table.add_column("repro", overflow="fold", min_width=12)
    table.add_column("cases", justify="right")
    table.add_column("outcome", overflow="fold", min_width=18)
    table.add_column("what is wrong", overflow="fold", ratio=1)
    table.add_column("state", overflow="fold", min_width=12)
    for s in states:
        e = s.expectation
        reason = f"{escape(e.reason)} {_scope(e)}"
        colour = "bold red" if s.failed else "green" if s.in_force else "yellow"
        table.add_row(e.subject, e.repro.name, str(s.cases), "\n".join(e.outcomes), reason, Text(s.text, colour))
    return table


def crashes(found: Sequence[Crash]) -> RenderableType:
    """One line for each known crash of outside software."""
    from flexconf.runs.expectations import NOT_RUN

    table = _table(caption=f"{len(found)} {NOT_RUN}")
    table.add_column("subject", style="bold", overflow="fold", min_width=11)
    table.add_column("kind", overflow="fold", min_width=12)
    table.add_column("what crashed", overflow="fold", ratio=1)
    table.add_column("state", overflow="fold", min_width=12)
    for c in found:
        table.add_row(c.subject, c.kind, f"{escape(c.reason)} {_scope(c)}", Text(c.state(), "yellow"))
    return table


def _scope(e: Expectation | Crash) -> str:
    scope = ", ".join(f"{p} {v}" for p, v in e.versions.items())
    return f"[dim]({escape(scope)}{f', device {escape(e.device)}' if e.device else ''})[/]"


def verdict(r: Result) -> RenderableType:
    """The result of `flexconf check`."""
    c = r.outcome.comparison
    facts = Table.grid(padding=(0, 2))
    state = Text("PASS", "bold green") if r.passed else Text("FAIL", "bold red")
    facts.add_row("verdict", Text.assemble(state, f"  {r.why or r.outcome.message}"))
    p = r.case.problem
    facts.add_row("problem", f"B={p.B} H={p.H} Hkv={p.Hkv} M={p.M} N={p.N} D={p.D} Dv={p.Dv} {p.dtype}, {p.layout}")
    if c is not None and not c["empty"]:
        facts.add_row("compared", f"{c['elements']:,} elements, {c['excluded_elements']:,} excluded")
        facts.add_row("worst ratio", f"{float(c['max_ratio']):.3f} of the certified bound")
        w = c["worst"]
        if w is not None:
            facts.add_row(
                "worst element",
                f"{w['tensor']}{list(w['index'])}: {float(w['observed']):.9g}, "
                f"expected {float(w['expected']):.9g} +- {float(w['bound']):.3g}",
            )
    if r.outcome.timings:
        facts.add_row("seconds", ", ".join(f"{name} {t:.3f}" for name, t in r.outcome.timings.items()))
    return facts


def cases(found: Sequence[Case]) -> RenderableType:
    """One line for each case."""
    table = _table(caption=f"{len(found)} case{'s' * (len(found) != 1)}")
    table.add_column("case", style="bold", overflow="fold", ratio=2)
    table.add_column("shape", overflow="fold", max_width=22)
    table.add_column("clauses", overflow="fold", max_width=9)
    table.add_column("what", overflow="fold", ratio=3)
    for case in found:
        p = case.problem
        heads = f"H{p.H}" if p.Hkv == p.H else f"H{p.H}/{p.Hkv}"
        dims = f"D{p.D}" if p.Dv == p.D else f"D{p.D}/{p.Dv}"
        shape = f"B{p.B} {heads} {p.M}x{p.N} {dims} {p.dtype.replace('float', 'f')}"
        if p.layout != "contiguous":
            shape += f" {p.layout}"
        table.add_row(escape(case.name), shape, " ".join(case.clauses), escape(case.about))
    return table


def subjects(rows: Sequence[tuple[Subject, str]]) -> RenderableType:
    """One line for each subject."""
    table = _table()
    table.add_column("subject", style="bold", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    table.add_column("here", overflow="fold")
    for subject, why in rows:
        table.add_row(subject.name, subject.about, Text(why, "yellow") if why else Text("yes", "green"))
    return table


def ops(rows: Sequence[OperationRow]) -> RenderableType:
    """One line for each operation, with the largest figures over its dtypes. The sources are footnotes."""
    table = _table(caption=_ops_caption(rows))
    table.add_column("operation", style="bold", overflow="fold", min_width=10)
    table.add_column("dtypes", overflow="fold", min_width=8)
    for name in ("elements", "max\nulp", "of\nbound", "own\nulp", "tight", "note"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=5, ratio=1)
    sources: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for group in _by_text(rows):
        failed = [r for r in group if not r.passed]
        state = Text("ok", "green") if not failed else Text(f"{failed[0].dtype}: {failed[0].verdict}", "red")
        note = sources.setdefault(group[0].source, len(sources) + 1)
        table.add_row(
            escape(group[0].text),
            _dtypes([r.dtype for r in group]),
            f"{sum(r.elements for r in group):,}",
            _figure(max(r.max_ulp for r in group)),
            _ratio(max(r.max_ratio for r in group)),
            f"{group[0].ulps:g}",
            _tightness(group),
            f"{note}{''.join(_reasons(group, reasons))}",
            state,
        )
    parts: list[RenderableType] = [table]
    for title, listed in (
        ("Sources of the operations' own errors:", {f"({n})": text for text, n in sources.items()}),
        ("Why a bound is no tighter:", {f"({_letter(n)})": text for text, n in reasons.items()}),
    ):
        notes = Table.grid(padding=(0, 1))
        for mark, text in listed.items():
            notes.add_row(mark, escape(text))
        parts += [Text(title), notes] if listed else []
    return Group(*parts)


def _tightness(group: Sequence[OperationRow]) -> str:
    """The smallest ratio, over the dtypes, of a correctly rounded result's largest error to its bound."""
    rounded = [r.rounded for r in group if r.rounded is not None]
    return f"{min(rounded):.2f}" if rounded else "exact"


def _reasons(group: Sequence[OperationRow], known: dict[str, int]) -> list[str]:
    return [_letter(known.setdefault(text, len(known))) for text in sorted({r.explained for r in group if r.explained})]


def _letter(n: int) -> str:
    return chr(ord("a") + n)


def _ratio(share: float) -> str:
    return f"{share:.2f}" if share < 1000 else f"{share:.1g}"


def _dtypes(names: Sequence[str]) -> str:
    """One name for a known set of dtypes, such as "floats"; otherwise their short names."""
    kinds = {
        "all ten": "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool",
        "all but bool": "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8",
        "floats": "float16 bfloat16 float32 float64",
        "integers": "int8 int16 int32 int64 uint8",
        "integers, bool": "int8 int16 int32 int64 uint8 bool",
    }
    found = [kind for kind, members in kinds.items() if sorted(names) == sorted(members.split())]
    return found[0] if found else " ".join(_short(n) for n in names)


def _ops_caption(rows: Sequence[OperationRow]) -> str:
    failed = sum(not r.passed for r in rows)
    widths = sorted({w for r in rows for w in r.widths})
    operations = len({r.text for r in rows})
    return (
        f"{operations} operation{'s' * (operations != 1)}, {len(rows)} with their dtypes, at vector widths "
        f"{', '.join(map(str, widths))}: {sum(r.elements for r in rows):,} elements, {failed} failed. "
        "max ulp: largest error in ulp of the result's own format; of bound: largest error over the certified bound; "
        "own ulp: what the operation itself may add, with its source; tight: largest error of the correctly rounded "
        "result over its bound, on a dense sample, for the dtype where it is least."
    )


def _by_text(rows: Sequence[OperationRow]) -> list[list[OperationRow]]:
    groups: dict[str, list[OperationRow]] = {}
    for row in rows:
        groups.setdefault(row.text, []).append(row)
    return list(groups.values())


def _short(dtype: str) -> str:
    return dtype.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def clauses(citations: Sequence[Citation]) -> RenderableType:
    """One line for each clause."""
    counts = {v: sum(c.verdict == v for c in citations) for v in ("passed", "failed", "GPU-only", "not cited")}
    table = _table(caption=", ".join(f"{n} {v}" for v, n in counts.items()))
    table.add_column("clause", style="bold")
    table.add_column("kind")
    table.add_column("what", overflow="fold", ratio=1)
    table.add_column("tests", justify="right")
    table.add_column("for example", overflow="fold", ratio=1)
    table.add_column("verdict", no_wrap=True)
    colours = {"passed": "green", "failed": "red", "GPU-only": "yellow", "not cited": "red"}
    for c in citations:
        tests = c.failed or c.passed or c.skipped
        table.add_row(
            c.clause.number,
            "".join(k for k in c.clause.kinds if k != "GPU"),
            escape(c.clause.title),
            str(len(tests)),
            escape(tests[0].rpartition("/")[2]) if tests else "",
            Text(c.verdict, colours[c.verdict]),
        )
    return table


def environment(e: Environment) -> RenderableType:
    """The environment: versions, CPU and GPUs."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("python", e.python)
    facts.add_row("platform", e.platform)
    facts.add_row("cpu", f"{e.cpu}, {e.cpus} available")
    for name, version in e.packages.items():
        facts.add_row(name, version or Text("not installed", "dim"))
    facts.add_row("cuda of torch", e.cuda or Text("none", "dim"))
    if not e.gpus:
        facts.add_row("gpu", Text("none", "dim"))
    for gpu in e.gpus:
        facts.add_row("gpu", f"{gpu.name}, driver {gpu.driver}, compute capability {gpu.compute_capability}")
    return facts
