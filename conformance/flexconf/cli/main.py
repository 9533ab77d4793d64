"""The command line: `flexconf run`, `check`, `attribute` and the rest; `flexconf --help` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flexconf.cli import bench, codegen, console, fuzz, gate, golden, listing, own_mod, releases, sanitize
from flexconf.cli.options import Capability, FastMath, Json, Limit, SubjectName, Width, Workers, enter, run_options
from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.checks.attribution import Attribution
    from flexconf.runs.judging import Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Conformance and differential tests for the flex flash lowering: FlexAttention mods to CuTeDSL kernels.",
)

app.add_typer(bench.app, name="bench")
app.add_typer(codegen.app, name="codegen")
app.add_typer(gate.app, name="gate")
app.add_typer(golden.app, name="golden")

_ATTRIBUTED = 20  # the most failures of a run that are attributed; each runs its case a few more times


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"flexflash-conformance {metadata.version('flexflash-conformance')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and nothing else.")
    ] = False,
) -> None:
    """Conformance and differential tests for the flex flash lowering: FlexAttention mods to CuTeDSL kernels."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. A bad input ends with one line on stderr and exit code 2, never with a traceback."""
    enter(app, "flexconf", arguments)


@app.command()
def run(
    cases: Annotated[list[str] | None, typer.Argument(help="Names or globs, such as `alibi` or `'*@gqa*'`.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="Cases of this file instead of the catalogue's. Repeatable.")
    ] = None,
    subject: SubjectName = "reference.host",
    workers: Workers = None,
    vector_width: Width = None,
    fast_math: FastMath = False,
    capability: Capability = None,
    repeats: Annotated[int, typer.Option(min=1, help="Launches of a case, which must agree bit for bit.")] = 1,
    time_limit: Limit = None,
    timings: Annotated[bool, typer.Option("--timings", help="Show where the time of a case goes.")] = False,
    known: Annotated[
        bool, typer.Option("--expectations/--no-expectations", help="Let known defects pass as what they are.")
    ] = True,
    attribute: Annotated[
        bool, typer.Option("--attribute/--no-attribute", help="Say which layer is to blame for a failure.")
    ] = True,
    results: Annotated[Path | None, typer.Option(help="Also write one JSON line a case to this new file.")] = None,
    as_json: Json = False,
) -> None:
    """Run catalogue cases, and compare every element with float64 mathematics.

    Exit code 0 if every case passes or fails as `cases/expectations` states, 1 if a case fails otherwise, 2 for a bad
    input, such as a case whose mod PyTorch refuses. The other cases run all the same.

    Examples: `flexconf run`, `flexconf run alibi 'causal*' --timings`, `flexconf run --workers 1 --vector-width 8`
    """
    from flexconf.cases import catalogue
    from flexconf.checks import attribution
    from flexconf.cli import tables
    from flexconf.runs import expectations, review
    from flexconf.runs import run as runner

    options = run_options(vector_width, fast_math, repeats, capability)
    catalogued = catalogue.load(file or None)
    chosen = catalogue.select(catalogued, cases or [])
    in_force = expectations.in_force(subject, capability) if known else ()
    results_seen: list[Result] = []
    failed: list[Result] = []
    with console.progress("cases", len(chosen), hidden=as_json) as advance:

        def take(result: Result) -> None:
            results_seen.append(result)
            if not result.passed:
                failed.append(result)
            advance(f"{len(failed)} failed" if failed else "")

        summary = runner.run(
            chosen,
            subject=subject,
            workers=workers,
            options=options,
            time_limit=time_limit,
            results=results,
            expectations=in_force,
            on_result=take,
        )
    whole = catalogue.load() if file and in_force else catalogued  # expectations name cases of the catalogue
    reviewed = review.review(in_force, results_seen, [c.name for c in whole])
    failed.sort(key=lambda r: r.case.name)
    bad = [r.outcome.bad_input for r in failed if r.outcome.bad_input]
    blamed: dict[str, Attribution] = {}
    to_blame = [r for r in failed if not r.outcome.bad_input]
    if attribute and to_blame:
        asked = to_blame[:_ATTRIBUTED]
        with console.progress("attributing", len(asked), hidden=as_json) as advance:
            blamed = attribution.of_results(asked, options, on_case=lambda: advance(""))
    if as_json:
        listed = [
            {
                **r.outcome.to_json(),
                "why": r.why,
                "attribution": asdict(blamed[r.case.name]) if r.case.name in blamed else None,
            }
            for r in failed
        ]
        explained = [
            {"case": r.case.name, "outcome": f"{r.outcome.stage}/{r.outcome.symptom}", "reason": r.expectation.reason}
            for r in results_seen
            if r.expectation is not None
        ]
        console.print_json(
            {"summary": summary.to_json(), "failures": listed, "known": explained, "review": reviewed.lines}
        )
    else:
        if failed:
            console.screen().print(tables.failures(failed))
        if blamed:
            console.screen().print(tables.attributions(blamed, len(to_blame)))
        console.screen().print(tables.summary(summary, timings))
        for line in reviewed.lines:
            console.screen().print(f"[yellow]note[/] {escape(line)}")
    if bad:
        raise InputError(bad[0] if len(bad) == 1 else f"{bad[0]} (and {len(bad) - 1} more of {len(chosen)} cases)")
    raise typer.Exit(0 if summary.ok else 1)


@app.command()
def attribute(
    case: Annotated[str, typer.Argument(help="A case's name.")],
    subject: SubjectName = "reference.host",
    vector_width: Width = None,
    fast_math: FastMath = False,
    capability: Capability = None,
    time_limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Run a case again on several layers, and say in a sentence which layer is the first that is wrong.

    Exit code 0 if the subject is right, 1 if it is not, 2 for a bad input.

    Example: `flexconf attribute modulo_negative --subject torch-flash`
    """
    from flexconf import subjects
    from flexconf.cases import catalogue
    from flexconf.checks import attribution
    from flexconf.cli import tables

    options = run_options(vector_width, fast_math, capability=capability)
    subjects.require(subject).check(options)
    chosen = catalogue.select(catalogue.load(), [case])
    if len(chosen) != 1:
        raise InputError(f"{case!r} names {len(chosen)} cases; attribution is of one, such as {chosen[0].name}")
    if chosen[0].expect != "ok":
        raise InputError(f"{case} states what the reference must refuse; there is nothing to attribute")
    found = attribution.of_case(chosen[0], subject, options, time_limit)
    if as_json:
        asked = {"capability": capability} if capability is not None else {}
        console.print_json({"case": case, "subject": subject, **asked, **asdict(found)})
    else:
        console.screen().print(tables.attribution(case, subject, found))
    raise typer.Exit(0 if found.layer == attribution.NONE else 1)


@app.command()
def ops(
    names: Annotated[
        list[str] | None, typer.Argument(help="Operations, such as `exp remainder`; by default all.")
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Check every operation at vector widths 1, 2, 4 and 8, for every dtype that it takes, on difficult values.

    Examples: `flexconf ops`, `flexconf ops erf tanh`
    """
    from flexconf.checks import opcheck
    from flexconf.cli import tables

    groups = opcheck.plan(names or [])
    with console.progress("kernels", len(groups), hidden=as_json) as advance:
        rows = opcheck.run(groups, workers=workers, on_group=lambda: advance(""))
    if as_json:
        console.print_json([r.to_json() for r in rows])
    else:
        console.screen().print(tables.ops(rows))
    raise typer.Exit(0 if rows and all(r.passed for r in rows) else 1)


own_mod.register(app)
fuzz.register(app)
listing.register(app)
releases.register(app)
sanitize.register(app)
