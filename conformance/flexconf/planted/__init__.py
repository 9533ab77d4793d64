"""Planted faults: named switches that make the reference lowering wrong in the way of a real bug, to test the tester.

`FAULTS` is the catalogue, `plant(name)` switches one on in this process, and the environment variable FLEXCONF_PLANT
in every worker. What ran with one says so: its subject is `reference.host+fault:NAME`, which is no subject's name.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.planted.catalogue import FAULTS as FAULTS
    from flexconf.planted.fault import Fault as Fault

__all__ = ["ENVIRONMENT", "FAULTS", "Fault", "active", "from_environment", "get", "labelled", "plant", "wanted"]

ENVIRONMENT = "FLEXCONF_PLANT"
"""The environment variable that names the fault of a run."""

_MARK = "+fault:"
_active: list[str] = []


def __getattr__(name: str) -> Any:
    # The catalogue imports the lowering; whoever only asks for a label does not wait for that.
    if name == "FAULTS":
        from flexconf.planted.catalogue import FAULTS

        return FAULTS
    if name == "Fault":
        from flexconf.planted.fault import Fault

        return Fault
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get(name: str) -> Fault:
    """The fault of that name. Raises InputError."""
    from flexconf.planted.catalogue import FAULTS

    if name not in FAULTS:
        close = difflib.get_close_matches(name, FAULTS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "`python -m flexconf.planted --list` lists them"
        raise InputError(f"there is no planted fault {name[:60]!r}; {hint}")
    return FAULTS[name]


@contextmanager
def plant(name: str) -> Iterator[None]:
    """The fault `name`, in this process, until the block ends. Raises InputError for an unknown name, or a second."""
    fault = get(name)
    if _active:
        raise InputError(f"{_active[0]} is planted already; one fault at a time")
    with fault.apply():
        _active.append(name)
        try:
            yield
        finally:
            _active.pop()


def active() -> str:
    """The fault that is switched on in this process; "" for none."""
    return _active[-1] if _active else ""


def wanted() -> str:
    """The fault that this run is about: the one switched on here, or else the environment's; "" for none."""
    return active() or os.environ.get(ENVIRONMENT, "")


def labelled(subject: str) -> str:
    """The name under which results of `subject` are reported: its own, unless a fault is planted."""
    name = wanted()
    return f"{subject}{_MARK}{name}" if name and _MARK not in subject else subject


def from_environment() -> str:
    """Switch the fault of FLEXCONF_PLANT on for the rest of this process; its name, "" for none.

    Says so on stderr. Raises InputError for an unknown name.
    """
    name = os.environ.get(ENVIRONMENT, "")
    if not name or name == active():
        return name
    # Never left: the fault belongs to the process.
    plant(name).__enter__()
    print(f"flexconf: the fault {name} is planted in this process; its results are no results", file=sys.stderr)
    return name
