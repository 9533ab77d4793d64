"""The whole lowering in one call: from mods and tensors to output and LSE, through any launcher (L5.4, L8)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.attention.flex_attention import BlockMask

from .errors import InputError
from .kernel import Launcher, lower
from .trace import Mod


def flex_flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    score_mod: Mod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    kernel_options: Mapping[str, object] | None = None,
    launcher: Launcher | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and run. Returns (output, LSE) (L5.4, L8).

    The output is (B, H, M, Dv) in the query's dtype; the LSE is (B, H, M), float32, a natural logarithm.

    `launcher` is a `launch.host.HostLauncher` by default. The output is dense, its strides in the order of the query's
    strides. If B, H, M or N is 0, nothing is launched (L9.4). Raises the errors of `lower`, and InputError if
    `launcher` is not a launcher.
    """
    if launcher is None:
        from .launch.host import HostLauncher

        launcher = HostLauncher()
    elif isinstance(launcher, type) or not (hasattr(launcher, "profile") and hasattr(launcher, "run")):
        raise InputError(f"launcher must be a launcher, such as flexflash.launch.host.HostLauncher(), not {launcher!r}")
    kernel = lower(q, k, v, score_mod, block_mask, scale, kernel_options, profile=launcher.profile)
    out, lse = kernel.allocate()
    if 0 not in (*out.shape[:3], k.shape[2]):
        launcher.run(kernel, kernel.arguments(q, k, v, out, lse))
    return out, lse
