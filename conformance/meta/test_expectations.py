"""Known defects as data: what a file may say, what it explains, and when it is out of date."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cli.main import app
from flexconf.errors import InputError
from flexconf.machine import devices
from flexconf.runs import expectations, judging, review, run
from flexconf.runs.expectations import Expectation, load_crashes, load_text
from flexconf.verdict.outcome import Outcome, Stage, Symptom

TABLE = """
[[expect]]
cases = ["alibi", "causal@*"]
outcomes = ["output/wrong", "compile/crash"]
reason = "It is wrong."
versions = { torch = "==2.13.*" }
repro = '''
[small]
score_mod = "score"
'''
"""
HERE = {"torch": "2.13.0+cpu", "nvidia-cutlass-dsl": "4.8.1", "flash-attn-4": None}


def one(text: str = TABLE, subject: str = "torch-eager") -> Expectation:
    (found,) = load_text(text, subject, "file.toml")
    return found


def outcome(case: str, stage: str = "output", symptom: str = "wrong") -> Outcome:
    compared = {"elements": 5, "max_ratio": 0.5} if symptom == "ok" else None
    return Outcome(case, "digest", "torch-eager", Stage(stage), Symptom(symptom), "what happened", compared)


def test_an_expectation_explains_the_failure_it_describes_and_no_other() -> None:
    e = one()
    for name, stage, symptom, explained in (
        ("alibi", "output", "wrong", True),
        ("causal@gqa2", "compile", "crash", True),
        ("small", "output", "wrong", True),
        ("alibi", "lse", "wrong", False),
        ("alibi", "launch", "crash", False),
        ("causal", "output", "wrong", False),
    ):
        result = judging.judge(Case(name, score_mod="score"), outcome(name, stage, symptom), [e])
        assert result.passed is explained
        assert (result.expectation is e) is explained
        assert bool(result.why) is not explained


EVERY = [f"{stage}/{symptom}" for stage in Stage for symptom in Symptom if symptom is not Symptom.OK]


@pytest.mark.parametrize("described", [e for e in EVERY if not e.endswith("/missing")])
def test_an_expectation_covers_its_own_stage_and_symptom_alone(described: str) -> None:
    """Another symptom of the same stage, or the same symptom of another stage, is another defect."""
    e = dataclasses.replace(one(), outcomes=(described,))
    covered = [other for other in EVERY if e.covers(outcome("alibi", *other.split("/")))]
    assert covered == [described]
    wrong = judging.judge(Case("alibi", score_mod="score"), outcome("alibi", "output", "wrong"), [e])
    assert wrong.passed is (described == "output/wrong")


def test_repeats_that_fail_in_a_way_that_is_not_described_are_not_explained() -> None:
    """Of attempts that differ, each must be described: by its symptom, not by its stage."""
    e = dataclasses.replace(one(), outcomes=("output/wrong", "launch/crash"))
    for observed, flaky, covered in (
        (("output/wrong", "launch/crash"), False, True),
        (("output/wrong", "output/nonfinite"), False, False),
        (("output/wrong", "launch/timeout"), True, False),
        (("output/ok", "output/wrong"), False, False),
        (("output/ok", "output/wrong"), True, True),
    ):
        seen = dataclasses.replace(outcome("alibi", "output", "nondeterministic"), observed=observed)
        assert dataclasses.replace(e, flaky=flaky).covers(seen) is covered, observed


def test_the_second_of_two_expectations_may_explain_it() -> None:
    first, second = one(), dataclasses.replace(one(), outcomes=("lse/wrong",))
    result = judging.judge(Case("alibi", score_mod="score"), outcome("alibi", "lse"), [first, second])
    assert result.expectation is second


@pytest.mark.parametrize(
    ("packages", "capability", "device", "says"),
    [
        (HERE, None, None, ""),
        ({**HERE, "torch": "2.13.1rc2"}, None, None, ""),
        ({**HERE, "torch": "2.14.0"}, None, None, "it is about torch ==2.13.*, and here is 2.14.0"),
        ({**HERE, "torch": None}, None, None, "torch is not installed"),
        (HERE, "9.0", "9.*", ""),
        (HERE, "10.0", "9.*", "it is about compute capability 9.*, and here is 10.0"),
        (HERE, None, "9.*", "it is about compute capability 9.*, and here is no GPU"),
    ],
)
def test_it_applies_to_its_versions_and_devices(
    packages: dict[str, str | None], capability: str | None, device: str | None, says: str
) -> None:
    e = dataclasses.replace(one(), device=device)
    assert e.why_not(packages, capability) == says
    assert e.applies(packages, capability) == (says == "")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"output/wrong"', '"output/wong"', "did you mean 'output/wrong'?"),
        ('"output/wrong"', '"output/ok"', "none of a failure"),
        ('"output/wrong"', '"trace/missing"', "none of a failure"),
        (
            '"output/wrong"',
            '"launch/illegal-access"',
            "an input that ends so is not published; say in words",
        ),
        ('"output/wrong"', '"output/timeout"', "an input that ends so is not published; say in words"),
        ('reason = "It is wrong."', "", "reason is missing"),
        ('reason = "It is wrong."', "reason = 3", "reason must be a text"),
        ("cases =", "case =", "did you mean 'cases'?"),
        ('["alibi", "causal@*"]', '"alibi"', "cases must be a list of texts"),
        ('{ torch = "==2.13.*" }', '"2.13"', "versions must be a table"),
        ("torch =", "triton =", "'triton' does not decide what torch-eager does; it is torch"),
        ("==2.13.*", "2.13", "is no specifier, such as"),
        ('"==2.13.*"', "2", "is no specifier, such as"),
        ("[small]", "", "stands outside a table"),
        ('"score"\n', '"score"\n[other]\nscore_mod = "score"\n', "repro must hold one case, not 2"),
        ('"score"\n', '"score"\nexpect = "refused:trace"\n', "ought to pass"),
        ('"score"\n', '"scor"\n', "did you mean 'score'?"),
        ("[[expect]]", "[expect]", "is an [[expect]] table"),
        ("[[expect]]", "[[expects]]", "is an [[expect]] table"),
        ("[[expect]]", "[[expect]]\nflaky = 1", "flaky must be true or false"),
        ("[[expect]]", "[[expect]]\ndevice = 'H200'", "must be a glob of compute capabilities"),
        ("[[expect]]", "[[expect]", "not valid TOML"),
        ("[[expect]]", "[[expect]]\nsince = 2031-04-31", "not valid TOML"),
        ('"==2.13.*"', '""', "is no specifier, such as"),
    ],
)
def test_every_mistake_is_one_sentence(old: str, new: str, says: str) -> None:
    assert old in TABLE
    with pytest.raises(InputError) as raised:
        one(TABLE.replace(old, new))
    assert says in str(raised.value) and str(raised.value).startswith("file.toml: ") and "\n" not in str(raised.value)


CRASH = """
[[crash]]
kind = "illegal memory access"
reason = "Some head dims (L5.1)."
versions = { torch = "==2.13.*" }
device = "9.*"
"""


def test_a_crash_is_told_in_words_beside_the_known_defects() -> None:
    (c,) = load_crashes(TABLE + CRASH, "torch-eager", "file.toml")
    assert one(TABLE + CRASH) == one()
    assert load_crashes(TABLE, "torch-eager", "file.toml") == []
    assert (c.subject, c.kind, c.reason, c.device) == (
        "torch-eager", "illegal memory access", "Some head dims (L5.1).", "9.*",
    )  # fmt: skip
    assert c.why_not(HERE, "9.0") == ""
    assert c.why_not(HERE, None) == "it is about compute capability 9.*, and here is no GPU"
    assert c.why_not({**HERE, "torch": "2.14.0"}, "9.0") == "it is about torch ==2.13.*, and here is 2.14.0"
    assert not {f.name for f in dataclasses.fields(c)} & {"repro", "cases", "outcomes"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[[crash]]", "[[crash]]\nrepro = 'x'", "a crash has no repro: what crashes outside software is told in words"),
        ("[[crash]]", "[[crash]]\ncases = ['alibi']", "a crash has no cases: what crashes outside software is told in"),
        ("[[crash]]", "[[crash]]\noutcomes = []", "a crash has no outcomes"),
        ("[[crash]]", "[[crash]]\nflaky = true", "a crash has no flaky"),
        ("[[crash]]", "[[crash]]\nexcept = ['a']", "a crash has no except"),
        ("[[crash]]", "[[crash]]\nkinds = 'x'", "did you mean 'kind'?"),
        ("[[crash]]", "[crash]", "is a [[crash]] table"),
        ("[[crash]]", "[[crashes]]", "is a [[crash]] table"),
        ("illegal memory access", "illegal access", "did you mean 'illegal memory access'?"),
        ("illegal memory access", "hot", "the kinds are illegal memory access, end of the process, no end"),
        ("reason = ", "# ", "reason is missing"),
        ("versions = ", "# ", "versions is missing; a crash has kind, reason, versions"),
        ("torch =", "triton =", "'triton' does not decide what torch-eager does"),
        ("9.*", "H200", "must be a glob of compute capabilities"),
        (" (L5.1)", "", "reason names no clause"),
        ("(L5.1)", "(L5.99)", "reason names no clause"),
    ],
)
def test_every_mistake_in_a_crash_is_one_sentence(old: str, new: str, says: str) -> None:
    assert old in CRASH
    with pytest.raises(InputError) as raised:
        load_crashes(CRASH.replace(old, new), "torch-eager", "file.toml")
    assert says in str(raised.value) and str(raised.value).startswith("file.toml: ") and "\n" not in str(raised.value)


def test_crashes_are_listed_and_counted_apart_and_never_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (c,) = load_crashes(CRASH, "torch-eager", "file.toml")
    monkeypatch.setattr(expectations, "load", lambda subject: ())
    monkeypatch.setattr(expectations, "crashes", lambda subject: (c,))
    monkeypatch.setattr(expectations, "here", lambda: (HERE, "9.0"))
    monkeypatch.setattr(run, "run", lambda *a, **k: pytest.fail("nothing is to be run"))
    for arguments in ([], ["--verify"], ["--verify", "--json"]):
        with pytest.raises(SystemExit) as ended:
            app(["expectations", "torch-eager", *arguments])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        if "--json" in arguments:
            (found,) = json.loads(said)
            assert found == {
                "subject": "torch-eager",
                "crash": "illegal memory access",
                "reason": "Some head dims (L5.1).",
                "link": None,
                "versions": {"torch": "==2.13.*"},
                "device": "9.*",
                "in_force": True,
                "state": "not run: crashes outside software",
                "failed": False,
            }
        else:
            assert "1 not run: crashes outside software" in said and "0 known defects" in said


def test_two_repros_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two repros are named 'small'"):
        load_text(TABLE + TABLE, "torch-eager", "file.toml")


def test_review_reports_what_passes_and_what_matches_nothing() -> None:
    e = one()
    stale = dataclasses.replace(e, cases=("alibi", "gone_*"))
    flaky = dataclasses.replace(e, flaky=True)
    results = [
        judging.judge(Case("alibi", score_mod="score"), outcome("alibi", symptom="ok"), [e]),
        judging.judge(Case("causal@x", score_mod="score"), outcome("causal@x"), [e]),
        judging.judge(Case("other", score_mod="score"), outcome("other", symptom="ok"), [e]),
    ]
    names = ["alibi", "causal@x", "other"]
    assert review.review([flaky], results, names) == review.Review()
    found = review.review([e], results, names)
    assert [(x is e, name) for x, name in found.passed] == [(True, "alibi")] and not found.stale
    (line,) = found.lines
    assert line.startswith("unexpected pass: alibi no longer shows a known defect of torch-eager (It is wrong.)")
    (line,) = review.review([stale], results[1:], names).lines
    assert line.startswith("stale: 'gone_*' in cases/expectations/torch-eager.toml matches no case")


def test_the_files_are_sound_and_none_is_stale() -> None:
    names = [case.name for case in catalogue.load()]
    files = sorted(expectations.folder().glob("*.toml"))
    assert files
    for path in files:
        assert path.stem in subjects.SUBJECTS, f"{path.name} names no subject"
        found = expectations.load(path.stem)
        assert found or expectations.crashes(path.stem), f"{path.name} says nothing"
        assert not review.review(found, [], names).stale
        assert all(e.repro.name not in names for e in found)
    assert expectations.load("reference.host") == expectations.crashes("reference.host") == ()


def test_an_unknown_subject_has_none() -> None:
    with pytest.raises(InputError, match="unknown subject 'magic'"):
        expectations.load("magic")


def test_repros_are_put_to_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretended(cases: list[Case], **rest: Any) -> None:
        for case, symptom in zip(cases, ("wrong", "ok", "nonfinite", "ok"), strict=True):
            rest["on_result"](judging.judge(case, outcome(case.name, symptom=symptom)))

    monkeypatch.setattr(run, "run", pretended)
    monkeypatch.setattr(expectations, "here", lambda: (HERE, None))
    monkeypatch.setattr(devices, "count", lambda: 0)
    asked = [dataclasses.replace(one(), repro=Case(name, score_mod="score"), flaky=name == "d") for name in "abcd"] + [
        dataclasses.replace(one(), versions={"torch": "<2"}),
        dataclasses.replace(one(), subject="torch-triton"),
    ]
    found = review.verify(asked)
    assert [s.failed for s in found] == [False, True, True, False, False, False]
    assert [s.text.split(":")[0] for s in found] == [
        "shown by its repro",
        "its repro passes",
        "its repro ends otherwise",
        "flaky",
        "it is about torch <2, and here is 2.13.0+cpu",
        "not verified",
    ]
    assert all(s.to_json()["repro"].startswith("[") for s in found)
