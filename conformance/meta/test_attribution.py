"""The first layer that is wrong is named, and never more is said than what was run can say."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.checks import attribution
from flexconf.checks.attribution import (
    CODEGEN,
    EAGER,
    FA4,
    FLASH,
    HOST,
    LAYERS,
    MODS,
    REFERENCE,
    SIMT,
    STAND_INS,
    TRITON,
    attribute,
    investigate,
)
from flexconf.errors import InputError
from flexconf.subjects import reference, saved, trial
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexflash import RenderedKernel, kernel
from flexflash.launch.host import HostLauncher
from flexflash.launch.simt import SimtLauncher
from planted import corrections


def _outcome(subject: str, ok: bool, stage: str = "output", symptom: str = "wrong") -> Outcome:
    compared = {"elements": 9} if ok else None
    return Outcome("case", "0" * 64, subject, Stage(stage), Symptom.OK if ok else Symptom(symptom), "", compared)


def _observed(right: str = "", wrong: str = "", **special: str) -> dict[str, Outcome | None]:
    short = {"mods": MODS, "host": HOST, "simt": SIMT, "fa4": FA4, "codegen": CODEGEN, "flash": FLASH, "triton": TRITON}
    short |= {"eager": EAGER, "standins": STAND_INS}
    seen: dict[str, Outcome | None] = {short[n]: _outcome(short[n], True) for n in right.split()}
    seen |= {short[n]: _outcome(short[n], False) for n in wrong.split()}
    for name, at in special.items():
        stage, symptom = at.split("/")
        seen[short[name]] = _outcome(short[name], False, stage, symptom)
    return seen


@pytest.mark.parametrize(
    ("subject", "observed", "layer"),
    [
        (FA4, _observed("eager", "mods host simt fa4"), "codegen"),
        (MODS, _observed("eager", "mods"), "codegen"),
        (FA4, _observed("", "fa4", mods="render/refused"), "lowering"),
        (HOST, _observed("mods", "host"), "block lists"),
        (FA4, _observed("mods eager", "host simt fa4"), "block lists"),
        (HOST, _observed("", "host"), "lowering"),
        (SIMT, _observed("mods host fa4", "simt"), "simt kernel"),
        (SIMT, _observed("mods host", "simt fa4"), "GPU compiler"),
        (SIMT, _observed("mods host", "simt"), "GPU compiler"),
        (FA4, _observed("mods host simt", "fa4"), "flash-attn-4"),
        (FA4, _observed("mods host simt", fa4="compile/refused"), "flash-attn-4"),
        (FA4, _observed("mods host", "fa4"), "flash-attn-4"),
        (FA4, _observed("mods host", "simt fa4"), "GPU compiler"),
        (FLASH, _observed("host simt fa4", "flash"), "torch-flash"),
        (FLASH, _observed("host", flash="render/refused"), "torch-flash"),
        (FLASH, _observed("host simt", "flash fa4"), "flash-attn-4"),
        (FLASH, _observed("host", "flash"), "torch-flash"),
        (FLASH, _observed("eager triton", "flash fa4 host"), "undecided"),
        (FLASH, _observed("host simt fa4", "flash codegen"), "torch-codegen"),
        (FLASH, _observed("host", "codegen", flash="compile/crash"), "torch-codegen"),
        (FLASH, _observed("host simt", "flash fa4 codegen"), "torch-codegen"),
        (FLASH, _observed("host simt fa4 codegen", "flash"), "torch-flash"),
        (CODEGEN, _observed("host", "codegen"), "torch-codegen"),
        (CODEGEN, _observed("", "codegen host mods"), "undecided"),
        (CODEGEN, _observed("host standins", "codegen"), "CuTe"),
        (CODEGEN, _observed("host", "codegen standins"), "torch-codegen"),
        (FLASH, _observed("host standins", "flash codegen"), "CuTe"),
        (FLASH, _observed("host standins codegen", "flash"), "torch-flash"),
        (TRITON, _observed("host standins", "triton codegen"), "torch-triton"),
        (TRITON, _observed("host fa4", "triton"), "torch-triton"),
        (EAGER, _observed("host fa4 triton", "eager"), "torch-eager"),
        (FLASH, _observed("", "mods host simt fa4 flash triton eager"), "oracle"),
        (HOST, _observed("", "mods host eager"), "oracle"),
        (FA4, _observed("fa4"), "not reproduced"),
        (FA4, _observed("host"), "undecided"),
        (FLASH, _observed("", "flash"), "undecided"),
        (FA4, _observed("mods", "fa4"), "undecided"),
    ],
)
def test_the_layer(subject: str, observed: Mapping[str, Outcome | None], layer: str) -> None:
    found = attribute(subject, observed)
    assert found.layer == layer, found.sentence
    assert found.evidence == {n: f"{o.stage}/{o.symptom}" for n, o in observed.items() if o is not None}


BLAMES = {
    "codegen": MODS, "simt kernel": SIMT, "flash-attn-4": FA4, "torch-flash": FLASH, "torch-triton": TRITON,
    "torch-eager": EAGER, "torch-codegen": CODEGEN, "block lists": HOST, "GPU compiler": SIMT,
}  # fmt: skip


def test_nobody_who_was_right_is_blamed_and_nothing_that_was_not_run_is_cited() -> None:
    """All of what could be observed: every layer right, wrong, refused early, or not run, for every subject."""
    count = 0
    states = ("right", "wrong", "refused", "not run")
    # Whether the mods alone, and production's generated code, are refused or wrong makes no difference to what follows
    # from them but a word; leaving it out keeps the table at a third.
    fewer = {MODS: ("right", "wrong", "not run"), CODEGEN: ("right", "wrong", "not run")}
    for combination in itertools.product(*(fewer.get(name, states) for name in LAYERS)):
        observed: dict[str, Outcome | None] = {}
        for name, state in zip(LAYERS, combination, strict=True):
            match state:
                case "right" | "wrong":
                    observed[name] = _outcome(name, state == "right")
                case "refused":
                    observed[name] = _outcome(name, False, "render", "refused")
                case _:
                    observed[name] = None
        for subject in LAYERS:
            if observed[subject] is None:
                continue
            found = attribute(subject, observed)
            count += 1
            blamed = BLAMES.get(found.layer)
            outcome = observed.get(blamed) if blamed else None
            assert outcome is None or not outcome.ok, (found, observed)
            if found.layer in BLAMES.keys() - {"flash-attn-4", "GPU compiler"}:
                assert outcome is not None, (found, observed)
            if found.layer == "oracle":
                assert not any(o is not None and o.ok for o in observed.values())
            assert (found.layer == "not reproduced") == observed[subject].ok  # type: ignore[union-attr]
            for name in LAYERS:
                if observed[name] is None:
                    assert f"{name} is right" not in found.sentence
    assert count == 6 * 3 * 4**5 * 3**2 + 2 * 2 * 3 * 4**6


# ------------------------------------------------------------------------------------------------ planted faults


def _case(name: str) -> Case:
    (case,) = catalogue.select(catalogue.load(), [name])
    return case


class ForgetsTheMaximum(SimtLauncher):
    """The accumulators are not rescaled when the running maximum grows."""

    rescales = False


class SkipsTheLastPartialBlock(HostLauncher):
    """An attention kernel whose walk leaves the last partial block of every list out."""

    def block_sparse_tensors(self, mask_block_cnt: torch.Tensor, *rest: Any) -> Any:
        return super().block_sparse_tensors((mask_block_cnt - 1).clamp(min=0), *rest)


@contextlib.contextmanager
def wrong_codegen() -> Iterator[None]:
    """The index of a gather is computed as the source's docstring says, not as its code does (L2.5)."""
    with corrections.reverted("indexer-docstring"):
        yield


