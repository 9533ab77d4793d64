"""Every planted fault is real: its smallest case is wrong with it, and right without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import flexflash
from flexconf import inputs, tampering
from flexconf.cli.main import main
from flexconf.errors import InputError
from flexconf.fuzz.judged import discarded
from flexconf.runs import run
from flexconf.subjects import SUBJECTS, reference, trial
from flexconf.subjects.trial import Options
from flexconf.verdict.outcome import Outcome
from flexflash.launch.host import HostLauncher
from flexflash.launch.simt import SimtLauncher
from planted import cli, detection, table
from planted.catalogue import FAULTS
from planted.detection import Detection
from planted.fault import Fault


def _run(fault: Fault) -> Outcome:
    """The witness, after what must run before it, on the CPU."""
    options = Options(vector_width=fault.width)
    for case in (*fault.before, fault.witness):
        if fault.layer == "simt":
            launched = reference.through(lambda on_stage: SimtLauncher(fault.width, on_stage))
            outcome = trial.run_case(case, options=options, attend=launched)
        else:
            outcome = trial.run_case(case, options=options)
    return outcome


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 120
    assert all(fault.about.endswith(".") and name == fault.name for name, fault in FAULTS.items())


def test_a_case_that_is_open_without_the_fault_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is certainly wrong outranks what is open; one that fails without the fault is no detection."""
    from flexconf.verdict.outcome import Stage, Symptom

    found = SimpleNamespace(
        examples=3, seconds=1.5, tokens=4, shape="a", stage="output", symptom="wrong", minimised=True, confirmed=True,
        case="fuzz-a", ident="a", width=1,
    )  # fmt: skip
    report = SimpleNamespace(broken=[], new=[found])
    monkeypatch.setattr(detection.engine, "fuzz", lambda plan: report)
    compared = {"elements": 90, "excluded_elements": 10, "rows": 10, "excluded_rows": 0}
    healthy = Outcome("fuzz-a", "", "reference.host", Stage.OUTPUT, Symptom.MISSING, "too little", compared)
    assert healthy.open and not healthy.ok
    monkeypatch.setattr(detection, "_without_the_fault", lambda first, plan: healthy)
    name = next(iter(FAULTS))
    assert detection.detect(FAULTS[name], 1, tmp_path, limit=1, shrink=0).found
    wrong = Outcome("fuzz-a", "", "reference.host", Stage.OUTPUT, Symptom.WRONG, "wrong")
    monkeypatch.setattr(detection, "_without_the_fault", lambda first, plan: wrong)
    with pytest.raises(detection.Interrupted, match="fails without the fault too"):
        detection.detect(FAULTS[name], 1, tmp_path, limit=1, shrink=0)


_BY_TEST = [name for name, fault in FAULTS.items() if fault.found_by.endswith(".py")]


@pytest.mark.parametrize("name", _BY_TEST)
def test_what_the_oracle_allows_differs_from_eager(name: str) -> None:
    """A GPU may divide so too, which is why the oracle leaves it open; the text on a CPU must not."""
    fault = FAULTS[name]
    given, p = inputs.materialize(fault.witness), fault.witness.problem
    assert given.score_mod is not None and (Path(__file__).parents[2] / fault.found_by).is_file()
    zero = torch.zeros(1, 1, p.M, p.N)
    nothing, m, n = torch.zeros((), dtype=torch.int32), torch.arange(p.M)[:, None], torch.arange(p.N)
    expected = given.score_mod(zero, nothing, nothing, m.int(), n.int()).expand(1, 1, p.M, p.N)

    def seen() -> torch.Tensor:
        kernel = flexflash.lower(given.q, given.k, given.v, given.score_mod)
        return HostLauncher(fault.width).evaluate(kernel, zero)

    with tampering.plant(name):
        wrong = seen()
    assert not torch.allclose(wrong, expected, atol=1e-4)
    torch.testing.assert_close(seen(), expected)


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in _BY_TEST])
def test_the_witness_shows_the_fault(name: str) -> None:
    fault = FAULTS[name]
    with tampering.plant(name):
        outcome = _run(fault)
    assert not outcome.ok, "the fault does not show"
    assert not discarded(outcome)
    assert outcome.symptom in ("wrong", "wrong-base", "nonfinite"), (
        f"not silent: {outcome.stage}/{outcome.symptom} {outcome.message}"
    )
    # Afterwards, so that this also says that nothing of the fault stays.
    without = _run(fault)
    assert without.ok, f"false alarm: {without.message}"


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(InputError, match="did you mean 'c-remainder'"), tampering.plant("c-remainer"):
        pass


