"""The program that runs under compute-sanitizer: it runs cases one after the other, and notes the log's size.

`python -m flexconf.sanitize.target --subject S --events FILE --log FILE [--tight] CASE ...`. The log is the tool's;
only its size is read. A report between the sizes at a case's begin and end belongs to that case. The events file has
one JSON line for each begin and each end; a case without an end did not end. Exits with 0 whether or not the cases
pass.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexconf.machine import files

_SETTLED = 0.1  # seconds without a new report
_SETTLE_MOST = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", required=True)
    parser.add_argument("--events", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--tight", action="store_true")
    parser.add_argument("--vector-width", type=int)
    parser.add_argument("cases", nargs="+")
    asked = parser.parse_args(arguments)

    from flexconf import subjects
    from flexconf.cases import catalogue
    from flexconf.subjects import trial

    trial.single_threaded()
    subject = subjects.get(asked.subject)
    attend = _tight(subject.load()) if asked.tight else subject.load()
    if subject.needs_gpu:
        import torch

        torch.zeros(1, device="cuda").item()
    known = {case.name: case for case in catalogue.load()}
    options = trial.Options(vector_width=asked.vector_width)
    for name in asked.cases:
        _settle(asked.log)
        _say(asked.events, {"event": "begin", "case": name, "log": _size(asked.log)})
        outcome = trial.run_case(known[name], asked.subject, options, attend=attend)
        broken = trial.is_broken()  # also waits for the device
        _settle(asked.log)
        _say(
            asked.events,
            {"event": "end", "case": name, "log": _size(asked.log), "outcome": outcome.to_json()},
        )
        if broken:
            break
    return 0


def _tight(attend: Any) -> Any:
    from flexconf.sanitize.tight import tighten

    def tightly(given: Any, clock: Any, options: Any) -> Any:
        return attend(tighten(given), clock, options)

    return tightly


def _say(path: Path, event: dict[str, Any]) -> None:
    files.append_to(path, json.dumps(event).encode() + b"\n")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _settle(log: Path) -> None:
    """Wait until the tool, which is another process, has written its reports: until the log stops growing."""
    ends = time.monotonic() + _SETTLE_MOST
    size = -1
    while size != (size := _size(log)) and time.monotonic() < ends:
        time.sleep(_SETTLED)


if __name__ == "__main__":
    raise SystemExit(main())
