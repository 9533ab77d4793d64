"""Switches planted faults on, and labels the results of a run that has one.

The faults themselves are test code: `planted.catalogue.FAULTS`, in `conformance/planted` of a checkout. They are not
part of the installed package. `plant(name)` switches a fault on in this process. The environment variable
FLEXCONF_PLANT switches it on in every worker. The results are then labelled `reference.host+fault:NAME`, so that nobody
takes them for results of the subject `reference.host`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Protocol, cast

from flexconf.errors import InputError

ENVIRONMENT = "FLEXCONF_PLANT"
"""The environment variable that names the fault of a run."""

REVERT = "FLEXFLASH_REVERT"
"""The environment variable that puts corrected defects of the source document back (clauses marked [C]).

Its value is a list of names, separated by commas.
"""

_MARK = "+fault:"
_active: list[str] = []
_for_life = ExitStack()  # never closed: its contexts last as long as the process


class Tampering(Protocol):
    """A planted fault, as a run sees it: its name, one sentence about it, and a context that switches it on."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def apply(self) -> AbstractContextManager[None]:
        """Returns a context manager. The lowering or the harness has the fault while the context is open."""
        ...


def faults() -> Mapping[str, Tampering]:
    """The catalogue of faults by name. Raises InputError outside a checkout, where the catalogue is not installed."""
    return cast("Mapping[str, Tampering]", _test_code("planted.catalogue").FAULTS)


def get(name: str) -> Tampering:
    """The fault called `name`. Raises InputError if there is none, or outside a checkout."""
    known = faults()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "`python -m flexconf.planted --list` lists them"
        raise InputError(f"there is no planted fault {name[:60]!r}; {hint}")
    return known[name]


@contextmanager
def plant(name: str) -> Iterator[None]:
    """Switches the fault `name` on in this process until the block ends.

    Raises InputError if the name is unknown, or if a fault is already switched on.
    """
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
    """The name of the fault that is switched on in this process. Returns "" if there is none."""
    return _active[-1] if _active else ""


def wanted() -> str:
    """The name of this run's fault: the one switched on here, or else the one that FLEXCONF_PLANT names.

    Returns "" if there is neither.
    """
    return active() or os.environ.get(ENVIRONMENT, "")


def labelled(subject: str, name: str | None = None) -> str:
    """The label under which results of `subject` are reported.

    It is `SUBJECT+fault:NAME` if `name` is given or this run has a fault, and `subject` itself otherwise. A `subject`
    that is such a label already is returned unchanged.
    """
    name = name or wanted()
    return f"{subject}{_MARK}{name}" if name and _MARK not in subject else subject


def split(label: str) -> tuple[str, str | None]:
    """(subject, fault) of a label. The fault is None if the label is a plain subject name."""
    subject, _, name = label.partition(_MARK)
    return subject, name or None


@contextmanager
def in_workers(name: str | None) -> Iterator[None]:
    """Switches the fault `name` on in every worker that starts before the block ends; None changes nothing.

    Raises InputError if the name is unknown.
    """
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
    """Prints a warning on stderr if this run has a planted fault, or defects of the source document put back.

    Raises InputError if a name is unknown.
    """
    name = wanted()
    if name:
        print(f"flexconf: PLANTED FAULT {name}: {get(name).about} The results are no results.", file=sys.stderr)
    names = _reverted()
    if names:
        print(
            f"flexconf: DEFECTS PUT BACK by {REVERT}: {', '.join(names)}. The results are no results.", file=sys.stderr
        )


def from_environment() -> str:
    """Switches the fault that FLEXCONF_PLANT names on for the rest of this process, and returns its name.

    Returns "" if the variable is unset or empty. Raises InputError if the name is unknown, or if another fault is
    already switched on.
    """
    name = os.environ.get(ENVIRONMENT, "")
    if not name or name == active():
        return name
    _for_life.enter_context(plant(name))
    announce()
    return name


def revert_from_environment() -> tuple[str, ...]:
    """Puts the defects that FLEXFLASH_REVERT names back for the rest of this process, and returns their names.

    Raises InputError if a name is unknown.
    """
    names = _reverted()
    if names:
        _for_life.enter_context(_test_code("planted.corrections").reverted(*names))
    return names


def _reverted() -> tuple[str, ...]:
    names = tuple(filter(None, os.environ.get(REVERT, "").split(",")))
    known = _test_code("planted.corrections").DESCRIPTIONS if names else {}
    for name in names:
        if name not in known:
            raise InputError(f"{REVERT} names {name!r}; there are {', '.join(known)}")
    return names


def _test_code(name: str) -> ModuleType:
    # Imported by name, since the installed package must not depend on test code.
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        raise InputError(
            "planted faults are test code, which is not installed; use a checkout, with `pip install -e .`"
        ) from None
