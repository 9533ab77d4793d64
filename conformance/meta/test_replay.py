"""Record here, replay there: bundles of torch's kernels, and the guard in front of every text that is run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flexconf.cases import catalogue
from flexconf.cli.main import app
from flexconf.errors import InputError
from flexconf.replay import bundle, kernel_text, record
from flexconf.replay import run as replaying
from flexconf.replay.bundle import Argument, KernelBundle

CASES = ("alibi", "causal@gqa4", "rank_1_each_index", "rank_0_as_index", "hyperbolic")

pytestmark = pytest.mark.skipif(
    bool(record.subjects.get(record.SUBJECT).why_not()), reason="torch-codegen cannot run here"
)


@pytest.fixture(scope="module")
def kept() -> KernelBundle:
    return record.record(catalogue.select(catalogue.load(), list(CASES)), workers=1)[0]


@pytest.fixture
def folder(kept: KernelBundle, tmp_path: Path) -> Path:
    kept.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_replay_on_this_cpu_gives_the_bits_that_were_recorded(kept: KernelBundle, folder: Path) -> None:
    found = replaying.replay(folder, launcher="host", workers=1)

    assert found.ok
    assert not found.differences
    assert found.agree == {"right": 2, "wrong": 1}
    assert set(found.not_run) == {"rank_0_as_index", "hyperbolic"}
    for name, outcome in found.outcomes.items():
        before = kept.recorded[name].outcome
        assert {n: outcome.digests[n] for n in ("out", "lse")} == {n: before.digests[n] for n in ("out", "lse")}
    assert found.elements > 0


def test_a_bundle_is_read_as_it_was_written(kept: KernelBundle, folder: Path) -> None:
    assert bundle.read(folder) == kept


def test_a_case_without_a_kernel_says_why(kept: KernelBundle) -> None:
    assert "no kernels" in kept.recorded["hyperbolic"].why
    assert not kept.recorded["hyperbolic"].outcome.ok


def test_a_replay_that_compares_no_element_is_no_pass(folder: Path) -> None:
    found = replaying.replay(folder, launcher="host", patterns=["alibi"], workers=1)
    assert found.ok
    assert not replace(found, elements=0).ok, "outcomes may agree in that nothing runs"


def test_another_kernel_text_is_a_difference(kept: KernelBundle, tmp_path: Path) -> None:
    alibi = kept.recorded["alibi"]
    text = alibi.text.replace(" - ", " + ")
    assert text != alibi.text
    changed = replace(kept, recorded={"alibi": replace(alibi, text=text)})
    changed.write(tmp_path / "changed")

    found = replaying.replay(tmp_path / "changed", launcher="host", workers=1)

    assert not found.ok
    assert [(d.case, replaying.kind(d.recorded), replaying.kind(d.here)) for d in found.differences] == [
        ("alibi", "right", "wrong")
    ]


def test_other_inputs_are_a_bad_input_and_no_verdict(kept: KernelBundle, tmp_path: Path) -> None:
    alibi = kept.recorded["alibi"]
    changed = replace(kept, recorded={"alibi": replace(alibi, inputs={**alibi.inputs, "q": "0" * 64})})
    changed.write(tmp_path / "changed")

    with pytest.raises(InputError, match="'alibi': the inputs made here have other digests"):
        replaying.replay(tmp_path / "changed", launcher="host", workers=1)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.bool]
)
def test_a_tensor_kept_by_value_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, 1.0, -0.0], [float("inf"), 3.5, -2.0]]).to(dtype)
    for tensor in (values, values.t(), values[:, 1:], values[:1].expand(4, 3), values[0, 0], values[:0]):
        argument = Argument.from_json(json.loads(json.dumps(Argument.kept("in_ptr4", tensor).to_json())), "here")
        found = argument.tensor("here", torch.device("cpu"))
        assert (found.dtype, found.shape, found.stride()) == (dtype, tensor.shape, tensor.stride())
        assert torch.equal(
            found.contiguous().reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)
        )


@pytest.mark.parametrize("name", [bundle.CASES, bundle.HELPERS, f"{bundle.KERNELS}/alibi.py"])
def test_a_changed_or_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InputError, match=f"{path.name}: changed since"):
        bundle.read(folder)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2), "format 2, and this version reads 1"),
        (lambda m: m.pop("recorded"), "a part is missing"),
        (lambda m: m["recorded"].pop("alibi"), "name other cases"),
        (lambda m: m["recorded"]["alibi"].update(digest="0"), "the case is another one"),
        (lambda m: m["recorded"]["alibi"]["arguments"][0].update(offset=-1), "not as it was written"),
        (lambda m: m["recorded"]["alibi"]["arguments"][0].pop("of"), "not as it was written"),
        (lambda m: m["recorded"]["alibi"].update(outcome={}), "not a recorded outcome"),
    ],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, change: object, said: str) -> None:
    path = folder / bundle.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)  # type: ignore[operator]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=said):
        bundle.read(folder)


def test_a_view_that_leaves_its_tensor_is_refused() -> None:
    base = torch.zeros(4)
    with pytest.raises(InputError, match="no view of q"):
        Argument("arg_Q", "q", "float32", (4,), (1,), 1).view("here", base)
    with pytest.raises(InputError, match="no view of q"):
        Argument("arg_Q", "q", "float16", (4,), (1,), 0).view("here", base)


def test_a_folder_that_exists_is_never_written_to(folder: Path, kept: KernelBundle) -> None:
    with pytest.raises(InputError, match="exists"):
        kept.write(folder)


# ------------------------------------------------------------------------------------------------ the guard of texts


def test_every_recorded_text_is_a_kernel(kept: KernelBundle) -> None:
    checked = [kernel_text.check_kernel(r.text) for r in kept.recorded.values() if r.text]
    assert len(checked) == 3
    assert all(name.endswith("_main") for name in checked)
    kernel_text.check_helpers(kept.helpers)


def test_lists_that_torch_2_14_makes_of_nothing_are_a_form_of_its_template(kept: KernelBundle) -> None:
    text = kept.recorded["causal@gqa4"].text
    changed = re.sub(r"(?<=\s)FULL_KV_IDX,", "KV_IDX.new_zeros(KV_IDX.shape),", text)
    assert changed != text
    kernel_text.check_kernel(changed)


_INTO_MOD = "        tmp0 = tSrS_ssa\n"
_INTO_MAIN = "    Q = arg_Q\n"


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (_INTO_MOD, "        print(1)\n"),
        (_INTO_MOD, "        tmp0 = print(1)\n"),
        (_INTO_MOD, "        tmp0 = len(b_idx)\n"),
        (_INTO_MOD, "        tmp0 = [b_idx for b_idx in h_idx]\n"),
        (_INTO_MOD, "        tmp0 = lambda: b_idx\n"),
        (_INTO_MOD, "        tmp0 = b_idx.size\n"),
        (_INTO_MOD, "        tmp0 = cute.size.__name__\n"),
        (_INTO_MOD, "        tmp0 = cutlass.utils\n"),
        (_INTO_MOD, "        tmp0 = torch.zeros(1)\n"),
        (_INTO_MOD, "        tmp0 = operator.attrgetter('x')\n"),
        (_INTO_MOD, "        tmp0 = cute\n"),
        (_INTO_MOD, "        tmp0 = unknown\n"),
        (_INTO_MOD, "        tmp0 = cute.size(*b_idx)\n"),
        (_INTO_MOD, "        tmp0 = cute.size(**b_idx)\n"),
        (_INTO_MOD, "        tmp0 = f'{b_idx}'\n"),
        (_INTO_MOD, "        tmp0 = (tmp9 := b_idx)\n"),
        (_INTO_MOD, "        cute = b_idx\n"),
        (_INTO_MOD, "        __name__ = b_idx\n"),
        (_INTO_MOD, "        b_idx.shape = h_idx\n"),
        (_INTO_MOD, "        import operator\n"),
        (_INTO_MOD, "        global tmp9\n"),
        (_INTO_MOD, "        while b_idx:\n            tmp0 = b_idx\n"),
        (_INTO_MOD, "        for tmp0 in list(b_idx):\n            tmp0 = b_idx\n"),
        (_INTO_MOD, "        if b_idx:\n            tmp0 = b_idx\n"),
        (_INTO_MOD, "        def inner(x):\n            return x\n"),
        (_INTO_MOD, "        tmp0 = Q\n"),
        (_INTO_MAIN, "    import operator\n"),
        (_INTO_MAIN, "    from flash_attn.cute import interface\n"),
        (_INTO_MAIN, "    Q.shape = arg_Q\n"),
        (_INTO_MAIN, "    Q = list(arg_Q).append(1)\n"),
        (_INTO_MAIN, "    with arg_Q:\n        Q = arg_Q\n"),
        (_INTO_MAIN, "    try:\n        Q = arg_Q\n    except ValueError:\n        Q = arg_K\n"),
        (_INTO_MAIN, "    @cute.kernel\n    def score_mod(x):\n        return x\n"),
        (_INTO_MAIN, "    @cute.jit\n    def another(x):\n        return x\n"),
        (_INTO_MAIN, "    class Inner:\n        pass\n"),
        ("import operator\n", "import operator as cute\n"),
        ("import operator\n", "import math\n"),
        ("import operator\n", "x = 1\n"),
    ],
)
def test_a_text_with_anything_else_in_it_is_refused_with_its_line(kept: KernelBundle, where: str, line: str) -> None:
    text = kept.recorded["alibi"].text
    assert text.count(where) == 1
    with pytest.raises(InputError, match=r"the kernel, line \d+: .* is nothing that torch renders"):
        kernel_text.check_kernel(text.replace(where, where + line))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be the kernel's main function"),
        ("def f(:\n", "not Python"),
        ("import torch\n", "must be the kernel's main function"),
        ("x" * (kernel_text.LONGEST + 1), "characters"),
        ("@cute.jit\ndef f(x):\n    return x\n", "main function"),
        ("def f(x=1):\n    x = x\n", "plain names"),
        ("def f(*x):\n    y = x\n", "plain names"),
        ("def f(x: str):\n    y = x\n", "no annotations"),
    ],
)
def test_a_text_that_is_no_kernel_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        kernel_text.check_kernel(text)


def test_helpers_are_held_to_the_same_rules(kept: KernelBundle) -> None:
    for change in ("\nx = 1\n", "\ndef other(x):\n    return x\n", "\nimport math\n"):
        with pytest.raises(InputError):
            kernel_text.check_helpers(kept.helpers + change)


# ------------------------------------------------------------------------------------------------------- the command


def test_the_commands_record_and_replay(tmp_path: Path) -> None:
    runner, out = CliRunner(), str(tmp_path / "kernels")

    recorded = runner.invoke(app, ["codegen", "record", "alibi", "--out", out, "--workers", "1", "--json"])
    assert recorded.exit_code == 0, recorded.output
    assert json.loads(recorded.stdout)["kernels"] == 1
    replayed = runner.invoke(app, ["codegen", "replay", out, "--launcher", "host", "--workers", "1"])
    assert replayed.exit_code == 0, replayed.output
    assert "1 as recorded (1 right)" in replayed.stdout


def test_bad_inputs_of_the_commands_name_what_works(tmp_path: Path, folder: Path) -> None:
    for arguments, said in (
        (["record", "alibi", "--out", str(tmp_path)], "exists"),
        (["replay", str(tmp_path / "none")], "record the bundle again"),
        (["replay", str(folder), "--launcher", "gpu"], "there are fa4, host"),
        (["replay", str(folder), "nothing", "--launcher", "host"], "nothing"),
        (["replay", str(folder), "hyperbolic", "--launcher", "host"], "has a kernel"),
    ):
        ended = CliRunner().invoke(app, ["codegen", *arguments])
        assert isinstance(ended.exception, InputError)
        assert said in str(ended.exception)
