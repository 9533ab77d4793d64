"""A torch whose private parts changed is refused by the name of the part, and one with the same parts is run.

Each test breaks one part, as a release could, and reads the refusal. The version of torch is never asked for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from flexconf import subjects
from flexconf.cases import catalogue
from flexconf.subjects import codegen_probe, torch_private, trial
from flexconf.subjects.torch_private import Generated, HookChanged, entry, hooks, running, wrapper
from flexconf.subjects.torch_private.hooks import Hook
from flexconf.verdict.outcome import Symptom
from flexconf.workers import pool, tasks

NAME = "torch-codegen"
CALLED = [hook for hook in hooks.HOOKS if hook.arguments is not None]


@pytest.fixture(autouse=True)
def unprobed() -> Iterator[None]:
    """Each test probes anew, and leaves no answer behind. Torch's modules are there before a part of one is broken."""
    for hook in hooks.HOOKS:
        importlib.import_module(hook.module)
    codegen_probe._probe.cache_clear()
    yield
    codegen_probe._probe.cache_clear()


def _refused() -> str:
    """The message with which the subject refuses this torch. Fails if it does not."""
    with pytest.raises(HookChanged) as caught:
        subjects.get(NAME).load()
    said = str(caught.value)
    assert "\n" not in said and f"torch {metadata.version('torch')}: {caught.value.hook}: " in said
    return said.partition(f"{metadata.version('torch')}: ")[2]


def _owner(hook: Hook) -> tuple[Any, str]:
    """The module or class that has the part, and the part's name in it."""
    owner: Any = importlib.import_module(hook.module)
    *parents, name = hook.name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def test_a_torch_that_did_not_exist_when_this_was_written_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nightly of next year, with the parts of today."""
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.99.0.dev1" if name == "torch" else version(name))
    assert subjects.get(NAME).why_not() == ""
    (case,) = catalogue.load_text(codegen_probe.CASE, "a test")
    outcome = trial.run_case(case, NAME)
    assert outcome.ok and outcome.comparison is not None and outcome.comparison["elements"] > 0, outcome.message


def test_the_probe_reaches_every_part_and_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Generated] = []
    monkeypatch.setattr(codegen_probe, "Generated", lambda: found.append(Generated()) or found[-1])
    for _ in range(2):
        subjects.get(NAME).load()
    (only,) = found
    assert {*torch_private.REACHED} == only.reached


def _take_away(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes a part. A method goes with its class, which may inherit another method of the name."""
    owner, name = _owner(hook)
    if inspect.isclass(owner):
        rest = types.SimpleNamespace(**{n: value for n, value in vars(owner).items() if n != name})
        monkeypatch.setattr(importlib.import_module(hook.module), owner.__name__, rest)
    else:
        monkeypatch.delattr(owner, name)


