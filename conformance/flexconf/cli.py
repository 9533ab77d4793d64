"""The command line: `flexconf run`, `check`, `attribute` and the rest; `flexconf --help` lists them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flexconf.bench import cli as bench
from flexconf.errors import InputError
from flexconf.fuzz import cli as fuzz
from flexconf.gate import cli as gate
from flexconf.golden import cli as golden
from flexconf.options import Json, enter, finite
from flexconf.sanitize import cli as sanitize

if TYPE_CHECKING:
    from flexconf.attribution import Attribution
    from flexconf.check import CheckTask
    from flexconf.run import Result
    from flexconf.subjects.trial import Options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Conformance and differential tests for the flex flash lowering: FlexAttention mods to CuTeDSL kernels.",
)

app.add_typer(bench.app, name="bench")
app.add_typer(gate.app, name="gate")
app.add_typer(golden.app, name="golden")
sanitize.register(app)
fuzz.register(app)

_ATTRIBUTED = 20  # failures of a run that are attributed; each takes a few more cases

Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one a CPU.")]
SubjectName = Annotated[str, typer.Option(help="What to test; `flexconf subjects` lists what there is.")]
FastMath = Annotated[
    bool, typer.Option("--fast-math", help="Let the mods use approximate GPU instructions, within their own bound.")
]
Limit = Annotated[
    float | None,
    typer.Option(callback=finite, min=0.1, help="Seconds a case may take; by default 60, or 180 on a GPU."),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--vector-width", help="Keys that a mod sees at once: 1, 2, 4 or 8. By default flash-attn-4's choice."
    ),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A bad input is one line on stderr and exit code 2, never a traceback."""
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

    Exit code 0 when all pass or fail as `cases/expectations` says, 1 when a case fails, 2 for a bad input, such as a
    case whose mod PyTorch refuses; the other cases run all the same.

    Examples: `flexconf run`, `flexconf run alibi 'causal*' --timings`, `flexconf run --workers 1 --vector-width 8`
    """
    from flexconf import attribution, catalogue, expectations, tables
    from flexconf import run as runner

    options = _options(vector_width, fast_math, repeats)
    catalogued = catalogue.load(file or None)
    chosen = catalogue.select(catalogued, cases or [])
    in_force = expectations.in_force(subject) if known else ()
    results_seen: list[Result] = []
    failed: list[Result] = []
    with _progress("cases", len(chosen), hidden=as_json) as advance:

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
    whole = catalogue.load() if file and in_force else catalogued  # what an expectation names is there, not in a file
    review = expectations.review(in_force, results_seen, [c.name for c in whole])
    failed.sort(key=lambda r: r.case.name)
    bad = [r.outcome.bad_input for r in failed if r.outcome.bad_input]
    blamed: dict[str, Attribution] = {}
    to_blame = [r for r in failed if not r.outcome.bad_input]
    if attribute and to_blame:
        asked = to_blame[:_ATTRIBUTED]
        with _progress("attributing", len(asked), hidden=as_json) as advance:
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
        _print_json({"summary": summary.to_json(), "failures": listed, "known": explained, "review": review.lines})
    else:
        if failed:
            _console().print(tables.failures(failed))
        if blamed:
            _console().print(tables.attributions(blamed, len(to_blame)))
        _console().print(tables.summary(summary, timings))
        for line in review.lines:
            _console().print(f"[yellow]note[/] {escape(line)}")
    if bad:
        raise InputError(bad[0] if len(bad) == 1 else f"{bad[0]} (and {len(bad) - 1} more of {len(chosen)} cases)")
    raise typer.Exit(0 if summary.ok else 1)


@app.command()
def attribute(
    case: Annotated[str, typer.Argument(help="A case's name.")],
    subject: SubjectName = "reference.host",
    vector_width: Width = None,
    fast_math: FastMath = False,
    time_limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Run a case again on as many layers as it takes to say, in a sentence, which is the first that is wrong.

    Exit code 0 when the subject is right, 1 when it is not, 2 for a bad input.

    Example: `flexconf attribute modulo_negative --subject torch-flash`
    """
    from flexconf import attribution, catalogue, subjects, tables

    subjects.require(subject)
    chosen = catalogue.select(catalogue.load(), [case])
    if len(chosen) != 1:
        raise InputError(f"{case!r} names {len(chosen)} cases; attribution is of one, such as {chosen[0].name}")
    if chosen[0].expect != "ok":
        raise InputError(f"{case} states what the reference must refuse; there is nothing to attribute")
    found = attribution.of_case(chosen[0], subject, _options(vector_width, fast_math), time_limit)
    if as_json:
        _print_json({"case": case, "subject": subject, **asdict(found)})
    else:
        _console().print(tables.attribution(case, subject, found))
    raise typer.Exit(0 if found.layer == attribution.NONE else 1)


