"""The parts that the command lines share: options, and the exit on a bad input."""

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
    """Returns `value`. Raises typer.BadParameter, which names the option, if it is NaN or infinite.

    This check is needed since some versions of click accept "nan" whatever `min` is.
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

Capability = Annotated[
    str | None,
    typer.Option(help="The compute capability that torch-codegen generates for: 9.0 (the default) or 10.0."),
]

_INTERRUPTED = 130  # typer's own exit code for Ctrl-C


def enter(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line called `name`. A bad input ends with one line on stderr and exit code 2, not a traceback."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except InputError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        raise SystemExit(0) from None
    except Exception as error:
        # typer's own errors about options and arguments. Any other exception is a defect and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        # If the command is missing, typer has printed the help, and its error has no message.
        said = error.format_message().rstrip(".") or "a command is missing"
        hint = "; a mod that begins with '-' goes after a '--'" if "option" in str(error).lower() else ""
        refuse(f"{said}{hint}; see {name} --help")
    if code == _INTERRUPTED:
        print("flexconf: interrupted", file=sys.stderr)
    raise SystemExit(code or 0)


def refuse(message: str) -> NoReturn:
    """End the process for a bad input: one line on stderr, exit code 2."""
    line = " ".join(message.split())
    print(f"flexconf: error: {line if len(line) <= 600 else line[:600] + ' ...'}", file=sys.stderr)
    raise SystemExit(2) from None


def run_options(width: int | None, fast_math: bool = False, repeats: int = 1, capability: str | None = None) -> Options:
    """The options of a case's run. Raises InputError unless the vector width is None, 1, 2, 4 or 8."""
    from flexconf.subjects.trial import Options

    if width not in (None, 1, 2, 4, 8):
        raise InputError(f"vector width must be 1, 2, 4 or 8, not {width}")
    return Options(width, fast_math, repeats, capability=capability)