def test_one_fault_at_a_time() -> None:
    with tampering.plant("c-remainder"), pytest.raises(InputError, match="one fault"), tampering.plant("c-division"):
        pass
    assert tampering.active() == ""


def test_results_with_a_fault_cannot_be_taken_for_real_ones() -> None:
    fault = FAULTS["c-remainder"]
    with tampering.plant(fault.name):
        outcome = _run(fault)
    assert outcome.subject == "reference.host+fault:c-remainder"
    assert outcome.subject not in SUBJECTS
    assert _run(fault).subject == "reference.host"


def test_a_worker_has_the_fault_of_its_environment(capfd: pytest.CaptureFixture[str]) -> None:
    fault = FAULTS["c-remainder"]
    with tampering.in_workers(fault.name):
        summary = run.run([fault.witness], workers=1)
    assert not summary.ok
    assert summary.failures == {"lse/wrong": 1}
    assert summary.subject == "reference.host+fault:c-remainder"
    assert "PLANTED FAULT c-remainder" in capfd.readouterr().err
    assert tampering.wanted() == ""


def test_an_unknown_fault_in_the_environment_is_a_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tampering.ENVIRONMENT, "no-such-fault")
    with pytest.raises(InputError, match="no planted fault 'no-such-fault'"):
        run.run([FAULTS["c-remainder"].witness], workers=1)
    with pytest.raises(InputError, match="no planted fault"):
        tampering.from_environment()


def test_the_documentation_lists_what_there_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "planted-faults.md").read_text(encoding="utf-8")
    assert text == table.document(), "python -m flexconf.planted --markdown > docs/planted-faults.md"


def test_a_detection_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def detect(fault: Fault, seed: int, folder: Path, **limits: float) -> Detection:
        made.append((fault.name, seed))
        folder.mkdir(parents=True)
        return Detection(fault.name, seed, limits["limit"], seed != 1, 10 + seed, 1.0, 4, "shape", "lse/wrong", True)

    monkeypatch.setattr(detection, "detect", detect)
    names = ["c-remainder", "lse-to-base-2"]
    first = detection.detect_all(names[:1], [0, 1], tmp_path, limit=5.0, shrink=1.0)
    both = detection.detect_all(names, [0, 1, 2], tmp_path, limit=5.0, shrink=1.0)
    assert made == [(names[0], 0), (names[0], 1), (names[1], 0), (names[1], 1), (names[0], 2), (names[1], 2)]
    assert len(first) == 2 and len(both) == 6
    row = detection.summary(both)["c-remainder"]
    assert (row["seeds"], row["found"], row["examples"], row["most_examples"], row["tokens"]) == (3, 2, 11, 12, 4)
    with (tmp_path / detection.RESULTS).open("a") as file:
        file.write('{"fault": 1')
    with pytest.raises(InputError, match="damaged"):
        detection.detect_all(names, [0], tmp_path, limit=5.0, shrink=1.0)


def test_the_command_line_knows_the_faults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fuzz", "--plant", "c-remainer", "--minutes", "0.1"])
    assert ended.value.code == 2
    assert "did you mean 'c-remainder'?" in capsys.readouterr().err


def test_a_label_comes_apart_again() -> None:
    assert tampering.split(tampering.labelled("reference.host", "c-remainder")) == ("reference.host", "c-remainder")
    assert tampering.split(tampering.labelled("reference.host")) == ("reference.host", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["c-remainder", "--limit", "inf"], "'--limit': inf is no number of anything; give a finite one"),
        (["c-remainder", "--seeds", "0"], "'--seeds'"),
        (["no-such-fault"], "`python -m flexconf.planted --list` lists them"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_a_bad_input_is_one_line(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["planted", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("flexconf: error: ") and says in said.err
