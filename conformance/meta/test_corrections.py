"""Every correction of a [C] clause is needed: taken back, the tests named here fail, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexconf import tampering
from flexconf.errors import InputError
from planted import corrections

SUITE = Path(__file__).parents[1] / "suite"
NAMED_TESTS = {
    "indexer-docstring": (
        "test_indexing.py::test_cute_index_is_colexicographic",
        "test_indexing.py::test_cute_reads_a",
    ),
    "indexer-scope": ("test_indexing.py::test_another_thread_is_unaffected",),
    "trivial-mask-fill": ("test_eligibility.py::test_constant_false_is_not_trivial",),
    "trivial-mask-lists": (
        "test_eligibility.py::test_sparse_lists_count_under_a_trivial_mask",
        "test_attention.py::test_lists_count_under_a_trivial_mask_mod",
    ),
    "capability-per-device": ("test_eligibility.py::test_capability_is_cached_for_each_device",),
}


def _failed(tests: tuple[str, ...], revert: str) -> set[str]:
    """The tests of `tests` (prefixes of node ids) of which at least one fails with `revert` taken back."""
    files = sorted({t.partition("::")[0] for t in tests})
    names = " or ".join(t.partition("::")[2] for t in tests)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "-k", names, *(str(SUITE / f) for f in files), "-p", "no:xdist"],
        capture_output=True,
        text=True,
        env={**os.environ, "FLEXFLASH_REVERT": revert, "PYTEST_ADDOPTS": "", "COLUMNS": "300"},
        cwd=SUITE.parents[1],
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("FAILED")]
    return {t for t in tests if any(t in line for line in lines)}


def test_every_correction_has_named_tests() -> None:
    assert set(NAMED_TESTS) == set(corrections.DESCRIPTIONS)


@pytest.mark.parametrize("name", NAMED_TESTS)
def test_without_the_correction_the_named_tests_fail(name: str) -> None:
    assert _failed(NAMED_TESTS[name], name) == set(NAMED_TESTS[name])


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(KeyError, match="indexer-scope"):
        corrections.known("indexer")


def test_a_run_with_a_defect_put_back_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXFLASH_REVERT", "indexer-scope,trivial-mask-fill")
    tampering.announce()
    assert "DEFECTS PUT BACK by FLEXFLASH_REVERT: indexer-scope, trivial-mask-fill" in capsys.readouterr().err
    monkeypatch.setenv("FLEXFLASH_REVERT", "indexer")
    with pytest.raises(InputError, match="names 'indexer'; there are indexer-docstring"):
        tampering.announce()
