"""Blackwell's generated code on a CPU: shifts, packed masks, vector widths, and a record of the capability."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass.cute.runtime import from_dlpack
from packaging.version import Version

from flexconf import inputs, repro, subjects
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cli.main import app, main
from flexconf.errors import InputError
from flexconf.fuzz import engine, findings, stream
from flexconf.fuzz.driver import Driver
from flexconf.fuzz.plan import Plan
from flexconf.runs import expectations, review
from flexconf.subjects import blackwell, torch_private, trial
from flexconf.subjects.blackwell import BlackwellLauncher
from flexconf.subjects.trial import Options, Refused
from flexconf.verdict.outcome import Outcome, Stage, Symptom, merge
from flexconf.workers.pool import Lost
from flexconf.workers.tasks import CaseTask, of_lost
from flexflash.launch.entry import BlockSparseTensors
from flexflash.launch.host import Tiles

NAME = "torch-codegen"
ON_BLACKWELL = Options(capability="10.0")


def _case(text: str, sizes: str = "H = 2, M = 16, N = 70, D = 16") -> Case:
    (case,) = catalogue.load_text(f"[tried]\n{text}\nproblem = {{ {sizes} }}\n", "a test")
    return case


def _text(case: Case, capability: str = "10.0") -> str:
    given, made = inputs.materialize(case), torch_private.Generated()

    def entry(*tensors: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, **keywords: object) -> None:
        out.zero_()
        lse.zero_()

    torch_private.flex_flash(
        given.q,
        given.k,
        given.v,
        score_mod=given.score_mod,
        block_mask=given.block_mask,
        scale=given.scale,
        enable_gqa=False,
        entry=entry,
        utils=blackwell.UTILS,
        capability=capability,
        generated=made,
    )
    return "\n".join(made.kernels)


# ---------------------------------------------------------------------------------------------------- the launcher


@cute.jit
def _shift_each(values: cute.Tensor, shifts: cute.Tensor, left: cute.Tensor, right: cute.Tensor) -> None:
    for n in cutlass.range(values.shape[0], unroll=1):
        left[n] = blackwell.shl_u32(values[n], shifts[n])
        right[n] = blackwell.shr_u32(values[n], shifts[n])


def test_a_shift_of_32_bits_or_more_gives_0_as_on_a_gpu() -> None:
    """PTX ISA, shl and shr: amounts above the register's width are clamped to it. flash-attn-4 relies on this."""
    pairs = [(v, s) for v in (0xFFFFFFFF, 0x80000001, 1, 0) for s in (0, 1, 31, 32, 33, 64, 0x80000000, 0xFFFFFFFF)]
    values, shifts = (torch.tensor(column, dtype=torch.uint32) for column in zip(*pairs, strict=True))
    left, right = torch.ones(len(pairs), dtype=torch.uint32), torch.ones(len(pairs), dtype=torch.uint32)
    tensors = [from_dlpack(t) for t in (values, shifts, left, right)]
    cute.compile(_shift_each, *tensors)(*tensors)
    assert left.tolist() == [v << s & 0xFFFFFFFF if s < 32 else 0 for v, s in pairs]
    assert right.tolist() == [v >> s if s < 32 else 0 for v, s in pairs]


@cute.jit
def _first_of_group(score: Any, b: Any, h: Any, q: Any, kv: Any, seqlen_info: Any, captures: Any) -> Any:
    """The score plus the first key of the group that the mod sees, which shows where the groups begin."""
    return score + cute.full_like(score, kv[0].to(cutlass.Float32))


