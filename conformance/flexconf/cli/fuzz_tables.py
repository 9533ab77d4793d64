"""The tables of `flexconf fuzz` and `flexconf findings`, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flexconf.fuzz.coverage import Axis, Coverage
from flexconf.fuzz.engine import Progress, Report
from flexconf.fuzz.findings import Finding

_NAMED = 12


def progress(state: Progress) -> str:
    """The state of a running session as one line."""
    rate = state.fresh / state.seconds if state.seconds > 1 else 0.0
    discarded = state.now.verdicts["discarded"]
    reached = len({key.rpartition(":")[0] for key in state.now.keys if key.startswith("op:")})
    found = f"{state.new} new findings" if state.new != 1 else "1 new finding"
    return (
        f"{state.now.examples} examples, {rate:.1f} graphs/s, {discarded} discarded, "
        f"{reached} operation/dtype pairs, {found}"
    )


def summary(report: Report, everything: bool = False) -> RenderableType:
    """The summary of a finished session. With `everything`, it names all that was never reached."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    new = len(report.new)
    said = f"{new} NEW FINDING{'S' * (new > 1)}" if new else "NO NEW FINDING"
    facts.add_row("verdict", Text(said, "bold red" if new else "bold green"))
    if report.plant:
        facts.add_row("PLANTED FAULT", Text(f"{report.plant}; these results are no results", "bold red"))
    of = f" for compute capability {report.plan.capability}" if report.plan.capability is not None else ""
    facts.add_row("subject", f"{report.plan.subject}{of}, seed {report.plan.seed}, {report.plan.workers} drivers")
    facts.add_row("folder", escape(str(report.plan.folder)))
    facts.add_row("time", f"{report.seconds:.1f} s")
    facts.add_row("examples", f"{report.now.examples:,} ({report.total.examples:,} in the folder)")
    facts.add_row("distinct graphs", f"{report.fresh:,} new ({report.graphs_a_second:.2f} a second)")
    discarded = report.now.verdicts["discarded"]
    facts.add_row("discarded", f"{discarded:,} ({report.discard_rate:.1%})")
    for reason, count in report.now.reasons.most_common(5):
        facts.add_row("", f"{count:,}: {escape(reason)}")
    share = report.now.mute / report.now.examples if report.now.examples else 0.0
    facts.add_row("nothing but 0 or NaN", f"{report.now.mute:,} ({share:.1%}) had nothing else to compare")
    duplicates = report.now.verdicts["duplicate"]
    failures = ", ".join(f"{count} {name}" for name, count in report.now.failures.most_common())
    facts.add_row("failures", escape(f"{failures} ({duplicates} of them known)") if failures else "none")
    facts.add_row("worst ratio", f"{report.now.worst:.3f} of the bound, among what passed")
    parts: list[RenderableType] = [facts]
    if report.new:
        parts += [Text(), findings(report.new, "new findings")]
    others = [f for f in report.open if f not in report.new]
    if others:
        parts += [Text(), findings(others, "open findings of earlier sessions")]
    parts += [Text(), coverage(report.coverage, everything)]
    parts += [Text(f"error: {line}", "bold red") for line in report.broken]
    return Group(*parts)


def findings(listed: Iterable[Finding], title: str = "findings") -> RenderableType:
    """One row for each finding."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("id", style="bold", overflow="fold")
    table.add_column("tokens", justify="right")
    table.add_column("what", overflow="fold", ratio=1)
    table.add_column("status", overflow="fold")
    for f in listed:
        notes = [f.status]
        if not f.minimised:
            notes.append("not minimised")
        if not f.confirmed:
            notes.append("flaky")
        what = f"{escape(f.shape)}\n{escape(f.message[:200])}\nrepro: {escape(f.repro[:120])}"
        if f.reason:
            what += f"\n{escape(f.reason)}"
        table.add_row(f.ident, str(f.tokens), what, ", ".join(notes))
    return table


def coverage(found: Coverage, everything: bool = False) -> RenderableType:
    """How much of each axis of coverage was reached, with names of what was never reached."""
    table = Table(title="coverage", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("of", style="bold", overflow="fold")
    table.add_column("reached", justify="right", no_wrap=True)
    table.add_column("never reached", overflow="fold", ratio=1)
    for axis in found.axes:
        table.add_row(escape(axis.name), f"{len(axis.reached)}/{axis.total}", escape(_missed(axis, everything)))
    return table


def _missed(axis: Axis, everything: bool) -> str:
    named = axis.missed if everything else axis.missed[:_NAMED]
    more = len(axis.missed) - len(named)
    return ", ".join(named) + (f" and {more} more (--coverage names them)" if more else "") if named else ""
