"""L9 on a GPU: what a launch writes, the stream it runs on, the device it runs on."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.language import layouts
from flexconf.machine import devices
from flexconf.subjects import trial
from flexconf.subjects.canary import Canary
from flexconf.workers import pool
from flexconf.workers.pool import Lost, Report
from flexconf.workers.tasks import prepare_worker
from flexflash import RenderedKernel, lower

LAUNCHERS = ("fa4", "simt")
Payload = tuple[str, str, str]


def _launcher(name: str) -> Any:
    if name == "fa4":
        from flexflash.launch.fa4 import Fa4Launcher

        return Fa4Launcher()
    from flexflash.launch.simt import SimtLauncher

    return SimtLauncher()


def _lowered(case: str, device: str, launcher: Any) -> tuple[RenderedKernel, inputs.Inputs]:
    (chosen,) = catalogue.select(catalogue.load(), [case])
    given = inputs.materialize(chosen, device)
    kernel = lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, profile=launcher.profile)
    return kernel, given


def _result(kernel: RenderedKernel, given: inputs.Inputs, launcher: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = _launched(kernel, given, launcher)
    torch.cuda.synchronize(given.q.device)
    return out, lse


def _launched(kernel: RenderedKernel, given: inputs.Inputs, launcher: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = kernel.allocate()
    launcher.run(kernel, kernel.arguments(given.q, given.k, given.v, out, lse))
    return out, lse


def perform(payload: Payload, report: Report) -> dict[str, Any]:
    """In a worker: one of the experiments below, on one case with one launcher."""
    what, case, name = payload
    experiments: dict[str, Callable[[str, Any], dict[str, Any]]] = {
        "padded": padded,
        "stream": stream,
        "second": second,
        "timed": timed,
        "far": far,
    }
    return experiments[what](case, _launcher(name))


def padded(case: str, launcher: Any) -> dict[str, Any]:
    """Rows of the output lie apart, with guards around and between them."""
    kernel, given = _lowered(case, "cuda", launcher)
    expected = _result(kernel, given, launcher)
    out = Canary.around(kernel.output_size, kernel.output_stride, 0.0, given.q, pad=8)
    lse = Canary.around(expected[1].shape, expected[1].stride(), 0.0, expected[1])
    before = [t.clone() for t in (given.q, given.k, given.v, *given.captures.values())]
    launcher.run(kernel, kernel.arguments(given.q, given.k, given.v, out.tensor, lse.tensor))
    torch.cuda.synchronize()
    after = [given.q, given.k, given.v, *given.captures.values()]
    return {
        "strides differ": out.tensor.stride() != expected[0].stride(),
        "equal": bool(torch.equal(out.tensor, expected[0]) and torch.equal(lse.tensor, expected[1])),
        "intact": out.intact() and lse.intact(),
        "inputs": all(torch.equal(_bits(a), _bits(b)) for a, b in zip(before, after, strict=True)),
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8) if tensor.dim() else tensor.detach().reshape(1)


def far(case: str, launcher: Any) -> dict[str, Any]:
    """The query's batches, then its heads, lie more than 2^31 elements apart."""
    kernel, given = _lowered(case, "cuda", launcher)
    expected = _result(kernel, given, launcher)
    dim = given.q.shape[3]
    equal = []
    for strides in ((2**31, 2**14, dim, 1), (dim, 2**31 + dim, 2 * dim, 1)):
        where = layouts.strided(tuple(given.q.shape), strides)
        apart = dataclasses.replace(given, q=layouts.place(given.q.cpu(), where, "cuda"))
        out, lse = _result(kernel, apart, launcher)
        equal.append(bool(torch.equal(out, expected[0]) and torch.equal(lse, expected[1])))
    return {"equal": equal}


def stream(case: str, launcher: Any) -> dict[str, Any]:
    """The query arrives late on a side stream; only a launch on that stream sees it."""
    kernel, given = _lowered(case, "cuda", launcher)
    expected = _result(kernel, given, launcher)
    late = torch.empty_strided(given.q.shape, given.q.stride(), dtype=given.q.dtype, device="cuda").zero_()
    out, lse = kernel.allocate()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        late.copy_(given.q)
        launcher.run(kernel, kernel.arguments(late, given.k, given.v, out, lse))
        was_pending = not side.query()
    torch.cuda.synchronize()
    return {
        "equal": bool(torch.equal(out, expected[0]) and torch.equal(lse, expected[1])),
        "asynchronous": was_pending,
    }


