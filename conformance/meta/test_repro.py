"""Repros: standalone scripts that exit 1 while a defect is there, 0 when it is gone, 2 when they cannot be run."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import math
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from flexconf import repro
from flexconf.cases import catalogue
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.fuzz import keeping
from flexconf.machine import devices
from flexconf.repro import literals
from flexconf.subjects import SUBJECTS, trial
from flexconf.verdict.outcome import Outcome, Stage, Symptom

TINY = Problem(B=2, H=2, Hkv=1, M=5, N=6, D=8, Dv=16)
RICH = Case(
    "rich",
    score_mod="x = q % 3\nscore + bias[h][q - kv] * x + table[seq[kv]].to(torch.float32) + last[q]",
    mask_mod="(q >= kv) | (seq[kv] == 1)",
    captures=(
        Capture("bias", ("H", "M+N"), "float16", "normal", "transposed"),
        Capture("seq", ("N",), "int32", "integers(0, 3)", "stepped"),
        Capture("table", (3,), "float64", "sprinkle(-inf, 0.2)", "offset(3)"),
        Capture("wide", (2, "M"), "bfloat16", "normal", "padded"),
        Capture("last", ("M",), "bfloat16", "normal", "last_of(wide)"),
    ),
    problem=dataclasses.replace(TINY, layout="bmhd"),
    block=BlockSpec(128, 64),
    seed=5,
)
# Eager flex_attention looks at the mask_mod alone: these lists say the same, and list some blocks that hold nothing.
LISTS = Case(
    "lists",
    mask_mod="(q >= kv) | (kv >= 4) & (q >= 4)",
    problem=dataclasses.replace(TINY, layout="packed_kv", Dv=8),
    block=BlockSpec(2, 2, kind="lists", partial=((0, 2), (1,), (1,)), full=((), (0,), (2, 0))),
)

NONE = Case("none", problem=dataclasses.replace(TINY, N=0))


def outcome(case: Case, subject: str = "torch-eager", **more: Any) -> Outcome:
    return Outcome(case.name, case.digest(), subject, Stage.OUTPUT, Symptom.WRONG, "3 of 9 elements", **more)


def run(text: str, tmp_path: Path, *changes: tuple[str, str]) -> tuple[int, str]:
    """Exit code and stdout of a script, with parts of its text replaced, in this process: importing torch is slow."""
    path = written(text, tmp_path, *changes)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(path), run_name="__main__")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    return int(ended.value.code or 0), said.getvalue()


def written(text: str, tmp_path: Path, *changes: tuple[str, str]) -> Path:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = tmp_path / "repro.py"
    path.write_text(text)
    return path


WRONG = ("    return flex_attention(", "    out, lse = flex_attention(")
WORSE = ("return_lse=True\n    )", "return_lse=True\n    )\n    return out * 1.5, lse")
CALL = "    return flex_attention("


def test_exit_codes_say_whether_the_defect_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "count", lambda: 0)  # where the script is written, and where it runs
    wrong = outcome(RICH)
    texts = {
        "gone": (repro.render(RICH, "torch-eager", wrong), ()),
        "exact": (repro.render(RICH, "torch-eager", wrong, exact=True), ()),
        "there": (repro.render(RICH, "torch-eager", wrong), (WRONG, WORSE)),
        "lists": (repro.render(LISTS, "torch-eager", outcome(LISTS)), ()),
        "no torch": (repro.render(RICH, "torch-eager", wrong), (("    import torch\n", "    import no_torch\n"),)),
        "no gpu": (repro.render(RICH, "torch-triton", wrong), ()),
    }
    ended = {name: run(text, tmp_path, *changes) for name, (text, changes) in texts.items()}
    assert {name: code for name, (code, _) in ended.items()} == {
        "gone": repro.GONE,
        "exact": repro.GONE,
        "there": repro.THERE,
        "lists": repro.GONE,
        "no torch": repro.CANNOT_RUN,
        "no gpu": repro.CANNOT_RUN,
    }, ended
    assert "3 of 9 elements" in ended["there"][1] and "times the bound" in ended["there"][1]
    assert "cannot be run" in ended["no gpu"][1]


def test_what_is_raised_is_there_as_long_as_it_is(tmp_path: Path) -> None:
    plain = Case("plain", score_mod="score + 1", problem=TINY)
    raised = dataclasses.replace(outcome(plain), stage=Stage.RENDER, symptom=Symptom.REFUSED, message="KeyError: x")
    text = repro.render(plain, "torch-eager", raised)
    code, said = run(text, tmp_path, (CALL, f"    raise RuntimeError('no')\n{CALL}"))
    assert code == repro.THERE and "there: RuntimeError: no" in said
    assert run(text, tmp_path)[0] == repro.GONE
    # Of a wrong value, an exception says nothing.
    text = repro.render(plain, "torch-eager", outcome(plain))
    assert run(text, tmp_path, (CALL, f"    raise RuntimeError('no')\n{CALL}"))[0] == repro.CANNOT_RUN


def test_what_kills_its_process_is_watched_from_another(tmp_path: Path) -> None:
    plain = Case("plain", score_mod="score + 1", problem=TINY)
    message = "ended by signal SIGSEGV during compile"
    crash = dataclasses.replace(outcome(plain), stage=Stage.COMPILE, symptom=Symptom.CRASH, message=message)
    text = repro.render(plain, "torch-eager", crash)
    path = written(text, tmp_path, (CALL, f"    sys.stdout.flush()\n    __import__('os').abort()\n{CALL}"))
    ran = subprocess.run([sys.executable, "-W", "ignore", str(path)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == repro.THERE and "ends its process" in ran.stdout


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("case", [RICH, LISTS, NONE], ids=lambda c: c.name)
def test_a_script_for_every_subject(subject: str, case: Case) -> None:
    text = repro.render(case, subject, outcome(case, subject), width=2)
    ast.parse(text)
    mine = subject.startswith("reference.") and subject != "reference.fa4"
    assert ("flexconf" in text) == (mine or subject == "torch-codegen"), "only the project's own subjects need it"
    assert all(word not in text for word in ("{{", "}}")) or mine
    assert max(map(len, text.splitlines())) < 700


def test_the_bound_and_the_one_element_are_the_oracles() -> None:
    given = trial.run_case(RICH, "torch-eager")
    assert given.comparison is not None
    text = repro.render(RICH, "torch-eager", given, exact=True)
    worst = given.comparison["worst"]
    assert f"ONLY = {(worst['tensor'], tuple(worst['index']))!r}" in text
    assert repr(worst["bound"]) in text
    assert "ONLY = None" in repro.render(RICH, "torch-eager", given)


def test_a_repro_that_needs_the_cases_own_values_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def run_script(text: str) -> tuple[int, str]:
        tried.append("unpacked(" in text)
        return (repro.THERE if tried[-1] else repro.GONE), "said"

    monkeypatch.setattr(keeping, "run_script", run_script)
    text, said = keeping.repro(RICH, 1, outcome(RICH), True)
    assert tried == [False, True] and said == "said" and "unpacked(" in text


@pytest.mark.parametrize(
    "name", ["or_masks_of_and", "module_mods", "method_mods", "partial_mods", "sliced_decode_of_modules", "vector_mean"]
)
def test_scripts_have_mods_and_masks_of_every_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script rebuilds modules, methods, partials, joined masks, sliced lists and vectors, and its own sum agrees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "count", lambda: 0)
    (case,) = catalogue.select(catalogue.load(), [name])
    code, said = run(repro.render(case, "torch-eager", outcome(case), exact=True), tmp_path)
    assert code == repro.GONE and "times the bound" in said, said


def test_the_projects_own_repro_runs(tmp_path: Path) -> None:
    plain = Case("plain", score_mod="score + 1", problem=TINY)
    code, said = keeping.run_script(repro.render(plain, "reference.host", outcome(plain, "reference.host"), width=2))
    assert code == repro.GONE and "does not show it: gone" in said


@pytest.mark.parametrize("case", [RICH, LISTS], ids=lambda c: c.name)
def test_flash_attn_4_is_called_without_the_project(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of a GPU, with the host launcher in the place of flash-attn-4: right is gone, a wrong LSE is there."""
    from flexflash.launch.host import HostLauncher

    launcher = HostLauncher()
    interface, lists = ModuleType("flash_attn.cute.interface"), ModuleType("flash_attn.cute.block_sparsity")
    interface._flash_attn_fwd = launcher.forward  # type: ignore[attr-defined]
    lists.BlockSparseTensorsTorch = lambda *tensors, block_size: (  # type: ignore[attr-defined]
        launcher.block_sparse_tensors(*tensors, block_size)
    )
    for module in (ModuleType("flash_attn"), ModuleType("flash_attn.cute"), interface, lists):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    text = repro.render(case, "reference.fa4", outcome(case, "reference.fa4"), width=2)
    assert "flexconf" not in text
    on_cpu = [
        ('"cuda"', '"cpu"'), ("not torch.cuda.is_available()", "False"), ("        torch.cuda.synchronize()\n", ""),
    ]  # fmt: skip
    assert run(text, tmp_path, *on_cpu)[0] == repro.GONE
    code, said = run(text, tmp_path, *on_cpu, ("return out, lse\n", "return out, lse / math.log(2)\n"))
    assert code == repro.THERE and "lse" in said


