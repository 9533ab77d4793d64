"""`flexconf releases`: which clause holds in which release of torch, on the screen, as JSON and as docs/releases.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from flexconf.cli import console
from flexconf.cli.options import Json
from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.runs.releases import Reading, Statement

_SIGNS = {"holds": "yes", "does not hold": "**no**", "does not apply": "-", "not examined": "?"}

_HEAD = """# Which clause holds in which release of PyTorch

The reference follows [lowering.md](lowering.md) in every release of torch. PyTorch's own FLASH lowering, whose source
that page dates from, has changed since. These tables say which clause holds in which release. `flexconf releases
--markdown` writes this page; `flexconf releases 2.14` prints one release, and says so if the table does not have it.

- *yes*: the clause holds. **no**: it does not. *-*: there is nothing that it could hold of. *?*: nobody has looked.
- What was read in torch's sources is in [clauses.toml](../cases/releases/clauses.toml), with the place. A
  test looks for these places in the installed torch.
- For the other clauses, the recorded outcomes of the cases that cite a clause decide. If a known defect explains an
  outcome, only the clauses that the defect cites count. `flexconf run --subject torch-codegen --no-expectations
  --no-attribute --results FILE` and then `flexconf releases --record FILE`, with the torch in question, record them.
- Without a recording, a [known defect](expectations.md) of the release that cites the clause says no.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(releases)


def releases(
    names: Annotated[list[str] | None, typer.Argument(help="Releases, such as `2.13 2.15.0`; by default all.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/releases.md.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Keep the outcomes of this file, which `flexconf run --results` wrote here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which clause of docs/lowering.md holds in which release of torch, and by which evidence.

    Exit code 0, and 2 for a release that the table does not have.

    Examples: `flexconf releases`, `flexconf releases 2.14 2.15`, `flexconf releases --json`
    """
    from flexconf.machine import environment
    from flexconf.runs import recordings
    from flexconf.runs import releases as known
    from flexflash.releases import TORCH

    if sum([markdown, record is not None, as_json]) > 1 or (names and (markdown or record is not None)):
        raise InputError("--markdown and --record stand alone: without releases, without --json")
    if record is not None:
        print(f"recorded in {recordings.record(record)}")
        return
    if markdown:
        print(document(), end="")
        return
    chosen = list(dict.fromkeys(known.require(name) for name in names)) if names else list(TORCH)
    if as_json:
        console.print_json(known.to_json(chosen))
        return
    console.screen().print(_table(chosen))
    here = str(environment.read().packages["torch"])
    if known.release_of(here) is None:
        console.screen().print(f"torch {escape(here)}, which is installed here, is unknown: the table does not have it")
    if names:
        for number in known.table():
            for statement in known.grouped(number, chosen):
                console.screen().print(escape(_sentence(number, statement)))


def _table(of: Sequence[str]) -> Table:
    from flexconf.cases import clauses
    from flexconf.runs import releases as known

    table = Table(box=box.SIMPLE_HEAD, caption="yes: it holds; no: it does not; -: it does not apply; ?: not examined")
    table.add_column("clause", style="bold")
    table.add_column("what", overflow="fold")
    for name in of:
        table.add_column(name, justify="center")
    for clause in clauses.load():
        row = known.table()[clause.number]
        table.add_row(clause.number, escape(clause.title), *(_SIGNS[row[n].state].strip("*") for n in of))
    return table


def document() -> str:
    """The text of docs/releases.md."""
    from flexconf.cases import clauses
    from flexconf.runs import releases as known
    from flexflash.releases import TORCH

    names = list(TORCH)
    lines = [_HEAD, "## The table", "", *_head("clause", "", *names)]
    for clause in clauses.load():
        row = known.table()[clause.number]
        lines.append(_line(clause.number, clause.title, *(_SIGNS[row[name].state] for name in names)))
    lines += ["", "## What the eligibility rules refuse", "", *_head("release", "read in", "in order")]
    for name, release in TORCH.items():
        rules = "; ".join(f"{rule.refuses} (`{rule.source}`)" for rule in release.rules)
        lines.append(_line(name, release.read, rules))
    lines += ["", "The reasons, word by word, are in `flexflash.releases`.", "", "## How the catalogue ends", ""]
    lines += _outcomes(names)
    lines += ["", "## Clause by clause", ""]
    for clause in clauses.load():
        lines += [f"**{clause.number}** {clause.title}.", ""]
        lines += [f"- {_sentence('', s)}" for s in known.grouped(clause.number)]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _outcomes(names: Iterable[str]) -> list[str]:
    from flexconf.runs import releases as known

    counted = {(n, s): found for n in names for s, found in known.outcomes(n).items()}
    kinds = sorted({kind for _, by_kind in counted.values() for kind in by_kind}, key=lambda kind: (kind != "ok", kind))
    lines = _head("outcome", *(f"{subject}, torch {version}" for (_, subject), (version, _) in counted.items()))
    for kind in kinds:
        lines.append(_line(kind, *(str(by_kind.get(kind, 0)) for _, by_kind in counted.values())))
    return [*lines, _line("cases", *(str(sum(by_kind.values())) for _, by_kind in counted.values()))]


def _sentence(number: str, statement: Statement) -> str:
    said = f"{number + ', ' if number else ''}{_span(statement.releases)}: {statement.state}. {statement.why}"
    found = [said if said.endswith(".") else f"{said}."]
    if statement.read:
        found.append("Read: " + "; ".join(_place(place) for place in statement.read) + ".")
    if statement.measured:
        found.append("Measured: " + ", ".join(f"`{name}`" for name in statement.measured) + ".")
    if statement.defects:
        found.append("Known defects: " + ", ".join(f"`{name}`" for name in statement.defects) + ".")
    return " ".join(found)


def _place(reading: Reading) -> str:
    return f"`{reading.file}` line {_by_release(reading.lines)}"


def _by_release(lines: Mapping[str, int]) -> str:
    if len(set(lines.values())) == 1:
        return str(next(iter(lines.values())))
    return ", ".join(f"{line} ({release})" for release, line in lines.items())


def _span(releases: Sequence[str]) -> str:
    from flexflash.releases import TORCH

    names = list(TORCH)
    places = [names.index(name) for name in releases]
    if len(places) > 2 and places == list(range(places[0], places[-1] + 1)):
        return f"{releases[0]} to {releases[-1]}"
    return ", ".join(releases)


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line(*("---" for _ in cells))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
