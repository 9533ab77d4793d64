"""Findings: one signature, one folder, written whole; listed, run again, closed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cases.case import Capture, Case, Problem
from flexconf.cli.main import main
from flexconf.errors import InputError
from flexconf.fuzz import findings, outline, stream
from flexconf.fuzz.findings import Finding
from flexconf.fuzz.stream import RunIdentity
from flexconf.subjects import trial
from flexconf.verdict import mismatch
from flexconf.verdict.outcome import Outcome, Stage, Symptom

TINY = Problem(B=1, H=1, Hkv=1, M=4, N=5, D=8, Dv=8)


def case(score: str, *captures: Capture, **problem: Any) -> Case:
    return Case("one", score_mod=score, captures=captures, problem=dataclasses.replace(TINY, **problem))


def outcome(what: Case, symptom: Symptom = Symptom.WRONG, stage: Stage = Stage.OUTPUT, message: str = "") -> Outcome:
    return Outcome(what.name, what.digest(), "torch-eager", stage, symptom, message)


def finding(what: Case, width: int = 1, **more: Any) -> Finding:
    return findings.of(what, width, outcome(what, **more))


def test_a_signature_forgets_names_constants_and_sizes() -> None:
    a = finding(case("score + torch.exp(q * 0.5)"))
    assert a.ident == finding(case("score + torch.exp(q * 0.25)", N=9)).ident
    assert a.ident != finding(case("score + torch.sin(q * 0.5)")).ident
    assert a.ident != finding(case("score + torch.exp(score * 0.5)")).ident, "another dtype"
    assert a.ident != finding(case("score + torch.exp(q * 0.5)"), symptom=Symptom.NONFINITE).ident
    assert a.ident.startswith("output-wrong-") and a.shape == "score_mod: mul:int32 exp:float32 add:float32"
    t = finding(case("score + t[q]", Capture("t", ("M",)))).ident
    assert t == finding(case("score + bias[kv]", Capture("bias", ("N",)))).ident
    assert t != finding(case("score + t[-1]", Capture("t", ("M",)))).ident


def test_a_failure_with_all_traits_of_a_finding_is_the_same_defect() -> None:
    known = [finding(case("score + q % 3"))]

    def explained(what: Case, width: int = 1, family: str = "wrong values") -> bool:
        having = findings.traits(what, width, outline.of_case(what))
        return findings.explaining(known, family, having) is not None

    assert explained(case("torch.exp(score) + q % 5", H=2))
    assert explained(case("x = q % 5\nscore + x"), width=4)
    assert not explained(case("score + torch.exp(score)"))
    assert not explained(case("score + q % 3"), family="compile/crash")
    known = [finding(case("score + 1"), width=2)]
    assert explained(case("score + 1"), width=4) and not explained(case("score + 1"), width=1)


def test_families_keep_causes_apart_and_wrong_values_together() -> None:
    what = case("score")
    wrong = findings.family(outcome(what))
    assert wrong == findings.family(outcome(what, Symptom.NONFINITE, Stage.LSE))
    said = ("KeyError: 'x1'", "KeyError: 'y2'", "ValueError: z")
    crash = [outcome(what, Symptom.CRASH, Stage.COMPILE, message) for message in said]
    families = [findings.family(o) for o in crash]
    assert families[0] == families[1] != families[2] and wrong not in families


def test_what_is_smaller() -> None:
    sizes = [
        findings.size(case("score"), 1),
        findings.size(case("score"), 4),
        findings.size(case("score + 1"), 1),
        findings.size(case("score + t[q]", Capture("t", ("M",))), 1),
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    stream.claim(folder, RunIdentity.here("torch-eager", 0))
    return folder


def test_a_finding_is_kept_whole_and_once(run: Path) -> None:
    what = case("score + q % 3")
    mine = finding(what)
    assert findings.save(run, mine, what, {"repro.py": "pass\n"})
    folder = findings.folder_of(run, mine.ident)
    assert sorted(p.name for p in folder.iterdir()) == ["case.toml", "finding.json", "repro.py"]
    assert findings.load(folder) == mine and findings.case_of(run, mine) == what
    other = finding(case("score + q % 5", H=2, Hkv=2))
    assert not findings.save(run, other, what, {})
    (there,) = findings.load_all(run)
    assert there.explains == (*mine.explains, *other.explains)
    (run / "findings" / ".x.1.part").mkdir()
    assert len(findings.load_all(run)) == 1
    findings.discard_parts(run)
    assert [p.name for p in (run / "findings").iterdir()] == [mine.ident]


def test_a_smaller_finding_takes_the_place_of_those_it_explains(run: Path) -> None:
    large, small, other = case("torch.exp(score) + q % 3"), case("score + q % 3"), case("score * 2")
    for what in (large, other, small):
        findings.save(run, finding(what), what, {})
    found = {f.case + f.shape: f for f in findings.load_all(run)}
    closed = [f for f in found.values() if not f.is_open]
    assert [f.shape for f in closed] == [finding(large).shape]
    assert finding(small).ident in closed[0].reason


def test_a_damaged_finding_is_one_clear_error(run: Path) -> None:
    what = case("score + 1")
    mine = finding(what)
    findings.save(run, mine, what, {})
    (findings.folder_of(run, mine.ident) / "finding.json").write_text("{")
    with pytest.raises(InputError, match="not a finding"):
        findings.load_all(run)


def test_a_mismatch_is_shown_where_it_is() -> None:
    what = Case("m", problem=dataclasses.replace(TINY, H=2, Hkv=2))
    certified = trial.certify(inputs.materialize(what), trial.Options())
    out, lse = certified.out.clone(), certified.lse.clone()
    out[0, 1, 2, 3] += 1.0
    out[0, 0, 0, 0] = torch.nan
    found = mismatch.of({"out": out.bfloat16(), "lse": lse.float()}, certified)
    assert found.counts == {"out": (2, 64), "lse": (0, 8)}
    assert {tuple(w["index"]) for w in found.worst} == {(0, 0, 0, 0), (0, 1, 2, 3)}
    assert found.worst[0]["observed"] == "nan"
    picture = found.picture.splitlines()
    assert picture[picture.index("b=0 h=1") + 3] == "...#...."
    json.dumps(found.to_json(), allow_nan=False)


# ------------------------------------------------------------------------------------------------- command line


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_findings_are_listed_and_closed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "findings", str(run)) == (0, "no findings\n", "")
    what = case("score + q % 3")
    mine = finding(what)
    findings.save(run, mine, what, {})
    code, out, _ = say(capsys, "findings", str(run.parent), "--json")
    assert code == 0 and [f["ident"] for f in json.loads(out)] == [mine.ident]
    assert "remainder" in say(capsys, "findings", str(run))[1]
    assert "--reason" in say(capsys, "findings", "close", mine.ident, "--in", str(run))[2]
    code, out, _ = say(capsys, "findings", "close", mine.ident[:14], "--in", str(run), "--reason", "known")
    assert (code, out) == (0, f"{mine.ident} is closed\n")
    assert say(capsys, "findings", str(run))[1] == "no findings\n"
    assert "known" in say(capsys, "findings", str(run), "--closed")[1]


def _kept(run: Path, facts: dict[str, object]) -> Finding:
    """A finding with the files that an issue is made of."""
    what = case("score + q % 3")
    mine = finding(what)
    worst = [{"tensor": "out", "index": [0, 0, 1, 2], "observed": 1.0, "expected": 0.5, "bound": 0.002}]
    files = {"mismatch.json": json.dumps({"worst": worst}), "environment.json": json.dumps(facts)}
    findings.save(run, mine, what, {**files, "repro.py": "print('a script')\n"})
    return mine


def test_a_finding_is_shown_and_told_as_an_issue(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An issue says nothing of the machine but its GPU, driver and packages."""
    gpu = {"name": "NVIDIA H200", "driver": "580.1", "uuid": "GPU-1234"}
    packages = {"torch": "2.13.0", "triton": None}
    facts = {"python": "3.11.7", "cpu": "a CPU", "platform": "Linux 6.1", "packages": packages, "gpus": [gpu, gpu]}
    mine = _kept(run, facts)
    code, out, _ = say(capsys, "findings", "show", mine.ident, "--in", str(run))
    assert code == 0 and mine.ident in out and str(findings.folder_of(run, mine.ident)) in out.replace("\n", "")
    assert json.loads(say(capsys, "findings", "show", mine.ident, "--in", str(run), "--json")[1])["ident"] == mine.ident
    code, out, _ = say(capsys, "findings", "show", mine.ident, "--in", str(run), "--issue")
    assert code == 0 and out.startswith(f"# {mine.subject}: {mine.stage} {mine.symptom}: ")
    assert "score_mod: `score + q % 3`" in out and "```python\nprint('a script')\n```" in out
    assert "| out[0, 0, 1, 2] | 1.0 | 0.5 | 0.002 |" in out
    assert out.count("- NVIDIA H200, driver 580.1\n") == 1 and "- torch 2.13.0\n" in out and "triton" not in out
    assert not any(private in out for private in ("GPU-1234", "a CPU", "Linux", str(run))) and "<!--" not in out


