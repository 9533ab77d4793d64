"""`flexconf check | render`: a user's own mod."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexconf.cli import console
from flexconf.cli.options import Capability, FastMath, Json, Limit, SubjectName, Width, finite, run_options
from flexconf.errors import InputError

if TYPE_CHECKING:
    from flexconf.checks.own_mod import CheckTask


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(check)
    app.command()(render)


Detach = Annotated[
    bool, typer.Option("--detach", help="Check values alone: parameters and captures stop requiring grad.")
]
_MOD = "A score_mod as text, such as `score + bias[h, q - kv]`, or `module:function`."


def check(
    mod: Annotated[str | None, typer.Argument(help=_MOD, show_default=False)] = None,
    mask: Annotated[str | None, typer.Option(help="A mask_mod, as text or `module:function`.")] = None,
    buffer: Annotated[
        list[str] | None, typer.Option(help="A captured tensor: `NAME=SHAPE:DTYPE[:VALUES[:LAYOUT]]`. Repeatable.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="`B,H,Hkv,M,N,D[,Dv]`.")] = None,
    dtype: Annotated[str, typer.Option(help="`bfloat16` or `float16`.")] = "bfloat16",
    layout: Annotated[str, typer.Option(help="How q, k and v lie in memory.")] = "contiguous",
    scale: Annotated[float | None, typer.Option(callback=finite, help="Factor on Q K^T; by default 1/sqrt(D).")] = None,
    block_size: Annotated[str, typer.Option(help="Block size of the mask, `q,kv`.")] = "128,128",
    subject: SubjectName = "reference.host",
    vector_width: Width = None,
    fast_math: FastMath = False,
    capability: Capability = None,
    detach: Detach = False,
    time_limit: Limit = None,
    show_kernel: Annotated[bool, typer.Option("--show-kernel", help="Print the rendered kernel as well.")] = False,
    as_json: Json = False,
) -> None:
    """Check that the lowering of your own mod is right on every element.

    Exit code 0 if it is, 1 if it is not, 2 for a bad input.

    Examples:

    `flexconf check 'score + bias[h, q - kv]' --buffer 'bias=H,M+N:float32' --mask 'q >= kv' --shape 2,4,2,300,200,64`

    `flexconf check mymodule:my_score_mod --shape 1,8,8,512,512,64`

    `flexconf check mymodule:layer.score_mod --detach`, where the layer has parameters
    """
    from flexconf.checks import own_mod as checker
    from flexconf.cli import tables

    what = replace(
        _task(mod, mask, buffer, shape, dtype, layout, scale, block_size, detach),
        subject=subject,
        options=run_options(vector_width, fast_math, capability=capability),
    )
    result = checker.check(what, time_limit)
    if as_json:
        console.print_json({**result.outcome.to_json(), "passed": result.passed, "why": result.why})
    else:
        if show_kernel:
            console.print_code(checker.kernel_text(what))
        console.screen().print(tables.verdict(result))
    raise typer.Exit(0 if result.passed else 1)


def render(
    what: Annotated[str, typer.Argument(help="A case's name, a score_mod as text, or `module:function`.")],
    mask: Annotated[str | None, typer.Option(help="A mask_mod, as text or `module:function`.")] = None,
    buffer: Annotated[
        list[str] | None, typer.Option(help="A captured tensor: `NAME=SHAPE:DTYPE[:VALUES[:LAYOUT]]`. Repeatable.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="`B,H,Hkv,M,N,D[,Dv]`.")] = None,
    dtype: Annotated[str, typer.Option(help="`bfloat16` or `float16`.")] = "bfloat16",
    detach: Detach = False,
) -> None:
    """Print the kernel text that is rendered for a case or a mod.

    Examples: `flexconf render alibi`, `flexconf render 'torch.tanh(score / 20) * 20' --mask 'q >= kv'`
    """
    from flexconf.cases import catalogue
    from flexconf.checks import own_mod as checker

    if what.replace("_", "").replace("@", "").replace("-", "").replace(".", "").isalnum() and what != "score":
        task = checker.of_case(catalogue.select(catalogue.load(), [what])[0])
    else:
        task = _task(what, mask, buffer, shape, dtype, "contiguous", None, "128,128", detach)
    console.print_code(checker.kernel_text(task))


def _task(
    score_mod: str | None,
    mask: str | None,
    buffers: list[str] | None,
    shape: str | None,
    dtype: str,
    layout: str,
    scale: float | None,
    block_size: str,
    detach: bool,
) -> CheckTask:
    from flexconf.cases.problem import Problem
    from flexconf.checks import own_mod as checker

    changes: dict[str, Any] = {"dtype": dtype, "layout": layout, "scale": scale}
    problem = Problem.parse_shape(shape, **changes) if shape is not None else Problem(**changes)
    sizes = block_size.split(",")
    if len(sizes) != 2 or not all(s.strip().isdecimal() for s in sizes):
        raise InputError(f"block size {block_size!r} must be two whole numbers, such as 128,128")
    return checker.task(
        score_mod,
        mask,
        buffers=buffers or (),
        problem=problem,
        block=(int(sizes[0]), int(sizes[1])),
        detach=detach,
    )
