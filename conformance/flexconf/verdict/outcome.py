"""The outcome of one case on one subject: the stage that it reached, and its symptom."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flexconf.errors import InputError

MAX_EXCLUDED = 0.01
"""The largest fraction of rows or of elements that a comparison may leave out and still pass (docs/accuracy.md)."""

_BAD_INPUT = "InputError"


class Stage(enum.StrEnum):
    """The stages of a case, in order."""

    TRACE = "trace"
    ELIGIBILITY = "eligibility"
    RENDER = "render"
    COMPILE = "compile"
    LAUNCH = "launch"
    OUTPUT = "output"
    LSE = "lse"


class Symptom(enum.StrEnum):
    """How a case ended. Only `ok` is a success, or `refused` if the case expects a refusal."""

    OK = "ok"
    REFUSED = "refused"
    WRONG = "wrong"
    WRONG_BASE = "wrong-base"  # the LSE has another base of its logarithm; nothing else is wrong
    NONFINITE = "nonfinite"
    CRASH = "crash"
    ILLEGAL_ACCESS = "illegal-access"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    NONDETERMINISTIC = "nondeterministic"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case on one subject.

    `message` is one sentence. `comparison` is a Comparison as JSON, or None if nothing was compared. `timings` are
    seconds by stage. `digests` are SHA-256 by name (inputs, kernel, out, lse). `observed` lists every "stage/symptom"
    that repeats of the case have shown. `launches` are the seconds of each launch after the first, if they were asked
    for. `capability` is the compute capability that was asked for, such as "10.0"; None for the subject's own choice.
    """

    case: str
    case_digest: str
    subject: str
    stage: Stage
    symptom: Symptom
    message: str = ""
    comparison: Mapping[str, Any] | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    observed: tuple[str, ...] = ()
    launches: tuple[float, ...] = ()
    capability: str | None = None

    def __post_init__(self) -> None:
        if not self.observed:
            object.__setattr__(self, "observed", (f"{self.stage}/{self.symptom}",))

    @property
    def ok(self) -> bool:
        """Whether the case ran, enough elements were compared (or the problem has none), and all are within bounds."""
        compared = self.comparison or {}
        if self.symptom is not Symptom.OK or _left_out(compared):
            return False
        return bool(compared.get("elements") or compared.get("empty"))

    @property
    def open(self) -> str:
        """Why too little was compared for a verdict.

        Returns "" if enough was compared. Also returns "" for every failure: an error is certain, however little was
        compared.
        """
        if self.symptom not in (Symptom.OK, Symptom.MISSING):
            return ""
        return _left_out(self.comparison or {})

    @property
    def bad_input(self) -> str:
        """The error in the case itself, because of which the subject was not tested. Returns "" if there is none."""
        told = self.symptom is Symptom.MISSING and self.message.startswith(_BAD_INPUT)
        return self.message.partition(": ")[2] if told else ""

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values. It has the key `capability` only if one was asked for."""
        asked = {} if self.capability is None else {"capability": self.capability}
        return {
            "case": self.case,
            "case_digest": self.case_digest,
            "subject": self.subject,
            "stage": str(self.stage),
            "symptom": str(self.symptom),
            "message": self.message,
            "comparison": None if self.comparison is None else dict(self.comparison),
            "timings": dict(self.timings),
            "digests": dict(self.digests),
            "observed": list(self.observed),
            "launches": list(self.launches),
            **asked,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_json`. Raises InputError for any other data."""
        try:
            comparison, observed = data["comparison"], data["observed"]
            if not (comparison is None or isinstance(comparison, Mapping)) or not isinstance(observed, list):
                raise TypeError("comparison must be an object or null, observed a list")
            for seen in observed:
                stage, _, symptom = seen.partition("/")
                Stage(stage), Symptom(symptom)
            return cls(
                case=str(data["case"]),
                case_digest=str(data["case_digest"]),
                subject=str(data["subject"]),
                stage=Stage(data["stage"]),
                symptom=Symptom(data["symptom"]),
                message=str(data["message"]),
                comparison=comparison,
                timings={str(name): float(seconds) for name, seconds in data["timings"].items()},
                digests={str(name): str(digest) for name, digest in data["digests"].items()},
                observed=tuple(observed),
                launches=tuple(float(seconds) for seconds in data["launches"]),
                capability=str(data["capability"]) if "capability" in data else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a recorded outcome: {type(error).__name__}: {error}") from None


def _left_out(compared: Mapping[str, Any]) -> str:
    """Why a comparison leaves out too much to pass (docs/accuracy.md). Returns "" if it does not.

    A result that is missing or has another shape has no compared and no excluded elements, so this returns "".
    """
    elements, excluded = int(compared.get("elements", 0)), int(compared.get("excluded_elements", 0))
    if not excluded:
        return ""
    if not elements:
        return "no element has a bound"
    if int(compared.get("excluded_rows", 0)) > MAX_EXCLUDED * int(compared.get("rows", 0)):
        return "more than 1 % of the rows are indeterminate"
    if excluded > MAX_EXCLUDED * (elements + excluded) or compared.get("symptom") == "missing":
        return "more than 1 % of the elements have no bound"
    return ""


def missing(case: str, case_digest: str, subject: str, message: str) -> Outcome:
    """The outcome of a case that gave no result. It is a failure."""
    return Outcome(case, case_digest, subject, Stage.LAUNCH, Symptom.MISSING, message)


def merge(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Merges the outcomes of repeats of one case on one subject. Returns None if there are no outcomes.

    Repeats with equal stage, symptom and output digests keep them. Any other repeats are nondeterministic, so a flaky
    case never passes. Merging is associative, commutative and idempotent (tested): the order of the repeats does not
    matter. Raises InputError if the outcomes are not of one case and one subject.

    >>> right = Outcome("alibi", "5eed", "reference.host", Stage.LSE, Symptom.OK)
    >>> wrong = Outcome("alibi", "5eed", "reference.host", Stage.LSE, Symptom.WRONG)
    >>> merge([right, right]) == right
    True
    >>> merge([right, wrong, right]).message
    'repeats differ: lse/ok, lse/wrong'
    >>> merge([]) is None
    True
    """
    merged: Outcome | None = None
    for outcome in outcomes:
        merged = outcome if merged is None else _join(merged, outcome)
    return merged


def _join(a: Outcome, b: Outcome) -> Outcome:
    if _asked(a) != _asked(b):
        raise InputError(f"cannot merge {' '.join(_asked(a))} with {' '.join(_asked(b))}")
    if a == b:
        return a
    if _kind(a) == _kind(b) and a.symptom is not Symptom.NONDETERMINISTIC:
        # They differ in message, comparison or timings. The choice of one must not depend on their order.
        return min(a, b, key=lambda o: json.dumps(o.to_json(), sort_keys=True))
    # Everything below depends on the union of `observed` only. This makes merging associative and commutative.
    observed = tuple(sorted({*a.observed, *b.observed}))
    one = len(observed) == 1
    return Outcome(
        case=a.case,
        case_digest=a.case_digest,
        subject=a.subject,
        stage=min((Stage(seen.partition("/")[0]) for seen in observed), key=[*Stage].index),
        symptom=Symptom.NONDETERMINISTIC,
        message=f"repeats are {observed[0]}, each with other bits" if one else f"repeats differ: {', '.join(observed)}",
        observed=observed,
        capability=a.capability,
    )


def _asked(o: Outcome) -> tuple[str, ...]:
    """What was run: the case and its digest, the subject, and the compute capability that it was asked for."""
    return (o.case, f"({o.case_digest[:16]})", "on", o.subject, *((o.capability,) if o.capability else ()))


def _kind(o: Outcome) -> tuple[Stage, Symptom, str | None, str | None]:
    """The part of an outcome that repeats must have in common."""
    return o.stage, o.symptom, o.digests.get("out"), o.digests.get("lse")
