"""The bench, as far as it goes without a GPU: plan, useful work, the check of rows, measuring, files, tables."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from typer.testing import CliRunner

from flexconf.bench import clock, mods, providers, record, rows, run, workloads
from flexconf.bench.clock import Call
from flexconf.bench.measure import Poisoned, measure, order
from flexconf.bench.providers import PROVIDERS, ProviderRefused, Reference, TorchFlex
from flexconf.bench.record import FAILED, OK, REFUSED, WRONG, BenchRecording, File, Measurement, Settings
from flexconf.bench.run import ProviderBroken, Task
from flexconf.bench.workloads import WORKLOADS, Built, Workload
from flexconf.cli import bench, bench_tables
from flexconf.errors import InputError
from flexconf.machine import devices
from flexconf.workers.pool import Last, Report
from flexflash.launch.host import HostLauncher

SETTINGS = Settings(rounds=2, milliseconds=3.0, rows=9)


def small(name: str) -> Workload:
    """The workload in sizes for a CPU."""
    w = WORKLOADS[name]
    sizes = {"B": 2, "H": 4, "Hkv": 2 if w.Hkv != w.H else 4, "N": 200, "D": 64}
    return dataclasses.replace(w, **sizes, M=1 if w.M == 1 else 200)


def eager(built: Built) -> tuple[Tensor, Tensor]:
    gqa = built.workload.Hkv != built.workload.H
    found: Any = flex_attention(
        built.q, built.k, built.v, built.score_mod, built.block_mask, built.scale, enable_gqa=gqa, return_lse=True
    )
    return found[0], found[1]


class FakeTimer:
    """Time that a list dictates; `breaks` makes the device unanswering once a call has raised."""

    def __init__(self, milliseconds: Sequence[float] = (1.0, 2.0, 3.0), *, graphs: bool = True) -> None:
        self.milliseconds, self.graphs, self.broken, self.log = list(milliseconds), graphs, False, list[str]()

    def synchronize(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def samples(self, call: Callable[[], object], milliseconds: float) -> list[float]:
        call()
        return self.milliseconds

    def host(self, call: Call) -> float:
        return 7.0

    def graph(self, call: Call) -> tuple[Callable[[], object], tuple[Tensor, Tensor | None]]:
        if not self.graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        out, lse = (t.clone() if t is not None else None for t in call())
        assert out is not None

        def replay() -> None:
            again = call()
            out.copy_(again[0])

        return replay, (out, lse)


@dataclass
class Fake:
    """A provider that says what it is told to."""

    name: str
    result: Callable[[Built], tuple[Tensor, Tensor | None]] = eager
    about: str = ""
    needs: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    def prepare(self, built: Built) -> Call:
        return lambda: self.result(built)


# ------------------------------------------------------------------------------------------------- useful work


@pytest.mark.parametrize("size", [1, 7, 300, 1500])
def test_attended_pairs_have_a_closed_form(size: int) -> None:
    assert workloads.attended(None, size, size + 1, "cpu") == size * (size + 1)
    assert workloads.attended(mods.causal, size, size, "cpu", rows=64) == size * (size + 1) // 2
    w = min(mods.WINDOW, size - 1)
    inside = (w + 1) * size - w * (w + 1) // 2
    assert workloads.attended(mods.sliding_window, size, size, "cpu", rows=100) == inside
    ids = workloads.documents(size, "cpu")
    lengths = torch.bincount(ids).tolist()
    assert workloads.attended(mods.document(ids), size, size, "cpu") == sum(n * (n + 1) // 2 for n in lengths)


def test_documents_are_uneven_and_off_the_tiles() -> None:
    ids = workloads.documents(8192, "cpu")
    assert ids.dtype == torch.int32 and ids.shape == (8192,) and ids.unique().tolist() == list(range(8))
    lengths = torch.bincount(ids).tolist()
    assert max(lengths) > 4 * min(lengths)
    assert all(n % 128 for n in torch.tensor(lengths).cumsum(0).tolist()[:-1])


def test_useful_work_counts_both_products_of_every_head() -> None:
    w = WORKLOADS["causal"]
    pairs = 8192 * 8193 // 2
    assert w.flops(pairs) == 2 * (2 * 128 * pairs) * 64
    assert WORKLOADS["decode"].least_bytes() == 2 * (2 * 16 * 32 * 128 + 2 * 16 * 8 * 8192 * 128)
    assert WORKLOADS["none"].least_bytes() == 2 * 4 * (4 * 16 * 8192 * 128)


# ---------------------------------------------------------------------------------------------- the check of rows


@pytest.mark.parametrize("name", [n for n in WORKLOADS if n not in ("short", "simt")])
def test_eager_flex_attention_passes_on_every_workload(name: str) -> None:
    built = workloads.build(small(name), "cpu")
    found = rows.check(rows.exact(built, 12), *eager(built))
    assert found.ok and found.elements == min(12, 8 * built.workload.M) * 64, found
    assert 0 < found.ulp < 2 and found.lse is not None and found.lse < 1


def wrong_mask(built: Built) -> tuple[Tensor, Tensor]:
    def off_by_one(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return q > kv

    return eager(workloads_with(built, off_by_one))


def workloads_with(built: Built, mask: mods.MaskMod) -> Built:
    w = built.workload
    from torch.nn.attention.flex_attention import create_block_mask

    block_mask = create_block_mask(mask, None, None, w.M, w.N, device="cpu")
    return dataclasses.replace(built, mask_mod=mask, block_mask=block_mask)


def planted(kind: str, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    match kind:
        case "zeros":
            return torch.zeros_like(out), lse
        case "nan":
            return out.clone().index_fill_(3, torch.tensor([5]), math.nan), lse
        case "heads swapped":
            return out.roll(1, 1), lse.roll(1, 1)
        case "one row too far":
            return out.roll(1, 2), lse.roll(1, 2)
        case "scale":
            return out * 1.1, lse
        case "base-2 LSE":
            return out, lse / math.log(2)
        case "LSE nan":
            return out, lse * math.nan
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["zeros", "nan", "heads swapped", "one row too far", "scale", "base-2 LSE", "LSE nan"])
def test_planted_errors_are_wrong(kind: str) -> None:
    built = workloads.build(small("causal"), "cpu")
    found = rows.check(rows.exact(built, 32), *planted(kind, *eager(built)))
    assert not found.ok and found.why


def test_a_mask_off_by_one_is_wrong() -> None:
    built = workloads.build(small("causal"), "cpu")
    assert not rows.check(rows.exact(built, 16), *wrong_mask(built)).ok


def test_a_capture_of_another_head_is_wrong() -> None:
    built = workloads.build(small("alibi"), "cpu")
    slopes = torch.exp2(-8.0 * torch.arange(1, 5) / 4).roll(1)
    other = dataclasses.replace(built, score_mod=mods.alibi(slopes))
    assert not rows.check(rows.exact(built, 16), *eager(other)).ok


def test_sampled_rows_are_distinct_and_hold_the_last_and_the_first() -> None:
    built = workloads.build(small("none"), "cpu")
    found = rows.exact(built, 40)
    places = list(zip(found.b.tolist(), found.h.tolist(), found.q.tolist(), strict=True))
    assert len(set(places)) == 40 and places[:2] == [(1, 3, 199), (0, 0, 0)]
    assert all(0 <= b < 2 and 0 <= h < 4 and 0 <= q < 200 for b, h, q in places)
    assert len(rows.exact(workloads.build(small("decode"), "cpu"), 99).q) == 8


def test_rows_with_nothing_to_attend_to_are_zero_and_minus_infinity() -> None:
    def nothing(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (q >= 0) & (kv < 0)

    built = workloads_with(workloads.build(small("causal"), "cpu"), nothing)
    exact = rows.exact(built, 5)
    assert rows.check(exact, torch.zeros_like(built.q), torch.full((2, 4, 200), -math.inf)).ok
    assert not rows.check(exact, torch.zeros_like(built.q), torch.zeros(2, 4, 200)).ok


def test_checking_nothing_is_a_failure() -> None:
    built = workloads.build(small("none"), "cpu")
    found = rows.check(rows.exact(built, 0), *eager(built))
    assert not found.ok and found.why == "nothing was compared"


def test_the_worse_of_two_checks() -> None:
    both = rows.Check(3, 1.0, None).worse(rows.Check(4, 2.0, 0.5))
    assert both == rows.Check(7, 2.0, 0.5)
    assert math.isinf(rows.Check(3, math.inf, None).worse(both).ulp)


# ------------------------------------------------------------------------------------------------------ providers


@pytest.mark.parametrize("name", ["none", "causal", "softcap", "document", "decode"])
def test_the_reference_provider_with_the_host_launcher(name: str) -> None:
    built = workloads.build(small(name), "cpu")
    (found,) = measure(built, [Reference("reference", "", (), HostLauncher)], FakeTimer(), SETTINGS)
    assert found.status == OK, found
    assert found.checked == 2 * len(rows.exact(built, 9).q) * 64
    assert found.compile is not None and found.compile > 0


def test_an_option_without_effect_is_refused() -> None:
    built = workloads.build(small("causal"), "cpu")
    provider = Reference("reference x", "", (), HostLauncher, {"force_flash": True})
    with pytest.raises(ProviderRefused, match="same text"):
        provider.prepare(built)
    with pytest.raises(ProviderRefused, match="unknown kernel option"):
        Reference("reference x", "", (), HostLauncher, {"speed": 11}).prepare(built)


@pytest.mark.parametrize("name", ["alibi", "document", "decode"])
def test_the_arguments_of_torch_compile(name: str) -> None:
    built = workloads.build(small(name), "cpu")
    call = TorchFlex("torch-triton", "", (), "AUTO", compiler="eager").prepare(built)
    out, lse = call()
    assert rows.check(rows.exact(built, 8), out, lse).ok


def test_cudnn_refuses_in_words_on_a_cpu() -> None:
    built = workloads.build(small("causal"), "cpu")
    (found,) = measure(built, [PROVIDERS["cudnn"]], FakeTimer(), SETTINGS)
    assert found.status == REFUSED and "No viable backend" in found.reason


@pytest.mark.parametrize("name", ["alibi", "document"])
def test_what_has_no_argument_says_so(name: str) -> None:
    built = workloads.build(small(name), "cpu")
    for provider in ("flash-attn-4", "cudnn"):
        with pytest.raises(ProviderRefused, match="no argument for"):
            PROVIDERS[provider].prepare(built)


def test_own_arguments_are_those_of_flash_attention() -> None:
    own = {name: w.own for name, w in WORKLOADS.items() if w.own}
    assert own["causal"] == {"causal": True}
    assert own["softcap"] == {"softcap": mods.SOFTCAP}
    assert own["sliding_window"] == {"window_size": (mods.WINDOW, 0)}


# ------------------------------------------------------------------------------------------------------ measuring


def test_a_measurement_has_all_its_figures() -> None:
    built = workloads.build(small("causal"), "cpu")
    (found,) = measure(built, [Fake("a")], FakeTimer([4.0, 1.0, 2.0, 3.0, 5.0]), SETTINGS)
    assert (found.status, found.median, found.samples) == (OK, 3.0, 10)
    assert found.low == pytest.approx(1.8) and found.high == pytest.approx(4.2)
    assert (found.graph, found.host) == (3.0, 7.0)
    pairs = 200 * 201 // 2
    assert found.flops == 4 * 64 * pairs * 8
    assert found.tflops == pytest.approx(found.flops / 3e-3 / 1e12)
    assert found.spread == pytest.approx(0.4)


def test_providers_take_turns() -> None:
    built = workloads.build(small("none"), "cpu")
    said: list[str] = []
    measure(built, [Fake("a"), Fake("b")], FakeTimer(), SETTINGS, said.append)
    assert [s for s in said if s.startswith("time")] == ["time a", "time b", "time b", "time a"]
    assert said.index("compile b") < said.index("time a") < said.index("graph a")


@pytest.mark.parametrize("count", range(1, 8))
def test_no_provider_is_favoured_by_its_place(count: int) -> None:
    names = [f"p{n}" for n in range(count)]
    rounds = [order(names, n) for n in range(2 * count)]
    assert all(sorted(r) == sorted(names) for r in rounds)
    assert {r[0] for r in rounds} == set(names) == {r[-1] for r in rounds}
    for there, back in zip(rounds[::2], rounds[1::2], strict=True):
        assert {there.index(n) + back.index(n) for n in names} == {count - 1}
    assert order([], 3) == []


def test_a_clock_that_drifts_favours_nobody() -> None:
    """Every turn takes 1 % longer than the one before, and all providers are equal."""
    built = workloads.build(small("none"), "cpu")
    timer = FakeTimer()
    times = (1.01**n for n in range(1000))
    timer.samples = lambda call, milliseconds: [next(times)]  # type: ignore[method-assign]
    settings = dataclasses.replace(SETTINGS, rounds=10, graphs=False)
    found = measure(built, [Fake(n) for n in "abcde"], timer, settings)
    assert all(len(m.turns) == 10 for m in found)
    for own in found:
        for rival in found:
            seen = record.speed(own, rival)
            assert seen is not None and seen.equal and abs(seen.ratio - 1) < 0.002, (own.provider, rival.provider)


def timed(turns: Sequence[float], provider: str = "a", code: str = "") -> Measurement:
    return took(sorted(turns)[len(turns) // 2], provider, turns=tuple(turns), code=code)


def test_a_speed_is_the_median_of_the_turns_own_ratios() -> None:
    # One turn of each is an outlier, and both get slower by the round: neither is in the ratio.
    own = timed([1.0, 2.0, 3.0, 4.0, 50.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    rival = timed([1.1, 2.2, 3.3, 44.0, 5.5, 6.6, 7.7, 8.8, 9.9, 11.0], "b")
    seen = record.speed(own, rival)
    assert seen is not None and (seen.ratio, seen.low, seen.high) == pytest.approx((1.1, 1.1, 1.1)) and not seen.equal
    back = record.speed(rival, own)
    assert back is not None and back.ratio == pytest.approx(1 / 1.1)
    assert record.speed(own, took(1.0, status=WRONG)) is None
    alone = record.speed(took(2.0), took(3.0))
    assert alone is not None and (alone.ratio, alone.margin) == (1.5, 0)


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (2, 0), (6, 0), (8, 0), (9, 1), (10, 1), (12, 2), (15, 3), (20, 5)])
def test_the_range_of_a_speed_holds_the_median(count: int, cut: int) -> None:
    own = timed([1.0] * count)
    rival = timed([1 + n / 100 for n in range(count)], "b")
    seen = record.speed(own, rival)
    assert seen is not None
    assert (seen.low, seen.high) == pytest.approx((1 + cut / 100, 1 + (count - 1 - cut) / 100))
    inside = 1 - 2 * sum(math.comb(count, k) for k in range(cut + 1)) / 2**count
    further = 1 - 2 * sum(math.comb(count, k) for k in range(cut + 2)) / 2**count
    assert (inside >= 0.95 or count < 6) and further < 0.95


def test_several_processes_count_as_one_ratio_each() -> None:
    """Within a process the ratio is as good as constant: only another process shows what it depends on."""
    mine = [timed([1.0, 1.0, 1.0], code="x") for _ in range(6)]
    rival = [timed([r, r, r], "b") for r in (0.97, 0.99, 1.0, 1.02, 1.03, 1.05)]
    own, other = record.merged(mine), record.merged(rival)
    assert (own.processes, len(own.turns), own.samples, own.checked, own.code) == (6, 18, 54, 384, "x")
    seen = record.speed(own, other)
    assert seen is not None and (seen.ratio, seen.low, seen.high) == pytest.approx((1.01, 0.97, 1.05)) and seen.equal
    alone = record.speed(mine[0], rival[0])
    assert alone is not None and not alone.equal
    assert record.merged(mine[:1]) is mine[0]
    assert record.merged([mine[0], dataclasses.replace(mine[1], code="y")]).code == ""


def test_a_process_that_was_wrong_is_not_outvoted() -> None:
    wrong = took(1.0, status=WRONG, reason="row 3")
    assert record.merged([took(1.0), wrong, took(1.0)]) is wrong
    apart = record.merged([took(1.0, graph=2.0, host=5.0), took(3.0, graph_reason="no"), took(2.0, ulp=0.9)])
    assert (apart.median, apart.graph, apart.host, apart.ulp, apart.graph_reason) == (2.0, 2.0, 5.0, 0.9, "no")


def test_equal_machine_code_is_known_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __init__(self, code: bytes | None) -> None:
            self.__cubin__ = code

    class Compiler:
        compile_cache: Any

    Compiler.compile_cache = type("Cache", (), {"cache": {"old": Kernel(b"0")}})
    known = Compiler.compile_cache.cache
    module = type(os)("flash_attn.cute.interface")
    vars(module)["_flash_attn_fwd"] = Compiler
    monkeypatch.setitem(clock.sys.modules, "flash_attn.cute.interface", module)

    def compiled(*codes: bytes | None) -> str:
        with clock.cold() as code:
            assert code() == "" and not known
            for n, each in enumerate(codes):
                known[n] = Kernel(each)
            found = code()
        assert "old" in known
        for n in range(len(codes)):
            del known[n]
        return found

    assert compiled(b"a", b"b") == compiled(b"b", b"a") != compiled(b"a") != compiled(b"b")
    assert compiled() == compiled(None) == compiled(b"a", None) == ""
    assert len(compiled(b"a")) == 64


def test_a_wrong_provider_is_not_ranked() -> None:
    built = workloads.build(small("causal"), "cpu")
    fast = Fake("fast", lambda b: (torch.zeros_like(b.q), None))
    right, wrong = measure(built, [Fake("a"), fast], FakeTimer(), SETTINGS)
    assert wrong.status == WRONG and not wrong.ranked and wrong.tflops is None and "off by" in wrong.reason
    assert right.ranked


def test_a_provider_that_is_wrong_only_later_is_wrong() -> None:
    built = workloads.build(small("none"), "cpu")
    seen: list[int] = []

    def decaying(b: Built) -> tuple[Tensor, Tensor | None]:
        seen.append(1)
        out, lse = eager(b)
        return (out if len(seen) < 3 else out * 2), lse

    (found,) = measure(built, [Fake("a", decaying)], FakeTimer(), SETTINGS)
    assert found.status == WRONG


def raising(error: Exception, first: int = 1) -> Callable[[Built], tuple[Tensor, Tensor | None]]:
    seen: list[int] = []

    def result(built: Built) -> tuple[Tensor, Tensor | None]:
        seen.append(1)
        if len(seen) >= first:
            raise error
        return eager(built)

    return result


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProviderRefused("no"), REFUSED),
        (NotImplementedError("flex"), REFUSED),
        (RuntimeError("No available kernel. Aborting execution."), REFUSED),
        (AssertionError("SplitKV not supported on SM 9.0"), REFUSED),
        (RuntimeError("CUDA out of memory"), FAILED),
        (ValueError("shapes"), FAILED),
    ],
)
def test_an_exception_costs_nobody_else(error: Exception, status: str) -> None:
    built = workloads.build(small("none"), "cpu")
    bad, good = measure(built, [Fake("bad", raising(error)), Fake("good")], FakeTimer(), SETTINGS)
    assert (bad.status, good.status) == (status, OK) and str(error).split()[0] in bad.reason


def test_an_exception_while_timing_is_a_failure() -> None:
    built = workloads.build(small("none"), "cpu")
    bad, good = measure(built, [Fake("bad", raising(RuntimeError("late"), 3)), Fake("good")], FakeTimer(), SETTINGS)
    assert (bad.status, good.status) == (FAILED, OK) and "late" in bad.reason


def test_a_broken_device_is_told() -> None:
    built = workloads.build(small("none"), "cpu")
    timer = FakeTimer()

    def fault(b: Built) -> tuple[Tensor, Tensor | None]:
        timer.broken = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(Poisoned) as told:
        measure(built, [Fake("good"), Fake("bad", fault)], timer, SETTINGS)
    assert (told.value.provider, told.value.phase) == ("bad", "compile")


def test_what_cannot_be_captured_says_why() -> None:
    built = workloads.build(small("none"), "cpu")
    (found,) = measure(built, [Fake("a")], FakeTimer(graphs=False), SETTINGS)
    assert found.status == OK and found.graph is None and "capturing" in found.graph_reason
    (found,) = measure(built, [Fake("a")], FakeTimer(), SETTINGS, without_graph=["a"])
    assert found.graph is None and "ended the process" in found.graph_reason


# -------------------------------------------------------------------------------------------------------- the run


def pretend(task: Task, report: Report) -> list[Measurement] | Last[list[Measurement] | ProviderBroken]:
    """A worker's task whose providers do what their names say."""
    for name in task.providers:
        report(f"compile {name}")
        if name == "dies":
            os.abort()
        if name == "poisons":
            return Last(ProviderBroken(name, "time", "CUDA error"))
    for name in task.providers:
        report(f"graph {name}")
        if name == "dies in capture" and name not in task.without_graph:
            os._exit(3)
    if task.workload.name == "document":
        report("inputs")
        os._exit(4)
    return Last([Measurement(task.workload.name, n, OK, median=1.0, checked=1) for n in task.providers])


