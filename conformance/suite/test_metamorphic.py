"""Relations that need no oracle, over a part of the catalogue and generated cases; and that they can fail."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexconf import strategies, subjects, tampering
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.cases.problem import Problem
from flexconf.checks import metamorphic
from flexconf.checks.metamorphic import RELATIONS, Related, check
from flexconf.errors import InputError
from flexconf.workers import pool
from flexconf.workers.pool import Lost, Report
from flexconf.workers.tasks import prepare_worker
from planted.catalogue import FAULTS

pytestmark = pytest.mark.clause("L2.4", "L8.1", "L8.3", "L8.4", "L8.5")

_EACH = 6  # cases a relation, spread over all that it says something about


def _chosen() -> list[object]:
    ordinary = [c for c in catalogue.load() if c.expect == "ok" and c.problem.B * c.problem.H * c.problem.M < 2000]
    found = []
    for name, relation in RELATIONS.items():
        apply = [c for c in ordinary if 0 not in (c.problem.B, c.problem.M, c.problem.N) and not relation.why_not(c)]
        assert len(apply) >= _EACH, f"{name} applies to {len(apply)} cases of the catalogue"
        step = len(apply) / _EACH
        found += [
            pytest.param(name, apply[int(n * step)], id=f"{name}-{apply[int(n * step)].name}") for n in range(_EACH)
        ]
    return found


@pytest.mark.parametrize(("relation", "case"), _chosen())
def test_relation(relation: str, case: Case) -> None:
    found = check(case, relation)
    assert found.holds, (
        f"{found.reason or found.skipped}; {found.elements} elements compared, ratio {found.max_ratio:.3g}"
    )


def relate(payload: tuple[Case, str], report: Report) -> Related:
    """In a worker: what a case is held to."""
    return check(*payload)


def test_generated_cases(record_property: pytest.RecordProperty) -> None:  # type: ignore[name-defined]
    """Each is held to one of the relations that say something about it, in a process of its own."""
    counts: Counter[str] = Counter()

    with pool.Crew(
        relate, workers=1, prepare=functools.partial(prepare_worker, subjects.get("reference.host"))
    ) as crew:

        @settings(max_examples=settings.default.max_examples // 3)
        @given(strategies.cases(), st.data())
        def hold(case: Case, data: st.DataObject) -> None:
            if 0 in (case.problem.B, case.problem.M, case.problem.N):
                return
            name = data.draw(st.sampled_from([n for n, r in RELATIONS.items() if not r.why_not(case)]))
            ended: list[Related | Lost] = []
            crew.run([(case, name)], lambda _, result: ended.append(result))
            (found,) = ended
            assert not isinstance(found, Lost), f"{name}: {pool.describe(found)}\n{case.to_toml()}"
            assert not found.reason and not found.skipped, f"{name}: {found.reason}{found.skipped}\n{case.to_toml()}"
            counts[name] += 1
            counts["elements"] += found.elements

        hold()
    assert counts["elements"] > 0 and len(counts) > 3, counts
    for name, count in counts.items():
        record_property(name, count)


@pytest.mark.parametrize(
    ("relation", "fault"),
    [
        ("gqa", "key-heads-interleaved"),
        ("widths", "first-lane-of-a-gather"),
        ("constant", "lse-to-base-2"),
        ("mask-as-score", "mask-before-score-mod"),
        ("list-order", "list-taken-for-a-range"),
        ("block-size", "last-full-block-dropped"),
        ("strides", "key-strides-ignored"),
        ("heads", "lse-with-queries-first"),
        ("halves", "last-key-lost"),
    ],
)
def test_a_planted_fault_breaks_it(relation: str, fault: str) -> None:
    witness = FAULTS[fault].witness
    assert check(witness, relation).holds
    with tampering.plant(fault):
        assert not check(witness, relation).holds


def test_a_batch_that_is_taken_for_another_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No planted fault does this to a mod that does not read b, and to others the relation does not apply."""
    case = Case("two", score_mod="score * 0.5", problem=Problem(B=2, H=1, Hkv=1, M=4, N=5, D=8, Dv=8))
    assert check(case, "batches").holds
    right = metamorphic._run
    monkeypatch.setattr(
        metamorphic,
        "_run",
        lambda given, options, subject: right(
            dataclasses.replace(given, k=given.k[:1].expand_as(given.k).contiguous()), options, subject
        ),
    )
    assert check(case, "batches").reason


def test_what_does_not_apply_says_so_and_compares_nothing() -> None:
    case = Case("one", score_mod="score + h")
    found = check(case, "gqa")
    assert found.skipped == "every query head has its own key/value head" and not found.holds and not found.elements
    assert check(case, "heads").skipped == "a mod reads h"
    with pytest.raises(InputError, match="unknown relation 'magic'; there are widths"):
        metamorphic.check(case, "magic")
