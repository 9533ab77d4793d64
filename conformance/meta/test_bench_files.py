"""The benchmark's recordings, tables and command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benched import SETTINGS, timed, took
from rich.console import Console
from typer.testing import CliRunner

from flexconf.bench import providers, record, run
from flexconf.bench.record import REFUSED, WRONG, BenchRecording, File, Measurement, Settings
from flexconf.bench.run import Task
from flexconf.bench.workloads import WORKLOADS
from flexconf.cli import bench, bench_tables
from flexconf.errors import InputError
from flexconf.machine import devices

# -------------------------------------------------------------------------------------------- files and tables


def recording(*measured: Measurement, **changes: Any) -> BenchRecording:
    plain = BenchRecording(SETTINGS, {"python": "3", "gpus": [{"name": "H200"}]}, measured, {"none": {"B": 4}}, "now")
    return dataclasses.replace(plain, **changes)


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = recording(took(1.0), took(2.0, "wrong", status=WRONG, ulp=math.inf), finished=False)
    file = File(path, before)
    assert record.read(path) == dataclasses.replace(before, measurements=list(before.measurements))
    after = recording(took(3.0))
    file.write(after)
    assert record.read(path).measurements == [took(3.0)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="exists"):
        File(path, after)
    assert record.read(path).measurements == [took(3.0)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="cannot be written"):
        File(tmp_path / "no" / "a.json", after)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "flexconf bench gpu", "version": 99}',
        '{"kind": "flexconf bench gpu", "version": 1}',
        '{"kind": "flexconf bench gpu", "version": 1, "settings": {}, "environment": {}, "measurements": [3],'
        ' "workloads": {}, "started": "", "finished": true}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        record.read(path)


def test_changes_know_noise() -> None:
    old = recording(took(1.0, "a"), took(1.0, "b"), took(1.0, "c"), took(1.0, "d"), took(1.0, "e"))
    new = recording(took(0.5, "a"), took(1.5, "b"), took(1.005, "c"), took(1.0, "d", status=WRONG), took(1.0, "f"))
    found = {c.provider: c for c in record.compare(old, new)}
    verdicts = {name: c.verdict for name, c in found.items()}
    assert verdicts == {
        "a": "faster", "b": "slower", "c": "same", "d": "ok, then wrong", "e": "only before", "f": "only after",
    }  # fmt: skip
    assert found["a"].ratio == 0.5 and found["d"].ratio is None
    text = shown(bench_tables.changes(found.values(), old, new))
    assert "faster" in text and "0.500" in text


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="no workload"):
        record.compare(recording(took(1.0, "a")), recording(took(1.0, "b")))
    with pytest.raises(InputError, match="quick"):
        record.compare(recording(took(1.0)), recording(took(1.0), settings=Settings(quick=True)))
    with pytest.raises(InputError, match="another size"):
        record.compare(recording(took(1.0)), recording(took(1.0), workloads={"none": {"B": 1}}))


def shown(renderable: Any) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_the_table_of_a_workload() -> None:
    measured = [
        took(2.0, graph=1.9, host=40.0, compile=3.0, lse=0.01, turns=(2.0, 2.02, 1.98), code="x"),
        took(4.0, "torch-flash", graph_reason="no", turns=(4.0, 4.2, 4.1), code="x"),
        took(5.0, "torch-triton"),
        took(0.1, "cheat", status=WRONG, reason="the output is off by 99 ulp"),
        Measurement("none", "cudnn", REFUSED, "has no argument for ALiBi"),
    ]
    text = shown(bench_tables.workload(WORKLOADS["none"], measured))
    assert "2.071 +-0.040" in text and "2.500" in text and "500" in text
    assert "the same machine code, byte for byte: reference, torch-flash" in text
    assert "WRONG" in text and "off by 99 ulp" in text and "refused: has no argument for ALiBi" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    line = next(x for x in text.splitlines() if "cheat" in x)
    assert "0.1000" not in line and "40.0" not in line
    assert "TB/s" in shown(bench_tables.workload(WORKLOADS["decode"], measured))
    assert "FAIL" in shown(bench_tables.summary(recording(*measured)))


@pytest.mark.parametrize(("rival", "seen"), [((1.0, 0.99, 1.02), "= 1.000 +-0.015"), ((0.98, 0.97, 0.99), " 0.980 +-")])
def test_a_ratio_is_shown_with_its_noise(rival: tuple[float, ...], seen: str) -> None:
    text = shown(bench_tables.workload(WORKLOADS["none"], [timed([1.0] * 3, "reference"), timed(rival, "torch-flash")]))
    assert seen in text and ("= 0.980" not in text) and "machine code" not in text


def test_quantiles() -> None:
    assert [record.quantile([3.0, 1.0, 2.0], p) for p in (0.0, 0.5, 1.0, 0.25)] == [1.0, 2.0, 3.0, 1.5]


# --------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count", lambda: 1)
    monkeypatch.setattr(providers, "require", lambda chosen: None)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(bench.app, list(arguments))


def test_without_a_gpu_there_is_one_sentence() -> None:
    if devices.count():
        pytest.skip("there is a GPU")
    ended = invoke("gpu", "--quick")
    assert isinstance(ended.exception, InputError) and "needs a GPU" in str(ended.exception)


def test_without_a_package_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"triton": True, "flash_attn": False}
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: there[name] or None)
    with pytest.raises(InputError, match="flash_attn"):
        providers.require(["cudnn", "reference"])
    providers.require(["cudnn"])
    there["triton"] = False
    with pytest.raises(InputError, match="triton"):
        providers.require(["cudnn"])


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (("gpu", "--workload", "casual"), "causal"),
        (("gpu", "--provider", "torch-flesh"), "torch-flash"),
        (("gpu", "--workload", "causal", "--provider", "simt"), "leave out"),
        (("compare", "a.json", "b.json"), "cannot be read"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], helps: str) -> None:
    ended = invoke(*arguments)
    assert isinstance(ended.exception, InputError) and helps in str(ended.exception)


def test_the_plan_and_the_file(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Task] = []

    class Pretended:
        def __init__(self, function: Any, **rest: Any) -> None: ...

        def __enter__(self) -> Pretended:
            return self

        def __exit__(self, *error: object) -> None: ...

        def run(self, payloads: Sequence[Task], on_result: Any) -> None:
            asked.extend(payloads)
            for task in payloads:
                on_result(task, [took(1.0, n, workload=task.workload.name) for n in task.providers])

    monkeypatch.setattr(run, "Crew", Pretended)
    path = tmp_path / "bench.json"
    ended = invoke("gpu", "--quick", "--out", str(path))
    assert ended.exit_code == 0, ended.output
    assert [t.workload.name for t in asked] == list(WORKLOADS)
    plan = {t.workload.name: t.providers for t in asked}
    assert plan["simt"] == ("reference", "simt") and "simt" not in plan["causal"] and len(plan["causal"]) == 6
    assert all(t.workload.M <= 2048 and t.settings.rounds == 2 for t in asked)
    written = json.loads(path.read_text())
    assert written["finished"] and len(written["measurements"]) == 8 * 6 + 2
    assert "softcap" in ended.output and "PASS" in ended.output
    ended = invoke("gpu", "--workload", "causal", "--provider", "reference", "--json")
    assert json.loads(ended.stdout)["measurements"][0]["provider"] == "reference"
    ended = invoke("compare", str(path), str(path))
    assert ended.exit_code == 0 and "same" in ended.output
    asked.clear()
    ended = invoke("gpu", "--workload", "causal", "--provider", "reference", "--processes", "3", "--json")
    assert len(asked) == 3 and json.loads(ended.stdout)["measurements"][0]["processes"] == 3
    assert {c["verdict"] for c in json.loads(invoke("compare", str(path), str(path), "--json").stdout)} == {"same"}
