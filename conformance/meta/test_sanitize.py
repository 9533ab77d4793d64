"""Sanitizing without a GPU: reading the tool's output, whose report it is, tight inputs, and a pretended tool."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cli import sanitize
from flexconf.errors import InputError
from flexconf.machine import devices
from flexconf.sanitize import log, run, target, tight
from flexconf.sanitize.run import CLEAN, FAILED, FINDINGS, MISSING, REFUSED, Ended, Sanitized, decide
from flexconf.subjects import trial
from flexconf.verdict.outcome import Outcome, Stage, Symptom

BANNER = "========= COMPUTE-SANITIZER\n"
READ = """\
========= Invalid __global__ read of size 4 bytes
=========     at kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90+0x2e40
=========     by thread (3,0,0) in block (0,1,0)
=========     Address 0x7f1e4a000280 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f1e4a000000 of size 640 bytes
=========
"""
WRITE = READ.replace("read", "write")
HIT = """\
========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure" on CUDA API call to \
cudaDeviceSynchronize.
=========     Saved host backtrace up to driver entry point at error
=========         Host Frame: cudaDeviceSynchronize [0x5c7a1] in libcudart.so.13
=========
"""
RACE = """\
========= Error: Race reported between Write access at sumKernel(int *, int *)+0x90 in block_error.cu:41
=========     and Read access at sumKernel(int *, int *)+0x100 in block_error.cu:51 [508 hazards]
=========
========= Warning: (Warp Level Programming) Potential RAW hazard detected at __shared__ 0x8c in block (0,0,0) :
=========     Write Thread (35,0,0) at sumKernel(int *, int *)+0x90 in warp_error.cu:44
=========     Read Thread (32,0,0) at sumKernel(int *, int *)+0x120 in warp_error.cu:56
=========     Current Value : 35
=========
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""
UNINITIALISED = """\
========= Uninitialized __global__ memory read of size 4 bytes
=========     at vectorAdd(int *)+0x70 in memset_error.cu:41
=========     by thread (31,0,0) in block (1,0,0)
=========     Address 0x7f3c7ec000fc
=========
========= ERROR SUMMARY: 257 errors
========= ERROR SUMMARY: 157 errors were not printed. Use --print-limit option to adjust the number of printed errors
"""
BARRIER = """\
========= Barrier error detected. Divergent thread(s) in block.
=========     at kernel_name+0x15520
=========     by thread (128,0,0) in block (0,0,0)
========= Barrier error detected. Divergent thread(s) in block.
=========     at kernel_name+0x15520
=========     by thread (128,0,0) in block (1,0,0)
========= ERROR SUMMARY: 2 errors
"""


def parse(text: str) -> log.Log:
    return log.parse(text.encode())


# ------------------------------------------------------------------------------------------------- the tool's text


