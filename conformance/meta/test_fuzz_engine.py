"""Fuzzing: what a case says is read right, every example is on record once, and a failure is found, shrunk, kept."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzed
import pytest

from flexconf import subjects
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.cli import fuzz_tables
from flexconf.errors import InputError
from flexconf.fuzz import coverage, engine, findings, judged, outline, stream
from flexconf.fuzz.driver import Driver
from flexconf.fuzz.plan import Plan, round_seed
from flexconf.fuzz.stream import Reader, Record, RunIdentity
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers.pool import Lost
from flexconf.workers.tasks import CaseTask, of_lost

TINY = Problem(B=1, H=1, Hkv=1, M=4, N=5, D=8, Dv=8)


def case(score: str | None = None, mask: str | None = None, *captures: Capture, **more: Any) -> Case:
    return Case("one", score_mod=score, mask_mod=mask, captures=captures, problem=more.pop("problem", TINY), **more)


# ----------------------------------------------------------------------------------------------------- outline


@pytest.mark.parametrize(
    ("text", "operations"),
    [
        ("score", ""),
        ("score + 1", "add:float32"),
        ("score + (q - kv)", "sub:int32 add:float32"),
        ("score + q / kv", "div:int32 add:float32"),
        ("score + torch.exp(q)", "exp:int32 add:float32"),
        ("score + t[q]", "add:float32"),
        ("score * t[q].to(torch.float64)", "to_float64:float16 mul:float64"),
        ("torch.where(q >= kv, score, -inf)", "ge:int32 where:float32"),
        ("x = q % 3\nscore + x * 0.5", "remainder:int32 mul:int32 add:float32"),
        ("score + 2 * 3", "add:float32"),
        ("torch.clamp(score, min=q)", "clamp:float32"),
        ("torch.div(q, 2, rounding_mode='trunc') + score", "div_trunc:int32 add:float32"),
        ("torch.nn.functional.gelu(score, approximate='tanh')", "gelu_tanh:float32"),
        ("score + (q < 3) * (t[kv] + q)", "lt:int32 add:float16 mul:float16 add:float32"),
    ],
)
def test_operations_are_read_with_the_dtypes_they_work_on(text: str, operations: str) -> None:
    captures = (Capture("t", ("M+N",), "float16"),) if "t[" in text else ()
    assert " ".join(map(str, outline.of_case(case(text, None, *captures)).operations)) == operations


@pytest.mark.parametrize(
    ("index", "kinds"),
    [
        ("0", ("constant",)), ("-1", ("negative",)), ("q", ("variable",)), ("q + kv", ("computed",)),
        ("q - kv", ("computed", "negative")), ("i[q]", ("loaded",)), ("-1 - q", ("computed", "negative")),
        ("(q - kv) % 4", ("computed",)), ("torch.clamp(q - kv, 0, 3)", ("computed",)),
        ("torch.where(q > kv, -1, q)", ("computed", "negative")),
    ],
)  # fmt: skip
def test_how_an_index_comes_about(index: str, kinds: tuple[str, ...]) -> None:
    captures = [Capture("t", ("M+N",))]
    if "i[" in index:
        captures.append(Capture("i", ("M",), "int32", "integers(0, 4)"))
    seen = outline.of_case(case(f"score + t[{index}]", None, *captures))
    assert next(r for r in seen.reads if r.capture == "t").kinds == kinds


def test_graphs_are_equal_up_to_names_and_constants() -> None:
    def graph(score: str, *captures: Capture) -> str:
        return outline.of_case(case(score, None, *captures)).graph

    a = graph("x = q * 3\nscore + bias[x % 4]", Capture("bias", ("M+N",)))
    assert a == graph("y = q * 5\nscore + t[y % 7]", Capture("t", (16,)))
    assert a != graph("x = q * 3\nscore + bias[x % 4]", Capture("bias", ("M+N",), "float16"))
    assert a != graph("x = q * 3\nscore - bias[x % 4]", Capture("bias", ("M+N",)))
    assert a != graph("x = q * 3.0\nscore + bias[q % 4] + x", Capture("bias", ("M+N",)))


def test_chained_reads_and_captures_of_both_mods() -> None:
    seen = outline.of_case(case("score + t[h][q]", "t[0, 0] > 0", Capture("t", ("H", "M"))))
    assert [r.kinds for r in seen.reads] == [("variable", "variable"), ("constant", "constant")]
    assert seen.shared == seen.repeated == {"t"}


# ---------------------------------------------------------------------------------------------------- coverage


def test_coverage_names_what_was_never_reached() -> None:
    what = case(
        "score + t[0, -1]",
        "q >= kv",
        Capture("t", ("H", "M"), "bfloat16", layout="transposed"),
        problem=Problem(B=1, H=4, Hkv=2, M=200, N=0, D=8, Dv=16),
        block=BlockSpec(kind="lists", pattern="nothing"),
    )
    keys = coverage.keys(what, 4, outline.of_case(what))
    assert {"op:add:float32:4", "op:ge:int32:4", "capture:2:bfloat16:transposed:negative"} <= set(keys)
    assert {"shape:gqa", "shape:N=0", "shape:M with a tail", "template:both", "template:pattern nothing"} <= set(keys)
    found = {axis.name: axis for axis in coverage.report(Counter(keys)).axes}
    assert "add float32" in found["operations x dtypes"].reached
    assert "exp float32" in found["operations x dtypes"].missed
    assert {"lerp", "exp"} <= set(found["operations"].missed) and "cumsum" not in found["operations"].missed
    assert "2 transposed" in found["captures: rank x strides"].reached
    assert "0 transposed" not in found["captures: rank x strides"].missed, "there is no such capture"
    assert "gqa" in found["shape classes"].reached and "mqa" in found["shape classes"].missed
    json.dumps(coverage.report(Counter(keys)).to_json())


# ------------------------------------------------------------------------------------------------------ stream


def record(ident: str = "0/0/0", **more: Any) -> Record:
    facts: dict[str, Any] = {
        "case": "c", "width": 1, "graph": "g", "stage": "output", "symptom": "ok", "verdict": "ok", "ratio": 0.0,
        "keys": ("op:add:float32:1",), "seconds": 0.0,
    }  # fmt: skip
    return Record(ident=ident, **{**facts, **more})


def test_a_record_survives_and_a_cut_line_goes(tmp_path: Path) -> None:
    written = [record("0/0/0"), record("0/0/1", verdict="failed", why="x", toml="[a]\n", shrinking=True, ratio=None)]
    writer = stream.RecordWriter(tmp_path, 0)
    for one in written:
        writer.write(one)
    writer.close()
    path = stream.files(tmp_path)[0]
    with path.open("ab") as file:
        file.write(b'{"ident": "0/0/2", "ca')
    reader = Reader(tmp_path)
    assert list(reader.new()) == written, "a line that is being written is not read"
    stream.repair(tmp_path)
    assert list(Reader(tmp_path).new()) == written
    assert stream.next_rounds(iter(written)) == {0: 1}
    path.write_bytes(path.read_bytes() + b'{"ident": "0/0/2"}\n')
    with pytest.raises(InputError, match="damaged"):
        list(reader.new())


@pytest.mark.parametrize(
    ("change", "helps"),
    [
        ({"subject": "reference.host"}, "holds a run of torch-eager, not reference.host; --out"),
        ({"seed": 2}, "--seed 1 continues it"),
        ({"packages": {"torch": "1.0"}}, "with torch 1.0"),
        ({"plant": "x"}, "FLEXCONF_PLANT"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], helps: str) -> None:
    mine = RunIdentity.here("torch-eager", 1)
    stream.claim(tmp_path, mine)
    stream.claim(tmp_path, mine)
    other = RunIdentity(**{**{f: getattr(mine, f) for f in mine.__dataclass_fields__}, **change})
    if "packages" in change:
        mine, other = other, mine
        (tmp_path / "run.json").unlink()
        stream.claim(tmp_path, mine)
    with pytest.raises(InputError) as said:
        stream.claim(tmp_path, other)
    assert helps in str(said.value) and "\n" not in str(said.value)
    with stream.exclusively(tmp_path), pytest.raises(InputError, match="in use"), stream.exclusively(tmp_path):
        pass


# ------------------------------------------------------------------------------------------------------ driver


class Here:
    """Runs examples in this process; what would end a worker is reported as such."""

    def __init__(self, task: Callable[..., Outcome] = fuzzed.faulty) -> None:
        self.task = task
        self.ran: list[str] = []

    def run(self, what: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome:
        task = CaseTask(what, subjects.get(subject), options, keep)
        self.ran.append(what.score_mod or "")
        if self.task is fuzzed.faulty and "exp" in (what.score_mod or ""):
            return of_lost(task, Lost("exit", "exit code 1", "compile", ""))
        return self.task(task, lambda stage: None)


def plan(folder: Path, **more: Any) -> Plan:
    folder.mkdir(exist_ok=True)
    facts: dict[str, Any] = {
        "seconds": 60, "drawn": ("fuzzed:cases", "fuzzed:widths"), "check_repro": False, "examples": 60,
    }  # fmt: skip
    return Plan("reference.host", folder, **{**facts, **more})


def drive(what: Plan, runs: Here, rounds: int, number: int = 0) -> Driver:
    """Drive some rounds, in this process."""
    one = Driver(what, number, runs, time.monotonic() + 60)
    last = stream.next_rounds(r for r in Reader(what.folder).new() if r.place[0] == number).get(number, 0) + rounds
    one.over = lambda: one.round >= last  # type: ignore[method-assign]
    one.drive()
    return one


@pytest.fixture(scope="module")
def hunted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hunt")
    drive(plan(folder), Here(), 16)
    yield folder


def test_distinct_defects_are_found_once_and_made_small(hunted: Path) -> None:
    found = [f for f in findings.load_all(hunted) if f.is_open]
    shapes = {(f"{f.stage}/{f.symptom}", f.shape.split(":")[0]) for f in found}
    assert shapes == {("output/wrong", "score_mod"), ("lse/nonfinite", "score_mod"), ("compile/crash", "score_mod")}
    by_symptom = {f.symptom: f for f in found}
    # score + (q) % 2
    assert by_symptom["wrong"].tokens <= 7 and "remainder" in by_symptom["wrong"].shape
    assert by_symptom["wrong"].width == 1
    # score + torch.sin(q * 0.125)
    assert by_symptom["nonfinite"].tokens <= 10 and by_symptom["nonfinite"].width == 4
    assert "ended by exit code 1" in by_symptom["crash"].message
    assert all(f.minimised and f.confirmed for f in found)


def test_a_recorded_signature_is_counted_and_not_shrunk_again(hunted: Path) -> None:
    records = list(Reader(hunted).new())
    known = {f.ident for f in findings.load_all(hunted)}
    duplicates = [r for r in records if r.verdict == "duplicate"]
    assert duplicates and {r.why for r in duplicates} <= known
    rounds = {(r.place[0], r.place[1]) for r in records if r.shrinking}
    assert len(rounds) <= 2 * len(known) + 1, "a finding is shrunk in one round, and once more at plain sizes"
    assert all(r.toml for r in records if r.verdict == "failed")


def test_every_example_is_on_record_once(hunted: Path) -> None:
    records = list(Reader(hunted).new())
    places = [r.place for r in records]
    assert len(set(places)) == len(places) and places == sorted(places)
    for _, turn, index in places:
        assert index == 0 or (0, turn, index - 1) in set(places)
    discarded = [r for r in records if r.verdict == "discarded"]
    assert discarded and {r.why for r in discarded} == {"more than 1 % of the rows are indeterminate"}
    assert not any(r.keys for r in discarded)
    tally = engine.Tally()
    for r in records:
        tally.add(r)
    assert tally.reasons.total() == len(discarded) and tally.examples == len(records) and len(tally.graphs) > 20
    assert (hunted / "examples").is_dir(), "Hypothesis keeps its examples"


def test_a_second_session_goes_on_with_the_next_round(tmp_path: Path) -> None:
    drive(plan(tmp_path), Here(fuzzed.right), 1)
    first = stream.files(tmp_path)[0].read_bytes()
    again = Here(fuzzed.right)
    drive(plan(tmp_path), again, 1)
    text = stream.files(tmp_path)[0].read_bytes()
    assert text.startswith(first)
    records = list(Reader(tmp_path).new())
    assert {r.place[1] for r in records} == {0, 1}
    assert len(again.ran) == sum(r.place[1] == 1 for r in records)


def test_rounds_derive_from_seed_driver_and_round(tmp_path: Path) -> None:
    runs = [Here(fuzzed.right) for _ in range(3)]
    for runner, (seed, number) in zip(runs, [(0, 0), (0, 0), (0, 1)], strict=True):
        folder = tmp_path / str(runs.index(runner))
        drive(plan(folder, seed=seed), runner, 1, number)
    assert runs[0].ran == runs[1].ran != runs[2].ran
    assert len({round_seed(s, d, r) for s in range(3) for d in range(3) for r in range(3)}) == 27


def test_shrinking_has_a_limit_of_its_own(tmp_path: Path) -> None:
    drive(plan(tmp_path, shrink_seconds=0.0), Here(), 3)
    found = findings.load_all(tmp_path)
    assert found and not any(f.minimised for f in found)
    assert not any(r.shrinking for r in Reader(tmp_path).new())


def test_a_failure_that_a_killed_run_left_is_taken_up(tmp_path: Path) -> None:
    what = case("score + q % 3").replace(name="left")
    writer = stream.RecordWriter(tmp_path, 0)
    writer.write(record("0/0/0", verdict="failed", symptom="wrong", why="3 exceed", toml=what.to_toml(), width=2))
    writer.close()
    drive(plan(tmp_path), Here(fuzzed.right), 1)
    (found,) = findings.load_all(tmp_path)
    assert found.symptom == "nondeterministic" and not found.confirmed, "it did not show again"
    assert findings.case_of(tmp_path, found).score_mod == "score + q % 3"


def test_shrinking_goes_on_where_a_killed_run_was(tmp_path: Path) -> None:
    class Killed(Here):
        def run(self, *arguments: Any, **keywords: Any) -> Outcome:
            found = super().run(*arguments, **keywords)
            if not found.ok:
                self.failures = getattr(self, "failures", 0) + 1
                if self.failures > 3:
                    raise InputError("killed")
            return found

    with pytest.raises(judged.Broken):
        drive(plan(tmp_path, seed=2), Killed(), 9)
    assert not findings.load_all(tmp_path)
    drive(plan(tmp_path, seed=2), Here(), 1)
    found = [f for f in findings.load_all(tmp_path) if f.minimised]
    assert found and found[0].examples == 1 and found[0].tokens <= 10
    first = next(r for r in Reader(tmp_path).new() if r.ident == found[0].found_at)
    assert first.place[1] > 0 and first.place[2] == 0, "from Hypothesis' database, before anything is generated"


def test_a_worker_that_cannot_start_is_no_failure_of_the_test(tmp_path: Path) -> None:
    def refuse(*_: object) -> Outcome:
        raise InputError("a worker could not start")

    with pytest.raises(judged.Broken, match="could not start"):
        drive(plan(tmp_path), Here(refuse), 1)
    assert not list(Reader(tmp_path).new()) and not findings.load_all(tmp_path)


def compared(elements: int, excluded: int, rows: int) -> dict[str, int]:
    return {"elements": elements, "excluded_elements": excluded, "rows": 9, "excluded_rows": rows}


def test_what_production_refuses_is_counted_and_what_the_reference_refuses_is_found(tmp_path: Path) -> None:
    def refuse(task: CaseTask, report: object) -> Outcome:
        return Outcome(
            task.case.name, task.case.digest(), task.subject.name, Stage.RENDER, Symptom.REFUSED, "no 'sin' yet"
        )

    drive(plan(tmp_path / "a", examples=9), Here(refuse), 1)
    assert [f.symptom for f in findings.load_all(tmp_path / "a")] == ["refused"]
    limited = dataclasses.replace(plan(tmp_path), subject="reference.fa4")
    asked = {stage: limited.counts_refusal(stage) for stage in (Stage.ELIGIBILITY, Stage.RENDER, Stage.COMPILE)}
    assert asked == {Stage.ELIGIBILITY: True, Stage.RENDER: True, Stage.COMPILE: False}, "what flash-attn-4 refuses"
    drive(dataclasses.replace(plan(tmp_path / "b", examples=9), subject="torch-eager"), Here(refuse), 1)
    assert not findings.load_all(tmp_path / "b")
    assert {r.why for r in Reader(tmp_path / "b").new()} == {"not supported: render/refused no yet"}


@pytest.mark.parametrize(
    ("stage", "symptom", "message", "comparison", "why"),
    [
        (Stage.OUTPUT, Symptom.MISSING, "m", compared(0, 9, 0), "bound"),
        (Stage.OUTPUT, Symptom.MISSING, "m", compared(990, 10, 0), ""),
        (Stage.OUTPUT, Symptom.MISSING, "m", compared(989, 11, 0), "elements"),
        (Stage.OUTPUT, Symptom.MISSING, "m", compared(5, 9, 1), "rows"),
        # What is certainly wrong is wrong, whatever else is open.
        (Stage.OUTPUT, Symptom.WRONG, "m", compared(5, 9, 1), ""),
        (Stage.OUTPUT, Symptom.NONFINITE, "m", compared(5, 9, 1), ""),
        (Stage.LSE, Symptom.WRONG_BASE, "m", compared(5, 9, 1), ""),
        (Stage.ELIGIBILITY, Symptom.REFUSED, "grad", None, "eligibility"),
        (Stage.TRACE, Symptom.MISSING, "InputError during inputs: no", None, "not a case: no"),
        (Stage.RENDER, Symptom.REFUSED, "no exp", None, ""),
        (Stage.OUTPUT, Symptom.MISSING, "lse was not returned", compared(0, 0, 0), ""),
    ],
)
def test_what_is_discarded_and_what_is_a_failure(
    stage: Stage, symptom: Symptom, message: str, comparison: dict[str, int] | None, why: str
) -> None:
    outcome = Outcome("c", "d", "reference.host", stage, symptom, message, comparison)
    assert (why in judged.discarded(outcome)) and bool(why) == bool(judged.discarded(outcome))


# ------------------------------------------------------------------------------------- processes, killed and whole

_SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from flexconf.fuzz import engine
from flexconf.fuzz.plan import Plan
import fuzzed

if __name__ == "__main__":
    plan = Plan("torch-eager", Path({folder!r}), float(sys.argv[1]), workers=1, seed=3,
                drawn=("fuzzed:cases", "fuzzed:widths"), task=fuzzed.slow, examples=40)
    report = engine.fuzz(plan)
    print(report.now.examples, report.total.examples, report.broken)
"""


