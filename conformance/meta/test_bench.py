"""The benchmark as far as it goes without a GPU: its providers, measuring, and its processes."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from benched import SETTINGS, eager, small, timed, took
from torch import Tensor

from flexconf.bench import clock, mods, record, rows, run, workloads
from flexconf.bench.clock import Call
from flexconf.bench.measure import Poisoned, measure, order
from flexconf.bench.providers import PROVIDERS, ProviderRefused, Reference, TorchFlex
from flexconf.bench.record import FAILED, OK, REFUSED, WRONG, BenchRecording, Measurement
from flexconf.bench.run import ProviderBroken, Task
from flexconf.bench.workloads import WORKLOADS, Built
from flexconf.workers.pool import Last, Report
from flexflash.launch.host import HostLauncher


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


# --------------------------------------------------------------------------------------------------- command line


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["causal", "softcap", "decode"])
def test_providers_on_a_gpu(name: str) -> None:
    task = Task(WORKLOADS[name].quick(), ("reference", "torch-flash", "torch-triton"), SETTINGS)
    assert run.run([task], SETTINGS).ok
