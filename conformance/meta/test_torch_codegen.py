"""PyTorch's own code generator on a CPU: right where it is right, wrong where it is wrong, and nothing left behind."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.runs import expectations
from flexconf.subjects import torch_private, trial
from flexconf.subjects.torch_private import Generated
from flexconf.verdict.outcome import Outcome

NAME = "torch-codegen"
SMALL = "problem = { H = 2, M = 16, N = 24, D = 16 }"


def _case(text: str) -> Case:
    (case,) = catalogue.load_text(f"[tried]\n{text}\n{SMALL}\n", "a test")
    return case


def _outcome(text: str, stages: list[str] | None = None) -> Outcome:
    return trial.run_case(_case(text), NAME, stage=stages.append if stages is not None else None)


def _nothing(*tensors: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, **keywords: object) -> None:
    out.zero_()
    lse.zero_()


def _generated(case: Case, whole: bool = False, entry: torch_private.ForwardEntry = _nothing) -> Generated:
    given = inputs.materialize(case)
    return torch_private.flex_flash(
        given.q,
        given.k,
        given.v,
        score_mod=given.score_mod,
        block_mask=given.block_mask,
        scale=given.scale,
        enable_gqa=False,
        entry=entry,
        whole=whole,
    )


def test_asking_whether_it_can_run_imports_no_torch() -> None:
    code = "import sys, flexconf.subjects as s; s.get('torch-codegen').why_not(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_right_mod_passes_and_every_stage_is_announced() -> None:
    stages: list[str] = []
    outcome = _outcome(
        'score_mod = "score + bias[h, q - kv]"\nmask_mod = "(q >= kv) & keep[kv]"\n'
        'captures = { bias = "H,M+N:bfloat16:normal", keep = "N:bool:bool(0.8)" }',
        stages,
    )
    assert outcome.ok, outcome.message
    assert outcome.comparison is not None and outcome.comparison["elements"] > 0
    assert stages == [
        "inputs",
        "oracle",
        "trace",
        "render",
        "launch",
        "compile",
        "launch",
        "launch",
        "launch",
        "output",
    ]


@pytest.mark.parametrize("repro", ["codegen_where_of_constants", "codegen_remainder", "codegen_constant_score"])
def test_known_defects_are_found(repro: str) -> None:
    (expectation,) = (e for e in expectations.load(NAME) if e.repro.name == repro)
    outcome = trial.run_case(expectation.repro, NAME)
    assert expectation.covers(outcome), (outcome.stage, outcome.symptom, outcome.message)


def test_an_operation_without_a_spelling_is_a_refusal_that_names_it() -> None:
    outcome = _outcome('score_mod = "torch.where(torch.isnan(score), 0.0, score)"')
    assert (outcome.stage, outcome.symptom) == ("render", "refused")
    assert "'isnan'" in outcome.message


def test_erf_which_has_no_cpu_code_of_its_own() -> None:
    assert _outcome('score_mod = "score * torch.erf(score)"').ok


def test_nothing_compiled_for_one_case_is_used_for_another() -> None:
    """Two mods of one shape: the same function name, file name and tensors, another constant; then the first again."""
    texts = ['score_mod = "score + 0.5 * q"', 'score_mod = "score + 0.25 * q"', 'score_mod = "score + 0.5 * q"']
    outcomes = []
    for text in texts:
        stages: list[str] = []
        outcomes.append(_outcome(text, stages))
        assert outcomes[-1].ok, outcomes[-1].message
        assert stages.count("render") == 1 and stages.count("compile") == 1
    kernels = [outcome.digests["kernel"] for outcome in outcomes]
    assert kernels[0] == kernels[2] != kernels[1]


def test_a_capture_is_read_and_not_remembered() -> None:
    """The second case has other values in a capture of the same name, shape and dtype."""
    for values in ("constant(1)", "constant(-2)", "normal"):
        assert _outcome(f'score_mod = "score * bias[kv]"\ncaptures = {{ bias = "N:float32:{values}" }}').ok


_AND_GOES_ON = """
import sys
import test_torch_codegen as tests
print(tests._digest(tests._generated(tests._case(sys.argv[1])).kernels))
tests._generated(tests._case(sys.argv[2]))
"""


def _digest(kernels: list[str]) -> str:
    return hashlib.sha256("".join(kernels).encode()).hexdigest()


def test_another_process_that_generates_the_same_takes_no_source_away(tmp_path: Path) -> None:
    """Between the loading of a mask and its compilation, another process generates the same, and goes on to the next.

    Both are told of the same folder, as the workers of a run are. CuTe compiles a function from its file.
    """
    text, next_text = 'mask_mod = "q >= kv"', 'mask_mod = "q > kv"'
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    sources: list[str] = []
    others: list[str] = []

    def entry(*tensors: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, mask_mod: Any, **keywords: object) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _AND_GOES_ON, text, next_text],
            env={**env, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        others.append(done.stdout.split()[0])
        linecache.clearcache()
        sources.append(inspect.getsource(mask_mod))
        out.zero_()
        lse.zero_()

    with patch.dict(os.environ, env):
        found = _generated(_case(text), entry=entry)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert others == [_digest(found.kernels)], "the two processes did not generate the same"
    assert len(sources) == 1 and sources[0].strip() in found.kernels[0]


def test_every_hook_is_undone() -> None:
    flex = sys.modules["torch.nn.attention.flex_attention"]
    from torch._inductor import compile_fx

    def stand_ins() -> dict[str, object]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("flash_attn", "triton")}

    modules = stand_ins()
    before = (compile_fx.GraphLowering, vars(flex)["setup_compilation_env"], torch.cuda.is_available)
    assert _outcome('score_mod = "score * 2.0"').ok
    assert not _outcome('score_mod = "torch.sinh(score)"').ok
    assert (compile_fx.GraphLowering, vars(flex)["setup_compilation_env"], torch.cuda.is_available) == before
    assert stand_ins() == modules


def test_the_whole_of_flex_attention_gives_the_same_kernel() -> None:
    case = _case('score_mod = "score + 0.1 * (q - kv)"\nmask_mod = "q >= kv"')
    assert _generated(case).kernels == _generated(case, whole=True).kernels != []