@pytest.mark.slow
def test_nothing_recorded_is_lost_or_doubled_when_the_process_group_is_killed_three_times(tmp_path: Path) -> None:
    folder, script = tmp_path / "run", tmp_path / "script.py"
    script.write_text(_SCRIPT.format(path=[str(Path(__file__).parent), *sys.path], folder=str(folder)))
    before: dict[str, bytes] = {}

    def whole(path: Path) -> bytes:
        text = path.read_bytes()
        return text[: text.rfind(b"\n") + 1]

    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-W", "ignore", str(script), "600"], start_new_session=True)
        # Until the driver has written something new; there is no other way to be in the middle of a run.
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            now = {p.name: p.stat().st_size for p in stream.files(folder)} if folder.is_dir() else {}
            if any(size > len(before.get(name, b"")) + 3000 * (kill + 1) for name, size in now.items()):
                break
            time.sleep(0.02)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = {p.name: whole(p) for p in stream.files(folder)}
        assert all(after[name].startswith(text) for name, text in before.items()), "nothing written is ever changed"
        before = after
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "0.3"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert all(p.read_bytes().startswith(before[p.name]) for p in stream.files(folder))
    records = list(Reader(folder).new())
    places = [r.place for r in records]
    assert len(set(places)) == len(places)
    assert all(index == 0 or (number, turn, index - 1) in set(places) for number, turn, index in places)
    now, total, broken = ran.stdout.split(maxsplit=2)
    assert int(total) == len(records) and int(total) - int(now) == sum(t.count(b"\n") for t in before.values())
    assert broken.strip() == "()"


@pytest.mark.slow
def test_a_crash_of_the_subject_is_an_outcome_and_the_screen_says_all(tmp_path: Path) -> None:
    what = Plan(
        "torch-eager", tmp_path / "run", 60, task=fuzzed.faulty, stop_after=1, drawn=("fuzzed:cases", "fuzzed:widths"),
        check_repro=False, shrink_seconds=1.0,
    )  # fmt: skip
    seen: list[str] = []
    report = engine.fuzz(what, lambda state: seen.append(fuzz_tables.progress(state)))
    assert report.new and not report.broken and report.now.examples > 3
    assert seen and "examples" in seen[-1]
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["new_findings"][0]["id"] == report.new[0].ident and data["coverage"]["tables"]
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(fuzz_tables.summary(report))
    text = console.export_text()
    assert "NEW FINDING" in text and "never reached" in text and report.new[0].ident[:12] in text
