"""L6.4: the names of CuTe DSL that rendered text uses, and the oldest release that has them all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
import torch
from cutlass import cute
from packaging.requirements import Requirement

import flexflash
from flexconf.cases import catalogue
from flexconf.checks.opcheck import operand_values
from flexconf.language import modtext
from flexconf.language.operations import OPERATIONS, Operation
from flexconf.subjects import trial
from flexconf.verdict.outcome import Stage, Symptom
from flexflash import launch, prelude
from flexflash.launch import names

USED = {
    "cutlass": "BFloat16 Boolean Constexpr Float16 Float32 Float64 Int16 Int32 Int64 Int8 Uint8 const_expr "
    "range_constexpr",
    "cute": "TensorSSA full_like jit make_rmem_tensor ones_like size where zeros_like",
    "cute.math": "abs acos asin atan atan2 ceil copysign cos cosh div exp exp2 floor log log10 log2 max min pow rcp "
    "roundeven rsqrt sin sinh sqrt tan tanh trunc",
}
ALL = sorted(f"{room}.{name}" for room, listed in USED.items() for name in listed.split())
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_AT_ONCE = 25  # operations of one mod, whose text must stay below 4,000 characters


def _rendered(dtype: str) -> list[str]:
    """The texts of mods that together apply every operation that takes `dtype`."""
    taking = [o for o in OPERATIONS if dtype in o.dtypes]
    return [_of(taking[i : i + _AT_ONCE], dtype) for i in range(0, len(taking), _AT_ONCE)]


def _of(operations: Sequence[Operation], dtype: str) -> str:
    terms = []
    captures = {"x": operand_values(dtype)[:4]}
    for operation in operations:
        captures[f"y_{operation.y}"] = operand_values(dtype, operation.y)[:4]
        operands = {"x": "x[kv]", "y": f"y_{operation.y}[q]"}
        text = re.sub(r"(?<![\w.])[xy](?!\w)", lambda found, by=operands: by[found[0]], operation.text)
        terms.append(f"({text}).to(torch.float32)")
    text = " + ".join(terms)
    used = {name: captures[name] for name in modtext.free_names(text)}
    q = torch.zeros(1, 1, 4, 8, dtype=torch.bfloat16)
    return flexflash.lower(q, q, q, modtext.compile_mod(text, "score", used, {}, dtype)).text


@pytest.mark.clause("L6.4", "L7.6")
def test_every_name_that_rendered_text_uses_is_listed_and_installed() -> None:
    rendered = [text for dtype in DTYPES for text in _rendered(dtype)]
    found = {name for text in (*rendered, prelude.render(set(prelude.SOURCES))) for name in names.used(text)}
    assert sorted(found) == ALL
    assert names.lacking(ALL) == []


@pytest.mark.clause("L6.4", "L9.1")
def test_every_name_that_a_launcher_uses_is_installed() -> None:
    modules = sorted(Path(launch.__file__).parent.glob("*.py"))
    used = {module.name: names.used(module.read_text(encoding="utf-8")) for module in modules}
    assert len(used["simt.py"]) > 15 and len(used["host.py"]) > 5
    assert {name: names.lacking(found) for name, found in used.items() if names.lacking(found)} == {}


@pytest.mark.clause("L6.4", "L7.7")
def test_a_missing_name_is_refused_by_name_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = catalogue.select(catalogue.load(), ["alibi_bidirectional"])
    monkeypatch.delattr(cute.math, "abs")
    names.require.cache_clear()
    try:
        for subject in ("reference.host", "reference.mods"):
            outcome = trial.run_case(case, subject)
            assert (outcome.stage, outcome.symptom) == (Stage.COMPILE, Symptom.REFUSED)
            version = metadata.version("nvidia-cutlass-dsl")
            assert outcome.message == (
                f"nvidia-cutlass-dsl {version} has no cute.math.abs, which this kernel uses; it needs {names.OLDEST} "
                "or a newer release that has it"
            )
    finally:
        names.require.cache_clear()


@pytest.mark.clause("L6.4")
def test_names_are_read_from_the_syntax_and_once() -> None:
    text = "a = cute.math.exp(cute.x(b.cute.y)) + cutlass.Float32.inf  # cute.z\nc = 'cute.w'\ncute.math.exp(1)\n"
    assert names.used(text) == ["cute.math.exp", "cute.x", "cutlass.Float32.inf"]
    assert names.lacking(names.used(text)) == ["cute.x"]


def test_the_lower_bound_of_the_project_is_the_oldest_release_that_is_right() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "nvidia-cutlass-dsl")
    assert [(s.operator, s.version) for s in asked.specifier] == [(">=", names.OLDEST)]
    assert asked.specifier.contains(metadata.version("nvidia-cutlass-dsl"))
