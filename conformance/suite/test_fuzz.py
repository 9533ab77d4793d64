"""Generated cases on the reference lowering, certified per element; how many is a matter of $FLEXCONF_PROFILE."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from flexconf import strategies
from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.fuzz import judged
from flexconf.subjects.trial import Options
from flexconf.workers.isolated import Isolated

pytestmark = pytest.mark.clause("L7.4", "L7.5", "L7.6", "L8.1", "L8.4")

SUBJECT = "reference.host"


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    """A worker process: what ends it, ends an example."""
    with Isolated(prepare=SUBJECT) as worker:
        yield worker


def failure(case: Case, width: int, why: str, folder: Path) -> AssertionError:
    """What to read, and what to run. The case is kept in `folder`; the smallest comes last, and takes its place."""
    path = folder / "case.toml"
    path.write_text(case.to_toml(), encoding="utf-8")
    return AssertionError(
        f"{why}\n\n{case.to_toml()}\nTo run it again: flexconf run --file {path} --vector-width {width}"
    )


def test_generated_cases(
    isolated: Isolated,
    tmp_path: Path,
    record_property: pytest.RecordProperty,  # type: ignore[name-defined]
) -> None:
    counts: Counter[str] = Counter()

    @given(strategies.cases(), strategies.vector_widths())
    def attend(case: Case, width: int) -> None:
        outcome = isolated.run(case, SUBJECT, Options(vector_width=width))
        if judged.discarded(outcome):
            counts["discarded"] += 1
            return
        counts["compared"] += 1
        counts["elements"] += int((outcome.comparison or {}).get("elements", 0))
        if not outcome.ok:
            raise failure(case, width, f"{outcome.stage}: {outcome.symptom}: {outcome.message}", tmp_path)

    attend()
    assert counts["compared"] >= 4 * counts["discarded"], f"too many examples prove nothing: {dict(counts)}"
    assert counts["compared"] >= settings.default.max_examples // 4 and counts["elements"] > 0
    for name, count in counts.items():
        record_property(name, count)


def test_a_failing_example_says_what_to_run(tmp_path: Path) -> None:
    """The message holds the case as a catalogue file would, and the command, which finds it in a file."""
    seen: list[Case] = []

    @settings(max_examples=200, database=None, derandomize=True)
    @given(strategies.cases(), strategies.vector_widths())
    def attend(case: Case, width: int) -> None:
        seen.append(case)
        if "%" in (case.score_mod or ""):
            raise failure(case, width, "a remainder", tmp_path)

    with pytest.raises(AssertionError) as raised:
        attend()
    text = str(raised.value)
    smallest = seen[-1]
    said = re.search(r"To run it again: flexconf run --file (\S+) --vector-width 1$", text, re.MULTILINE)
    assert said is not None and smallest.to_toml() in text
    (kept,) = catalogue.load([Path(said[1])])
    assert kept.digest() == smallest.digest() and kept.name == smallest.name
    assert smallest.mask_mod is None and not smallest.captures
    # What is drawn has 60 in the median. Where Hypothesis ends, 3 to 12, is a matter of its version.
    assert len(re.findall(r"[\w.]+|[^\w\s()\[\],]+", smallest.score_mod or "")) <= 16, smallest.score_mod
