"""`flexconf codegen`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import Json, Limit, Workers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flexconf.replay.bundle import KernelBundle
    from flexconf.replay.run import Replayed

app = typer.Typer(no_args_is_help=True, help="The kernels that torch generates: record them here, run them elsewhere.")

Cases = Annotated[list[str] | None, typer.Argument(help="Names or globs, such as `alibi` or `'*@gqa*'`.")]


@app.command()
def record(
    cases: Cases = None,
    out: Annotated[Path, typer.Option("--out", help="A new folder for the bundle.")] = Path("codegen"),
    file: Annotated[
        list[Path] | None, typer.Option(help="Cases of this file instead of the catalogue's. Repeatable.")
    ] = None,
    workers: Workers = None,
    time_limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Keep the kernels that the torch here generates for the catalogue, and what each gives on this CPU.

    The folder holds text and JSON only. Exit code 0 if it is written, and 2 for a bad input.

    Examples: `flexconf codegen record --out codegen-2.15`, `flexconf codegen record 'alibi*' --out alibi`
    """
    from flexconf.cases import catalogue
    from flexconf.errors import InputError
    from flexconf.replay import record as recorder

    if out.exists():
        raise InputError(f"{out} exists; name a new folder, so that two recordings are never mixed")
    chosen = catalogue.select(catalogue.load(file or None), cases or [])
    with console.progress("kernels", len(chosen), hidden=as_json) as advance:
        bundle, seconds = recorder.record(
            chosen, workers=workers, time_limit=time_limit, on_result=lambda outcome: advance("")
        )
    bundle.write(out)
    kernels = sum(bool(r.text) for r in bundle.recorded.values())
    facts = {
        "folder": str(out),
        "torch": bundle.versions["torch"],
        "cases": len(bundle.recorded),
        "kernels": kernels,
        "seconds": seconds,
    }
    if as_json:
        console.print_json({**facts, "without": {n: r.why for n, r in bundle.recorded.items() if not r.text}})
    else:
        console.screen().print(_recorded(bundle, out, seconds))
    raise typer.Exit(0)


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(help="A bundle that `flexconf codegen record` wrote.")],
    cases: Cases = None,
    launcher: Annotated[
        str, typer.Option(help="`fa4`: flash-attn-4 on a GPU. `host`: the reference's launcher on this CPU.")
    ] = "fa4",
    workers: Workers = None,
    time_limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Run the kernels of a bundle, and say where the outcome differs from that on the recording machine's CPU.

    The torch here only holds the tensors. Exit code 0 if every outcome is of the recorded kind, or a known defect of
    flash-attn-4 explains the difference; 1 if one differs otherwise; 2 for a bad input, such as a changed bundle.

    Examples: `flexconf codegen replay codegen-2.15`, `flexconf codegen replay codegen-2.15 'alibi*' --launcher host`
    """
    from flexconf.replay import run as replaying

    with console.progress("kernels", None, hidden=as_json) as advance:
        found = replaying.replay(
            folder,
            launcher=launcher,
            patterns=cases or [],
            workers=workers,
            time_limit=time_limit,
            on_result=lambda outcome: advance(""),
        )
    if as_json:
        console.print_json(found.to_json())
    else:
        console.screen().print(_replayed(found))
    sys.stdout.flush()
    raise typer.Exit(0 if found.ok else 1)


def _recorded(bundle: KernelBundle, out: Path, seconds: float) -> RenderableType:
    from rich.table import Table

    right = sum(r.outcome.ok for r in bundle.recorded.values())
    kernels = sum(bool(r.text) for r in bundle.recorded.values())
    facts = Table.grid(padding=(0, 2))
    facts.add_row("bundle", str(out))
    facts.add_row(
        "recorded by", f"torch {bundle.versions['torch']}, cutlass-dsl {bundle.versions['nvidia-cutlass-dsl']}"
    )
    facts.add_row("cases", f"{len(bundle.recorded)}: {right} right on this CPU")
    facts.add_row("kernels", f"{kernels}; {len(bundle.recorded) - kernels} cases have none, and a reason instead")
    facts.add_row("time", f"{seconds:.1f} s")
    return facts


def _replayed(found: Replayed) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from flexconf.replay.run import kind

    table = Table(title="outcomes that differ", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("case", style="bold", overflow="fold")
    table.add_column("recorded", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for d in found.differences:
        why = f"known: {d.explained}" if d.explained else d.here.message or d.recorded.message
        table.add_row(escape(d.case), kind(d.recorded), kind(d.here), Text(why[:300]))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("verdict", Text("PASS", "bold green") if found.ok else Text("FAIL", "bold red"))
    agreeing = ", ".join(f"{n} {what}" for what, n in sorted(found.agree.items(), key=lambda p: -p[1]))
    facts.add_row("kernels", f"{len(found.outcomes)}: {sum(found.agree.values())} as recorded ({agreeing or 'none'})")
    explained = sum(bool(d.explained) for d in found.differences)
    facts.add_row(
        "differ", f"{len(found.differences)}, {explained} of them explained by a known defect of flash-attn-4"
    )
    facts.add_row("not run", f"{len(found.not_run)} cases without a kernel")
    facts.add_row("elements compared", f"{found.elements:,}" if found.elements else "0: nothing was compared")
    facts.add_row("time", f"{found.seconds:.1f} s with {found.workers} workers")
    return Group(table, facts) if found.differences else facts
