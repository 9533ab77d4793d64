"""The measurements of a bench, and the file that holds them. Imports no heavy package such as torch."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from flexconf.errors import InputError

OK, WRONG, REFUSED, FAILED = "ok", "wrong", "refused", "failed"
STATUSES = (OK, WRONG, REFUSED, FAILED)

_KIND = "flexconf bench gpu"
_VERSION = 1
_NUMBERS = ("median", "low", "high", "graph", "host", "compile", "ulp", "lse")


@dataclass(frozen=True)
class Settings:
    """The settings of a bench.

    Every provider has `rounds` turns of `milliseconds` each. `rows` of the output are checked. With `graphs`, runs are
    also timed as CUDA graphs. With `quick`, lengths are at most 2048: such times cannot be compared with those of a
    full bench. All of this is repeated in each of `processes`, one process after the other.
    """

    rounds: int = 10
    milliseconds: float = 50.0
    rows: int = 64
    graphs: bool = True
    quick: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Measurement:
    """The result of one provider on one workload.

    `status` is ok, wrong, refused or failed; `reason` explains it. The times of a run are in milliseconds: `median`,
    and the quantiles `low` (20 %) and `high` (80 %) of `samples` runs; `turns` holds the median of each turn, process
    by process; `graph` is the median of a CUDA graph's replay. If capture or replay fails, `graph` is None and
    `graph_reason` says why. `host` is the CPU time of a run in microseconds. `compile` is the time in seconds from the
    start of `prepare` to the first result. `checked` counts the compared elements of the output; `ulp` and `lse` are
    the largest errors (see `rows.Check`). `flops` counts the useful operations of a run, `bytes` the fewest bytes that
    it can move. `code` is the SHA-256 of the machine code that flash-attn-4 compiled for it, "" if there is none.
    """

    workload: str
    provider: str
    status: str
    reason: str = ""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    turns: tuple[float, ...] = ()
    graph: float | None = None
    graph_reason: str = ""
    host: float | None = None
    compile: float | None = None
    checked: int = 0
    ulp: float | None = None
    lse: float | None = None
    flops: int = 0
    bytes: int = 0
    code: str = ""
    processes: int = 1

    @property
    def ranked(self) -> bool:
        """Whether its speed counts: it was timed, it was checked, and it is right."""
        return self.status == OK and bool(self.median) and self.checked > 0

    @property
    def tflops(self) -> float | None:
        """Useful TFLOP/s. Returns None if the speed does not count."""
        return self.flops / self.median / 1e9 if self.ranked and self.median else None

    @property
    def bandwidth(self) -> float | None:
        """TB/s of the fewest bytes that a run can move. Returns None if the speed does not count."""
        return self.bytes / self.median / 1e9 if self.ranked and self.median else None

    @property
    def spread(self) -> float | None:
        """Half of the distance between the quantiles, divided by the median. Returns None if it was not timed."""
        if not self.median or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.median

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. A float that is not finite becomes a string."""
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> Measurement:
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            plain: dict[str, Any] = dict(data)
            numbers = {k: float(plain[k]) for k in _NUMBERS if plain.get(k) is not None}
            made = cls(**plain | numbers | {"turns": tuple(float(t) for t in plain.get("turns", ()))})
            if made.status not in STATUSES or not all(isinstance(x, str) for x in (made.workload, made.provider)):
                raise ValueError("a workload, a provider or a status is wrong")
            return made
        except (TypeError, ValueError) as error:
            raise InputError(f"not a measurement: {error}") from None


@dataclass(frozen=True)
class Speed:
    """How many times as fast one provider is as another: `ratio`, with a confidence interval from `low` to `high`.

    `ratio` is the median of the ratios of the single rounds. The turns of two providers in one round are seconds apart,
    so they share clocks and temperature. The interval leaves out as many of the smallest and of the largest ratios as
    possible, while it contains the true median with a probability of at least 95 % (binomial distribution, whatever the
    distribution of the ratios). With fewer than six ratios it spans all of them, and the probability is lower.

    With several processes, the median of each process replaces the ratios of its rounds. The effects of a process on
    its providers, such as the addresses of their tensors, are the same in all of its turns.
    """

    ratio: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def equal(self) -> bool:
        """Whether the interval contains 1: no difference was seen."""
        return self.low <= 1 <= self.high


def speed(own: Measurement, rival: Measurement) -> Speed | None:
    """How many times as fast `own` is as `rival`. Returns None if the speed of one of them does not count.

    If their turns cannot be paired, the ratio is that of the medians, and the interval has no width.
    """
    if not (own.ranked and rival.ranked and own.median and rival.median):
        return None
    if not own.turns or (len(own.turns), own.processes) != (len(rival.turns), rival.processes):
        ratio = rival.median / own.median
        return Speed(ratio, ratio, ratio)
    ratios = [b / a for a, b in zip(own.turns, rival.turns, strict=True)]
    if own.processes > 1:
        each = len(ratios) // own.processes
        ratios = [statistics.median(ratios[n : n + each]) for n in range(0, len(ratios), each)]
    ratios.sort()
    cut = _outside(len(ratios))
    return Speed(statistics.median(ratios), ratios[cut], ratios[-1 - cut])