def test_an_issue_of_what_ends_a_process_says_to_ask_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = _kept(run, {"python": "3.11.7", "packages": {}})
    findings.update(run, dataclasses.replace(mine, symptom="illegal-access", confirmed=False, minimised=False))
    out = say(capsys, "findings", "show", mine.ident, "--in", str(run), "--issue")[1]
    assert "Ask the maintainers" in out and "larger than it need be" in out and "fresh process" in out
    (findings.folder_of(run, mine.ident) / "repro.py").unlink()
    code, out, err = say(capsys, "findings", "show", mine.ident, "--in", str(run), "--issue")
    assert code == 2 and out == "" and "repro.py" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (("findings", "/nowhere"), "holds no run"),
        (("findings", "show"), "write flexconf findings show ID"),
        (("findings", "rerun", "x", "--issue"), "--issue goes with show"),
        (("findings", "rerun"), "write flexconf findings rerun ID"),
        (("findings", "rerun", "x", "--in", "/nowhere"), "no finding 'x'"),
        (("findings", "a", "b"), "findings close ID"),
        (("fuzz", "--subject", "nothing"), "unknown subject"),
        (("fuzz", "--workers", "0"), "workers"),
        (("fuzz", "--subject", "torch-eager", "--out", "/proc/no"), "cannot be used"),
        (("run", "--file", "/nowhere.toml"), "no such file"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], helps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(capsys, *arguments)
    assert code == 2 and out == "" and helps in err and err.count("\n") == 1