def test_no_errors() -> None:
    found = parse(BANNER + "========= ERROR SUMMARY: 0 errors\n")
    assert found == log.Log((), 0, (), False) and found.complete
    found = parse(BANNER + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n")
    assert found == log.Log((), 0, (), False) and found.complete


def test_invalid_accesses() -> None:
    text = BANNER + READ + WRITE + "========= ERROR SUMMARY: 2 errors\n"
    found = parse(text)
    assert [r.title for r in found.reports] == [
        "Invalid __global__ read of size 4 bytes",
        "Invalid __global__ write of size 4 bytes",
    ]
    assert found.errors == 2 and found.complete
    assert found.reports[0].kernel == "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90"
    assert "1 bytes after the nearest allocation" in found.reports[0].lines[4]
    for report in found.reports:
        assert text[report.offset :].startswith(f"========= {report.title}")


def test_a_failing_call() -> None:
    (report,) = parse(BANNER + HIT + "========= ERROR SUMMARY: 1 error\n").reports
    assert report.title.startswith("Program hit cudaErrorLaunchFailure (error 719)")


def test_races() -> None:
    found = parse(BANNER + RACE)
    assert [r.title.split(":")[0] for r in found.reports] == ["Error", "Warning"] and found.errors == 2
    assert "508 hazards" in found.reports[0].lines[1] and found.complete
    assert found.reports[1].kernel == "sumKernel(int *, int *)"


def test_uninitialised_reads_and_a_print_limit() -> None:
    found = parse(BANNER + UNINITIALISED)
    assert len(found.reports) == 1 and found.errors == 257
    assert found.truncated and not found.complete


def test_barriers_without_blank_lines_between() -> None:
    found = parse(BANNER + BARRIER)
    assert len(found.reports) == 2 and found.errors == 2 and found.complete


@pytest.mark.parametrize(
    "line",
    [
        "Internal Sanitizer Error: The Sanitizer encountered an error while launching k and didn't track the launch. "
        "Errors might go undetected. (Unable to allocate enough memory to perform the requested operation)",
        "Error: Target application terminated before first instrumented API call",
        "Error: No attachable process found. compute-sanitizer timed-out.",
        "Error: process didn't terminate successfully",
        "Target application returned an error",
    ],
)
def test_the_tools_own_troubles_are_no_reports(line: str) -> None:
    found = parse(f"{BANNER}========= {line}\n========= ERROR SUMMARY: 0 errors\n")
    assert found.reports == () and found.trouble == (line,) and not found.complete


@pytest.mark.parametrize("text", ["", BANNER, BANNER + READ[:100], "killed\n"])
def test_without_a_summary_nothing_is_complete(text: str) -> None:
    assert parse(text).errors is None and not parse(text).complete


def test_what_the_program_prints_is_no_report() -> None:
    found = parse(BANNER + "Invalid __global__ read\nERROR SUMMARY: 3 errors\n========= ERROR SUMMARY: 0 errors\n")
    assert found.reports == () and found.errors == 0


def test_bytes_that_are_no_text() -> None:
    assert len(log.parse(BANNER.encode() + b"\xff\xfe\n" + READ.encode()).reports) == 1


# ---------------------------------------------------------------------------------------------- whose report it is

A, B, C = (Case(name, score_mod="score * 2") for name in ("a", "b", "c"))
OKAY = {"elements": 5, "empty": False, "max_ratio": 0.5}


def outcome(case: Case, symptom: Symptom = Symptom.OK) -> Outcome:
    compared = OKAY if symptom is Symptom.OK else None
    return Outcome(case.name, case.digest(), "reference.fa4", Stage.OUTPUT, symptom, "so", compared)


def process(*cases: Case, text: str = "", windows: Any = None, symptom: Symptom = Symptom.OK) -> Ended:
    """A process whose cases began and ended at the log sizes `windows`, a list of (case, first, last or None)."""
    windows = [(c, 0, 0) for c in cases] if windows is None else windows
    begun = {c.name: first for c, first, _ in windows}
    ended = {c.name: (last, outcome(c, symptom)) for c, _, last in windows if last is not None}
    return Ended(tuple(cases), begun, ended, parse(text), "the process ended with exit code 0")


GOOD = BANNER + "========= ERROR SUMMARY: 0 errors\n"
START = len(BANNER)
TWO = BANNER + READ + WRITE + "========= ERROR SUMMARY: 2 errors\n"


def statuses(decision: run.SanitizerVerdict) -> dict[str, str]:
    return {r.case: r.status for r in decision.results}


def test_all_clean() -> None:
    decision = decide(process(A, B, text=GOOD))
    assert statuses(decision) == {"a": CLEAN, "b": CLEAN} and not decision.again


def test_a_report_is_its_cases() -> None:
    middle, end = START + len(READ), START + len(READ) + len(WRITE)
    decision = decide(process(A, B, C, text=TWO, windows=[(A, START, middle), (B, middle, end), (C, end, end)]))
    assert statuses(decision) == {"a": FINDINGS, "b": FINDINGS, "c": CLEAN} and not decision.again
    first = decision.results[0]
    assert first.count == 1 and "read of size 4" in first.reports[0][0]


def test_a_report_that_came_late_makes_all_others_run_again() -> None:
    end = START + len(READ)
    decision = decide(process(A, B, C, text=TWO, windows=[(A, START, end), (B, end, end), (C, end, end)]))
    assert statuses(decision) == {"a": FINDINGS} and decision.again == [(B,), (C,)]


def test_unprinted_reports_make_the_clean_run_again() -> None:
    text = BANNER + UNINITIALISED
    decision = decide(process(A, B, text=text, windows=[(A, START, START + 300), (B, START + 300, START + 300)]))
    assert statuses(decision) == {"a": FINDINGS} and decision.again == [(B,)]


def test_a_process_that_died() -> None:
    decision = decide(process(A, B, C, text=BANNER, windows=[(A, 5, 5), (B, 5, None)]))
    assert not decision.results and decision.again == [(C,), (A,), (B,)]
    alone = decide(process(B, text=BANNER, windows=[(B, 5, None)]))
    assert statuses(alone) == {"b": MISSING} and "no summary" in alone.results[0].why and not alone.again


def test_a_process_that_never_began() -> None:
    decision = decide(process(A, B, text=BANNER + "========= Error: No attachable process found.\n", windows=[]))
    assert statuses(decision) == {"a": MISSING, "b": MISSING} and not decision.again
    assert "No attachable process" in decision.results[0].why


@pytest.mark.parametrize("text", ["", BANNER, GOOD.replace(" 0 errors", "")])
def test_silence_is_not_clean(text: str) -> None:
    assert statuses(decide(process(A, text=text))) == {"a": MISSING}


def test_alone_every_report_counts() -> None:
    assert statuses(decide(process(A, text=TWO, windows=[(A, 10**6, 10**6)]))) == {"a": FINDINGS}
    assert statuses(decide(process(A, text=TWO, windows=[(A, 0, None)]))) == {"a": FINDINGS}
    (only,) = decide(process(A, text=BANNER + "========= ERROR SUMMARY: 7 errors\n")).results
    assert (only.status, only.count) == (FINDINGS, 7)


def test_a_wrong_result_without_a_report_is_a_failure() -> None:
    (result,) = decide(process(A, text=GOOD, symptom=Symptom.WRONG)).results
    assert result.status == FAILED and "wrong" in result.why and not result.ok
    (result,) = decide(process(A, text=GOOD, symptom=Symptom.REFUSED)).results
    assert result.status == REFUSED and result.ok


def test_troubles_of_the_tool_are_not_clean() -> None:
    text = GOOD + "========= Internal Sanitizer Error: the launch was not tracked\n"
    assert decide(process(A, B, text=text)).again == [(A,), (B,)]
    assert statuses(decide(process(A, text=text))) == {"a": MISSING}


# ---------------------------------------------------------------------------------------------------- tight inputs


def extent(t: torch.Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0


@pytest.mark.parametrize("name", run.default_cases())
def test_tight_inputs_are_the_same_and_end_where_they_end(name: str) -> None:
    (case,) = catalogue.select(catalogue.load(), [name])
    given = inputs.materialize(case)
    made = tight.tighten(given)
    before = {"q": given.q, "k": given.k, "v": given.v, **given.captures}
    after = {"q": made.q, "k": made.k, "v": made.v, **made.captures}
    ends: Counter[int] = Counter()
    for key, old in before.items():
        new = after[key]
        assert new.stride() == old.stride() and new.dtype == old.dtype and new.requires_grad == old.requires_grad
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)
        assert inputs.digest(new) == inputs.digest(old)
        assert new.storage_offset() % 64 == old.storage_offset() % 64 and new.storage_offset() < old.storage_offset()
        storage = new.untyped_storage()
        ends[storage.data_ptr()] = max(
            ends[storage.data_ptr()], (new.storage_offset() + extent(new)) * new.element_size()
        )
        assert ends[storage.data_ptr()] <= storage.nbytes()
        shares = {other for other in before if _shares(before[other], old)}
        assert shares == {other for other in after if _shares(after[other], new)}
    for t in after.values():
        assert ends[t.untyped_storage().data_ptr()] == t.untyped_storage().nbytes()


def _shares(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["document", "lists_per_head", "alibi@packed_qkv", "table_and_its_last_row"])
def test_tight_inputs_give_the_same_result(name: str) -> None:
    (case,) = catalogue.select(catalogue.load(), [name])
    attend = target._tight(subjects.get("reference.host").load())
    assert trial.run_case(case, attend=attend).ok


def test_the_mods_read_the_tight_captures() -> None:
    (case,) = catalogue.select(catalogue.load(), ["relative_bias_1d"])
    made = tight.tighten(inputs.materialize(case))
    for capture in made.captures.values():
        capture.fill_(float("nan"))
    index = torch.tensor(0)
    assert made.score_mod is not None
    assert made.score_mod(torch.tensor(1.0), index, index, index, index).isnan()


# ------------------------------------------------------------------------------------------------------- the list


def test_the_list_is_of_the_catalogue() -> None:
    names = run.default_cases()
    assert len(names) >= 20 and len(set(names)) == len(names)
    cases = {case.name: case for case in catalogue.load()}
    assert [n for n in names if n not in cases] == []
    chosen = [cases[n] for n in names]
    assert all(c.expect == "ok" for c in chosen)
    assert {len(capture.shape) for c in chosen for capture in c.captures} == {0, 1, 2, 3, 4}
    assert any(c.problem.M % 128 and c.problem.N % 128 for c in chosen)
    assert {c.problem.H // c.problem.Hkv for c in chosen} >= {1, 2, 4, 8}
    assert any(c.block.kind == "lists" for c in chosen)
    assert {(c.block.q, c.block.kv) for c in chosen} == {(128, 128)}
    dtypes = {capture.dtype for c in chosen for capture in c.captures}
    assert dtypes >= {"float32", "float64", "int8", "int32", "int64", "bool", "bfloat16"}


# --------------------------------------------------------------------------------------------------- a pretended tool

PRETENDED = """
    import json, os, signal, subprocess, sys, time
    words = sys.argv[1:]
    log = words[words.index("--log-file") + 1]
    command = words[words.index({python!r}):]
    events = command[command.index("--events") + 1]
    assert words[words.index("--tool") + 1] == "memcheck" and "--tight" in command
    assert os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    plan = {plan!r}
    with open(log, "w") as file:
        file.write("========= COMPUTE-SANITIZER\\n")
    child = subprocess.Popen(command)
    seen, late, errors = set(), "", 0
    while child.poll() is None:
        lines = open(events).read().splitlines() if os.path.exists(events) else []
        for name in [json.loads(x)["case"] for x in lines if '"begin"' in x]:
            if name in seen:
                continue
            seen.add(name)
            what = plan.get(name)
            if what == "die":
                child.kill()
            elif what == "late":
                late += {report!r}
            elif what == "report":
                with open(log, "a") as file:
                    file.write({report!r})
            errors += what in ("late", "report")
        time.sleep(0.01)
    with open(log, "a") as file:
        file.write(late)
        if child.returncode:
            file.write("========= Error: process didn't terminate successfully\\n")
        file.write(f"========= ERROR SUMMARY: {{errors}} error{{'s' * (errors != 1)}}\\n")
    with open({count!r}, "a") as file:
        file.write("x")
    sys.exit(child.returncode or 86 * bool(errors))
"""


def pretend(folder: Path, **plan: str) -> str:
    path = folder / "compute-sanitizer"
    text = textwrap.dedent(PRETENDED).format(
        plan={k.replace("__", "@"): v for k, v in plan.items()},
        python=sys.executable,
        report=READ,
        count=str(folder / "count"),
    )
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def sanitized(folder: Path, names: list[str], sanitizer: str) -> dict[str, Sanitized]:
    order = {name: n for n, name in enumerate(names)}
    cases = sorted(catalogue.select(catalogue.load(), names), key=lambda c: order[c.name])
    said: list[str] = []
    found = run.run(
        cases, subject="reference.host", sanitizer=sanitizer, workers=1, on_result=lambda r: said.append(r.case)
    )
    assert sorted(said) == sorted(names) and [r.case for r in found] == names
    return {r.case: r for r in found}


@pytest.mark.slow
def test_a_death_and_a_report_are_their_own_cases(tmp_path: Path) -> None:
    tool = pretend(tmp_path, causal__len128="report", strict_causal__len1="die")
    names = ["alibi@len1", "causal@len128", "strict_causal@len1", "identity@len128"]
    found = sanitized(tmp_path, names, tool)
    assert [found[n].status for n in names] == [CLEAN, FINDINGS, MISSING, CLEAN]
    assert found["causal@len128"].reports[0][0] == "Invalid __global__ read of size 4 bytes"
    assert "didn't terminate successfully" in found["strict_causal@len1"].why
    # All together; then those that could not be judged: the first and the dead alone, the last on its own.
    assert (tmp_path / "count").read_text() == "xxxx"


@pytest.mark.slow
def test_a_report_that_comes_at_the_end_finds_its_case(tmp_path: Path) -> None:
    found = sanitized(tmp_path, ["alibi@len1", "causal@len128"], pretend(tmp_path, alibi__len1="late"))
    assert [r.status for r in found.values()] == [FINDINGS, CLEAN]
    assert (tmp_path / "count").read_text() == "xxx"


def test_a_tool_that_does_nothing_makes_nothing_clean(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho Device not supported\nexit 3\n")
    tool.chmod(0o755)
    found = sanitized(tmp_path, ["alibi@len1", "causal@len128"], str(tool))
    assert {r.status for r in found.values()} == {MISSING}
    assert all("exit code 3: Device not supported" in r.why for r in found.values())


# --------------------------------------------------------------------------------------------------- command line


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    sanitize.register(app)
    return CliRunner().invoke(app, list(arguments))


def test_where_the_tool_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(run.shutil, "which", lambda name, path=None: None)
    with pytest.raises(InputError, match="CUDA toolkit"):
        run.find()
    with pytest.raises(InputError, match="not a program"):
        run.find(tmp_path / "nothing")
    assert run.find(Path(pretend(tmp_path))) == str(tmp_path / "compute-sanitizer")


def test_the_tool_of_a_toolkit_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    pretend(tmp_path / "bin")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert run.find() == str(tmp_path / "bin" / "compute-sanitizer")


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (("--tool", "helgrind"), "memcheck"),
        (("no_such_case",), "no_such_case"),
        (("--subject", "reference.fa5"), "reference.fa4"),
        (("--subject", "reference.host"), "CPU"),
        (("--vector-width", "3"), "1, 2, 4 or 8"),
        (("--compute-sanitizer", "/no/such/program"), "not a program"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], helps: str) -> None:
    ended = invoke(*arguments)
    assert isinstance(ended.exception, InputError) and helps in str(ended.exception)


def test_without_a_gpu_there_is_one_sentence(tmp_path: Path) -> None:
    if devices.count():
        pytest.skip("there is a GPU")
    ended = invoke("--compute-sanitizer", pretend(tmp_path))
    assert isinstance(ended.exception, InputError) and "needs a GPU" in str(ended.exception)


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [(CLEAN, 0, "PASS"), (FINDINGS, 1, "FAIL"), (MISSING, 1, "FAIL"), (REFUSED, 1, "FAIL")],
)
def test_exit_codes(status: str, code: int, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "count", lambda: 1)
    monkeypatch.setattr(
        run, "run", lambda cases, **_: [Sanitized(c.name, status, 1, (("Invalid [read]",),), "why") for c in cases]
    )
    tool = pretend(tmp_path)
    ended = invoke("alibi@len1", "--compute-sanitizer", tool)
    assert ended.exit_code == code and verdict in ended.output
    assert ("Invalid [read]" in ended.output) == (status != CLEAN)
    ended = invoke("alibi@len1", "--compute-sanitizer", tool, "--json")
    assert json.loads(ended.stdout)["ok"] == (code == 0)


def test_a_command_line_of_the_tool() -> None:
    session = run._Session("racecheck", "reference.fa4", "cs", 4, 9.0, Path("/f"), {}, run._Processes())
    command = session.command((A, B), 1, Path("/l"), Path("/e"))
    assert command[:3] == ["cs", "--tool", "racecheck"] and command[-2:] == ["a", "b"]
    assert "--tight" not in command and "--destroy-on-device-error" not in command
    assert command[command.index("--vector-width") + 1] == "4"
    other = session.command((A,), 2, Path("/l"), Path("/e"))
    assert command[command.index("--port") + 1] != other[other.index("--port") + 1]


@pytest.mark.gpu
def test_the_tool_itself() -> None:
    (case,) = catalogue.select(catalogue.load(), ["causal@len129"])
    (found,) = run.run([case], subject="reference.fa4", sanitizer=run.find(), workers=1)
    assert found.status == CLEAN, found
