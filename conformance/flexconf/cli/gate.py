"""`flexconf gate`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import Json, finite

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flexconf.gate.model import Decision
    from flexconf.gate.recording import Recording

app = typer.Typer(no_args_is_help=True, help="Is a new version fit to ship? Record two bundles, and compare them.")

_SHOWN = 20


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="The bundle: a new folder, or one that was begun and not finished.")],
    label: Annotated[str, typer.Option(help="What the bundle is called in reports, such as `torch 2.14 rc2`.")] = "",
    subject: Annotated[
        list[str] | None,
        typer.Option(help="What to ask. Repeatable; by default reference.host and the four GPU subjects that can run."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Names or globs of catalogue cases. Repeatable; by default `cases/mustpass.txt`."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one a CPU.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Launches of a case, which must agree bit for bit.")] = 5,
    timings: Annotated[bool, typer.Option("--timings/--no-timings", help="Time launches, in a second pass.")] = True,
    allow_dirty: Annotated[
        bool,
        typer.Option(
            "--allow-dirty", help="Record from a checkout with uncommitted changes, to look at: it is never a PASS."
        ),
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option(callback=finite, min=0.1, help="Seconds a case; by default 60, or 180 on a GPU.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Record the results of this environment for the gate's list. If it is killed, the same command continues it.

    Exit code 0 if the recording is complete, even with failures; 2 for a bad input.

    Examples: `flexconf gate record --out baseline`, `flexconf gate record --out quick --case 'alibi*' --no-timings`
    """
    from flexconf.cases import catalogue
    from flexconf.gate import record as recorder
    from flexconf.gate.files import Key
    from flexconf.golden import folder as goldens
    from flexconf.verdict.outcome import Outcome

    chosen = catalogue.select(catalogue.load(), case) if case else goldens.must_pass()
    failing: set[Key] = set()
    with console.progress("attempts", None, hidden=as_json) as advance:

        def took(key: Key, outcome: Outcome) -> None:
            if not outcome.ok:
                failing.add(key)
            advance(f"{len(failing)} failing" if failing else "")

        recording = recorder.record(
            out,
            chosen,
            subject or None,
            label=label,
            workers=workers,
            repeats=repeats,
            timings=timings,
            allow_dirty=allow_dirty,
            time_limit=time_limit,
            on_attempt=took,
        )
    if as_json:
        print(json.dumps(_facts(recording), indent=2))
        return
    console.screen().print(_shown(recording))


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="The bundle of what is in use.")],
    candidate: Annotated[Path, typer.Argument(help="The bundle of what is to be shipped.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder for report.html, report.json, junit.xml and summary.md.")
    ] = None,
    waivers: Annotated[Path | None, typer.Option(help="Waivers; by default `cases/waivers.toml`.")] = None,
    slower: Annotated[float, typer.Option(callback=finite, help="What a launch may take, times what it took.")] = 1.25,
    as_json: Json = False,
) -> None:
    """Decide whether the candidate is fit to ship. Runs nothing, and needs no GPU.

    Exit code 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, and 2 for a bad input, which gives no verdict.

    Example: `flexconf gate compare baseline candidate --out report`
    """
    from flexconf.gate import compare as comparing
    from flexconf.gate import reading, report
    from flexconf.gate import waivers as excuses
    from flexconf.gate.report import plain

    decision = comparing.decide(reading.read(baseline), reading.read(candidate), excuses.load(waivers), slower=slower)
    made = report.write(decision, out) if out is not None else {}
    if as_json:
        print(plain.as_json(decision), end="")
    else:
        screen = console.screen()
        screen.print(_decided(decision))
        for path in made.values():
            screen.print(f"written: {path}", soft_wrap=True)
    raise typer.Exit(decision.exit_code)


@app.command()
def shrink(
    bundle: Annotated[Path, typer.Argument(help="A finished bundle.")],
    out: Annotated[Path, typer.Option(help="A new folder for its small form.")],
    as_json: Json = False,
) -> None:
    """Write a bundle's small form, for a repository: without output rows, kernels of right results, and logs.

    Example: `flexconf gate shrink baseline --out small/baseline`
    """
    from flexconf.gate import shrink as shrinking

    size = shrinking.shrink(bundle, out)
    print(json.dumps(size) if as_json else f"written: {out}, {size['after']:,} bytes instead of {size['before']:,}")


