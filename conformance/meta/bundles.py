"""Bundles made by hand, for tests of what is decided about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flexconf.gate.bundle import Bundle, BundleRecord, Planned
from flexconf.gate.model import Evidence, Side
from flexconf.verdict.outcome import Outcome, Stage, Symptom

FA4, HOST, TRITON = "reference.fa4", "reference.host", "torch-triton"
CASES = ("alibi", "causal", "softcap")
COMPARED = {"elements": 1000, "max_ratio": 0.5}
STEADY = (1.00e-3, 1.01e-3, 0.99e-3, 1.00e-3, 1.02e-3, 1.01e-3, 0.98e-3)
PACKAGES = {
    "flexflash-conformance": "0.1.0",
    "torch": "2.13.0",
    "nvidia-cutlass-dsl": "4.8.1",
    "flash-attn-4": "4.0.0b36",
    "quack-kernels": "0.3",
    "triton": "3.6.0",
    "sympy": "1.13",
}


def environment(driver: str = "580.95.05", *, gpu: str = "NVIDIA H200", **versions: Any) -> dict[str, Any]:
    """An environment as a bundle states it; `versions` by package, with _ for -, or another key of it."""
    own: dict[str, Any] = {k: versions.pop(k) for k in ("planted", "git", "cuda", "cpu", "gpus") if k in versions}
    return {
        "python": "3.11.9",
        "platform": "Linux 6.8 x86_64",
        "cpu": "EPYC",
        "cpus": 16,
        "packages": {**PACKAGES, **{k.replace("_", "-"): v for k, v in versions.items()}},
        "gpus": [{"name": gpu, "driver": driver, "compute_capability": "9.0"}],
        "cuda": "12.8",
        "git": {"commit": "0123456789abcdef", "changes": ""},
        "planted": "",
        **own,
    }


def planned(case: str, expect: str = "ok", digest: str = "") -> Planned:
    return Planned(case, digest or f"digest of {case}", "L7", f"About {case}.", ("L7.1",), expect)


def outcome(case: str, subject: str = FA4, at: str = "output/ok", **changes: Any) -> Outcome:
    """An outcome `at` "stage/symptom"; right ones have compared something and have digests."""
    stage, _, symptom = at.partition("/")
    digests = {"q": "q", "k": "k", "v": "v", "kernel": f"text of {case}"}
    ok = symptom == "ok"
    given: dict[str, Any] = {
        "message": "as it must be" if ok else f"it is {symptom}",
        "comparison": COMPARED if ok else None,
        "digests": {**digests, "out": f"out of {case}", "lse": f"lse of {case}"} if ok else digests,
    }
    digest = changes.pop("case_digest", f"digest of {case}")
    return Outcome(case, digest, subject, Stage(stage), Symptom(symptom), **{**given, **changes})


def other_bits(o: Outcome, out: str = "other") -> Outcome:
    return dataclasses.replace(o, digests={**o.digests, "out": out})


def kept(out: Iterable[Iterable[float]], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """What a bundle keeps of a result whose kept rows are `out`."""
    rows = torch.tensor([list(r) for r in out], dtype=dtype)
    n = len(rows)
    places = torch.tensor([[0, 0, m] for m in range(n)], dtype=torch.int32).reshape(n, 3)
    return {"rows": places, "out": rows, "lse": torch.zeros(n)}


@dataclasses.dataclass
class Made:
    """A bundle in the making: right in every case on every subject, until something is changed."""

    cases: list[Planned] = dataclasses.field(default_factory=lambda: [planned(c) for c in CASES])
    subjects: tuple[str, ...] = (FA4, HOST)
    skips: dict[str, str] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)
    problems: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changed: dict[tuple[str, str], tuple[Outcome, ...]] = dataclasses.field(default_factory=dict)
    evidence: dict[tuple[str, str], Evidence] = dataclasses.field(default_factory=dict)
    rows: dict[tuple[str, str], dict[str, Tensor]] = dataclasses.field(default_factory=dict)

    def attempts(self, case: str, *outcomes: Outcome) -> Made:
        self.changed[case, outcomes[0].subject] = outcomes
        return self

    def at(self, case: str, *places: str, subject: str = FA4) -> Made:
        """One attempt for each "stage/symptom"."""
        return self.attempts(case, *(outcome(case, subject, at) for at in places))

    def without(self, case: str, subject: str = FA4) -> Made:
        self.changed[case, subject] = ()
        return self

    def done(self) -> Bundle:
        records = {}
        for case in self.cases:
            for subject in self.subjects:
                at = "output/ok" if case.expect == "ok" else f"{case.expect.removeprefix('refused:')}/refused"
                right = dataclasses.replace(outcome(case.case, subject, at), case_digest=case.digest)
                attempts = self.changed.get((case.case, subject), (right,))
                if subject not in self.skips and attempts and (case.expect == "ok" or "reference" in subject):
                    evidence = self.evidence.get((case.case, subject), Evidence())
                    records[case.case, subject] = BundleRecord(attempts, evidence)
        side = Side("folder", "label", "2030-01-01T00:00:00+00:00", "digest", self.environment, len(records))

        def rows(case: str, subject: str) -> Mapping[str, Tensor] | None:
            return self.rows.get((case, subject))

        return Bundle(side, tuple(self.cases), self.subjects, self.skips, records, self.problems, rows, self.options)
