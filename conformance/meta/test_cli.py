"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexconf.checks import own_mod
from flexconf.checks.own_mod import CheckTask
from flexconf.cli.main import main
from flexconf.verdict.outcome import Outcome
from flexconf.workers.pool import Report

BIAS = ("--buffer", "bias=H,M+N:float32")


class Said:
    """What one command wrote, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def flexconf(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a check in this process: what a bad input is told does not depend on where it is found."""

    def here(what: CheckTask, function: Callable[[CheckTask, Report], Any], time_limit: float) -> Any:
        return function(what, lambda stage: None)

    monkeypatch.setattr(own_mod, "_in_a_worker", here)


@pytest.mark.usefixtures("without_a_worker")
@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (("check", "score +"), "invalid syntax"),
        (("check", "score + bia[h, q]", *BIAS), "'bia'"),
        (("check", "__import__('os').system('true')"), "write torch.<operation>"),
        (("check", "score + bias[h]", *BIAS), "such as bias[h, q]"),
        (("check", "score + bias[h]", "--buffer", "bias=H:float31"), "did you mean 'float32'"),
        (("check", "score", "--shape", "1,3,2,8,8,64"), "H=3 query heads do not divide into Hkv=2"),
        (("check", "--mask", "q * 1.0"), "a mask is bool; write a comparison"),
        (("check", "score + bias[h, q]"), "give it with --buffer 'bias=SHAPE:DTYPE'"),
        (("check", "-score"), "goes after a '--'"),
        (("check", "~" * 1000 + "q"), "nested more than 40 levels"),
        (("check", "(" * 1000 + "score" + ")" * 1000), "nested more than 40 levels"),
        (("check", "score" + "+score" * 20_000), "at most 4,000 are allowed"),
        (("check", "(" * 5000 + "score" + ")" * 5000), "at most 4,000 are allowed"),
        (("check", "(" * 1900 + "score"), "nested more than 40 levels"),
        (("check", "x" * 100_000), "the mod has 100,000 characters"),
        (("check", "score if q > kv else 0"), "write torch.where"),
        (("check", "score", "--mask", "(q >= kv) and (q < 9)"), "&"),
        (("check", "if q > kv:\n    score = 0.0\nscore"), "write torch.where"),
        (("check", "score", "--mask", "q - kv"), "the result is int32, but a mask is bool"),
        (("check", "score.item()"), ".to(torch.<dtype>)"),
        (("check", "open('f')"), "open() cannot be called"),
        (("check", "torch.cumsum(score, 0)"), "cumsum"),
        (("check", "score + bias[h, q * 1000]", *BIAS), "outside a buffer"),
        (("check",), "nothing to check"),
        (("check", "score", *BIAS), "no mod reads the buffer 'bias'"),
        (("check", "score", "--shape", "1,2"), "such as 2,4,2,300,200,64"),
        (("check", "score", "--dtype", "float32"), "did you mean 'float16'"),
        (("check", "score", "--layout", "sideways"), "one of contiguous"),
        (("check", "score", "--block-size", "128"), "such as 128,128"),
        (("check", "score", "--block-size", "a,b"), "such as 128,128"),
        (("check", "score", "--mask", "q >= kv", "--block-size", "0,128"), "block"),
        (("check", "score", "--vector-width", "wide"), "valid int"),
        (("run", "alibi", "--vector-width", "16"), "1, 2, 4 or 8"),
        (("run", "alibi", "--time-limit", "0"), "--time-limit"),
        (("check", "score", "--vector-width", "3"), "1, 2, 4 or 8"),
        (("check", "nomodule:mod"), "cannot import 'nomodule'"),
        (("check", "json:mod"), "'json' has no 'mod'"),
        (("check", "json:__name__"), "not a function"),
        (("run", "alibbi"), "did you mean"),
        (("run", "alibi", "--subject", "magic"), "reference.host"),
        (("run", "alibi", "--workers", "0"), "--workers"),
        (("run", "alibi", "--results", "/no/such/folder/file"), "No such file or directory"),
        (("render", "alibbi"), "did you mean"),
        (("cases", "alibbi"), "did you mean"),
        (("ops", "frobnicate"), "no operation 'frobnicate'"),
        (("attribute", "alibbi"), "did you mean"),
        (("attribute", "alibi*"), "attribution is of one"),
        (("attribute", "alibi", "--subject", "magic"), "unknown subject 'magic'"),
        (("expectations", "magic"), "unknown subject 'magic'"),
        (("expectations", "reference.host"), "there are no expectations for reference.host"),
        (("subjects", "all"), "unexpected extra argument"),
        (("fuzz", "--subject", "magic"), "unknown subject 'magic'"),
        (("fuzz", "--minutes", "nan"), "--minutes"),
        (("run", "alibi", "--time-limit", "inf"), "--time-limit"),
        (("fuzz", "--plant", "c-remainer"), "did you mean 'c-remainder'?"),
        (("frobnicate",), "No such command"),
        (("env", "--frobnicate"), "No such option"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_wrong_input_is_one_line_that_helps(flexconf: Any, arguments: tuple[str, ...], helps: str) -> None:
    said = flexconf(*arguments)
    assert said.code == 2
    assert said.err.startswith("flexconf: error: ")
    assert said.err.count("\n") == 1
    assert len(said.err) < 700
    assert helps in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [(), ("bench",), ("gate",), ("golden",)])
def test_without_a_command_there_is_help_and_a_line(flexconf: Any, arguments: tuple[str, ...]) -> None:
    said = flexconf(*arguments)
    assert said.code == 2 and "Usage:" in said.out and "Commands" in said.out
    assert said.err == "flexconf: error: a command is missing; see flexconf --help\n"