@app.command(name="expectations")
def list_expectations(
    subject: Annotated[str | None, typer.Argument(help="A subject; by default all of them.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Run every repro that can be run here.")] = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """List the known defects; with --verify, see whether each still shows in its repro.

    What is known to crash outside software is listed apart, in words: it has no repro, and nothing of it is run.

    Exit code 0, and with --verify 1 when a repro in force does not show what its expectation says.

    Examples: `flexconf expectations`, `flexconf expectations torch-eager --verify`
    """
    from flexconf import expectations, subjects, tables

    names = [subjects.get(subject).name] if subject is not None else list(subjects.SUBJECTS)
    found = [e for name in names for e in expectations.load(name)]
    crashes = [c for name in names for c in expectations.crashes(name)]
    if not found and not crashes:
        raise InputError(f"there are no expectations for {subject or 'any subject'} in {expectations.folder()}")
    states = expectations.verify(found, workers) if verify else expectations.states(found)
    if as_json:
        _print_json([*(s.to_json() for s in states), *(c.to_json() for c in crashes)])
    else:
        _console().print(tables.expectations(states))
        if crashes:
            _console().print(tables.crashes(crashes))
    raise typer.Exit(1 if any(s.failed for s in states) else 0)


_MOD = "A score_mod as text, such as `score + bias[h, q - kv]`, or `module:function`."


@app.command()
def check(
    mod: Annotated[str | None, typer.Argument(help=_MOD, show_default=False)] = None,
    mask: Annotated[str | None, typer.Option(help="A mask_mod, as text or `module:function`.")] = None,
    buffer: Annotated[
        list[str] | None, typer.Option(help="A captured tensor: `NAME=SHAPE:DTYPE[:VALUES[:LAYOUT]]`. Repeatable.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="`B,H,Hkv,M,N,D[,Dv]`.")] = None,
    dtype: Annotated[str, typer.Option(help="`bfloat16` or `float16`.")] = "bfloat16",
    layout: Annotated[str, typer.Option(help="How q, k and v lie in memory.")] = "contiguous",
    scale: Annotated[float | None, typer.Option(callback=finite, help="Factor on Q K^T; by default 1/sqrt(D).")] = None,
    block_size: Annotated[str, typer.Option(help="Block size of the mask, `q,kv`.")] = "128,128",
    subject: SubjectName = "reference.host",
    vector_width: Width = None,
    fast_math: FastMath = False,
    time_limit: Limit = None,
    show_kernel: Annotated[bool, typer.Option("--show-kernel", help="Print the rendered kernel as well.")] = False,
    as_json: Json = False,
) -> None:
    """Check a mod of your own: is its lowering right, on every element?

    Exit code 0 when it is, 1 when it is not, 2 for a bad input.

    Examples:

    `flexconf check 'score + bias[h, q - kv]' --buffer 'bias=H,M+N:float32' --mask 'q >= kv' --shape 2,4,2,300,200,64`

    `flexconf check mymodule:my_score_mod --shape 1,8,8,512,512,64`
    """
    from flexconf import check as checker
    from flexconf import tables

    what = replace(
        _task(mod, mask, buffer, shape, dtype, layout, scale, block_size),
        subject=subject,
        options=_options(vector_width, fast_math),
    )
    result = checker.check(what, time_limit)
    if as_json:
        _print_json({**result.outcome.to_json(), "passed": result.passed, "why": result.why})
    else:
        if show_kernel:
            _print_code(checker.kernel_text(what))
        _console().print(tables.verdict(result))
    raise typer.Exit(0 if result.passed else 1)


@app.command()
def render(
    what: Annotated[str, typer.Argument(help="A case's name, a score_mod as text, or `module:function`.")],
    mask: Annotated[str | None, typer.Option(help="A mask_mod, as text or `module:function`.")] = None,
    buffer: Annotated[
        list[str] | None, typer.Option(help="A captured tensor: `NAME=SHAPE:DTYPE[:VALUES[:LAYOUT]]`. Repeatable.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="`B,H,Hkv,M,N,D[,Dv]`.")] = None,
    dtype: Annotated[str, typer.Option(help="`bfloat16` or `float16`.")] = "bfloat16",
) -> None:
    """Print the kernel text that a case or a mod renders to.

    Examples: `flexconf render alibi`, `flexconf render 'torch.tanh(score / 20) * 20' --mask 'q >= kv'`
    """
    from flexconf import catalogue
    from flexconf import check as checker

    if what.replace("_", "").replace("@", "").replace("-", "").replace(".", "").isalnum() and what != "score":
        task = checker.of_case(catalogue.select(catalogue.load(), [what])[0])
    else:
        task = _task(what, mask, buffer, shape, dtype, "contiguous", None, "128,128")
    _print_code(checker.kernel_text(task))


@app.command(name="cases")
def list_cases(
    patterns: Annotated[list[str] | None, typer.Argument(help="Names or globs.")] = None,
    as_json: Json = False,
) -> None:
    """List the catalogue.

    Examples: `flexconf cases`, `flexconf cases '*document*'`
    """
    from flexconf import catalogue, tables

    found = catalogue.select(catalogue.load(), patterns or [])
    if as_json:
        _print_json([{"name": c.name, "about": c.about, "clauses": c.clauses, "digest": c.digest()} for c in found])
    else:
        _console().print(tables.cases(found))


@app.command(name="subjects")
def list_subjects(as_json: Json = False) -> None:
    """List what can be tested, and whether it can be here.

    Example: `flexconf subjects`
    """
    from flexconf import tables
    from flexconf.subjects import SUBJECTS

    found = [(subject, subject.why_not()) for subject in SUBJECTS.values()]
    if as_json:
        _print_json([{"name": s.name, "about": s.about, "here": not why, "why_not": why or None} for s, why in found])
    else:
        _console().print(tables.subjects(found))


@app.command()
def ops(
    names: Annotated[
        list[str] | None, typer.Argument(help="Operations, such as `exp remainder`; by default all.")
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Check every operation: at vector widths 1, 2, 4 and 8, for every dtype it takes, on values that hurt.

    Examples: `flexconf ops`, `flexconf ops erf tanh`
    """
    from flexconf import opcheck, tables

    groups = opcheck.plan(names or [])
    with _progress("kernels", len(groups), hidden=as_json) as advance:
        rows = opcheck.run(groups, workers=workers, on_group=lambda: advance(""))
    if as_json:
        _print_json([r.to_json() for r in rows])
    else:
        _console().print(tables.ops(rows))
    raise typer.Exit(0 if rows and all(r.passed for r in rows) else 1)


@app.command()
def clauses(as_json: Json = False) -> None:
    """Run the suite and list every clause with the tests that cite it (from a checkout).

    Example: `flexconf clauses`
    """
    from flexconf import clauses as book
    from flexconf import tables

    with _progress("suite", None, hidden=as_json):
        citations = book.run_suite()
    if as_json:
        listed = [
            {
                "clause": c.clause.number,
                "text": c.clause.text,
                "verdict": c.verdict,
                "passed": c.passed,
                "failed": c.failed,
            }
            for c in citations
        ]
        _print_json(listed)
    else:
        _console().print(tables.clauses(citations))
    raise typer.Exit(0 if all(c.verdict in ("passed", "GPU-only") for c in citations) else 1)


@app.command()
def env(as_json: Json = False) -> None:
    """Show what results here are obtained with.

    Example: `flexconf env --json`
    """
    from flexconf import environment, tables

    facts = environment.read()
    if as_json:
        _print_json(facts.to_json())
    else:
        _console().print(tables.environment(facts))


def _task(
    score_mod: str | None,
    mask: str | None,
    buffers: list[str] | None,
    shape: str | None,
    dtype: str,
    layout: str,
    scale: float | None,
    block_size: str,
) -> CheckTask:
    from flexconf import check as checker
    from flexconf.case import Problem

    changes: dict[str, Any] = {"dtype": dtype, "layout": layout, "scale": scale}
    problem = Problem.parse_shape(shape, **changes) if shape is not None else Problem(**changes)
    sizes = block_size.split(",")
    if len(sizes) != 2 or not all(s.strip().isdecimal() for s in sizes):
        raise InputError(f"block size {block_size!r} must be two whole numbers, such as 128,128")
    return checker.task(
        score_mod,
        mask,
        buffers=buffers or (),
        problem=problem,
        block=(int(sizes[0]), int(sizes[1])),
    )


def _options(width: int | None, fast_math: bool, repeats: int = 1) -> Options:
    from flexconf.subjects.trial import Options

    if width not in (None, 1, 2, 4, 8):
        raise InputError(f"vector width must be 1, 2, 4 or 8, not {width}")
    return Options(width, fast_math, repeats)


def _console() -> Console:
    """The screen; into a pipe or file, lines of $COLUMNS or 120 characters."""
    fixed = not (sys.stdout.isatty() or os.environ.get("COLUMNS"))
    return Console(width=120 if fixed else None, highlight=False)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))


def _print_code(text: str) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.syntax import Syntax

    Console().print(Syntax(text, "python", background_color="default"))


@contextmanager
def _progress(what: str, total: int | None, *, hidden: bool) -> Iterator[Any]:
    """A progress bar on stderr; nothing when stderr is no terminal. Yields `advance(note)`."""
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
