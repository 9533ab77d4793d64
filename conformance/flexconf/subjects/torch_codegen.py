"""PyTorch's own CuTeDSL code generator as a subject on a CPU: compiles and runs the mods that BACKEND FLASH generates.

Torch's own code does everything up to the entry of the attention kernel; see `torch_private`. The entry is the
reference's host launcher, or for Blackwell's code one made from it. It compiles the two generated functions with the
CuTe DSL compiler, walks the block lists that torch passes, and computes a plain softmax around them. So a wrong result
means that torch generated or passed something wrong. The subject does not test flash-attn-4's kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

from torch import Tensor

from flexconf.inputs import Inputs
from flexconf.subjects import get, torch_flex, torch_private
from flexconf.subjects.torch_private import HOPPER, Generated, HookChanged, NotStoodIn
from flexconf.subjects.trial import Attended, Options, Refused, StageClock


def codegen(given: Inputs, clock: StageClock, options: Options, generated: Generated | None = None) -> Attended:
    """The subject `torch-codegen`. It uses production's vector width: the generated text is right only for that one.

    `generated` receives the kernel of the first launch and its arguments, also if the launch fails.
    """
    first = generated if generated is not None else Generated()
    out, lse = _attend(given, clock, first, options)

    def again() -> tuple[Tensor | None, Tensor | None]:
        return _attend(given, clock, Generated(), options)

    clock.enter("launch")
    return Attended(out, lse, again, {"kernel": _digest(first.kernels)})


def _attend(given: Inputs, clock: StageClock, into: Generated, options: Options) -> tuple[Tensor | None, Tensor | None]:
    from flexconf.subjects import blackwell

    capability = get("torch-codegen").capability(options.capability) or HOPPER
    reached = False
    host = on_host(clock, options.stand_ins, capability)

    def entry(q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> None:
        nonlocal reached
        reached = True
        host(q, k, v, **keywords)

    try:
        torch_private.flex_flash(
            given.q,
            given.k,
            given.v,
            score_mod=given.score_mod,
            block_mask=given.block_mask,
            scale=given.scale,
            enable_gqa=given.q.shape[1] != given.k.shape[1],
            entry=entry,
            utils=blackwell.UTILS,
            capability=capability,
            on_stage=clock.enter,
            generated=into,
        )
    except HookChanged:
        raise
    except Exception as error:
        for link in torch_flex.chain(error):
            if isinstance(link, NotStoodIn):
                raise Refused("launch", str(link)) from error
        if not reached:
            torch_flex.judge(error, clock)
        raise
    return into.out, into.lse


def on_host(clock: StageClock, stand_ins: bool = False, capability: str = HOPPER) -> torch_private.ForwardEntry:
    """A function with the arguments of flash-attn-4's forward, which computes the attention on the CPU.

    `stand_ins` is as in `Options`. It calls the mods as flash-attn-4 does on a GPU of `capability`.
    """

    def entry(q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> None:
        with _stand_ins(stand_ins):
            _host(q, k, v, clock, capability, **keywords)

    return entry


def _host(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    clock: StageClock,
    capability: str,
    *,
    softmax_scale: float,
    return_lse: bool,
    score_mod: Any,
    mask_mod: Any,
    out: Tensor,
    lse: Tensor,
    block_sparse_tensors: Any,
    aux_tensors: list[Tensor] | None,
) -> None:
    """Stands in for flash-attn-4's forward entry, with its vector width rules: q (B, M, H, D), k (B, N, Hkv, D).

    The rules are those of `capability`.
    """
    from flexconf.subjects.blackwell import BlackwellLauncher
    from flexflash.launch.entry import BlockSparseTensors
    from flexflash.launch.host import HostLauncher

    if 0 in (*q.shape[:3], k.shape[1]):
        # There are no scores. The kernel, and not the code generator, decides the result of an empty attention.
        out.zero_()
        lse.fill_(float("-inf"))
        return
    launcher: HostLauncher = BlackwellLauncher(on_stage=clock.enter)
    if capability == HOPPER:
        launcher = HostLauncher(getattr(score_mod, "__vec_size__", None), clock.enter)
    lists = BlockSparseTensors(*block_sparse_tensors) if block_sparse_tensors is not None else None
    launcher.forward(
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        return_lse=return_lse,
        score_mod=score_mod,
        mask_mod=mask_mod,
        out=out,
        lse=lse,
        block_sparse_tensors=lists,
        aux_tensors=aux_tensors,
    )


@contextlib.contextmanager
def _stand_ins(everywhere: bool) -> Iterator[None]:
    """Replaces functions of `cute.math` by the reference's functions of the same name.

    Without `everywhere` it replaces only erf: CuTe's own erf compiles for GPUs, but not for a CPU.
    """
    from cutlass import cute

    from flexflash import prelude
    from flexflash.launch import module

    names = [n for n in prelude.SOURCES if hasattr(cute.math, n)] if everywhere else ["erf"]
    wanted = {n for name in names for n in (name, f"{name}_f64") if n in prelude.SOURCES}
    ours = vars(module.load("import cutlass\nimport cutlass.cute as cute\n\n\n" + prelude.render(wanted)))
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(cute.math, name, _standing_in(name, ours)))
        yield


def _standing_in(name: str, ours: Mapping[str, Any]) -> Callable[..., Any]:
    import cutlass
    from cutlass import cute

    theirs = getattr(cute.math, name)

    def function(*operands: Any, fastmath: bool = False) -> Any:
        of_double = operands[0].dtype is cutlass.Float64 and f"{name}_f64" in ours
        # A reference function that calls CuTe's function of this name needs CuTe's own.
        with patch.object(cute.math, name, theirs):
            return ours[f"{name}_f64" if of_double else name](*operands)

    return function


def _digest(kernels: list[str]) -> str:
    return hashlib.sha256("\n".join(kernels).encode()).hexdigest()