@app.command()
def fingerprint(
    bundle: Annotated[Path, typer.Argument(help="A finished bundle.")],
    write: Annotated[bool, typer.Option("--write", help="Keep the fingerprint of the bundle's environment.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compare with the one that is kept; the default.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="The folder of goldens; by default the checkout's `golden`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that every output, LSE and kernel has the same bits as before in this environment.

    Exit code 0 if all bits are the same, or if the fingerprint was written; 1 if some differ, each named; 2 for a bad
    input.

    Examples: `flexconf gate fingerprint baseline --write`, `flexconf gate fingerprint candidate --check`
    """
    from flexconf.errors import InputError
    from flexconf.gate import fingerprint as prints
    from flexconf.gate import reading
    from flexconf.golden import folder as goldens

    if write and check:
        raise InputError("--write and --check are two things; ask for one of them")
    place = folder or goldens.default()
    found = prints.of(reading.read(bundle))
    if write:
        path = prints.write(place, found)
        print(json.dumps({"written": str(path)}) if as_json else f"written: {len(found.results)} results, {path}")
        return
    differing = prints.check(place, found)
    if as_json:
        print(json.dumps({"fingerprint": found.slug, "compared": len(found.results), "differences": differing}))
    elif differing:
        print("\n".join(differing))
    else:
        print(f"identical: {len(found.results)} results, {found.slug}")
    raise typer.Exit(1 if differing else 0)


def _decided(decision: Decision) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from flexconf.cli.tables import _table
    from flexconf.gate.model import Effect, Verdict
    from flexconf.gate.report.plain import advice, kind, ordered

    colour = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}[decision.verdict]
    lines: list[RenderableType] = [Text(str(decision.verdict), f"bold {colour}"), Text(advice(decision))]
    lines += [Padding(Text(reason), (0, 0, 0, 2)) for reason in decision.reasons]
    bad = [r for r in ordered(decision.rows) if r.effect is not Effect.FINE]
    if bad:
        table = _table("Failing or open")
        for name in ("case", "subject", "change", "why"):
            table.add_column(name, overflow="fold")
        for row in bad[:_SHOWN]:
            style = "red" if row.effect is Effect.FAILS else "yellow"
            why = f"{row.evidence.layer}: {row.why}" if row.evidence.layer else row.why
            table.add_row(Text(row.case), Text(row.subject), Text(kind(row), style), Text(why[:300]))
        lines.append(table)
        if len(bad) > _SHOWN:
            lines.append(Text(f"... and {len(bad) - _SHOWN} more; --out writes a report of all"))
    return Group(*lines)


def _facts(recording: Recording) -> dict[str, object]:
    attempts = sum(map(len, recording.seen.values()))
    return {
        "bundle": str(recording.root),
        "attempts": attempts,
        "resumed": recording.resumed,
        "skips": dict(recording.plan.skips),
        "subjects": {s: _figures(recording, s) for s in recording.plan.subjects if s not in recording.plan.skips},
    }


def _figures(recording: Recording, subject: str) -> dict[str, object]:
    """The numbers of right, known, failing and flaky cases on one subject, and the median seconds of a launch."""
    from flexconf.runs import expectations, judging
    from flexconf.verdict.outcome import Symptom, merge

    known = expectations.in_force(subject)
    right = explained = failing = flaky = 0
    launches: list[float] = []
    for key, outcomes in recording.seen.items():
        if key[1] != subject:
            continue
        launches += [statistics.median(o.launches) for o in outcomes if o.launches]
        merged = merge(outcomes)
        assert merged is not None
        judged = judging.judge(recording.cases[key[0]], merged, known)
        if judged.passed and judged.expectation is None:
            right += 1
        elif judged.passed:
            explained += 1
        else:
            failing += 1
            flaky += merged.symptom is Symptom.NONDETERMINISTIC
    median = statistics.median(launches) if launches else None
    return {"right": right, "known": explained, "failing": failing, "flaky": flaky, "median_launch": median}


def _shown(recording: Recording) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from flexconf.cli.tables import _table

    table = _table("Recorded")
    table.add_column("subject", no_wrap=True)
    for name in ("right", "known defects", "failing", "flaky", "median launch"):
        table.add_column(name, justify="right")
    for subject in recording.plan.subjects:
        if subject in recording.plan.skips:
            continue
        figures = _figures(recording, subject)
        median = figures.pop("median_launch")
        shown = [Text(str(n), "bold red" if name in ("failing", "flaky") and n else "") for name, n in figures.items()]
        table.add_row(subject, *shown, f"{median * 1e3:.3g} ms" if isinstance(median, float) else "not taken")
    attempts = sum(map(len, recording.seen.values()))
    resumed = f", {recording.resumed} of them from before" if recording.resumed else ""
    lines = [Text(f"{name} was skipped: {why}", "dim") for name, why in recording.plan.skips.items()]
    return Group(table, *lines, Text(f"complete: {attempts} attempts{resumed}, in {recording.root}"))