def test_a_folder_of_another_seed_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = say(capsys, "fuzz", "--subject", "torch-eager", "--out", str(run), "--seed", "5")
    assert code == 2 and "--seed 0 continues it" in err


@pytest.mark.slow
def test_a_finding_is_run_again_and_a_case_file_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = case("score + q % 3")
    mine = finding(what)
    findings.save(run, mine, what, {})
    code, out, _ = say(capsys, "findings", "rerun", mine.ident, "--in", str(run))
    assert code == 0 and "gone; close it with" in out
    file = findings.folder_of(run, mine.ident) / "case.toml"
    assert catalogue.load([file]) == [what]
    code, out, _ = say(capsys, "run", "--file", str(file), "--subject", "torch-eager", "--json")
    assert code == 0 and json.loads(out)["summary"]["cases"] == 1
    assert not json.loads(out)["review"]  # no expectation is stale for what a file does not have
    file.write_text(file.read_text().replace("% 3", "% nothing"))
    code, _, err = say(capsys, "run", "--file", str(file))
    assert code == 2 and "nothing" in err and str(file) in err


def test_a_finding_that_cannot_be_written_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = case("score + q % 3")
    monkeypatch.setattr(Path, "rename", lambda self, to: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        findings.save(run, finding(what), what, {})
    assert findings.load_all(run) == []
