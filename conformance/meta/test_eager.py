"""A case that PyTorch refuses is a bad input, known before anything of it runs; it is nobody's failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexconf import inputs
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.checks import attribution, own_mod
from flexconf.cli.main import main
from flexconf.errors import InputError
from flexconf.fuzz import judged
from flexconf.inputs import Inputs
from flexconf.oracles import eager
from flexconf.subjects import trial
from flexconf.subjects.trial import Attended, Options, StageClock
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers.isolated import Isolated

SMALL = Problem(B=1, H=2, Hkv=2, M=5, N=7, D=16, Dv=16)
HALF = Capture("t", ("N",), "float16")

REFUSED = {
    "power": (Case("power", score_mod="score + (h + 1) ** -1", problem=SMALL), "negative integer powers"),
    "literal": (
        Case("literal", score_mod="score + torch.clamp(t[kv], min=65520)", captures=(HALF,), problem=SMALL),
        "without overflow",
    ),
    "index": (
        Case("index", score_mod="score + t[kv + 1]", captures=(HALF,), problem=SMALL),
        "reads outside a buffer: index 7",
    ),
    "division": (Case("division", score_mod="score + kv // b", problem=SMALL), "divides an integer by zero"),
    "both": (
        Case("both", score_mod="score", problem=SMALL, block=BlockSpec(kind="lists", partial=((0,),), full=((0,),))),
        "both as full and as partial",
    ),
}


def never(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """A subject that must not be asked."""
    raise AssertionError("it ran")


@pytest.mark.clause("L7.4")
@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_runs_on_no_subject(name: str) -> None:
    """An index outside a buffer would read foreign memory, an integer divided by zero end the process."""
    case, says = REFUSED[name]
    with pytest.raises(InputError, match=f"case '{name}': .*{says}"):
        trial.run_case(case, attend=never)


@pytest.mark.parametrize("name", ["power", "literal", "index", "division"])
def test_the_mods_alone_are_refused_in_the_same_words(name: str) -> None:
    case, says = REFUSED[name]
    with pytest.raises(InputError, match=f"case '{name}': .*{says}"):
        trial.run_case(case, "reference.mods")
    assert says in eager.refusal(inputs.materialize(case))


def test_a_mask_that_pytorch_refuses_is_refused_with_the_inputs() -> None:
    case = Case("mask", mask_mod="t[kv + 1] > q", captures=(HALF,), problem=SMALL)
    with pytest.raises(InputError, match="case 'mask': the mask_mod failed: IndexError: index 7"):
        inputs.materialize(case)


RETURNS: dict[str, tuple[Any, str]] = {
    "a float": (lambda score, b, h, q, kv: 1.0, "the score_mod returns the Python float 1.0, not a tensor"),
    "a vector": (lambda score, b, h, q, kv: score.expand(3), r"the score_mod returns the shape \(3,\)"),
    "a number read back": (lambda score, b, h, q, kv: score + float(kv), r"\.item\(\).*test_eager.py:\d+: "),
    "without end": (lambda *given: RETURNS["without end"][0](*given), "recurses without end"),
    "its own error": (lambda score, b, h, q, kv: {}[kv], "KeyError"),
}


@pytest.mark.parametrize("what", RETURNS)
def test_a_function_that_is_no_mod_is_told_with_its_line(what: str) -> None:
    function, says = RETURNS[what]
    given = inputs.materialize(Case("check", score_mod="score", problem=SMALL), functions={"score": function})
    with pytest.raises(InputError, match=says):
        trial.run_case(given.case, given=given, attend=never)


def test_what_runs_is_not_refused_and_an_empty_problem_runs_nothing() -> None:
    case = Case("fine", score_mod="score + t[-kv - 1]", captures=(HALF,), problem=SMALL)
    assert eager.refusal(inputs.materialize(case)) == ""
    outside, _ = REFUSED["index"]
    assert eager.refusal(inputs.materialize(outside.replace(problem=Problem(**{**vars(SMALL), "M": 0})))) == ""


def gathered(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + torch.gather(torch.arange(4.0), 0, (kv % 4).reshape(1).long())[0]


def test_an_operation_that_no_oracle_knows_blames_no_subject() -> None:
    """The reference refuses it by name and line, which helps most; of anything else nothing can be said."""
    given = inputs.materialize(Case("check", score_mod="score", problem=SMALL), functions={"score": gathered})
    with pytest.raises(trial.Unjudged, match=r"gather.* has no error model.*no result of it can be judged"):
        trial.run_case(given.case, "torch-eager", given=given, attend=never)
    assert trial.run_case(given.case, given=given).symptom is Symptom.REFUSED
    with pytest.raises(trial.Unjudged):
        trial.run_case(given.case, given=given, attend=lambda *_: Attended(None, None))


def test_what_a_subject_lacks_here_is_no_failure_of_it() -> None:
    def asks_for_a_gpu(given: Inputs, clock: StageClock, options: Options) -> Attended:
        raise AssertionError("Torch not compiled with CUDA enabled")

    with pytest.raises(InputError, match="torch-codegen runs on a CPU here, and this case makes it ask for a GPU"):
        trial.run_case(Case("c", score_mod="score", problem=SMALL), "torch-codegen", attend=asks_for_a_gpu)


def test_a_fault_of_the_oracle_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch runs the mods: then what the oracle raises is a defect of the harness, and stays one."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(trial.math64, "attention", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        trial.run_case(Case("c", score_mod="score", problem=SMALL), attend=never)


def test_run_ends_with_2_and_a_line_and_runs_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cases.toml"
    fine = Case("fine", about="a", score_mod="score", problem=SMALL)
    file.write_text("\n".join(c.replace(about="a").to_toml() for c in (REFUSED["power"][0], REFUSED["index"][0], fine)))
    with pytest.raises(SystemExit) as ended:
        main(["run", "--file", str(file), "--workers", "1", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.err.count("\n") == 1, said.err
    assert said.err.startswith("flexconf: error: case 'index': the score_mod reads outside a buffer")
    assert "(and 1 more of 3 cases)" in said.err
    told = json.loads(said.out)
    assert told["summary"]["passed"] == 1 and told["summary"]["failures"] == {"trace/missing": 2}
    assert all(f["attribution"] is None for f in told["failures"])


def test_fuzzing_discards_it_and_attribution_raises_it() -> None:
    case, says = REFUSED["power"]
    with Isolated() as isolated:
        outcome = isolated.run(case, "reference.host")
        assert (outcome.stage, outcome.symptom) == (Stage.TRACE, Symptom.MISSING) and says in outcome.bad_input
        assert judged.discarded(outcome).startswith("not a case: case 'power': PyTorch cannot run the score_mod")
        with pytest.raises(InputError, match=says):
            attribution.in_worker(isolated, case, "reference.host", None)


def test_render_and_check_say_it_too() -> None:
    task = own_mod.task("score + (h + 1) ** -1", None, problem=SMALL)
    for ask in (own_mod.kernel_text, own_mod.check):
        with pytest.raises(InputError, match=r"^PyTorch cannot run the score_mod: RuntimeError: Integers to negative"):
            ask(task)


@pytest.mark.parametrize("function", [True, False])
def test_check_asks_the_mods_alone_where_the_subject_is_the_mods(function: bool, tmp_path: Path) -> None:
    """A softmax around them hides what they do wrong: every score is compared, no output."""
    (tmp_path / "asked_mods.py").write_text("def near(score, b, h, q, kv):\n    return score * 0.5\n")
    what = own_mod.task("asked_mods:near" if function else "score * 0.5", None, problem=SMALL)
    outcome = own_mod.check(_in(tmp_path, what, "reference.mods")).outcome
    assert outcome.ok and outcome.subject == "reference.mods" and outcome.comparison is not None
    assert outcome.comparison["elements"] == 2 * 5 * 7 and outcome.comparison["worst"]["tensor"] == "scores"


def test_check_takes_a_function_wherever_the_subject_runs_on_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "asked_mods.py").write_text("def near(score, b, h, q, kv):\n    return score * 0.5\n")
    what = own_mod.task("asked_mods:near", None, problem=SMALL)
    if torch.cuda.is_available():
        with pytest.raises(InputError, match="give the mod as text"):
            own_mod.check(_in(tmp_path, what, "torch-eager"))
        return
    outcome: Outcome = own_mod.check(_in(tmp_path, what, "torch-eager")).outcome
    assert outcome.ok and outcome.subject == "torch-eager"


def _in(folder: Path, what: own_mod.CheckTask, subject: str) -> own_mod.CheckTask:
    """The task as a user in `folder` gives it."""
    return own_mod.CheckTask(what.case, what.functions, (str(folder),), subject, what.options)
