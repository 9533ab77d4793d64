"""The catalogue and the detections as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from planted.catalogue import FAULTS
from planted.fault import LAYERS, Fault

if TYPE_CHECKING:
    from planted.detection import Detection

_HEAD = """# Planted faults

If a test harness finds nothing, there may be nothing to find, or the harness may not look. These {count} faults tell
the two apart. Each fault is a named switch that makes the reference lowering wrong in the way of a bug that exists or
could exist. The lowering does not know of the faults. `conformance/planted/` holds them, each with the smallest case
that shows it. `conformance/meta/test_planted_faults.py` proves for each fault that this case is wrong with the fault
and right without it.

    flexconf fuzz --plant c-remainder --stop-after 1 --minutes 2    # fuzz with one fault in every worker
    python -m flexconf.planted --list                               # this table
    python -m flexconf.planted c-remainder --seeds 3 --limit 120    # cases and seconds until it is found

The environment variable `FLEXCONF_PLANT` plants a fault in the workers of any other command. A run with a fault
cannot be mistaken for a test result. It says so on stderr, its subject is `reference.host+fault:NAME`, and a fuzzing
folder keeps the fault that it was started with. Faults of the layer `simt` show only on `reference.simt`; `python -m
flexconf.planted` runs the rows of that kernel in a loop on the CPU.

The last column is the mod that shows the fault: a score_mod, or a mask_mod after `mask:`. If it is empty, plain
attention shows the fault. Fuzzing finds each fault, except the faults whose sentence names another finder.
"""


def document() -> str:
    """The text of docs/planted-faults.md."""
    faults = FAULTS
    lines = [_HEAD.format(count=len(faults))]
    for layer in LAYERS:
        lines += [f"## {layer.capitalize()}", "", "| fault | stands for | shows in |", "|---|---|---|"]
        lines += [f"| `{f.name}` | {_cell(_about(f))} | {_mods(f)} |" for f in faults.values() if f.layer == layer]
        lines.append("")
    return "\n".join(lines)


def _about(fault: Fault) -> str:
    return f"{fault.about} Found by {fault.found_by}." if fault.found_by else fault.about


def _mods(fault: Fault) -> str:
    case = fault.witness
    mods = [(case.score_mod, ""), (case.mask_mod, "mask: ")]
    return ", ".join(f"{word}`{_cell(text)}`" for text, word in mods if text is not None)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def listed(faults: Iterable[Fault]) -> RenderableType:
    """A table of the faults, one per row."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("fault", "layer"):
        table.add_column(column, style="bold" if column == "fault" else None, overflow="fold")
    table.add_column("stands for", overflow="fold", ratio=1)
    for f in faults:
        table.add_row(f.name, f.layer, escape(f.about))
    return table


def line(d: Detection) -> str:
    """One detection as one line of text."""
    if not d.found:
        return f"{d.fault}, seed {d.seed}: NOT FOUND in {d.examples} examples, {d.seconds:g} s"
    small = "" if d.minimised else ", not minimised"
    return f"{d.fault}, seed {d.seed}: {d.examples} examples, {d.seconds:g} s, {d.tokens} tokens{small}: {d.shape}"


def detections(found: Sequence[Detection]) -> RenderableType:
    """A table of medians by fault, with a line of the medians over all faults."""
    from planted import detection

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("fault", style="bold", overflow="fold", ratio=1)
    for column in ("layer", "found", "cases", "most", "seconds", "most", "tokens"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    rows = detection.summary(found)
    for name, row in rows.items():
        missed = row["found"] < row["seeds"]
        figures = [row[k] for k in ("examples", "most_examples", "seconds", "most_seconds", "tokens")]
        counted = Text(f"{row['found']}/{row['seeds']}", "bold red" if missed else "")
        table.add_row(name, row["layer"], counted, *("" if f is None else f"{f:g}" for f in figures))
    whole = detection.overall(found)
    said = (
        f"{whole['found']} of {whole['seeds']} found; medians over those: {whole['examples']} cases, "
        f"{whole['seconds']} s, {whole['tokens']} tokens"
    )
    return Group(table, Text(said, "bold"))
