"""The parts of the GPU runs that need no GPU: canaries, devices, caches, kept results, single isolated cases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from flexconf import inputs, subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import caches, devices
from flexconf.subjects import reference, saved, trial
from flexconf.subjects.canary import Canary
from flexconf.subjects.trial import Attended, Options, Refused
from flexconf.testing import figures
from flexconf.verdict import triton_opinion
from flexconf.verdict.outcome import Outcome, Symptom
from flexconf.workers.isolated import Isolated
from flexconf.workers.pool import Last, Report
from flexconf.workers.tasks import CaseTask
from flexflash.launch.host import HostLauncher


def _case(name: str) -> Case:
    (case,) = catalogue.select(catalogue.load(), [name])
    return case


# ----------------------------------------------------------------------------------------------------- canaries


@pytest.mark.parametrize("pad", [0, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_a_canary_sees_a_write_anywhere_outside(pad: int, dtype: torch.dtype, order: tuple[int, ...]) -> None:
    size = (2, 3, 5, 16)
    dense = torch.empty([size[d] for d in order]).permute(*order).stride()
    canary = Canary.around(size, dense, 0.0, torch.empty(0, dtype=dtype), pad=pad)
    assert canary.tensor.shape == size
    assert canary.tensor.dtype == dtype
    assert (canary.tensor == 0).all()
    assert canary.intact()
    canary.tensor.copy_(torch.randn(size))
    assert canary.intact(), "writing the tensor itself is allowed"
    inside = torch.zeros(canary.storage.numel() // dtype.itemsize, dtype=torch.bool)
    inside.as_strided(size, canary.tensor.stride(), canary.tensor.storage_offset())[:] = True
    outside = (~inside).nonzero().flatten()
    between = int(((outside > canary.tensor.storage_offset()) & (outside < inside.nonzero().max())).sum())
    assert (between > 0) == (pad > 0)
    for element in outside[:: max(1, len(outside) // 97)].tolist():
        byte = element * dtype.itemsize
        before = int(canary.storage[byte])
        canary.storage[byte] = before ^ 1
        assert not canary.intact()
        canary.storage[byte] = before
    assert canary.intact()


class WritesTooFar(HostLauncher):
    """One element behind the output."""

    def forward(self, *arguments: torch.Tensor, **keywords: object) -> None:
        super().forward(*arguments, **keywords)  # type: ignore[arg-type]
        out = keywords["out"]
        assert isinstance(out, torch.Tensor)
        out.as_strided((1,), (1,), out.storage_offset() + out.numel()).fill_(1.0)


def test_a_write_outside_the_output_fails_a_case() -> None:
    outcome = trial.run_case(_case("alibi"), attend=reference.through(WritesTooFar))
    assert outcome.symptom is Symptom.WRONG
    assert outcome.message == "memory around the output was written"


class Forgetful(HostLauncher):
    """Every third launch is off by one bit."""

    launches = 0

    def softmax(self, *arguments: torch.Tensor) -> None:  # type: ignore[override]
        super().softmax(*arguments)  # type: ignore[arg-type]
        type(self).launches += 1
        if type(self).launches % 3 == 0:
            arguments[4].view(torch.int32)[0, 0, 0] += 1


def test_launches_that_differ_in_one_bit_are_nondeterministic() -> None:
    Forgetful.launches = 0
    outcome = trial.run_case(_case("alibi"), options=Options(repeats=5), attend=reference.through(Forgetful))
    assert outcome.symptom is Symptom.NONDETERMINISTIC
    assert outcome.message == "launch 3 of 5 differs from the first in 1 elements of lse"
    assert trial.run_case(_case("alibi"), options=Options(repeats=5)).ok


# ------------------------------------------------------------------------------------------- subjects and devices


def test_every_subject_is_described_and_loads_or_says_why_not() -> None:
    for subject in subjects.SUBJECTS.values():
        assert subject.about
        assert subject.packages
        if subject.why_not():
            with pytest.raises(InputError, match=f"subject {subject.name} cannot run here: "):
                subjects.require(subject.name)
        else:
            assert callable(subject.load())
    with pytest.raises(InputError, match=r"unknown subject 'fa4'; there are reference\.mods, reference\.host"):
        subjects.get("fa4")


@pytest.mark.parametrize(
    ("visible", "total", "expected"),
    [
        (None, 2, ["0", "1", "0"]),
        ("3,5", 2, ["3", "5", "3"]),
        ("GPU-a, GPU-b,GPU-c", 3, ["GPU-a", "GPU-b", "GPU-c"]),
        ("", 0, [None, None, None]),
    ],
)
def test_devices_are_dealt_round_robin_among_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, total: int, expected: list[str | None]
) -> None:
    monkeypatch.setattr(devices, "count", lambda: total)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [devices.assign(n).get("CUDA_VISIBLE_DEVICES") for n in range(3)] == expected
    assert [e.get("CUDA_VISIBLE_DEVICES") for e in subjects.get("reference.fa4").environments(3, {})] == expected
    assert all("CUDA_VISIBLE_DEVICES" not in e for e in subjects.get("reference.host").environments(1, {"A": "b"}))


def test_a_subject_that_needs_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count", lambda: 0)
    with pytest.raises(InputError, match=r"reference\.fa4 needs a GPU, and there is none here"):
        devices.require("reference.fa4")


def test_caches_last_as_long_as_the_run_and_are_shared_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(caches.FOLDER, raising=False)
    with caches.fresh() as variables:
        folder = Path(variables[caches.FOLDER])
        assert folder.is_dir()
        assert all(v.startswith(str(folder)) for k, v in variables.items() if k.endswith("_DIR"))
        monkeypatch.setenv(caches.FOLDER, str(folder))
        with caches.fresh() as inner:
            assert inner == variables
        assert folder.is_dir(), "the run within the run does not end the folder"
    assert not folder.exists()


# --------------------------------------------------------------------------------------------- kept, isolated


def test_what_is_kept_comes_back_bit_for_bit(tmp_path: Path) -> None:
    outcome = trial.run_case(_case("alibi"), keep=tmp_path)
    back = saved.load(tmp_path, "alibi", "reference.host")
    assert {name: inputs.digest(t) for name, t in back.items()} == {n: outcome.digests[n] for n in ("out", "lse")}
    assert [p.name for p in tmp_path.iterdir()] == ["alibi.reference.host.safetensors"]
    with pytest.raises(InputError, match="nothing is kept of alibi on torch-eager"):
        saved.load(tmp_path, "alibi", "torch-eager")
    saved.path(tmp_path, "alibi", "reference.host").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged"):
        saved.load(tmp_path, "alibi", "reference.host")


def breaks(task: CaseTask, report: Report) -> Outcome | Last[Outcome]:
    report("launch")
    if task.case.name == "softcap":
        os.abort()
    outcome = trial.run_on(task.case, task.subject, task.options, report, keep=task.keep)
    return Last(outcome) if task.case.name == "alibi" else outcome


@pytest.mark.slow
def test_single_cases_survive_one_another(tmp_path: Path) -> None:
    with Isolated(task=breaks) as isolated:
        died = isolated.run(_case("softcap"), "reference.host")
        assert (died.stage, died.symptom) == ("launch", Symptom.CRASH)
        assert "SIGABRT" in died.message
        assert isolated.run(_case("alibi"), "reference.host", keep=tmp_path).ok
        assert isolated.run(_case("causal"), "reference.host", Options(vector_width=8)).ok
        with pytest.raises(InputError, match="unknown subject"):
            isolated.run(_case("alibi"), "nothing")
    assert saved.path(tmp_path, "alibi", "reference.host").is_file()


def test_a_refusal_of_the_subject_is_an_outcome() -> None:
    def refuses(*_: object) -> Attended:
        raise Refused("compile", "not this block size")

    outcome = trial.run_case(_case("alibi"), attend=refuses)
    assert (outcome.stage, outcome.symptom, outcome.message) == ("compile", "refused", "not this block size")


@pytest.mark.parametrize(
    ("error", "symptom"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 200.00 GiB"), Symptom.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Symptom.ILLEGAL_ACCESS),
        (RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), Symptom.ILLEGAL_ACCESS),
        (RuntimeError("something else"), Symptom.CRASH),
    ],
)
def test_errors_are_told_apart(error: Exception, symptom: Symptom) -> None:
    def fails(*_: object) -> Attended:
        raise error

    assert trial.run_case(_case("alibi"), attend=fails).symptom is symptom


def test_a_context_that_no_longer_answers_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> None: ...

    def does_not() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for initialized, synchronize, broken in ((False, does_not, False), (True, answers, False), (True, does_not, True)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda initialized=initialized: initialized)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        assert trial.is_broken() is broken


# --------------------------------------------------------------------------------------- Triton as a witness


def test_the_witness_confirms_contradicts_or_has_no_opinion(tmp_path: Path) -> None:
    case = _case("alibi")
    exact = inputs.materialize(case)
    certified = trial.certify(exact, Options())
    for subject in ("reference.host", "torch-eager"):
        assert trial.run_case(case, subject, keep=tmp_path).ok
    subject, witness = (saved.load(tmp_path, "alibi", s) for s in ("reference.host", "torch-eager"))
    good = triton_opinion.opinion(subject, witness, certified)
    assert good.verdict == "agrees"
    assert good.comparison is not None
    assert good.comparison.elements == certified.out.numel() + certified.lse.numel()

    off = {"out": subject["out"], "lse": subject["lse"] * 1.4427}
    assert triton_opinion.opinion(off, witness, certified).verdict == "differs"
    assert triton_opinion.opinion(subject, off, certified).verdict == "none"
    assert triton_opinion.opinion(off, off, certified).verdict == "sides"
    assert triton_opinion.opinion(subject, {}, certified).verdict == "none"


def test_a_session_ends_with_its_figures() -> None:
    def figure(subject: str, **changes: object) -> dict[str, object]:
        base = {"subject": subject, "passed": True, "known": False, "elements": 100, "ratio": 0.5, "opinion": None}
        return {**base, "between": 0, **changes}

    seen = [
        figure("reference.fa4", opinion="agrees", between=100, seconds={"compile": 900.0, "trace": 20.0, "lse": 0.1}),
        figure("reference.fa4", seconds={"compile": 200.0, "launch": 1.0}, ratio=0.7, opinion="agrees", between=100),
        figure("reference.fa4", known=True, ratio="inf", opinion="none"),
        figure("reference.simt", elements=0, ratio=None, passed=False),
    ]
    assert figures.lines(seen) == [
        "reference.fa4: 3 cases, 3 passed (1 of them known defects), 200 elements, worst ratio 0.700, median 0.600, "
        "Triton's opinion: agrees 2, none 1; 200 elements compared with it, "
        "1,121 worker seconds (compile 1,100, trace 20, launch 1)",
        "reference.simt: 1 cases, 0 passed, 0 elements",
    ]
    assert figures.lines([]) == []
    absent = {"subject": "torch-triton", "absent": "triton is not installed"}
    assert figures.lines([absent, absent]) == ["torch-triton: not run 2 times: triton is not installed"]


@pytest.mark.parametrize(
    ("enqueued", "slept"), [(1e-4, [2, 2, 2]), (6e-3, [2, 8, 32, 32, 32]), (9.0, [2, 8, 32, 128, 512, 512, 512])]
)
def test_a_gpu_is_timed_behind_a_delay_that_outlasts_the_cpu(
    enqueued: float, slept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that does as it is told: it sleeps, then runs for 7 us; its CPU needs `enqueued` seconds a launch."""
    now = {"cpu": 0.0, "gpu": 0.0}
    delays: list[int] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = now["gpu"] = max(now["gpu"], now["cpu"])

        def query(self) -> bool:
            return self.at <= now["cpu"]

        def synchronize(self) -> None:
            now["cpu"] = max(now["cpu"], self.at)

        def elapsed_time(self, other: Event) -> float:
            return 1e3 * (other.at - self.at)

    def sleep(cycles: int) -> None:
        delays.append(cycles // 1_000_000)
        now["gpu"] = max(now["gpu"], now["cpu"]) + cycles / 2e9

    def launch() -> None:
        now["cpu"] += enqueued
        now["gpu"] = max(now["gpu"], now["cpu"]) + 7e-6

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    seconds = trial.gpu_seconds(launch, 3)
    assert delays == slept
    # Where no delay is long enough, the CPU's time is in it, and no launch is refused.
    assert seconds == pytest.approx([7e-6 if enqueued < 1 else 9.0 - 512e6 / 2e9] * 3, rel=1e-3, abs=1e-9)