def _every_third(width: int) -> Callable[..., Any]:
    @cute.jit
    def mask_mod(b: Any, h: Any, q: Any, kv: Any, seqlen_info: Any, captures: Any) -> Any:
        """Keeps the keys that 3 divides. Bits past the width are set."""
        words = cute.make_rmem_tensor(max(1, width // 32), cutlass.Uint32)
        for n in cutlass.range_constexpr(max(1, width // 32)):
            words[n] = cutlass.Uint32(0)
        for word in cutlass.range_constexpr(max(1, width // 32)):
            for lane in cutlass.range_constexpr(min(width, 32)):
                bit = cutlass.Uint32(1) << cutlass.Uint32(lane)
                words[word] = words[word] | bit if kv[32 * word + lane] % 3 == 0 else words[word]
        if cutlass.const_expr(width < 32):
            words[0] = words[0] | cutlass.Uint32(0xFFFFFFFF << width & 0xFFFFFFFF)
        return words.load()

    mask_mod.__vec_size__ = width
    return mask_mod


def _blocks(breadth: int, columns: int, rows: int) -> Tiles:
    """Lists that hold the first block of keys as a full one and the others, except the second, as partial ones."""
    partial = torch.tensor([[[list(range(2, -(-columns // breadth)))]]], dtype=torch.int32)
    lists = BlockSparseTensors(
        torch.tensor([[[partial.shape[3]]]], dtype=torch.int32),
        partial,
        torch.ones(1, 1, 1, dtype=torch.int32),
        torch.zeros(1, 1, 1, 1, dtype=torch.int32),
        (rows, breadth),
    )
    return Tiles(lists, (rows, breadth), (1, 1, rows))


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("breadth", [128, 48])
def test_a_score_mod_sees_groups_that_begin_at_a_multiple_of_its_width(
    width: int, breadth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a block of keys does not: its vector loads assume it. Keys of no block keep their score."""
    columns, rows = 3 * breadth + 5, 2
    scores = torch.arange(rows * columns, dtype=torch.float32).reshape(1, 1, rows, columns)
    before = scores.clone()
    monkeypatch.setattr(_first_of_group, "__vec_size__", width, raising=False)
    BlackwellLauncher().modify(scores, columns, _first_of_group, None, _blocks(breadth, columns, rows), 1, ())
    key = torch.arange(columns)
    listed = (key < breadth) | (key >= 2 * breadth)
    assert torch.equal(scores, before + torch.where(listed, key // width * width, 0))


@pytest.mark.parametrize("width", [2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("breadth", [128, 48])
def test_a_packed_mask_decides_in_partial_blocks_and_its_other_bits_are_ignored(width: int, breadth: int) -> None:
    """flash-attn-4 ignores bits past the width, and bits of keys past the last one."""
    columns, rows = 3 * breadth + 5, 2
    scores = torch.arange(rows * columns, dtype=torch.float32).reshape(1, 1, rows, columns)
    before, key = scores.clone(), torch.arange(columns)
    BlackwellLauncher().modify(scores, columns, None, _every_third(width), _blocks(breadth, columns, rows), 1, ())
    removed = (key >= 2 * breadth) & (key % 3 > 0)
    assert torch.equal(scores, before.masked_fill(removed, float("-inf")))


@pytest.mark.parametrize("width", [3, 256, 0])
def test_a_width_that_flash_attn_4_does_not_take_is_refused(width: int) -> None:
    with pytest.raises(Refused, match=f"a mod of {width} keys at once: flash-attn-4 takes powers of two up to 128"):
        blackwell.check_width(width)


# ---------------------------------------------------------------------------------------------------- what is generated


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('mask_mod = "q * 4 >= kv"', ("mask_mod.__vec_size__ = 32", "utils.shr_u32", "utils.shl_u32")),
        ('mask_mod = "(q + kv) % 3 > 0"', ("mask_mod.__vec_size__ = 32", "mask_mod_packed[0] | (cutlass.Uint32(1)")),
        (
            'mask_mod = "q * 4 >= start[b] + kv"\ncaptures = { start = "B:int32:integers(0, 9)" }',
            ("mask_mod.__vec_size__ = 32", "utils.shr_u32"),
        ),
        ('score_mod = "score * slope[h]"\ncaptures = { slope = "H:float32:normal" }', ("score_mod.__vec_size__ = 8",)),
    ],
)
def test_code_that_only_blackwell_gets_is_generated_and_is_right(text: str, shown: tuple[str, ...]) -> None:
    """70 keys: two groups of 32, and a group of which only six bits count."""
    case = _case(text)
    generated = _text(case)
    assert all(part in generated for part in shown), generated
    assert not any(part in _text(case, "9.0") for part in shown)
    outcome = trial.run_case(case, NAME, ON_BLACKWELL)
    assert outcome.ok and outcome.comparison is not None and outcome.comparison["elements"] > 0, outcome.message


def test_a_vector_load_of_eight_keys_is_right() -> None:
    case = _case('score_mod = "score + bias[h, kv]"\ncaptures = { bias = "H,72:float32:normal" }')
    assert "cute.autovec_copy" in _text(case)
    assert trial.run_case(case, NAME, ON_BLACKWELL).ok


def test_an_index_that_was_taken_for_the_same_in_all_keys_is_found_in_the_code_for_blackwell() -> None:
    """pytorch#188878: torch 2.13 is wrong there, and right on Hopper; torch 2.14 is right on both."""
    (case,) = catalogue.select(catalogue.load(), ["relative_bias_and_head_scale"])
    defective = Version(torch.__version__) < Version("2.14.dev0")
    for options, ended in ((None, "output/ok"), (ON_BLACKWELL, "output/wrong" if defective else "output/ok")):
        outcome = trial.run_case(case, NAME, options)
        assert f"{outcome.stage}/{outcome.symptom}" == ended, outcome.message


def test_the_capabilities_that_are_offered_are_those_that_the_lowering_may_be_shown() -> None:
    assert subjects.get(NAME).capabilities == tuple(torch_private.GPUS)
    assert subjects.get(NAME).capability(None) == "9.0" and subjects.get(NAME).capability("10.0") == "10.0"
    assert subjects.get("torch-eager").capability(None) is None


# ---------------------------------------------------------------------------------------------------- the option


@pytest.mark.parametrize("command", [["run", "alibi"], ["check", "score"], ["attribute", "alibi"], ["fuzz"]])
@pytest.mark.parametrize(
    ("subject", "capability", "said"),
    [
        ("reference.host", "10.0", "a compute capability is chosen for torch-codegen alone, not for reference.host"),
        (NAME, "8.0", "torch-codegen generates code for compute capability 9.0 or 10.0, not for 8.0"),
    ],
)
def test_a_capability_that_a_subject_does_not_have_is_refused_in_one_line(
    command: list[str],
    subject: str,
    capability: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--subject", subject, "--capability", capability])
    seen = capsys.readouterr()
    assert ended.value.code == 2 and seen.err == f"flexconf: error: {said}\n"
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- the records


def _failed(capability: str | None) -> Outcome:
    return Outcome("alibi", "5eed", NAME, Stage.OUTPUT, Symptom.WRONG, "it is", capability=capability)


def test_an_outcome_says_which_capability_was_asked_for_and_nothing_by_default() -> None:
    assert "capability" not in _failed(None).to_json()
    told = _failed("10.0").to_json()
    assert told["capability"] == "10.0"
    assert Outcome.from_json(told) == _failed("10.0")
    assert Outcome.from_json(_failed(None).to_json()) == _failed(None)
    with pytest.raises(InputError, match=r"cannot merge alibi \(5eed\) on torch-codegen with .* torch-codegen 10.0"):
        merge([_failed(None), _failed("10.0")])
    flaky = dataclasses.replace(_failed("10.0"), stage=Stage.LSE)
    merged = merge([_failed("10.0"), flaky])
    assert merged is not None and merged.capability == "10.0"
    lost = of_lost(
        CaseTask(_case('score_mod = "score"'), subjects.get(NAME), ON_BLACKWELL),
        Lost("timeout", "time limit of 60 s", "render", ""),
    )
    assert lost.capability == "10.0"


def test_a_finding_and_its_folder_say_which_capability_was_asked_for(tmp_path: Path) -> None:
    case = _case('score_mod = "score"')
    hopper, blackwells = (findings.of(case, 1, _failed(capability)) for capability in (None, "10.0"))
    assert hopper.ident != blackwells.ident
    assert "capability" not in hopper.to_json() and blackwells.to_json()["capability"] == "10.0"
    assert findings.Finding.from_json(json.loads(json.dumps(blackwells.to_json()))) == blackwells
    here = stream.RunIdentity.here(NAME, 0)
    assert "capability" not in here.to_json()
    stream.claim(tmp_path, stream.RunIdentity.here(NAME, 0, "10.0"))
    stream.claim(tmp_path, stream.RunIdentity.here(NAME, 0, "10.0"))
    with pytest.raises(InputError, match=r"holds a run for compute capability 10\.0"):
        stream.claim(tmp_path, here)


def test_fuzzing_refuses_an_option_that_the_subject_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a compute capability is chosen for torch-codegen alone"):
        engine.fuzz(Plan("reference.host", tmp_path / "run", 1.0, capability="10.0"))
    assert not (tmp_path / "run").exists()


class _Both:
    """Runs nothing: a mod with sin is wrong for 10.0 alone, and one with a remainder for both capabilities."""

    def __init__(self) -> None:
        self.ran: list[tuple[str | None, str]] = []

    def run(self, case: Case, subject: str, options: Any = None, keep: Path | None = None) -> Outcome:
        text = case.score_mod or ""
        self.ran.append((options.capability, text))
        wrong = "%" in text or ("sin" in text and options.capability == "10.0")
        compared = {"elements": 1, "excluded_elements": 0, "max_ratio": 2.0 if wrong else 0.5, "telling": True}
        return Outcome(
            case.name,
            case.digest(),
            subject,
            Stage.OUTPUT,
            Symptom.WRONG if wrong else Symptom.OK,
            "1 element exceeds its bound" if wrong else "",
            compared,
            capability=options.capability,
        )


@pytest.mark.parametrize(("capability", "found"), [("10.0", "sin"), ("9.0", "remainder"), (None, "remainder")])
def test_fuzzing_for_another_capability_finds_what_is_wrong_for_it_alone(
    capability: str | None, found: str, tmp_path: Path
) -> None:
    """What the code for the subject's own choice gets wrong too is counted, and neither kept nor made small."""
    runs = _Both()
    plan = Plan(
        NAME,
        tmp_path,
        60.0,
        drawn=("fuzzed:cases", "fuzzed:widths"),
        check_repro=False,
        examples=60,
        capability=capability,
    )
    driver = Driver(plan, 0, runs, time.monotonic() + 60)
    driver.over = lambda: driver.round >= 8  # type: ignore[method-assign]
    driver.drive()
    kept = [f for f in findings.load_all(tmp_path) if f.is_open]
    assert kept and all(found in f.shape and f.capability == capability for f in kept)
    reasons = {r.why for r in stream.Reader(tmp_path).new() if r.verdict == "discarded"}
    assert reasons == ({"the same in the code for 9.0: wrong values"} if capability == "10.0" else set())
    asked = {asked for asked, _ in runs.ran}
    assert asked == ({"10.0", None} if capability == "10.0" else {capability})


def test_a_repro_runs_with_the_capability_and_needs_a_gpu_that_has_it() -> None:
    case = _case('score_mod = "score"')
    text = repro.render(case, NAME, _failed("10.0"), width=1)
    assert "Options(vector_width=1, capability='10.0')" in text
    assert "get_device_capability() == (10, 0)" in text and "in the code for compute capability 10.0: it is" in text
    default = repro.render(case, NAME, _failed(None), width=1)
    assert "capability" not in default and "Options(vector_width=1)" in default


def test_a_run_says_which_capability_it_was_for(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "identity", "--subject", NAME, "--workers", "1", "--no-expectations", "--json"]
    seen = []
    for asked in ([], ["--capability", "10.0"]):
        app([*command, *asked], standalone_mode=False)
        seen.append(json.loads(capsys.readouterr().out)["summary"])
    assert "capability" not in seen[0] and seen[1]["capability"] == "10.0"
    assert all(summary["ok"] for summary in seen)


# ---------------------------------------------------------------------------------------------------- known defects

_EXPECTED = """
[[expect]]
cases = ["alibi"]
outcomes = ["output/wrong"]
reason = "It is wrong (L7.4)."
versions = { torch = ">=2" }
%s
repro = '''
[%s]
score_mod = "score"
'''
"""


def test_a_known_defect_may_be_about_the_code_for_one_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    """For torch-codegen, the key `device` is about the GPU that the code is for, not about one of this machine."""
    text = "".join(
        _EXPECTED % (f'device = "{glob}"' if glob else "", name)
        for name, glob in (("any", ""), ("hopper", "9.*"), ("blackwell", "10.*"), ("ampere", "8.*"))
    )
    loaded = tuple(expectations.load_text(text, NAME, "a test"))
    monkeypatch.setattr(expectations, "load", lambda subject: loaded)

    def names(capability: str | None) -> list[str]:
        return [e.repro.name for e in expectations.in_force(NAME, capability)]

    assert names(None) == names("9.0") == ["any", "hopper"]
    assert names("10.0") == ["any", "blackwell"]
    states = {s.expectation.repro.name: (s.text, s.capability) for s in review.states(loaded)}
    assert states["any"] == states["hopper"] == ("in force", None)
    assert states["blackwell"] == ("in force for compute capability 10.0", "10.0")
    assert states["ampere"] == ("it is about compute capability 8.*, and here is 9.0", None)


def test_the_repro_of_a_known_defect_runs_with_the_capability_that_it_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    ran = review.run.run

    def run(cases: Any, **keywords: Any) -> Any:
        asked.append(keywords["options"].capability if keywords["options"] is not None else None)
        return ran(cases, **keywords)

    monkeypatch.setattr(review.run, "run", run)
    text = _EXPECTED % ("", "any") + _EXPECTED % ('device = "10.*"', "blackwell")
    states = review.verify(expectations.load_text(text, NAME, "a test"), workers=1)
    assert [(s.text, s.failed) for s in states] == [("its repro passes", True)] * 2
    assert asked == [None, "10.0"]
