"""What ran with a planted fault says so, and a fault is switched on here; the faults themselves are test code.

They lie in `conformance/planted` of a checkout and are no part of the installed package: `planted.catalogue.FAULTS`.
`plant(name)` switches one on in this process, and the environment variable FLEXCONF_PLANT in every worker. The subject
of the results is then `reference.host+fault:NAME`, which is no subject's name.
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
"""The environment variable that puts defects of the source document back, names separated by commas (clauses [C])."""

_MARK = "+fault:"
_active: list[str] = []
_for_life = ExitStack()  # what is entered here stays while the process lives


class Fault(Protocol):
    """What a run has to know of a fault: its name, a sentence about it, and the context in which it is there."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def apply(self) -> AbstractContextManager[None]:
        """The context in which the lowering, or the harness, is wrong."""
        ...


def faults() -> Mapping[str, Fault]:
    """The catalogue by name. Raises InputError where it is not: outside a checkout."""
    return cast("Mapping[str, Fault]", _test_code("planted.catalogue").FAULTS)


def get(name: str) -> Fault:
    """The fault of that name. Raises InputError."""
    known = faults()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "`python -m flexconf.planted --list` lists them"
        raise InputError(f"there is no planted fault {name[:60]!r}; {hint}")
    return known[name]


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


def revert_from_environment() -> tuple[str, ...]:
    """Put the defects of FLEXFLASH_REVERT back for the rest of this process; their names. Raises InputError."""
    names = tuple(filter(None, os.environ.get(REVERT, "").split(",")))
    if names:
        corrections = _test_code("planted.corrections")
        for name in names:
            if name not in corrections.DESCRIPTIONS:
                raise InputError(f"{REVERT} names {name!r}; there are {', '.join(corrections.DESCRIPTIONS)}")
        _for_life.enter_context(corrections.reverted(*names))
    return names


def _test_code(name: str) -> ModuleType:
    # By name, since the installed package must not need it.
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        raise InputError(
            "planted faults are test code, which is not installed; use a checkout, with `pip install -e .`"
        ) from None