@pytest.mark.slow
def test_a_provider_that_dies_loses_nobody_elses_result() -> None:
    names = ("a", "dies", "poisons", "dies in capture", "z")
    seen: list[str] = []
    recording = run.run(
        [Task(WORKLOADS[n], names, SETTINGS) for n in ("none", "document")],
        SETTINGS,
        function=pretend,
        on_workload=lambda w, found: seen.append(w.name),
    )
    found = {(m.workload, m.provider): m for m in recording.measurements}
    assert [found["none", n].status for n in names] == [OK, FAILED, FAILED, OK, OK]
    assert "SIGABRT" in found["none", "dies"].reason and found["none", "dies"].reason.startswith("compile")
    assert "CUDA error" in found["none", "poisons"].reason
    # The worker of the second workload dies where no provider is to blame: all of them fail.
    assert [found["document", n].status for n in names] == [FAILED] * 5
    assert seen == ["none", "document"] and recording.finished and not recording.ok


def who_measures(task: Task, report: Report) -> Last[list[Measurement]]:
    """A task that says in which process it was."""
    return Last([took(float(os.getpid()), n, turns=(float(os.getpid()),)) for n in task.providers])


@pytest.mark.slow
def test_every_process_is_a_fresh_one() -> None:
    settings = dataclasses.replace(SETTINGS, processes=3)
    (found,) = run.run([Task(WORKLOADS["none"], ("a",), settings)], settings, function=who_measures).measurements
    assert found.processes == 3 and len(set(found.turns)) == 3


