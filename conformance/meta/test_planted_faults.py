"""Every planted fault is real: its smallest case is wrong with it, and right without."""

from __future__ import annotations

import pytest

from flexconf import planted
from flexconf.fuzz.driver import discarded
from flexconf.outcome import Outcome
from flexconf.planted import FAULTS, Fault
from flexconf.subjects import reference, trial
from flexconf.subjects.trial import Options
from flexflash.launch.simt import SimtLauncher


def _run(fault: Fault) -> Outcome:
    """The witness, after what must run before it, on the CPU."""
    options = Options(vector_width=fault.width)
    for case in (*fault.before, fault.witness):
        if fault.layer == "simt":
            launched = reference.through(lambda on_stage: SimtLauncher(fault.width, on_stage))
            outcome = trial.run_case(case, options=options, attend=launched)
        else:
            outcome = trial.run_case(case, options=options)
    return outcome


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 40
    assert all(fault.about.endswith(".") and name == fault.name for name, fault in FAULTS.items())


@pytest.mark.parametrize("name", FAULTS)
def test_the_witness_shows_the_fault(name: str) -> None:
    fault = FAULTS[name]
    with planted.plant(name):
        outcome = _run(fault)
    assert not outcome.ok, "the fault does not show"
    assert not discarded(outcome)
    assert outcome.symptom in ("wrong", "nonfinite"), f"not silent: {outcome.stage}/{outcome.symptom} {outcome.message}"
    # Afterwards, so that this also says that nothing of the fault stays.
    without = _run(fault)
    assert without.ok, f"false alarm: {without.message}"