def merged(parts: Sequence[Measurement]) -> Measurement:
    """The measurements of one provider on one workload in several processes, as one.

    If one of them is not ok, the first such measurement is returned.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts:
        if part.status != OK:
            return part

    def over(reduce: Callable[[list[float]], float], names: str) -> dict[str, Any]:
        known = {n: [v for v in (getattr(p, n) for p in parts) if v is not None] for n in names.split()}
        return {name: reduce(values) if values else None for name, values in known.items()}

    return replace(
        first,
        **over(statistics.median, "median low high graph host"),
        **over(max, "ulp lse"),
        reason=next((p.reason for p in parts if p.reason), ""),
        graph_reason=next((p.graph_reason for p in parts if p.graph_reason), ""),
        samples=sum(p.samples for p in parts),
        checked=sum(p.checked for p in parts),
        turns=tuple(turn for p in parts for turn in p.turns),
        code=first.code if all(p.code == first.code for p in parts) else "",
        processes=len(parts),
    )


def same_code(a: Measurement, b: Measurement) -> bool:
    """Whether flash-attn-4 compiled the same machine code for both, byte for byte. Returns False if it is unknown."""
    return bool(a.code) and a.code == b.code


def _outside(count: int) -> int:
    """How many of `count` sorted values can be left out at each end, while the rest span the median with 95 %."""
    cut, tail = 0, 0.5**count
    while tail + math.comb(count, cut + 1) * 0.5**count <= 0.025:
        cut += 1
        tail += math.comb(count, cut) * 0.5**count
    return cut


@dataclass(frozen=True)
class BenchRecording:
    """One bench. `environment` is as in `flexconf env --json`. `finished` is False until all workloads are measured."""

    settings: Settings
    environment: Mapping[str, Any]
    measurements: Sequence[Measurement] = ()
    workloads: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: bool = True

    @property
    def ok(self) -> bool:
        """Whether at least one speed counts, and no measurement is wrong or failed."""
        statuses = {m.status for m in self.measurements}
        return any(m.ranked for m in self.measurements) and not statuses & {WRONG, FAILED}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": _KIND,
            "version": _VERSION,
            "started": self.started,
            "finished": self.finished,
            "settings": asdict(self.settings),
            "environment": dict(self.environment),
            "workloads": dict(self.workloads),
            "measurements": [m.to_json() for m in self.measurements],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> BenchRecording:
        """The inverse of `to_json`. `where` names the file in messages. Raises InputError for anything else."""
        if not isinstance(data, dict) or data.get("kind") != _KIND:
            raise InputError(f"{where}: not a file that `flexconf bench gpu --out` has written")
        if data.get("version") != _VERSION:
            raise InputError(f"{where}: its format is version {data.get('version')!r}, this flexconf reads {_VERSION}")
        try:
            known = {f.name for f in fields(Settings)}
            return cls(
                settings=Settings(**{k: v for k, v in data["settings"].items() if k in known}),
                environment=dict(data["environment"]),
                measurements=[Measurement.from_json(m) for m in data["measurements"]],
                workloads=dict(data["workloads"]),
                started=str(data["started"]),
                finished=bool(data["finished"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, InputError) as error:
            raise InputError(f"{where}: damaged: {error}") from None


def read(path: Path) -> BenchRecording:
    """The recording in a file. Raises InputError if it cannot be read or is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: not a JSON file") from None
    return BenchRecording.from_json(data, str(path))


class File:
    """A new file that always holds a complete recording, even if the process is killed."""

    def __init__(self, path: Path, first: BenchRecording) -> None:
        """Raises InputError if the file exists or cannot be made."""
        self._path = path
        try:
            temporary = self._written(first)
            try:
                os.link(temporary, path)  # unlike a rename, this refuses to replace
            finally:
                os.unlink(temporary)
        except FileExistsError:
            raise InputError(f"{path} exists; name a new file, so that no result is overwritten") from None
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, recording: BenchRecording) -> None:
        """Replace the content atomically."""
        os.replace(self._written(recording), self._path)

    def _written(self, recording: BenchRecording) -> str:
        folder = self._path.parent
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(recording.to_json(), file, indent=1, allow_nan=False)
            file.write("\n")
            os.fchmod(file.fileno(), 0o644)
        return name


@dataclass(frozen=True)
class SpeedChange:
    """One provider on one workload, before and after. `ratio` is the new time divided by the old one.

    `verdict` is faster, slower or same, or says why the two cannot be compared. They are the same, within noise, if the
    ranges between their 20 % and 80 % quantiles overlap.
    """

    workload: str
    provider: str
    before: Measurement | None
    after: Measurement | None
    ratio: float | None
    verdict: str


def compare(before: BenchRecording, after: BenchRecording) -> list[SpeedChange]:
    """The changes between two benches.

    Raises InputError if only one of them is quick, if they have no workload and provider in common, or if a workload
    has another size in each.
    """
    if before.settings.quick != after.settings.quick:
        raise InputError("one of the two is a --quick bench, of other lengths; they cannot be compared")
    old = {(m.workload, m.provider): m for m in before.measurements}
    new = {(m.workload, m.provider): m for m in after.measurements}
    if not old.keys() & new.keys():
        raise InputError("the two benches have no workload and provider in common")
    for name in before.workloads.keys() & after.workloads.keys():
        if before.workloads[name] != after.workloads[name]:
            raise InputError(f"workload {name!r} is of another size in the two; they cannot be compared")
    return [_change(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]


def _change(key: tuple[str, str], a: Measurement | None, b: Measurement | None) -> SpeedChange:
    if a is None or b is None:
        return SpeedChange(*key, a, b, None, "only after" if a is None else "only before")
    if not (a.ranked and b.ranked):
        return SpeedChange(*key, a, b, None, a.status if a.status == b.status else f"{a.status}, then {b.status}")
    assert a.median and b.median and a.low and a.high and b.low and b.high
    verdict = "same" if a.low <= b.high and b.low <= a.high else "faster" if b.median < a.median else "slower"
    return SpeedChange(*key, a, b, b.median / a.median, verdict)


def quantile(values: Sequence[float], part: float) -> float:
    """The quantile at `part` (0 to 1), interpolated linearly."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
