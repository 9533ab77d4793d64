"""The reference lowering as subjects: its rendered text on the CPU, in a plain GPU kernel, and in flash-attn-4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import flexflash
from flexconf.inputs import Inputs
from flexconf.subjects import ptx
from flexconf.subjects.canary import Canary
from flexconf.subjects.trial import Attend, Attended, Options, Refused, StageClock, raised_by
from flexflash.eligibility import FLASH_ATTN_4


def host(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `reference.host`."""
    from flexflash.launch.host import HostLauncher

    return _attend(given, clock, options, HostLauncher(options.vector_width, clock.enter))


def simt(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `reference.simt`."""
    from flexflash.launch.simt import SimtLauncher

    launcher = SimtLauncher(options.vector_width, clock.enter)
    attended = _attend(given, clock, options, launcher)
    return replace(attended, digests={**attended.digests, **ptx.named(map(ptx.of, launcher.compiled()))})


def fa4(given: Inputs, clock: StageClock, options: Options) -> Attended:
    """The subject `reference.fa4`.

    An AssertionError, NotImplementedError or ValueError that flash-attn-4 itself raises counts as a refusal at compile.
    """
    from flexflash.launch.fa4 import Fa4Launcher

    try:
        with ptx.of_flash_attn() as code:
            attended = _attend(given, clock, options, Fa4Launcher(clock.enter))
    except (AssertionError, NotImplementedError, ValueError) as error:
        if not raised_by(error, "flash_attn.cute."):
            raise
        raise Refused("compile", f"{type(error).__name__}: {error}") from error
    return replace(attended, digests={**attended.digests, **ptx.named(code.values())})


def through(make: Callable[..., flexflash.Launcher]) -> Attend:
    """The reference lowering with the launcher that `make(on_stage=...)` returns, for tests that plant a fault."""

    def attend(given: Inputs, clock: StageClock, options: Options) -> Attended:
        return _attend(given, clock, options, make(on_stage=clock.enter))

    return attend


def _attend(given: Inputs, clock: StageClock, options: Options, launcher: flexflash.Launcher) -> Attended:
    try:
        kernel = flexflash.lower(
            given.q,
            given.k,
            given.v,
            given.score_mod,
            given.block_mask,
            given.scale,
            _kernel_options(options, launcher),
            profile=launcher.profile,
            on_stage=clock.enter,
        )
    except flexflash.FlexFlashError as error:
        raise Refused(error.stage, str(error)) from error

    def launch(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        if 0 not in (*kernel.output_size[:3], given.k.shape[2]):
            try:
                launcher.run(kernel, kernel.arguments(given.q, given.k, given.v, out, lse))
            except flexflash.FlexFlashError as error:
                raise Refused(error.stage, str(error)) from error
        return out, lse

    dense_lse = (kernel.lse_size[1] * kernel.lse_size[2], kernel.lse_size[2], 1)
    out = Canary.around(kernel.output_size, kernel.output_stride, 0.0, given.q)
    lse = Canary.around(kernel.lse_size, dense_lse, float("-inf"), given.q.new_empty(0, dtype=torch.float32))
    launch(out.tensor, lse.tensor)
    clock.enter("launch")
    trespassed = [name for name, canary in (("the output", out), ("the LSE", lse)) if not canary.intact()]
    return Attended(
        out=out.tensor,
        lse=lse.tensor,
        again=lambda: launch(*kernel.allocate()),
        digests={"kernel": kernel.digest},
        trespass=f"memory around {' and '.join(trespassed)} was written"
        if trespassed
        else _misplaced(out.tensor, given.q),
    )


def _misplaced(out: Tensor, query: Tensor) -> str:
    """Says how the strides of the output are wrong.

    Returns "" if the output is empty, or dense in the order of the query's strides (L5.1).
    """
    expected, running = [0] * out.dim(), 1
    for dimension in sorted(range(out.dim()), key=lambda d: (query.stride(d), -d)):
        expected[dimension] = running
        running *= out.shape[dimension]
    if out.numel() == 0 or list(out.stride()) == expected:
        return ""
    return (
        f"the output's strides are {out.stride()}, not {tuple(expected)}, which are dense in the order of the query's"
    )


def _kernel_options(options: Options, launcher: flexflash.Launcher) -> dict[str, object]:
    asked: dict[str, object] = {}
    if options.fast_math:
        asked["fast_math"] = True
    # flash-attn-4 takes the vector width from the rendered text. The other launchers take it as an argument.
    if options.vector_width is not None and launcher.profile is FLASH_ATTN_4:
        asked["SCORE_MOD_VEC_SIZE"] = options.vector_width
    return asked