@contextlib.contextmanager
def wrong_lists() -> Iterator[None]:
    """Full blocks are handed over as partial ones, and the other way round."""
    true = RenderedKernel.arguments

    def swapped(self: RenderedKernel, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        named = true(self, *tensors)
        if "KV_IDX" in named:
            partial, full = ("KV_NUM_BLKS", "KV_IDX"), ("FULL_KV_NUM_BLKS", "FULL_KV_IDX")
            for a, b in zip(partial, full, strict=True):
                named[a], named[b] = named[b], named[a]
        return named

    kernel.RenderedKernel.arguments = swapped  # type: ignore[method-assign]
    try:
        yield
    finally:
        kernel.RenderedKernel.arguments = true  # type: ignore[method-assign]


def _run(launchers: Mapping[str, Callable[..., Any]]) -> Callable[[Case, str], Outcome]:
    """The layers on a CPU: the plain kernel's rows in a loop, the host's attention in the place of flash-attn-4's."""

    def run(case: Case, subject: str) -> Outcome:
        if subject == MODS:
            return trial.run_case(case, MODS)
        if subject == EAGER:
            return trial.run_case(case, EAGER)
        launcher = launchers.get(subject) or (SimtLauncher if subject == SIMT else HostLauncher)
        outcome = trial.run_case(case, HOST, attend=reference.through(launcher))
        return Outcome(**{**{f: getattr(outcome, f) for f in outcome.__dataclass_fields__}, "subject": subject})

    return run


@pytest.mark.parametrize(
    ("fault", "launchers", "case", "layer"),
    [
        (wrong_codegen, {}, "attention_bias_4d", "codegen"),
        (wrong_lists, {}, "causal@longer_queries", "block lists"),
        (contextlib.nullcontext, {SIMT: ForgetsTheMaximum}, "alibi", "simt kernel"),
        (contextlib.nullcontext, {FA4: SkipsTheLastPartialBlock}, "causal@longer_queries", "flash-attn-4"),
        (contextlib.nullcontext, {}, "alibi", "not reproduced"),
    ],
)
@pytest.mark.parametrize("subject", [SIMT, FA4])
def test_planted_faults_are_laid_at_the_right_door(
    fault: Callable[[], contextlib.AbstractContextManager[None]],
    launchers: Mapping[str, Callable[..., Any]],
    case: str,
    layer: str,
    subject: str,
) -> None:
    if launchers and subject not in launchers:
        layer = "not reproduced"
    with fault():
        found = investigate(_case(case), subject, _run(launchers), [*REFERENCE, EAGER])
    assert found.layer == layer, f"{found.sentence} {found.evidence}"


def test_no_more_is_run_than_the_answer_takes() -> None:
    ran: list[str] = []

    def run(case: Case, subject: str) -> Outcome:
        ran.append(subject)
        return _outcome(subject, subject not in (FLASH,), "render", "refused")

    found = investigate(_case("alibi"), FLASH, run, list(LAYERS))
    assert found.layer == "torch-flash"
    assert ran == [FLASH, HOST]
    ran.clear()
    assert investigate(_case("alibi"), FA4, run, list(LAYERS)).layer == "not reproduced"
    assert ran == [FA4]


@pytest.mark.parametrize(("case", "layer"), [("atan2_of_known_zeros", "CuTe"), ("absolute_of_uint8", "torch-codegen")])
def test_a_function_of_cute_is_not_laid_at_the_door_of_who_calls_it(case: str, layer: str) -> None:
    """CuTe's atan2 of two zeros that its compiler knows, and PyTorch's abs of a uint8, each in text of PyTorch's."""

    def run(case: Case, name: str) -> Outcome:
        if name in (CODEGEN, STAND_INS):
            return trial.run_case(case, CODEGEN, trial.Options(stand_ins=name == STAND_INS))
        return trial.run_case(case, name)

    found = investigate(_case(case), CODEGEN, run, [HOST, CODEGEN, STAND_INS])
    assert found.layer == layer, f"{found.sentence} {found.evidence}"
    assert {*found.evidence} == {HOST, CODEGEN, STAND_INS}


def test_what_cannot_run_here_is_not_asked() -> None:
    def run(case: Case, subject: str) -> Outcome:
        assert subject in (HOST, MODS, FLASH), "only these can run here"
        return _outcome(subject, subject != FLASH)

    found = investigate(_case("alibi"), FLASH, run, [HOST, MODS])
    assert found.layer == "torch-flash"
    assert "flash-attn-4, which was not run" in found.sentence
    assert attribution.attribute(FLASH, {FLASH: None}).layer == "undecided"


def test_the_mods_alone_are_compared_on_every_element() -> None:
    case = _case("alibi_causal")
    p = case.problem
    outcome = trial.run_case(case, MODS)
    assert outcome.ok
    assert outcome.comparison is not None
    assert outcome.comparison["elements"] == p.B * p.H * p.M * p.N
    assert outcome.comparison["worst"]["tensor"] == "scores"
    empty = trial.run_case(_case("alibi@no_keys"), MODS)
    assert empty.ok
    assert empty.comparison is not None
    assert empty.comparison["empty"]


def test_a_refusal_and_the_kept_scores_of_the_mods_alone_are_recorded_as_of_an_attention(tmp_path: Path) -> None:
    case = _case("alibi")

    def refuses(*_: object) -> trial.Attended:
        raise trial.Refused("render", "no spelling")

    refused = trial.run_case(case, MODS, attend=refuses)
    assert (refused.subject, refused.stage, refused.symptom, refused.message) == (
        MODS,
        "render",
        "refused",
        "no spelling",
    )
    assert trial.run_case(case, MODS, keep=tmp_path).ok
    p = case.problem
    assert {n: (*t.shape,) for n, t in saved.load(tmp_path, "alibi", MODS).items()} == {"scores": (p.B, p.H, p.M, p.N)}


@pytest.mark.parametrize("subject", [MODS, HOST])
def test_a_vector_width_that_no_subject_has_is_a_bad_input(subject: str) -> None:
    with pytest.raises(InputError, match="vector width must be 1, 2, 4 or 8, not 3"):
        trial.run_case(_case("alibi"), subject, trial.Options(vector_width=3))