def test_nothing_measured_is_a_failure() -> None:
    refused = Measurement("none", "a", REFUSED, "no")
    assert not BenchRecording(SETTINGS, {}, [refused]).ok
    assert BenchRecording(SETTINGS, {}, [refused, Measurement("none", "b", OK, median=1.0, checked=2)]).ok
    assert not BenchRecording(SETTINGS, {}, [Measurement("none", "b", OK, median=1.0, checked=0)]).ok


# -------------------------------------------------------------------------------------------- files and tables


def recording(*measured: Measurement, **changes: Any) -> BenchRecording:
    plain = BenchRecording(SETTINGS, {"python": "3", "gpus": [{"name": "H200"}]}, measured, {"none": {"B": 4}}, "now")
    return dataclasses.replace(plain, **changes)


def took(median: float, provider: str = "reference", **changes: Any) -> Measurement:
    plain = Measurement(
        "none",
        provider,
        OK,
        median=median,
        low=median * 0.99,
        high=median * 1.01,
        samples=9,
        checked=64,
        ulp=0.5,
        flops=10**12,
        bytes=10**9,
    )
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


def test_lengths_of_documents_cover_the_sequence() -> None:
    bounds = [0.0, *workloads._DOCUMENT_ENDS]
    assert all(a < b for a, b in pairwise(bounds)) and bounds[-1] == 1.0


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["causal", "softcap", "decode"])
def test_providers_on_a_gpu(name: str) -> None:
    task = Task(WORKLOADS[name].quick(), ("reference", "torch-flash", "torch-triton"), SETTINGS)
    assert run.run([task], SETTINGS).ok