def timed(case: str, launcher: Any) -> dict[str, Any]:
    """Of a launch, and of one that the CPU takes 50 ms to come to: the GPU's milliseconds."""
    kernel, given = _lowered(case, "cuda", launcher)

    def late() -> None:
        time.sleep(0.05)
        _launched(kernel, given, launcher)

    _launched(kernel, given, launcher)
    launches = (lambda: _launched(kernel, given, launcher)), late
    at_once, delayed = (trial.gpu_seconds(launch, 5) for launch in launches)
    return {"launches": len(at_once), "at once": 1e3 * min(at_once), "delayed": 1e3 * min(delayed)}


def second(case: str, launcher: Any) -> dict[str, Any]:
    """A launch on the second device while the first is current, also on a side stream of the second."""
    torch.cuda.set_device(0)
    first = _result(*_lowered(case, "cuda:0", launcher), launcher)
    kernel, given = _lowered(case, "cuda:1", launcher)
    out, lse = _result(kernel, given, launcher)
    with torch.cuda.stream(torch.cuda.Stream("cuda:1")), torch.cuda.device(0):
        side_out, side_lse = _result(kernel, given, launcher)
    again = _result(*_lowered(case, "cuda:0", launcher), launcher)
    return {
        "device": str(out.device),
        "equal": bool(torch.equal(out.cpu(), first[0].cpu()) and torch.equal(lse.cpu(), first[1].cpu())),
        "on a side stream": bool(torch.equal(side_out, out) and torch.equal(side_lse, lse)),
        "the first afterwards": bool(torch.equal(again[0], first[0]) and torch.equal(again[1], first[1])),
        "current": torch.cuda.current_device(),
    }


def where(payload: int, report: Report) -> str:
    """In a worker: the identity of its GPU, and that it is the only one that it sees."""
    assert torch.cuda.device_count() == 1
    torch.zeros(1, device="cuda")
    return str(torch.cuda.get_device_properties(0).uuid)


def _performed(payload: Payload, variables: dict[str, str] | None = None) -> dict[str, Any]:
    ended: list[dict[str, Any] | Lost] = []
    pool.run_many(
        [payload],
        perform,
        workers=1,
        time_limit=180.0,
        on_result=lambda _, result: ended.append(result),
        prepare=functools.partial(prepare_worker, subjects.get("reference.fa4")),
        environments=[variables if variables is not None else devices.assign(0)],
    )
    (result,) = ended
    assert not isinstance(result, Lost), pool.describe(result)
    return result


@pytest.mark.gpu
@pytest.mark.clause("L9.1", "L5.1")
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("case", ["alibi_causal@mqa8", "causal@bmhd", "stride_transposed"])
def test_nothing_else_is_written(case: str, launcher: str) -> None:
    facts = _performed(("padded", case, launcher))
    assert facts == {"strides differ": True, "equal": True, "intact": True, "inputs": True}


@pytest.mark.gpu
@pytest.mark.clause("L2.8")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_query_that_spans_more_than_32_bits_is_read(launcher: str) -> None:
    assert _performed(("far", "event_time_decay", launcher)) == {"equal": [True, True]}


@pytest.mark.gpu
@pytest.mark.clause("L9.2")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_current_stream_is_used(launcher: str) -> None:
    assert _performed(("stream", "alibi", launcher)) == {"equal": True, "asynchronous": True}


@pytest.mark.gpu
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_time_of_a_launch_is_the_gpus_own(launcher: str) -> None:
    facts = _performed(("timed", "alibi", launcher))
    assert facts["launches"] == 5 and 0 < facts["at once"] < 10 and 0 < facts["delayed"] < 10, facts


@pytest.mark.gpu(count=2)
@pytest.mark.clause("L9.2")
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("case", ["alibi_causal", "softcap"])
def test_the_second_device_while_the_first_is_current(case: str, launcher: str) -> None:
    facts = _performed(("second", case, launcher), variables={})
    assert facts == {
        "device": "cuda:1",
        "equal": True,
        "on a side stream": True,
        "the first afterwards": True,
        "current": 0,
    }


@pytest.mark.gpu(count=2)
def test_workers_are_spread_over_the_devices() -> None:
    seen: list[str | Lost] = []
    count = devices.count()
    with pool.Crew(
        where, workers=2 * count, environments=subjects.get("reference.fa4").environments(2 * count, {})
    ) as crew:
        crew.run(list(range(40)), lambda _, result: seen.append(result))
    assert not [s for s in seen if isinstance(s, Lost)]
    assert len(set(seen)) == count, f"{count} devices, but the work ran on {set(seen)}"
