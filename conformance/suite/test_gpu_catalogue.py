"""The whole catalogue on a GPU: in flash-attn-4 and in the plain kernel, against float64 mathematics and Triton.

Each case runs three times, every time in an isolated worker: flash-attn-4 (twenty launches, which must agree bit for
bit, L9.3), the plain kernel, and Triton flex attention as the witness. Failures that cases/expectations explain pass as
what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.checks import attribution
from flexconf.runs import expectations, review
from flexconf.runs.expectations import Expectation
from flexconf.runs.judging import Result, judge
from flexconf.subjects import saved, trial
from flexconf.subjects.trial import Options
from flexconf.verdict import triton_opinion
from flexconf.verdict.outcome import Outcome
from flexconf.workers.isolated import Isolated

LAUNCHES = 20
WITNESS = "torch-triton"
Record = Callable[[str, object], None]


def _cases() -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.clause(*case.clauses, "L9.3")]) for case in catalogue.load()
    ]


@pytest.fixture(scope="session")
def known() -> dict[str, tuple[Expectation, ...]]:
    """The expectations in force here, by subject."""
    return {name: expectations.in_force(name) for name in subjects.SUBJECTS}


@pytest.mark.gpu
@pytest.mark.parametrize("case", _cases())
def test_case_on_gpu(
    case: Case,
    gpu: Isolated,
    known: dict[str, tuple[Expectation, ...]],
    tmp_path: Path,
    record_property: Record,
) -> None:
    plans = {"reference.fa4": Options(repeats=LAUNCHES), "reference.simt": Options()}
    if case.expect == "ok":
        plans[WITNESS] = Options(tile=triton_opinion.TILE)
    absent = {subject: subjects.get(subject).why_not() for subject in plans}
    if absent["reference.fa4"] and absent["reference.simt"]:
        pytest.skip(absent["reference.fa4"])
    results: dict[str, Result] = {}
    for subject, options in plans.items():
        if absent[subject]:
            continue
        outcome = gpu.run(case, subject, options, tmp_path)
        results[subject] = judge(case, outcome, known[subject])
    opinions = _opinions(case, results, tmp_path)
    found = [_figures(r, opinions.get(s), known[s]) for s, r in results.items()]
    found += [{"subject": subject, "absent": why} for subject, why in absent.items() if why]
    record_property("flexconf-figures", found)
    failed = {subject: r for subject, r in results.items() if not r.passed}
    if not failed:
        return
    lines = [f"{subject}: {r.why}" for subject, r in failed.items()]
    lines += [f"{subject}: {o.sentence}" for subject, o in opinions.items() if o.verdict != "agrees"]
    for subject in failed:
        if subject == WITNESS:
            continue  # which layer of the witness is wrong is not this suite's business
        lines.append(attribution.investigate(case, subject, _runner(gpu, results), list(subjects.SUBJECTS)).sentence)
    pytest.fail("\n".join(lines), pytrace=False)


def _opinions(case: Case, results: dict[str, Result], folder: Path) -> dict[str, triton_opinion.Opinion]:
    """Triton's opinion of each subject that gave a result, where Triton gave one."""
    if WITNESS not in results or not saved.path(folder, case.name, WITNESS).is_file():
        return {}
    certified = trial.certify(inputs.materialize(case), Options())
    witness = saved.load(folder, case.name, WITNESS)
    return {
        subject: triton_opinion.opinion(saved.load(folder, case.name, subject), witness, certified)
        for subject in results
        if subject != WITNESS and saved.path(folder, case.name, subject).is_file()
    }


def _runner(gpu: Isolated, results: dict[str, Result]) -> Callable[[Case, str], Outcome]:
    """Run a case again; fresh, also where it ran before, since a flake must show."""
    return lambda case, subject: gpu.run(case, subject)


def _figures(
    result: Result, opinion: triton_opinion.Opinion | None, known: tuple[Expectation, ...]
) -> dict[str, object]:
    comparison = result.outcome.comparison or {}
    # What is known of torch-triton is known of the tile that torch takes, and the witness has another.
    unexpected = result.outcome.subject != WITNESS and review.review(known, [result], []).passed
    return {
        "subject": result.outcome.subject,
        "passed": result.passed,
        "known": result.expectation is not None,
        "unexpected": result.case.name if unexpected else None,
        "elements": comparison.get("elements", 0),
        "ratio": comparison.get("max_ratio"),
        "opinion": opinion.verdict if opinion is not None else None,
        "seconds": dict(result.outcome.timings),
        "between": opinion.comparison.elements if opinion is not None and opinion.comparison is not None else 0,
    }