def test_what_a_worker_refuses_is_the_same_one_line(flexconf: Any) -> None:
    said = flexconf("check", "score", "--mask", "q * 1.0")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "flexconf: error: mask_mod: the result is float32, but a mask is bool; write a comparison, such as q >= kv\n"
    )


USERS_MODULE = """
import os
import torch

bias = torch.linspace(-1.0, 1.0, 4 * 100).view(4, 100)

def near(score, b, h, q, kv):
    return score + bias[h, q - kv]

def window(b, h, q, kv):
    return (q >= kv) & (q - kv < 20)

def branches(score, b, h, q, kv):
    return score if q > kv else -score

def endless(score, b, h, q, kv):
    return endless(score, b, h, q, kv)

def aborts(score, b, h, q, kv):
    os.abort()

def raises(score, b, h, q, kv):
    raise ValueError("what the user wrote")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_mods.py").write_text(USERS_MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_users_own_function_is_checked_with_its_captures(flexconf: Any) -> None:
    said = flexconf("check", "my_mods:near", "--mask", "my_mods:window", "--shape", "1,4,2,50,40,64", "--json")
    assert said.code == 0, said.err
    verdict = json.loads(said.out)
    assert verdict["passed"]
    assert verdict["comparison"]["elements"] == 4 * 50 * 65
    assert 0 < verdict["comparison"]["max_ratio"] <= 1
    assert Outcome.from_json(verdict).ok


@pytest.mark.usefixtures("folder", "without_a_worker")
@pytest.mark.parametrize(
    ("name", "helps"),
    [("branches", "my_mods.py:14"), ("endless", "recurses without end"), ("raises", "what the user wrote")],
)
def test_a_users_mistake_is_his_line_and_exit_2(flexconf: Any, name: str, helps: str) -> None:
    said = flexconf("check", f"my_mods:{name}")
    assert (said.code, said.out) == (2, "")
    assert helps in said.err
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_a_mod_that_kills_its_process_is_a_verdict(flexconf: Any) -> None:
    said = flexconf("check", "my_mods:aborts")
    assert said.code == 1
    assert "FAIL" in said.out
    assert "signal SIGABRT during a trial in PyTorch" in said.out


def test_check_says_what_was_compared(flexconf: Any) -> None:
    arguments = ("check", "score + bias[h, q - kv]", *BIAS, "--mask", "q >= kv", "--shape", "1,2,1,40,30,64")
    said = flexconf(*arguments, "--show-kernel")
    assert said.code == 0, said.err
    assert "def mask_mod(" in said.out
    assert "PASS" in said.out
    assert f"{2 * 40 * 65:,} elements" in said.out


def test_run_streams_results_and_sums_up(flexconf: Any, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    said = flexconf("run", "alibi", "causal", "refused_cumsum", "--json", "--results", str(file), "--workers", "1")
    assert said.code == 0, said.err
    summary = json.loads(said.out)["summary"]
    assert (summary["cases"], summary["passed"], summary["refused_as_expected"]) == (3, 3, 1)
    outcomes = [Outcome.from_json(json.loads(line)) for line in file.read_text().splitlines()]
    assert sorted(o.case for o in outcomes) == ["alibi", "causal", "refused_cumsum"]
    assert summary["elements"] == sum(o.comparison["elements"] for o in outcomes if o.comparison)
    assert summary["worst"] == max(o.comparison["max_ratio"] for o in outcomes if o.comparison) <= 1
    again = flexconf("run", "alibi", "--results", str(file))
    assert again.code == 2
    assert "exists" in again.err
    assert len(file.read_text().splitlines()) == 3


def test_render_is_the_kernels_text_whatever_the_process(flexconf: Any) -> None:
    said = flexconf("render", "alibi")
    assert said.code == 0
    compile(said.out, "<alibi>", "exec")
    assert "\x1b" not in said.out
    seeds = {**os.environ, "PYTHONHASHSEED": "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8"}
    command = [sys.executable, "-m", "flexconf", "render", "alibi"]
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=seeds | path_of_imports())
    assert again.stdout == said.out


def path_of_imports() -> dict[str, str]:
    """A checkout's packages are on the path of pytest; a new interpreter has to be told."""
    return {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_lists(flexconf: Any) -> None:
    cases = json.loads(flexconf("cases", "alibi*", "--json").out)
    assert "alibi" in {c["name"] for c in cases}
    table = flexconf("cases", "alibi")
    assert table.code == 0
    assert "1 case" in table.out
    facts = json.loads(flexconf("env", "--json").out)
    assert facts["packages"]["torch"]
    assert facts["cpus"] >= 1
    assert "torch" in flexconf("env").out


@pytest.mark.parametrize("command", ["run", "check", "render", "cases", "ops", "clauses", "env"])
def test_help_has_an_example(flexconf: Any, command: str) -> None:
    said = flexconf(command, "--help")
    assert said.code == 0
    assert f"flexconf {command}" in said.out


def test_help_and_env_need_no_torch() -> None:
    """Importing it takes seconds."""
    code = """
import sys
from flexconf.cli.main import main

for command in (["--help"], ["run", "--help"], ["check", "--help"], ["env"]):
    try:
        main(command)
    except SystemExit as ended:
        assert not ended.code, ended.code
sys.exit(str({"torch", "cutlass"} & sys.modules.keys()) if {"torch", "cutlass"} & sys.modules.keys() else 0)
"""
    env = os.environ | path_of_imports()
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr


def test_ctrl_c_ends_quietly_with_130(tmp_path: Path) -> None:
    """Once the run is under way; what it had by then is in its file."""
    file = tmp_path / "results.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "flexconf", "run", "--workers", "1", "--results", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | path_of_imports(),
    )
    patience = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "flexconf: interrupted\n")
    assert all(Outcome.from_json(json.loads(line)) for line in file.read_text().splitlines())
