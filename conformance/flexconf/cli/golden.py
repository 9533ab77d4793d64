"""`flexconf golden`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexconf.cli.options import Json

if TYPE_CHECKING:
    from flexconf.golden.folder import GoldenDiff

app = typer.Typer(no_args_is_help=True, help="What the oracle says of the must-pass cases, kept in a folder.")

Folder = Annotated[Path | None, typer.Option("--folder", help="The folder; by default the checkout's `golden`.")]
_SHOWN = 20


@app.command()
def regenerate(
    folder: Folder = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 when something would.")] = False,
    as_json: Json = False,
) -> None:
    """Compute every golden again, cross-check the oracles, show what changed and why it might, and write the folder.

    Nothing is written if the oracles disagree. Exit code 0; 1 with `--check` if something would change, or without it
    if the written folder has a problem; 2 for a bad input or a disagreement.

    Examples: `flexconf golden regenerate --check`, `flexconf golden regenerate`
    """
    from flexconf.golden import folder as goldens

    place = folder or goldens.default()
    computed = goldens.generate(goldens.must_pass(), _progress)
    witnessed = goldens.ask_triton(goldens.must_pass())
    found = goldens.compare(place, computed)
    if not check:
        goldens.write(place, computed)
        left = goldens.verify(place)
        if left:
            raise SystemExit(f"flexconf: error: written, and yet: {left[0]}")
    _show(found, place, as_json, witnessed, written=not check)
    raise typer.Exit(0 if found.same or not check else 1)


@app.command()
def verify(folder: Folder = None, as_json: Json = False) -> None:
    """Check that the folder is complete: every file, byte and manifest entry. Computes no golden.

    Exit code 0, and 1 if something is wrong.
    """
    from flexconf.golden import folder as goldens

    place = folder or goldens.default()
    problems = goldens.verify(place)
    if as_json:
        print(json.dumps({"folder": str(place), "ok": not problems, "problems": problems}))
    elif problems:
        print("\n".join(problems))
    else:
        facts = goldens.read_manifest(place)["goldens"].values()
        print(f"whole: {len(facts)} goldens, {sum(f['elements'] for f in facts):,} elements, {place}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="A folder of goldens.")],
    new: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: Json = False,
) -> None:
    """Show the differences between two folders of goldens. Exit code 0, and 1 if something differs."""
    from flexconf.golden import folder as goldens

    names = goldens.read_manifest(new)["goldens"]
    found = goldens.compare(old, {name: goldens.read(new, name) for name in names})
    found.problems += [p for p in goldens.verify(new) if p not in found.problems]
    _show(found, old, as_json, "", written=False)
    raise typer.Exit(0 if found.same else 1)


def _progress(name: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{name:60}", end="", file=sys.stderr, flush=True)


def _show(found: GoldenDiff, place: Path, as_json: bool, witnessed: str, *, written: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {
            "folder": str(place),
            "same": found.same,
            "compared": found.compared,
            "elements": found.elements,
            "differences": found.differences,
            "problems": found.problems,
            "triton": witnessed,
            "written": written,
        }
        print(json.dumps(facts))
        return
    for problem in found.problems:
        print(problem)
    for d in found.differences[:_SHOWN]:
        what = "; ".join(f"{name}: {text}" for name, text in d["changed"].items())
        print(f"{d['case']}: {what or 'no value changed'} ({d['why']})")
    if len(found.differences) > _SHOWN:
        print(f"... and {len(found.differences) - _SHOWN} more")
    print(
        f"{found.compared} goldens, {found.elements:,} elements: "
        f"{'no difference' if found.same else f'{len(found.differences)} differ, {len(found.problems)} problems'}"
        f"{'; written to ' + str(place) if written else ''}"
    )
    if witnessed:
        print(witnessed)
