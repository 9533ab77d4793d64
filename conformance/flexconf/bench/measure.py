"""Measure all providers of one workload in one process: compile, check, time in turns, check again."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from flexconf.bench import rows as checking
from flexconf.bench.clock import Call, Timer, cold
from flexconf.bench.providers import Provider, ProviderRefused, is_refusal
from flexconf.bench.record import FAILED, OK, REFUSED, WRONG, Measurement, Settings, quantile
from flexconf.bench.rows import Check, Rows
from flexconf.bench.workloads import Built

_SHOWN = 300


class Poisoned(Exception):
    """The process can no longer measure, since the device does not answer. `provider` caused that during `phase`."""

    def __init__(self, provider: str, phase: str, message: str) -> None:
        super().__init__(message)
        self.provider, self.phase = provider, phase


@dataclass(frozen=True)
class _Facts:
    """The facts that all measurements of a workload share."""

    workload: str
    flops: int
    bytes: int

    def ended(self, provider: str, status: str, reason: str) -> Measurement:
        """A measurement without a time."""
        return Measurement(self.workload, provider, status, reason, flops=self.flops, bytes=self.bytes)


@dataclass
class _Running:
    """A provider that compiled: its call, and its measurements so far."""

    call: Call
    compile: float
    check: Check
    code: str
    turns: list[list[float]] = field(default_factory=list)
    host: float | None = None
    graph: float | None = None
    graph_reason: str = ""


def measure(
    built: Built,
    providers: Sequence[Provider],
    timer: Timer,
    settings: Settings,
    report: Callable[[str], None] = lambda stage: None,
    without_graph: Sequence[str] = (),
    other_base: Sequence[str] = (),
) -> list[Measurement]:
    """Measure `providers` on one workload. Returns their measurements in the order of `providers`.

    Every provider has one turn in each of `settings.rounds` rounds; `order` gives their order within a round. `report`
    is called with "<phase> <provider>" when each phase begins. The runs of providers in `without_graph` are not
    captured. The LSE of providers in `other_base` is known to have a logarithm of another base: their speed counts all
    the same, and the measurement says so. Raises Poisoned if a provider leaves the device unusable.
    """
    report("exact rows")
    exact = checking.exact(built, settings.rows)
    ended: dict[str, Measurement] = {}
    running: dict[str, _Running] = {}
    facts = _Facts(built.workload.name, built.workload.flops(built.pairs), built.workload.least_bytes())
    for provider in providers:
        report(f"compile {provider.name}")
        try:
            running[provider.name] = _start(provider, built, timer, exact)
        except Exception as error:
            _alive(timer, provider.name, "compile", error)
            status = REFUSED if is_refusal(error) else FAILED
            ended[provider.name] = facts.ended(provider.name, status, _message(error))
    for number in range(settings.rounds):
        for name in order(list(running), number):
            if name not in ended:
                report(f"time {name}")
                with _noted(ended, facts, name, timer):
                    running[name].turns.append(timer.samples(running[name].call, settings.milliseconds))
    for name, state in running.items():
        if name not in ended:
            report(f"check {name}")
            with _noted(ended, facts, name, timer):
                state.check = state.check.worse(checking.check(exact, *state.call()))
                state.host = timer.host(state.call)
    for name, state in running.items():
        if name in ended or not settings.graphs:
            continue
        if name in without_graph:
            state.graph_reason = "its capture ended the process"
            continue
        report(f"graph {name}")
        _graph(name, state, timer, settings, exact, name in other_base)
    for name, state in running.items():
        if name not in ended:
            ended[name] = _measurement(facts, name, state, name in other_base)
    return [ended[p.name] for p in providers]


def order(names: Sequence[str], number: int) -> list[str]:
    """The order of the providers in round `number`. No provider gains from its place.

    Every second round reverses the round before. Over such a pair all providers have the same mean position, so a
    steady drift of the GPU's clock affects all of them alike. Each pair of rounds begins with another provider.
    """
    first = number // 2 % len(names) if names else 0
    turned = [*names[first:], *names[:first]]
    return turned[::-1] if number % 2 else turned


def _start(provider: Provider, built: Built, timer: Timer, exact: Rows) -> _Running:
    timer.synchronize()
    started = time.perf_counter()
    with cold() as compiled:
        call = provider.prepare(built)
        out, lse = call()
        timer.synchronize()
        seconds = time.perf_counter() - started
        code = compiled()
    return _Running(call, seconds, checking.check(exact, out, lse), code)


def _graph(name: str, state: _Running, timer: Timer, settings: Settings, exact: Rows, excused: bool) -> None:
    try:
        replay, (out, lse) = timer.graph(state.call)
        out.zero_()
        replay()
        timer.synchronize()
        found = checking.check(exact, out, lse)
        if not (found.excused() if excused else found).ok:
            state.graph_reason = f"its replay is wrong: {found.why}"
            return
        state.graph = statistics.median(timer.samples(replay, settings.milliseconds))
    except Exception as error:
        _alive(timer, name, "graph", error)
        state.graph_reason = _message(error)


@contextlib.contextmanager
def _noted(ended: dict[str, Measurement], facts: _Facts, name: str, timer: Timer) -> Iterator[None]:
    """Record an exception of a provider as its failed measurement."""
    try:
        yield
    except Exception as error:
        _alive(timer, name, "time", error)
        ended[name] = facts.ended(name, FAILED, _message(error))


def _alive(timer: Timer, name: str, phase: str, error: Exception) -> None:
    """Raises Poisoned if the device no longer answers."""
    try:
        timer.synchronize()
    except Exception:
        raise Poisoned(name, phase, _message(error)) from error


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split())[:_SHOWN]
    return text if isinstance(error, ProviderRefused) else f"{type(error).__name__}: {text}"


def _measurement(facts: _Facts, name: str, state: _Running, excused: bool) -> Measurement:
    low = median = high = None
    times = [t for turn in state.turns for t in turn]
    if times:
        low, median, high = (quantile(times, part) for part in (0.2, 0.5, 0.8))
    right = (state.check.excused() if excused else state.check).ok and bool(times)
    return Measurement(
        workload=facts.workload,
        provider=name,
        status=OK if right else WRONG if times else FAILED,
        reason=state.check.why or ("" if times else "it was never timed"),
        median=median,
        low=low,
        high=high,
        samples=len(times),
        turns=tuple(statistics.median(turn) for turn in state.turns),
        graph=state.graph,
        graph_reason=state.graph_reason,
        host=state.host,
        compile=state.compile,
        checked=state.check.elements,
        ulp=state.check.ulp,
        lse=state.check.lse,
        flops=facts.flops,
        bytes=facts.bytes,
        code=state.code,
    )
