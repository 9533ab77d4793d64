"""`flexconf sanitize`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import finite

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flexconf.sanitize.run import Sanitized


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(sanitize)


def sanitize(
    cases: Annotated[
        list[str] | None, typer.Argument(help="Names or globs; by default the list in `cases/sanitize.txt`.")
    ] = None,
    tool: Annotated[str, typer.Option(help="`memcheck`, `racecheck`, `initcheck` or `synccheck`.")] = "memcheck",
    subject: Annotated[str, typer.Option(help="What to run under it.")] = "reference.fa4",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes side by side.")] = 4,
    vector_width: Annotated[int | None, typer.Option(help="Keys that a mod sees at once: 1, 2, 4 or 8.")] = None,
    time_limit: Annotated[float, typer.Option(callback=finite, min=1.0, help="Seconds a case may take.")] = 180.0,
    compute_sanitizer: Annotated[
        Path | None, typer.Option(help="The program; by default from the PATH or the CUDA toolkit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run cases under NVIDIA's compute-sanitizer: accesses out of bounds, races, uninitialised reads, barriers.

    Exit code 0 if at least one case is clean and every other one is clean or refused, 1 if not, 2 for a bad input.

    Examples: `flexconf sanitize`, `flexconf sanitize '*@gqa*' --tool racecheck --subject reference.simt`
    """
    from flexconf import subjects
    from flexconf.cases import catalogue
    from flexconf.errors import InputError
    from flexconf.machine import devices
    from flexconf.sanitize import run as runner

    if vector_width not in (None, 1, 2, 4, 8):
        raise InputError(f"vector width must be 1, 2, 4 or 8, not {vector_width}")
    if tool not in runner.TOOLS:
        raise InputError(f"unknown tool {tool!r}; compute-sanitizer has {', '.join(runner.TOOLS)}")
    chosen = catalogue.select(catalogue.load(), cases or runner.default_cases())
    if not subjects.get(subject).needs_gpu:
        raise InputError(f"subject {subject!r} runs on the CPU; compute-sanitizer checks what runs on a GPU")
    program = runner.find(compute_sanitizer)
    devices.require("flexconf sanitize")
    results = runner.run(
        chosen,
        tool=tool,
        subject=subject,
        sanitizer=program,
        workers=workers,
        vector_width=vector_width,
        time_limit=time_limit,
        on_result=lambda r: print(f"{r.case}: {r.status}", file=sys.stderr, flush=True),
    )
    clean = any(r.status == runner.CLEAN for r in results) and all(r.ok for r in results)
    if as_json:
        print(json.dumps({"tool": tool, "subject": subject, "ok": clean, "cases": [r.to_json() for r in results]}))
    else:
        console.screen().print(_shown(results, tool, subject, clean))
    raise typer.Exit(0 if clean else 1)


def _shown(results: Sequence[Sanitized], tool: str, subject: str, clean: bool) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{tool}, {subject}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("case", style="bold", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("reports", justify="right")
    table.add_column("what", overflow="fold", ratio=1)
    colours = {"clean": "green", "refused": "yellow"}
    counts: dict[str, int] = {}
    for r in results:
        counts[r.status] = counts.get(r.status, 0) + 1
        if r.status == "clean":
            continue
        what = "\n".join(line for lines in r.reports for line in lines) or r.why
        table.add_row(escape(r.case), Text(r.status, colours.get(r.status, "bold red")), str(r.count or ""), Text(what))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("verdict", Text("PASS", "bold green") if clean else Text("FAIL", "bold red"))
    facts.add_row("cases", f"{len(results)}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    return Group(table, facts) if table.row_count else facts
