"""The evidence that a bundle keeps of a failure besides its outcome: the layer at fault, the kernel, and a repro."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from flexconf import repro, subjects, tampering
from flexconf.checks import attribution
from flexconf.gate import files
from flexconf.gate.attempt import Rendering, render
from flexconf.gate.files import Key
from flexconf.gate.recording import Recording, facts
from flexconf.machine.files import write
from flexconf.runs import expectations, judging
from flexconf.verdict.outcome import Outcome, merge
from flexconf.workers import tasks
from flexconf.workers.isolated import Isolated
from flexconf.workers.pool import Crew, Lost

_LOG = 4000


def unexplained(recording: Recording) -> dict[Key, Outcome]:
    """The failures that no expectation explains, each with an outcome.

    The outcome is that of the first unexplained attempt. If only the attempts together fail, since they differ, it is
    their merged outcome.
    """
    found: dict[Key, Outcome] = {}
    for key in recording.plan.asked():
        if not recording.failed(key):
            continue
        known, case = expectations.in_force(key[1]), recording.cases[key[0]]
        judged = [(o, judging.judge(case, o, known)) for o in [*recording.seen[key], merge(recording.seen[key])] if o]
        wrong = [outcome for outcome, result in judged if not result.passed]
        if wrong:
            found[key] = wrong[0]
    return found


def explain(recording: Recording) -> None:
    """Write the evidence file of each unexplained failure. Files that an earlier process finished are kept."""
    todo = {}
    for key, outcome in unexplained(recording).items():
        there = facts(files.evidence(recording.root, key))
        if not there.get("explained"):
            todo[key] = (outcome, there)
    if not todo:
        return
    limit = recording.plan.options["time_limit"]
    with Isolated(time_limit=limit) as isolated:
        for key, (outcome, there) in todo.items():
            write(
                files.evidence(recording.root, key),
                files.canonical({**_evidence(recording, key, outcome, isolated), **there, "explained": True}),
            )


def _evidence(recording: Recording, key: Key, outcome: Outcome, isolated: Isolated) -> dict[str, object]:
    case, subject = recording.cases[key[0]], key[1]
    layer = sentence = script = ""
    if case.expect == "ok":
        found = attribution.in_worker(isolated, case, subject, None)
        layer, sentence = found.layer, found.sentence
        try:
            script = repro.render(case, tampering.split(outcome.subject)[0], outcome)
        except Exception as error:  # evidence without a repro is better than none
            script = f"# No repro: {type(error).__name__}: {' '.join(str(error).split())[:500]}\nraise SystemExit(2)\n"
    logs = sorted((recording.root / files.LOGS).glob(f"{_literal(f'{key[0]}.{subject}')}.[0-9]*.txt"))
    digests = {o.digests["kernel"] for o in recording.seen[key] if "kernel" in o.digests}
    return {
        "case": key[0],
        "subject": subject,
        "layer": layer,
        "sentence": sentence,
        "kernel": min(digests, default=""),
        "repro": script,
        "map": None,
        "worst": [],
        "log": logs[0].read_text(encoding="utf-8", errors="replace")[-_LOG:] if logs else "",
    }


def _literal(name: str) -> str:
    """A glob that matches `name` and nothing else."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def kernels(recording: Recording, variables: Mapping[str, str]) -> dict[str, str]:
    """{SHA-256: rendered text} of each kernel that a result names, if rendering it again gives the same text."""
    wanted: dict[str, Rendering] = {}
    for (case, subject), outcomes in recording.seen.items():
        for outcome in outcomes:
            if "kernel" in outcome.digests:
                wanted.setdefault(outcome.digests["kernel"], Rendering(recording.cases[case], subject))
    if not wanted:
        return {}
    found: dict[str, str] = {}

    def take(what: Rendering, text: str | Lost) -> None:
        if isinstance(text, str):
            found[files.sha256_of(text)] = text

    with Crew(
        render,
        workers=1,
        prepare=functools.partial(tasks.prepare_worker, subjects.get("reference.host")),
        environments=[dict(variables)],
    ) as crew:
        crew.run(list(wanted.values()), take)
    return {digest: text for digest, text in found.items() if digest in wanted}
