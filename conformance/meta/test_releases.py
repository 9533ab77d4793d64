"""`flexconf releases`: which clause holds in which release of torch, from data, and never typed into the page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from flexconf.cases import catalogue, clauses
from flexconf.cli import releases as command
from flexconf.cli.main import main
from flexconf.errors import InputError
from flexconf.machine import environment
from flexconf.runs import recordings, releases
from flexconf.runs.recordings import RecordedRun
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexflash.releases import TORCH

DOCS = Path(__file__).parents[2] / "docs"


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["releases", *arguments])
    return int(ended.value.code or 0)


def test_the_page_is_what_the_command_writes() -> None:
    text = (DOCS / "releases.md").read_text(encoding="utf-8")
    assert text == command.document(), "flexconf releases --markdown > docs/releases.md"


def test_every_clause_has_a_statement_about_every_release() -> None:
    table = releases.table()
    assert list(table) == [clause.number for clause in clauses.load()]
    for number, row in table.items():
        assert list(row) == list(TORCH), number
        for name, statement in row.items():
            assert statement.releases == (name,) and statement.why
            lines = [reading for reading in statement.read if name in reading.lines]
            evidence = bool(lines or statement.measured or statement.defects or "came out right" in statement.why)
            assert evidence or statement.state in (releases.ABSENT, releases.UNKNOWN), (number, name)
        assert sum(len(s.releases) for s in releases.grouped(number)) == len(TORCH)


def test_what_was_read_stands_in_the_installed_torch_at_the_line_that_is_given() -> None:
    name = releases.release_of(torch.__version__)
    if name is None or Version(torch.__version__).base_version != TORCH[name].read:
        pytest.skip(f"torch {torch.__version__} is none of those whose source was read")
    seen = 0
    for number, row in releases.table().items():
        for reading in row[name].read:
            if name in reading.lines:
                text = (Path(torch.__file__).parent / reading.file).read_text(encoding="utf-8")
                assert reading.text in text.splitlines()[reading.lines[name] - 1], (number, reading)
                seen += 1
    assert seen > 25


def test_the_measured_evidence_exists() -> None:
    cases = {case.name for case in catalogue.load()}
    for row in releases.table().values():
        for statement in row.values():
            for name in statement.measured:
                assert (DOCS.parent / name).is_file() or name.partition(":")[0] in cases, name


def test_a_release_that_the_table_does_not_have_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("2.14.1", "2.99.0.dev1") == 2
    said = "torch 2.99.0.dev1 is unknown: it is none of 2.10, 2.11, 2.12, 2.13, 2.14, 2.15, which the table has"
    assert capsys.readouterr().err == f"flexconf: error: {said}\n"


def test_a_version_that_is_none_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("latest") == 2
    assert "torch latest is unknown" in capsys.readouterr().err


def test_an_installed_release_that_the_table_does_not_have_is_said_to_be_unknown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = environment.read()

    def shown(version: str) -> str:
        there = dataclasses.replace(facts, packages={**facts.packages, "torch": version})
        monkeypatch.setattr(environment, "read", lambda: there)
        assert _run() == 0
        return capsys.readouterr().out

    assert "unknown" not in shown("2.13.0+cpu")
    newer = "2.16.0.dev20261201+cpu"
    assert f"torch {newer}, which is installed here, is unknown" in shown(newer)


def test_one_release_is_shown_with_its_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("2.10.0+cu130") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "L2.2, 2.10: holds. Indices are summed colexicographically" in shown and "2.11" not in shown


def test_the_json_holds_every_clause_and_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("2.13", "2.15", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["releases"]) == ["2.13", "2.15"] and list(data["clauses"]) == list(releases.table())
    assert {tuple(row) for row in data["clauses"].values()} == {("2.13", "2.15")}
    assert data["clauses"]["L5.2"]["2.15"]["state"] == releases.BROKEN
    assert sum(data["releases"]["2.15"]["outcomes"]["torch-codegen"]["cases"].values()) > 300
    assert next(rule["source"] for rule in data["releases"]["2.13"]["eligibility"]) == "flex_attention.py:194"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('clause = "L0.1"\nreleases = ["2.13"]\nstate = "holds"\nwhy = "x"', "'L0.1' is no clause"),
        ('clause = "L1.1"\nreleases = ["2.9"]\nstate = "holds"\nwhy = "x"', "torch '2.9' is none of 2.10, 2.11"),
        ('clause = "L1.1"\nreleases = ["2.13"]\nstate = "hold"\nwhy = "x"', "state 'hold'; did you mean 'holds'"),
        ('clause = "L1.1"\nreleases = ["2.13"]\nstate = "holds"', "why is missing"),
        ('clause = "L1.1"\nreleases = ["2.13"]\nstate = "holds"\nwhy = "x"', "L1.1 of torch 2.13 has no evidence"),
        (
            'clause = "L1.1"\nreleases = ["2.13"]\nstate = "holds"\nwhy = "x"\n'
            'read = [{ file = "a.py", text = "b", lines = { "2.14" = 3 } }]',
            "read is a list of tables with file, text and lines",
        ),
    ],
)
def test_a_wrong_statement_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^a test: \\[\\[statement\\]\\] 1: .*{said}"):
        releases.load_text(f"[[statement]]\n{text}\n", "a test")


def _outcome(name: str, symptom: Symptom = Symptom.OK, stage: Stage = Stage.OUTPUT, subject: str = "") -> Outcome:
    (case,) = catalogue.select(catalogue.load(), [name])
    return Outcome(name, case.digest(), subject or "torch-codegen", stage, symptom, "")


def _results(path: Path, *outcomes: Outcome) -> Path:
    path.write_text("".join(json.dumps(o.to_json()) + "\n" for o in outcomes), encoding="utf-8")
    return path


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recordings, "folder", lambda: tmp_path)
    recordings.load.cache_clear()
    return tmp_path


@pytest.mark.usefixtures("_elsewhere")
def test_a_recording_keeps_the_outcomes_of_a_run(tmp_path: Path) -> None:
    wrong = _outcome("ring", Symptom.WRONG)
    path = recordings.record(_results(tmp_path / "r.jsonl", _outcome("alibi"), wrong))
    (found,) = recordings.load()
    recordings.load.cache_clear()
    assert path.name == f"torch-codegen-{Version(torch.__version__).base_version}.json"
    assert found.packages["torch"] == environment.read().packages["torch"]
    assert found.of(catalogue.load()) == {"alibi": "output/ok", "ring": "output/wrong"}
    assert found.failing(catalogue.load()) == {"ring": "output/wrong"}
    changed = RecordedRun(found.subject, found.packages, {"ring": ("another digest", "output/wrong")})
    assert changed.of(catalogue.load()) == {}, "a case that is not as it was run does not count"


@pytest.mark.usefixtures("_elsewhere")
def test_what_is_no_run_of_the_catalogue_is_not_recorded(tmp_path: Path) -> None:
    other = _outcome("ring", subject="torch-flash")
    with pytest.raises(InputError, match="outcomes of torch-codegen, torch-flash; one run has one subject"):
        recordings.record(_results(tmp_path / "two.jsonl", _outcome("alibi"), other))
    with pytest.raises(InputError, match="outcomes of no subject"):
        recordings.record(_results(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match=r"absent\.jsonl: cannot be read"):
        recordings.record(tmp_path / "absent.jsonl")
    changed = Outcome("alibi", "0" * 64, "torch-codegen", Stage.OUTPUT, Symptom.OK, "")
    with pytest.raises(InputError, match="'alibi' is no case of the catalogue as it is"):
        recordings.record(_results(tmp_path / "changed.jsonl", changed))
    (tmp_path / "torch-codegen-1.0.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(InputError, match=r"torch-codegen-1\.0\.json: is no recording of outcomes"):
        recordings.load()


def test_an_outcome_is_put_down_to_the_clauses_of_its_known_defect() -> None:
    by_name = {case.name: case for case in catalogue.load()}
    assert recordings.blamed("torch-codegen", by_name["ring"], "output/wrong") == ("L7.3",)
    refused = recordings.blamed("torch-codegen", by_name["copysign"], "render/refused")
    assert refused == ("L7.6",), "a refusal by name is what L7.7 asks for"
    assert recordings.blamed("torch-codegen", by_name["ring"], "trace/crash") == by_name["ring"].clauses


def test_a_clause_without_an_entry_is_decided_by_recordings_and_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {case.name: case.digest() for case in catalogue.load()}

    def states(outcomes: dict[str, str], clause: str, release: str = "2.15") -> tuple[str, str]:
        recorded = {name: (digests[name], outcome) for name, outcome in outcomes.items()}
        found = RecordedRun("torch-codegen", {"torch": "2.15.0"}, recorded)
        monkeypatch.setattr(recordings, "load", lambda: (found,))
        releases.table.cache_clear()
        statement = releases.table()[clause][release]
        return statement.state, statement.why

    try:
        assert states({"alibi@gqa2": "output/ok"}, "L8.3") == (
            releases.HOLDS,
            "1 case on it came out right, and none did not",
        )
        assert states({}, "L8.3") == (releases.UNKNOWN, "No case that cites it was run")
        broken = {"alibi@gqa2": "output/wrong", "cosine@gqa4": "output/ok"}
        assert states(broken, "L8.3") == (releases.BROKEN, "1 case did not come out right")
        assert states({}, "L7.3", "2.13") == (releases.BROKEN, "There are known defects")
    finally:
        releases.table.cache_clear()