@pytest.mark.parametrize("hook", hooks.HOOKS, ids=str)
def test_a_part_that_is_gone_is_named(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    _take_away(hook, monkeypatch)
    assert _refused().startswith(f"{hook}: it does not exist; use a torch release")


@pytest.mark.parametrize("hook", CALLED, ids=str)
def test_a_part_with_other_arguments_is_named(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(*, only: object, by: object, name: object) -> None: ...

    owner, name = _owner(hook)
    monkeypatch.setattr(owner, name, function)
    assert _refused().startswith(f"{hook}: it takes (*, only: 'object', by: 'object', name: 'object') -> 'None', and ")


@pytest.mark.parametrize("hook", CALLED, ids=str)
def test_a_part_that_is_no_function_any_more_is_named(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = _owner(hook)
    monkeypatch.setattr(owner, name, 7)
    assert _refused().startswith(f"{hook}: it is no function, but int; ")


def test_a_module_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, hooks.FLASH, None)
    assert _refused().startswith(f"{hooks.AVAILABLE}: the module cannot be imported (import of {hooks.FLASH} halted")


UNREPLACED = [hooks.SET_UP, hooks.LOWERING, hooks.AVAILABLE, hooks.BFLOAT16, hooks.HAS_TRITON]


@pytest.mark.parametrize("hook", UNREPLACED, ids=str)
def test_a_part_that_torch_calls_no_more_is_named(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch goes by another way, and what the subject puts in place of the part has no effect."""
    replace = patch.object
    owner, name = _owner(hook)
    if hook in (hooks.AVAILABLE, hooks.HAS_TRITON):  # so that it is the effect alone that is missing
        monkeypatch.setattr(owner, name, lambda *arguments, **keywords: True)
    theirs = getattr(owner, name)

    def without_effect(target: Any, attribute: str, new: Any) -> Any:
        return replace(target, attribute, theirs if attribute == name else new)

    monkeypatch.setattr(running, "patch", types.SimpleNamespace(object=without_effect, multiple=patch.multiple))
    said = _refused()
    missed = ("torch did not come to it, and raised ", "torch compiled and ran an attention without coming to it; ")
    assert said.startswith(tuple(f"{hook}: {way}" for way in missed))


@pytest.mark.parametrize("theirs", [theirs for theirs, _ in wrapper.REPLACED])
def test_a_wrapper_without_a_statement_that_is_replaced_is_named(theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_wrapper(lambda text: text.replace(theirs, "# written in another way\n"), monkeypatch)
    assert _refused().startswith(f"{hooks.WRAPPER}: it lacks {theirs.strip()!r}, which is replaced in it; ")


def _with_wrapper(change: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torch generate another wrapper."""
    graph = importlib.import_module(hooks.GRAPH).GraphLowering
    codegen = graph.codegen

    def changed(self: Any) -> Any:
        generated = codegen(self)
        text = generated[0].value
        generated[0].value = change(text)
        assert generated[0].value != text, "the wrapper does not have the text that is to be changed"
        return generated

    monkeypatch.setattr(graph, "codegen", changed)


ENTRY_IMPORT = "from flash_attn.cute.interface import _flash_attn_fwd\n"


@pytest.mark.parametrize(
    ("pattern", "text", "refusal"),
    [
        (r"r'''\n", "source=r'''\n", f"{hooks.WRAPPER}: 1 kernels in it, of which 0 are text that can be found; "),
        (
            r"(?m)^( +)cutedsl_\w+\.run\(.*$",
            r"\1pass",
            f"{hooks.ENTRY}: the wrapper has a kernel, and ran without calling",
        ),
        ("return_lse=True,", "return_lse=True, pages=None,", f"{hooks.ENTRY}: it is called with 3 tensors and softmax"),
        ("q_transposed,\n", "q_transposed, q_transposed,\n", f"{hooks.ENTRY}: it is called with 4 tensors and softmax"),
        (
            ENTRY_IMPORT,
            "from flash_attn.cute.interface import forward\n",
            "flash_attn.cute.interface: torch asks for more",
        ),
        (
            ENTRY_IMPORT,
            "import flash_attn.cute.masks\n",
            "flash_attn.cute.masks: torch asks for more than its stand-in",
        ),
        (ENTRY_IMPORT, "import flash_attn; flash_attn.forward\n", "flash_attn: torch asks for more than its stand-in"),
        ("softmax_scale=0.25", "softmax_scale=0.5", f"{torch_private.CASE}: wrong: "),
        ("tmp0 = tSrS_ssa", "tmp0 = unheard_of", f"{torch_private.CASE}: torch came to every part, and raised "),
        (r"(?m)^runner = ", "unheard_of\nrunner = ", f"{hooks.ENTRY}: torch did not come to it, and raised NameError"),
    ],
)
def test_another_wrapper_or_kernel_is_named(
    pattern: str, text: str, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_wrapper(lambda wrapper_: re.sub(pattern, text, wrapper_), monkeypatch)
    assert _refused().startswith(refusal)


def test_a_code_generator_that_returns_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = importlib.import_module(hooks.GRAPH).GraphLowering
    codegen = graph.codegen
    monkeypatch.setattr(graph, "codegen", lambda self: codegen(self)[0])
    assert _refused().startswith(f"{hooks.CODEGEN}: it does not return a pair, of which the first has the wrapper")


def test_a_torch_without_the_log_that_is_turned_off_for_speed_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(running, "hasattr", lambda owner, name: asked.append(name), raising=False)
    subjects.get(NAME).load()
    assert "profile_guard_manager" in asked


def test_a_wrapper_that_does_not_fit_amid_a_run_is_no_outcome_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe went well, and one case has a wrapper of another form."""
    subjects.get(NAME).load()
    _with_wrapper(lambda text: text.replace("torch.cuda.set_device(0)", "torch.cuda.set_device('first')"), monkeypatch)
    (case,) = catalogue.load_text('[tried]\nscore_mod = "score * 0.5"\nproblem = { M = 16, N = 24, D = 16 }', "a test")
    with pytest.raises(
        HookChanged, match=r"it lacks 'torch\.cuda\.set_device\(0\)', which is replaced in it"
    ) as caught:
        trial.run_case(case, NAME)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (type(sent), str(sent), sent.hook) == (HookChanged, str(caught.value), hooks.WRAPPER)
    lost = pool.Lost("exception", "HookChanged", "render", str(sent), sent)
    outcome = tasks.of_lost(tasks.CaseTask(case, subjects.get(NAME)), lost)
    assert outcome.symptom is Symptom.MISSING and hooks.WRAPPER in outcome.message


def test_a_run_ends_with_exit_code_2_and_the_name_of_the_part(tmp_path: Path) -> None:
    """In the workers, a module of torch's is gone."""
    gone = f"import sys\nsys.modules[{hooks.FLASH!r}] = None\n"
    (tmp_path / "sitecustomize.py").write_text(gone)
    command = [sys.executable, "-m", "flexconf", "run", "causal", "--subject", NAME, "--workers", "1"]
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert f"the module cannot be imported (import of {hooks.FLASH} halted" in said and "Traceback" not in said


def test_a_kernel_of_an_earlier_call_or_of_another_folder_is_named(tmp_path: Path) -> None:
    called: list[str] = []
    keywords = {**dict.fromkeys(entry.KEYWORDS), "out": torch.zeros(1, 1, 1, 1)}
    stale = entry.forward(lambda *tensors, **_: called.append("stale"), Generated(), str(tmp_path))
    with pytest.raises(HookChanged, match="compiled by an earlier call") as caught:
        stale(1, 2, 3, **keywords)
    assert caught.value.hook == str(hooks.CODEGEN)
    elsewhere = entry.forward(lambda *tensors, **_: called.append("else"), Generated(kernels=[""]), str(tmp_path))
    with pytest.raises(HookChanged, match="and not in the folder of this call") as caught:
        elsewhere(1, 2, 3, **{**keywords, "mask_mod": _refused})
    assert caught.value.hook == hooks.FOLDER
    elsewhere(1, 2, 3, **keywords)
    assert called == ["else"]


def test_dynamic_scalars_are_refused_for_their_own_reason(tmp_path: Path) -> None:
    forward = entry.forward(lambda *tensors, **_: None, Generated(kernels=[""]), str(tmp_path))
    keywords = {**dict.fromkeys(entry.KEYWORDS), "out": torch.zeros(1, 1, 1, 1)}
    forward(1, 2, 3, **keywords, aux_scalars=None)
    with pytest.raises(torch_private.DynamicScalars, match="dynamic scalars"):
        forward(1, 2, 3, **keywords, aux_scalars=(4,))
    with pytest.raises(torch_private.NotStoodIn, match="backward"):
        entry.flash_attn_bwd(1, 2, aux_scalars=None)


def test_torch_finds_dynamic_scalars_in_the_stand_ins_and_remembers_nothing(tmp_path: Path) -> None:
    supports = getattr(importlib.import_module(hooks.FLASH), "flash_supports_aux_scalars", None)
    if supports is None:
        pytest.skip(f"torch {metadata.version('torch')} asks for no aux_scalars; 2.14 does")
    with entry.stand_ins(entry.forward(lambda *tensors, **_: None, Generated(), str(tmp_path))):
        assert supports()
    assert supports.cache_info().currsize == 0


def test_every_private_part_that_the_subject_uses_is_a_hook() -> None:
    """The names are read from the source of `running`: its imports, its replacements, and its configuration keys."""
    tree = ast.parse(inspect.getsource(running))
    listed = {hook.module for hook in hooks.HOOKS}
    names = {part for hook in hooks.HOOKS for part in hook.name.split(".")}
    imported, used = set[str](), set[str]()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called, whose = node.func.attr, ast.unparse(node.func.value)
        if called == "import_module" and isinstance(node.args[0], ast.Constant):
            imported.add(node.args[0].value)
        elif called == "object" and whose == "patch":
            used.add(ast.literal_eval(node.args[1]))
        elif called == "patch" and whose != "stack":
            used |= {str(keyword.arg) for keyword in node.keywords}
    assert len(imported) >= 9 and len(used) >= 12, "the source is written in another way; this test reads nothing"
    # The one part that serves speed alone; a torch without it is run too.
    assert imported - listed == {"torch._dynamo.guards"}
    assert used - names == {"profile_guard_manager"}
