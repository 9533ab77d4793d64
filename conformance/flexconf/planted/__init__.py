"""Planted faults: named switches that make the reference lowering wrong in the way of a real bug, to test the tester.

`FAULTS` is the catalogue, `plant(name)` switches one on in this process, and the environment variable FLEXCONF_PLANT
in every worker. What ran with one says so: its subject is `reference.host+fault:NAME`, which is no subject's name.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.planted.catalogue import FAULTS as FAULTS
    from flexconf.planted.fault import Fault as Fault

__all__ = [
    "ENVIRONMENT", "FAULTS", "Fault", "active", "announce", "from_environment", "get", "in_workers", "labelled",
    "plant", "split", "wanted",
]  # fmt: skip

ENVIRONMENT = "FLEXCONF_PLANT"
"""The environment variable that names the fault of a run."""

_MARK = "+fault:"
_active: list[str] = []
_for_life = ExitStack()  # what is entered here stays while the process lives


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


def labelled(subject: str, name: str | None = None) -> str:
    """The name under which results of `subject` are reported: its own, unless a fault is planted, or `name` will be."""
    name = name or wanted()
    return f"{subject}{_MARK}{name}" if name and _MARK not in subject else subject


def split(label: str) -> tuple[str, str | None]:
    """(subject, fault) of a label; no fault for a subject's own name."""
    subject, _, name = label.partition(_MARK)
    return subject, name or None


@contextmanager
def in_workers(name: str | None) -> Iterator[None]:
    """The fault `name` in every worker that is started meanwhile, None for none more. Raises InputError."""
    if name is None:
        yield
        return
    get(name)
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = name
    try:
        yield
    finally:
        del os.environ[ENVIRONMENT]
        if before is not None:
            os.environ[ENVIRONMENT] = before


def announce() -> None:
    """Say on stderr that a fault is planted, if one is. Raises InputError for an unknown name."""
    name = wanted()
    if name:
        print(f"flexconf: PLANTED FAULT {name}: {get(name).about} The results are no results.", file=sys.stderr)


def from_environment() -> str:
    """Switch the fault of FLEXCONF_PLANT on for the rest of this process; its name, "" for none. Raises InputError."""
    name = os.environ.get(ENVIRONMENT, "")
    if not name or name == active():
        return name
    _for_life.enter_context(plant(name))
    announce()
    return name
