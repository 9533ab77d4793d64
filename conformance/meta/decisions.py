"""Decisions made by hand, for tests of the report and for looking at it."""

from __future__ import annotations

from flexconf import repro
from flexconf.cases import catalogue
from flexconf.fuzz import keeping
from flexconf.gate import reasons
from flexconf.gate.model import (
    Change,
    Component,
    Decision,
    Drift,
    Effect,
    Evidence,
    Pace,
    Row,
    Side,
    Verdict,
    WaiverUse,
)
from flexconf.verdict.outcome import Outcome, Stage, Symptom

SUBJECTS = ("reference.fa4", "reference.host", "reference.simt", "torch-flash")
_BAD = (
    (Change.WRONG, Effect.FAILS, Symptom.WRONG),
    (Change.CRASHED, Effect.FAILS, Symptom.ILLEGAL_ACCESS),
    (Change.FLAKY, Effect.OPEN, Symptom.NONDETERMINISTIC),
    (Change.REFUSED, Effect.FAILS, Symptom.REFUSED),
)


_REAL = 6  # kernels and scripts are rendered; that takes a while


def decision(failures: int = 1) -> Decision:
    """Some 330 rows, of which so many fail or are open, with kernels and repros of real ones' size."""
    names = [c for c in catalogue.load() if c.expect == "ok"][:83]
    rows: list[Row] = []
    texts: list[tuple[str, str]] = []
    for case in names:
        for subject in SUBJECTS:
            good = _outcome(case.name, subject, Symptom.OK)
            group = case.clauses[0].partition(".")[0] if case.clauses else ""
            if len(rows) >= failures:
                drifts = len(rows) % 9 == 0
                drift = Drift(4096, 12, 1.0, (0, 1, 2, 3), (0.41, 0.43)) if drifts else None
                pace = Pace(1.2e-4, 1.21e-4, 1.008, 0.02, 7, False)
                change, why = (Change.DRIFT, "other bits, at most 1 ulp apart") if drifts else (Change.IDENTICAL, "")
                why = why or "right in both, with the same bits"
                rows.append(Row(case.name, subject, group, change, Effect.FINE, why, good, good, drift, pace))
                continue
            change, effect, symptom = _BAD[len(rows) % len(_BAD)]
            bad = _outcome(case.name, subject, symptom)
            if len(texts) < _REAL:
                texts.append((keeping._kernel(case), repro.render(case, "torch-eager", bad)))
            kernel, script = texts[len(rows) % len(texts)]
            # No two are the same, as in a bundle: a kernel belongs to a case, a script to a case and a subject.
            kernel, script = f"# {case.name}\n{kernel}", f"# {case.name} on {subject}\n{script}"
            cells = [[(x * y + len(rows)) % 7 if (x // 8 + y // 8) % 2 else 0 for x in range(32)] for y in range(32)]
            evidence = Evidence(
                "flash-attn-4",
                "right on the CPU and in the plain kernel, but wrong in flash-attn-4: its attention kernel, or "
                "its walk over the block lists",
                kernel,
                script,
                {
                    "out": {
                        "beyond": 1200,
                        "compared": 40960,
                        "heads": [{"b": 0, "h": h, "rows": 160, "columns": 64, "cells": cells} for h in range(8)],
                    },
                    "lse": {
                        "beyond": 12,
                        "compared": 640,
                        "heads": [{"b": 0, "h": 0, "rows": 160, "columns": 1, "cells": [[max(x) + 1] for x in cells]}],
                    },
                },
                ({"tensor": "out", "index": [0, 1, 2, 3], "observed": 0.5, "expected": 0.25, "bound": 0.001},),
                "the last words of a worker",
            )
            why = f"right in the baseline; now {bad.stage}/{bad.symptom}: {bad.message}"
            suspects = ("driver", "CUDA")
            rows.append(
                Row(
                    case.name,
                    subject,
                    group,
                    change,
                    effect,
                    why,
                    good,
                    bad,
                    suspects=suspects,
                    evidence=evidence,
                    about=case.about,
                    clauses=case.clauses,
                )
            )
    fails = sum(r.effect is Effect.FAILS for r in rows)
    verdict = Verdict.FAIL if fails else Verdict.INCONCLUSIVE if failures else Verdict.PASS
    gpu = {"gpus": [{"name": "NVIDIA H200"}]}
    components = (
        Component("driver", "580.159.04", "590.10"),
        Component("CUDA", "13.0", "13.1"),
        Component("gpu", "NVIDIA H200", "NVIDIA H200"),
        Component("torch", "2.11.0", "2.11.0"),
    )
    return Decision(
        verdict,
        (
            *reasons.failing(rows, components),
            *reasons.undecided(rows),
            reasons.summary(rows, 12_345_678),
            reasons.changed(components),
        ),
        Side("baseline", "driver 580.159.04", "2026-11-23T18:00:00+00:00", "a" * 64, gpu, len(rows)),
        Side("candidate", "driver 590.10", "2026-11-23T19:00:00+00:00", "b" * 64, gpu, len(rows)),
        components,
        tuple(rows),
        (WaiverUse("wide-heads", "known upstream", "https://example.org/1", "2027-01-01", "used", ("causal@d256",)),),
        12_345_678,
        Pace(1.2e-4, 1.21e-4, 1.008, 0.02, 200, False),
    )


def _outcome(case: str, subject: str, symptom: Symptom) -> Outcome:
    right = symptom is Symptom.OK
    said = "" if right else "12 of 40960 elements exceed their bound; out[0, 1, 2, 3] is 0.5, expected 0.25 +- 0.001"
    return Outcome(
        case, "d" * 64, subject, Stage.OUTPUT, symptom, said, {"elements": 40960, "max_ratio": 0.4}, {"launch": 0.01}
    )
