"""What the command lines have in common: options, and how a bad input ends them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.subjects.trial import Options

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def finite(value: float | None) -> float | None:
    """A number that is one. Some versions of click take "nan" for at least whatever `min` says.

    Raises typer.BadParameter, which names the option.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of anything; give a finite one")
    return value


Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one a CPU.")]
SubjectName = Annotated[str, typer.Option(help="What to test; `flexconf subjects` lists what there is.")]
FastMath = Annotated[
    bool, typer.Option("--fast-math", help="Let the mods use approximate GPU instructions, within their own bound.")
]
Limit = Annotated[
    float | None,
    typer.Option(callback=finite, min=0.1, help="Seconds a case may take; by default 60, or 180 on a GPU."),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--vector-width", help="Keys that a mod sees at once: 1, 2, 4 or 8. By default flash-attn-4's choice."
    ),
]

_INTERRUPTED = 130  # what typer itself makes of a Ctrl-C


def enter(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line called `name`. A bad input is one line on stderr and exit code 2, never a traceback."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except InputError as error:
        refuse(str(error))
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
        refuse(f"{said}{hint}; see {name} --help")
    if code == _INTERRUPTED:
        print("flexconf: interrupted", file=sys.stderr)
    raise SystemExit(code or 0)


def refuse(message: str) -> NoReturn:
    """End the process as a bad input does: one line on stderr, exit code 2."""
    line = " ".join(message.split())
    print(f"flexconf: error: {line if len(line) <= 600 else line[:600] + ' ...'}", file=sys.stderr)
    raise SystemExit(2) from None


def run_options(width: int | None, fast_math: bool, repeats: int = 1) -> Options:
    """How a case is run. Raises InputError for a width that no kernel has."""
    from flexconf.subjects.trial import Options

    if width not in (None, 1, 2, 4, 8):
        raise InputError(f"vector width must be 1, 2, 4 or 8, not {width}")
    return Options(width, fast_math, repeats)
