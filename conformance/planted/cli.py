"""`python -m flexconf.planted`: lists the faults, and measures how soon the fuzzer finds each of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import enter, finite

FOLDER = Path(".flexconf/planted")


def main() -> None:
    """Entry point. A bad input gives one line on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(detect)
    enter(app, "python -m flexconf.planted")


def detect(
    names: Annotated[list[str] | None, typer.Argument(help="Faults; by default all of them.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each fault is looked for with.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    limit: Annotated[
        float, typer.Option(callback=finite, min=1.0, help="Seconds until a fault counts as not found.")
    ] = 120.0,
    shrink: Annotated[
        float, typer.Option(callback=finite, min=0.0, help="Seconds that making a case small may take.")
    ] = 60.0,
    out: Annotated[Path, typer.Option(help="Where records and results go; a killed run goes on there.")] = FOLDER,
    show: Annotated[bool, typer.Option("--list", help="List the faults, and look for none.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/planted-faults.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Fuzz with each fault planted until it is found.

    Prints the cases and seconds to detection, and the tokens of the smallest case.

    Exit code 0 if every fault was found with every seed, 1 if not, 2 for a bad input.
    """
    from flexconf import tampering
    from planted import detection, table
    from planted.catalogue import FAULTS

    chosen = [tampering.get(name).name for name in names or FAULTS]
    if not names and not (show or markdown):
        chosen = [name for name in chosen if not FAULTS[name].found_by]
    if markdown:
        print(table.document(), end="")
        return
    if show:
        faults = [FAULTS[name] for name in chosen]
        if as_json:
            print(json.dumps([{"name": f.name, "layer": f.layer, "about": f.about} for f in faults], indent=2))
        else:
            console.screen().print(table.listed(faults))
        return
    found = detection.detect_all(
        chosen,
        range(first_seed, first_seed + seeds),
        out,
        limit=limit,
        shrink=shrink,
        on_detection=lambda d: print(table.line(d), file=sys.stderr, flush=True),
    )
    if as_json:
        print(json.dumps({"faults": detection.summary(found), "median": detection.overall(found)}, indent=2))
    else:
        console.screen().print(table.detections(found))
    raise SystemExit(0 if all(d.found for d in found) else 1)