def test_a_capture_whose_elements_lie_far_apart_is_laid_out_so(tmp_path: Path) -> None:
    """L2.8, also where a stride is 0."""
    apart = Case(
        "apart",
        score_mod="score + bias[q % 3, kv % 2] + line[h, q]",
        captures=(
            Capture("bias", (3, 2), "int8", "integers(-5, 5)", "strided(1073741824, 1)"),
            Capture("line", ("H", "M"), "float32", "normal", "strided(0, 536870913)"),
        ),
        problem=TINY,
    )
    for exact in (False, True):
        text = repro.render(apart, "torch-eager", outcome(apart), exact=exact)
        assert ".as_strided((3, 2), (1073741824, 1), " in text
        assert run(text, tmp_path)[0] == repro.GONE


@pytest.mark.parametrize(
    "values", [[0.0, -0.0, 0.0], [-0.0, -0.0, -0.0], [-0.0, 1.0, 2.0], [math.nan] * 3, [0.0, 1.0, 2.0]]
)
def test_a_tensor_is_written_with_the_sign_of_every_zero(values: list[float]) -> None:
    tensor = torch.tensor(values)
    written = literals._written(tensor, 0, exact=True)
    made = eval(written.text, {"torch": torch, "inf": math.inf, "nan": math.nan})  # the project's own text
    assert made.dtype == tensor.dtype and torch.equal(made.view(torch.int32), tensor.view(torch.int32))
