"""The commands that list things: `flexconf cases | subjects | expectations | clauses | env`."""

from __future__ import annotations

from typing import Annotated

import typer

from flexconf.cli import console
from flexconf.cli.options import Json, Workers
from flexconf.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="cases")(list_cases)
    app.command(name="subjects")(list_subjects)
    app.command(name="expectations")(list_expectations)
    app.command()(clauses)
    app.command()(env)


def list_cases(
    patterns: Annotated[list[str] | None, typer.Argument(help="Names or globs.")] = None,
    as_json: Json = False,
) -> None:
    """List the catalogue.

    Examples: `flexconf cases`, `flexconf cases '*document*'`
    """
    from flexconf.cases import catalogue
    from flexconf.cli import tables

    found = catalogue.select(catalogue.load(), patterns or [])
    if as_json:
        console.print_json(
            [{"name": c.name, "about": c.about, "clauses": c.clauses, "digest": c.digest()} for c in found]
        )
    else:
        console.screen().print(tables.cases(found))


def list_subjects(as_json: Json = False) -> None:
    """List the subjects, and whether each can run here.

    Example: `flexconf subjects`
    """
    from flexconf.cli import tables
    from flexconf.subjects import SUBJECTS

    found = [(subject, subject.why_not()) for subject in SUBJECTS.values()]
    if as_json:
        console.print_json(
            [{"name": s.name, "about": s.about, "here": not why, "why_not": why or None} for s, why in found]
        )
    else:
        console.screen().print(tables.subjects(found))


def list_expectations(
    subject: Annotated[str | None, typer.Argument(help="A subject; by default all of them.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Run every repro that can be run here.")] = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """List the known defects. With --verify, check whether each still shows in its repro.

    Known crashes of outside software are listed separately, in words: they have no repro and are never run.

    Exit code 0, and with --verify 1 if a repro in force does not fail as its expectation states.

    Examples: `flexconf expectations`, `flexconf expectations torch-eager --verify`
    """
    from flexconf import subjects
    from flexconf.cli import tables
    from flexconf.runs import expectations, review

    names = [subjects.get(subject).name] if subject is not None else list(subjects.SUBJECTS)
    found = [e for name in names for e in expectations.load(name)]
    crashes = [c for name in names for c in expectations.crashes(name)]
    if not found and not crashes:
        raise InputError(f"there are no expectations for {subject or 'any subject'} in {expectations.folder()}")
    states = review.verify(found, workers) if verify else review.states(found)
    if as_json:
        console.print_json([*(s.to_json() for s in states), *(c.to_json() for c in crashes)])
    else:
        console.screen().print(tables.expectations(states))
        if crashes:
            console.screen().print(tables.crashes(crashes))
    raise typer.Exit(1 if any(s.failed for s in states) else 0)


def clauses(as_json: Json = False) -> None:
    """Run the suite, and list every clause with the tests that cite it. Needs a checkout.

    Example: `flexconf clauses`
    """
    from flexconf.cli import tables
    from flexconf.testing import clauses as book

    with console.progress("suite", None, hidden=as_json):
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
        console.print_json(listed)
    else:
        console.screen().print(tables.clauses(citations))
    raise typer.Exit(0 if all(c.verdict in ("passed", "GPU-only") for c in citations) else 1)


def env(as_json: Json = False) -> None:
    """Show the environment of this machine: versions, CPU and GPUs.

    Example: `flexconf env --json`
    """
    from flexconf.cli import tables
    from flexconf.machine import environment

    facts = environment.read()
    if as_json:
        console.print_json(facts.to_json())
    else:
        console.screen().print(tables.environment(facts))
