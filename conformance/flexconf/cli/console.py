"""The output of the commands: tables, JSON and code on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def screen() -> Console:
    """The console for stdout. In a pipe or file, lines have $COLUMNS characters, by default 120."""
    fixed = not (sys.stdout.isatty() or os.environ.get("COLUMNS"))
    return Console(width=120 if fixed else None, highlight=False)


def print_json(data: object) -> None:
    """Print plain JSON values. Raises ValueError for a NaN or an infinity."""
    print(json.dumps(data, indent=2, allow_nan=False))


def print_code(text: str) -> None:
    """Print Python source: in colours on a terminal, byte for byte into a pipe or file."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.syntax import Syntax

    Console().print(Syntax(text, "python", background_color="default"))


@contextmanager
def progress(what: str, total: int | None, *, hidden: bool) -> Iterator[Any]:
    """A progress bar on stderr, hidden if stderr is no terminal. Yields `advance(note)`."""
    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        *((MofNCompleteColumn(),) if total is not None else ()),
        TimeElapsedColumn(),
        TextColumn("[red]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(note: str) -> None:
            bar.update(task, advance=1, note=note)

        yield advance


@contextmanager
def timeline(seconds: float, *, hidden: bool) -> Iterator[Any]:
    """A progress bar for `seconds` on stderr, hidden if stderr is no terminal. Yields `advance(done, note)`."""
    console = Console(stderr=True)
    columns = (TextColumn("fuzz"), BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task("fuzz", total=seconds, note="")
        yield lambda done, note: bar.update(task, completed=min(done, seconds), note=note)
