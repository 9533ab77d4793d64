"""What the command lines have in common: options, and how a bad input ends them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from flexconf.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def finite(value: float | None) -> float | None:
    """A number that is one. Some versions of click take "nan" for at least whatever `min` says.

    Raises typer.BadParameter, which names the option.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of anything; give a finite one")
    return value


_INTERRUPTED = 130  # what typer itself makes of a Ctrl-C


def enter(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line called `name`. A bad input is one line on stderr and exit code 2, never a traceback."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except InputError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        raise SystemExit(0) from None
    except Exception as error:
        # typer's own errors about options and arguments; anything else is a defect and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        # It has printed the help where the command is missing, and says nothing more.
        said = error.format_message().rstrip(".") or "a command is missing"
        hint = "; a mod that begins with '-' goes after a '--'" if "option" in str(error).lower() else ""
        _refuse(f"{said}{hint}; see {name} --help")
    if code == _INTERRUPTED:
        print("flexconf: interrupted", file=sys.stderr)
    raise SystemExit(code or 0)


def _refuse(message: str) -> NoReturn:
    line = " ".join(message.split())
    print(f"flexconf: error: {line if len(line) <= 600 else line[:600] + ' ...'}", file=sys.stderr)
    raise SystemExit(2) from None
