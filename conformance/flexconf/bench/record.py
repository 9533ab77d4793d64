"""What a bench leaves: measurements, and the file that holds them. Imports nothing heavy."""

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
    """How a bench measures.

    `rounds` turns of `milliseconds` for every provider; `rows` of the output are checked; with `graphs`, runs are
    also timed as CUDA graphs. `quick`: lengths of at most 2048, not comparable with those of a whole bench. All that in
    each of `processes`, one after the other.
    """

    rounds: int = 10
    milliseconds: float = 50.0
    rows: int = 64
    graphs: bool = True
    quick: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Measurement:
    """What became of one provider on one workload.

    `status` is ok, wrong, refused or failed, with a `reason`. Milliseconds of a run: `median`, and the quantiles
    `low` (20 %) and `high` (80 %) of `samples`; `turns`, the median of each turn, of one of the `processes` after the
    other; `graph`, the median of a CUDA graph's replay, or `graph_reason` why there is none. `host`: microseconds of
    CPU a run. `compile`: seconds from the call to the first result. `checked` elements of the output, `ulp` and `lse`
    the largest errors (see `rows.Check`). `flops`: useful operations of a run; `bytes`: the fewest it can move.
    `code`: sha256 of the machine code that flash-attn-4 compiled for it, "" where that compiled none.
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
        """Whether its speed counts: it ran, and it is right."""
        return self.status == OK and bool(self.median) and self.checked > 0

    @property
    def tflops(self) -> float | None:
        """Useful TFLOP/s, where the speed counts."""
        return self.flops / self.median / 1e9 if self.ranked and self.median else None

    @property
    def bandwidth(self) -> float | None:
        """TB/s of the fewest bytes that a run can move, where the speed counts."""
        return self.bytes / self.median / 1e9 if self.ranked and self.median else None

    @property
    def spread(self) -> float | None:
        """Half of the distance between the quantiles, as a part of the median."""
        if not self.median or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.median

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an error that is no finite number is text."""
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> Measurement:
        """The inverse of `to_json`. Raises InputError."""
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
    """How many times as fast one provider is as another: `ratio`, and the range `low` to `high` that holds it.

    The median of the turns' own ratios: two providers' turns of one round lie seconds apart, and share clocks and heat.
    The range is of those ratios without as many of the least and of the largest as leaves at least 95 % that the median
    is inside (by the binomial distribution, whatever theirs is); all of them where there are fewer than six. Of several
    processes each one's median takes the place of the turns' ratios: what a process does to the speed of its providers,
    where their tensors lie for example, is the same in all of its turns.
    """

    ratio: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the range."""
        return (self.high - self.low) / 2

    @property
    def equal(self) -> bool:
        """Whether the range holds 1: no difference was seen."""
        return self.low <= 1 <= self.high


def speed(own: Measurement, rival: Measurement) -> Speed | None:
    """How much faster `own` is than `rival`; None where one of the two does not count."""
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
    """One provider on one workload, measured in several processes: right only where it was in all of them."""
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
    """Whether flash-attn-4 compiled the same machine code for both, byte for byte, and it is known."""
    return bool(a.code) and a.code == b.code


def _outside(count: int) -> int:
    """How many of `count` values may be left out at either end, the rest holding the median with 95 %."""
    cut, tail = 0, 0.5**count
    while tail + math.comb(count, cut + 1) * 0.5**count <= 0.025:
        cut += 1
        tail += math.comb(count, cut) * 0.5**count
    return cut


@dataclass(frozen=True)
class Recording:
    """One bench. `environment` is that of `flexconf env --json`; `finished` is False while workloads are to come."""

    settings: Settings
    environment: Mapping[str, Any]
    measurements: Sequence[Measurement] = ()
    workloads: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: bool = True

    @property
    def ok(self) -> bool:
        """Whether something was measured, and nothing was wrong or failed."""
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
    def from_json(cls, data: Any, where: str) -> Recording:
        """The inverse of `to_json`; `where` names the file in messages. Raises InputError."""
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


def read(path: Path) -> Recording:
    """The recording of a file. Raises InputError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: not a JSON file") from None
    return Recording.from_json(data, str(path))


class File:
    """A new file that holds a whole recording at every moment, however the process ends."""

    def __init__(self, path: Path, first: Recording) -> None:
        """Raises InputError when the file exists or cannot be made."""
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

    def write(self, recording: Recording) -> None:
        """Replace the content."""
        os.replace(self._written(recording), self._path)

    def _written(self, recording: Recording) -> str:
        folder = self._path.parent
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(recording.to_json(), file, indent=1, allow_nan=False)
            file.write("\n")
            os.fchmod(file.fileno(), 0o644)
        return name


@dataclass(frozen=True)
class Change:
    """One provider on one workload, before and after. `ratio` is the new time over the old one.

    `verdict`: faster, slower, same (within noise: the ranges between the 20 % and 80 % quantiles overlap), or what
    keeps the two from being compared.
    """

    workload: str
    provider: str
    before: Measurement | None
    after: Measurement | None
    ratio: float | None
    verdict: str


def compare(before: Recording, after: Recording) -> list[Change]:
    """What changed between two benches. Raises InputError when they have nothing in common."""
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


def _change(key: tuple[str, str], a: Measurement | None, b: Measurement | None) -> Change:
    if a is None or b is None:
        return Change(*key, a, b, None, "only after" if a is None else "only before")
    if not (a.ranked and b.ranked):
        return Change(*key, a, b, None, a.status if a.status == b.status else f"{a.status}, then {b.status}")
    assert a.median and b.median and a.low and a.high and b.low and b.high
    verdict = "same" if a.low <= b.high and b.low <= a.high else "faster" if b.median < a.median else "slower"
    return Change(*key, a, b, b.median / a.median, verdict)


def quantile(values: Sequence[float], part: float) -> float:
    """The `part` quantile, linear between neighbours."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
