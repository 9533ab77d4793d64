"""Every case of the catalogue on every subject that needs no GPU is right, or a known defect that is stated."""

from __future__ import annotations

from collections.abc import Callable

import outcomes
import pytest

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import files
from flexconf.runs import expectations, judging, run
from flexconf.runs.judging import Result
from flexconf.verdict.outcome import Outcome, Stage, Symptom


@pytest.mark.slow
@pytest.mark.parametrize("subject", outcomes.SUBJECTS)
def test_every_case_is_right_or_a_known_defect(
    subject: str, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """As recorded where nothing has changed since, and run otherwise: a new case, a changed one, another rendering."""
    why = subjects.get(subject).why_not()
    if why:
        pytest.skip(f"{subject} cannot run here: {why}")
    recorded = outcomes.read(subject)
    if recorded.versions != outcomes.versions(subject):
        pytest.skip(f"{subject}'s outcomes are recorded for {dict(recorded.versions)}")
    cases = outcomes.asked()
    known = [case for case in cases if recorded.holds(case, subject)]
    new = [case for case in cases if case not in known]
    stated = expectations.in_force(subject)
    results = [judging.judge(case, recorded.outcome(case, subject), stated) for case in known]
    if new:
        run.run(new, subject=subject, workers=1, expectations=stated, on_result=results.append)
    with capsys.disabled():
        if new:
            print(f"\n{subject}: {len(known)} cases as recorded, {len(new)} run; `{outcomes.AGAIN}` records them")
    assert len(results) == len(cases) > 300
    wrong = outcomes.unexplained(results, subject)
    assert not wrong, "\n".join(wrong)


def test_the_suite_has_every_case_on_the_subject_that_is_not_recorded() -> None:
    free = {s.name for s in subjects.SUBJECTS.values() if not s.needs_gpu}
    assert free - set(outcomes.SUBJECTS) == {"reference.host"}, "conformance/suite/test_catalogue_cases.py runs it"


def _result(symptom: str, case: str = "alibi", subject: str = "torch-codegen") -> Result:
    (found,) = catalogue.select(catalogue.load(), [case])
    compared = {"elements": 5} if symptom == "ok" else None
    outcome = Outcome(case, found.digest(), subject, Stage.OUTPUT, Symptom(symptom), "what happened", compared)
    return judging.judge(found, outcome, expectations.load(subject))


def test_a_failure_that_is_not_stated_is_named_with_what_to_do() -> None:
    (line,) = outcomes.unexplained([_result("wrong"), _result("ok", "causal")], "torch-codegen")
    assert "alibi on torch-codegen: output: wrong: what happened" in line
    assert "cases/expectations/torch-codegen.toml" in line


def test_a_known_defect_that_does_not_show_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectations, "in_force", expectations.load)
    (line,) = outcomes.unexplained([_result("ok", "ring")], "torch-codegen")
    assert line.startswith("unexpected pass: ring no longer shows a known defect of torch-codegen")


def test_a_record_is_of_the_case_as_it_is_and_of_the_text_as_it_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = Case("one", score_mod="score + q"), Case("one", score_mod="score + kv")
    assert outcomes.key(first, "torch-codegen") == outcomes.key(first, "torch-codegen")
    assert outcomes.key(first, "torch-codegen") != outcomes.key(other, "torch-codegen")
    recorded = outcomes.Recorded({}, {"one": (outcomes.key(first, "reference.mods"), "output/ok", 7)})
    assert recorded.holds(first, "reference.mods") and not recorded.holds(other, "reference.mods")
    assert recorded.outcome(first, "reference.mods").ok
    monkeypatch.setattr(outcomes, "_rendered", lambda case: "another text")
    assert not recorded.holds(first, "reference.mods")


@pytest.mark.parametrize("cut", ["", "# 2 cases, torch 2.13.0\n", "# 2 cases, torch 2.13.0\na 0 output/ok 5\nb 0 outp"])
def test_half_a_record_is_refused(
    cut: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("outcomes")
    monkeypatch.setattr(outcomes, "FOLDER", folder)
    files.write(folder / "torch-eager.txt", cut)
    with pytest.raises(InputError, match=r"torch-eager\.txt: .*outcomes\.py` writes it"):
        outcomes.read("torch-eager")
