"""`flexconf fuzz` and `flexconf findings`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import Capability, Json, finite
from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.fuzz.findings import Finding

_WORDS = "A run's folder, or `show ID`, `rerun ID`, `close ID`."


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(fuzz)
    app.command(name="findings")(list_findings)


def fuzz(
    subject: Annotated[str, typer.Option(help="What to test; `flexconf subjects` lists what there is.")] = (
        "reference.host"
    ),
    minutes: Annotated[float, typer.Option(callback=finite, min=0.01, help="How long to generate examples.")] = 10.0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=999, help="Drivers, each with a worker process; by default one a CPU.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What the examples of every round derive from.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default `.flexconf/fuzz/<subject>`.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(callback=finite, min=0.1, help="Seconds an example may take.")
    ] = None,
    shrink: Annotated[
        float, typer.Option(callback=finite, min=0.0, help="Seconds that making one failure smaller may take.")
    ] = 60.0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End when so many new findings are there.")] = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="Name everything that was never reached.")] = False,
    check_repro: Annotated[
        bool, typer.Option("--check-repro/--no-check-repro", help="Run the repro of every new finding.")
    ] = True,
    refusals: Annotated[
        bool | None,
        typer.Option(
            "--refusals/--no-refusals", help="Whether what is refused is a finding; by default on the reference."
        ),
    ] = None,
    capability: Capability = None,
    plant: Annotated[
        str | None, typer.Option(help="Plant a fault, to test the tester; `python -m flexconf.planted --list`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate cases, run each in an isolated process, and keep every failure, shrunk, with a repro.

    Every result is written to disk when it is known. If a run ended or was killed, the same command continues it. Exit
    code 0 without a new finding, 1 with one, 2 for a bad input or if nothing was compared.

    Examples: `flexconf fuzz --minutes 2`, `flexconf fuzz --subject torch-eager --minutes 10 --seed 7 --out run7`
    """
    from flexconf import tampering
    from flexconf.cli import fuzz_tables
    from flexconf.fuzz import engine
    from flexconf.fuzz.findings import ROOT
    from flexconf.fuzz.plan import Plan
    from flexconf.workers import pool

    of = f"-{capability}" if capability is not None else ""
    plan = Plan(
        subject=subject,
        folder=(out if out is not None else ROOT / f"{tampering.labelled(subject, plant)}{of}").absolute(),
        seconds=minutes * 60,
        workers=workers or pool.default_workers(),
        seed=seed,
        time_limit=time_limit,
        shrink_seconds=shrink,
        stop_after=stop_after,
        check_repro=check_repro and not (plant or tampering.wanted()),  # a repro runs without the planted fault
        refusals=refusals,
        capability=capability,
    )
    with tampering.in_workers(plant), console.timeline(plan.seconds, hidden=as_json) as advance:
        report = engine.fuzz(plan, lambda state: advance(state.seconds, fuzz_tables.progress(state)))
    if as_json:
        print(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        console.screen().print(fuzz_tables.summary(report, coverage))
    if report.broken:
        raise InputError("; ".join(line.splitlines()[0] for line in report.broken))
    if report.now.examples == report.now.verdicts["discarded"]:
        raise InputError(
            f"nothing was compared in {minutes:g} minutes: {report.now.examples} examples; try --minutes 2"
        )
    raise typer.Exit(1 if report.new else 0)


def list_findings(
    words: Annotated[list[str] | None, typer.Argument(help=_WORDS, show_default=False)] = None,
    reason: Annotated[str | None, typer.Option(help="Why a finding is closed.")] = None,
    root: Annotated[Path | None, typer.Option("--in", help="Where to look; by default `.flexconf/fuzz`.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="List those that are closed as well.")] = False,
    issue: Annotated[bool, typer.Option("--issue", help="With `show`: print the text of an issue.")] = False,
    as_json: Json = False,
) -> None:
    """List the findings of fuzzing, show one, run one again, or close one.

    `rerun` exits with 1 if the finding still fails and with 0 if it does not. A closed finding still explains failures
    like it, so they are not reported as new findings. `show --issue` prints a report as Markdown, for the project whose
    defect it is.

    Examples: `flexconf findings`, `flexconf findings show output-wrong-1f3a5c7e --issue`,
    `flexconf findings rerun output-wrong-1f3a5c7e`,
    `flexconf findings close output-wrong-1f3a5c7e --reason "pytorch issue 188878"`
    """
    from flexconf.cli import fuzz_tables
    from flexconf.fuzz import findings

    if issue and (words or [""])[0] != "show":
        raise InputError("--issue goes with show: flexconf findings show ID --issue")
    match words or []:
        case ["show", ident]:
            _show(*findings.locate(ident, root), issue, as_json)
            return
        case ["rerun", ident]:
            raise typer.Exit(_rerun(ident, root, as_json))
        case ["close", ident]:
            if reason is None:
                raise InputError(f"say why: flexconf findings close {ident} --reason TEXT")
            run, finding = findings.locate(ident, root)
            print(f"{findings.close(run, finding, reason).ident} is closed")
            return
        case ["show" | "rerun" | "close" as word, *_]:
            raise InputError(f"write flexconf findings {word} ID")
        case [folder] if root is None:
            root = Path(folder)
        case []:
            pass
        case _:
            raise InputError(
                "write flexconf findings [FOLDER], findings show ID, findings rerun ID, "
                "or findings close ID --reason TEXT"
            )
    runs = findings.runs(root)
    if root is not None and not runs:
        raise InputError(f"{root} holds no run of `flexconf fuzz`")
    listed = [f for run in runs for f in findings.load_all(run) if closed or f.is_open]
    if as_json:
        print(json.dumps([f.to_json() for f in listed], indent=2, allow_nan=False))
    elif listed:
        console.screen().print(fuzz_tables.findings(listed))
    else:
        print("no findings")


def _show(run: Path, finding: Finding, issue: bool, as_json: bool) -> None:
    """All that is known of a finding and where its files are, or the text of an issue."""
    from flexconf.cli import fuzz_tables
    from flexconf.fuzz import findings
    from flexconf.fuzz import issue as issues

    if issue:
        print(issues.text(run, finding), end="")
    elif as_json:
        print(json.dumps(finding.to_json(), indent=2, allow_nan=False))
    else:
        console.screen().print(fuzz_tables.findings([finding], "finding"))
        print(f"files: {findings.folder_of(run, finding.ident)}")


def _rerun(ident: str, root: Path | None, as_json: bool) -> int:
    """Run a finding's case again in an isolated process, on its subject and with its vector width."""
    from flexconf import subjects, tampering
    from flexconf.fuzz import findings
    from flexconf.subjects.trial import Options
    from flexconf.workers.isolated import Isolated

    run, finding = findings.locate(ident, root)
    subject, fault = tampering.split(finding.subject)
    subjects.require(subject)
    case = findings.case_of(run, finding)
    with tampering.in_workers(fault), Isolated(prepare=subject) as isolated:
        outcome = isolated.run(case, subject, Options(vector_width=finding.width, capability=finding.capability))
    if as_json:
        print(json.dumps({"id": finding.ident, "there": not outcome.ok, "outcome": outcome.to_json()}, indent=2))
    else:
        state = "gone; close it with" if outcome.ok else "there"
        how = f" flexconf findings close {finding.ident} --reason TEXT" if outcome.ok else ""
        print(f"{finding.ident}: {state}{how}")
        print(f"{outcome.stage}/{outcome.symptom}: {outcome.message}")
    return 0 if outcome.ok else 1
