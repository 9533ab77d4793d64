"""Runs a rendered kernel through flash-attn-4 on a GPU (L9). Thin on purpose: it adds nothing to the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import check_gradients
from ..eligibility import FLASH_ATTN_4, Profile
from ..errors import InputError
from ..kernel import ENTRY, RenderedKernel
from .module import load
from .names import require


@dataclass
class Fa4Launcher:
    """Runs kernels through `flash_attn.cute`. All tensors must be on one CUDA device.

    `on_stage` is called with "compile" before the call, and never with "launch": flash-attn-4 compiles and launches in
    one step. `run` may return before the device has finished.
    """

    on_stage: Callable[[str], None] = lambda stage: None
    profile: Profile = FLASH_ATTN_4

    def run(self, kernel: RenderedKernel, arguments: Mapping[str, torch.Tensor]) -> None:
        """Fill `arguments["OUT"]` and `arguments["LSE"]` in place, on the current stream of their device (L9.2).

        Raises InputError if the tensors are not on one CUDA device, or require grad while grad mode is on (L5.5);
        LacksName if the installed CuTe DSL lacks a name that the text uses.
        """
        check_gradients(arguments)
        devices = {t.device for t in arguments.values()}
        device = arguments["OUT"].device
        if device.type != "cuda" or len(devices) != 1:
            raise InputError(f"flash-attn-4 needs all tensors on one CUDA device, not {sorted(map(str, devices))}")
        self.on_stage("compile")
        require(kernel.text)
        # flash-attn-4 takes the current stream of the current device. The guard makes the tensors' device current.
        with torch.cuda.device(device):
            getattr(load(kernel.text), ENTRY)(self, **arguments)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **keywords: Any) -> None:
        """Calls flash-attn-4's own forward. Only q, k and v are positional."""
        from flash_attn.cute.interface import _flash_attn_fwd

        aux = keywords["aux_tensors"]
        if aux is not None:
            keywords["aux_tensors"] = [_with_leading_dim(t) for t in aux]
        _flash_attn_fwd(q, k, v, **keywords)

    def block_sparse_tensors(
        self,
        mask_block_cnt: torch.Tensor,
        mask_block_idx: torch.Tensor,
        full_block_cnt: torch.Tensor,
        full_block_idx: torch.Tensor,
        block_size: tuple[int, int],
    ) -> Any:
        """The block lists as flash-attn-4's own type; shapes as in `entry.BlockSparseTensors`."""
        from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

        return BlockSparseTensorsTorch(
            mask_block_cnt, mask_block_idx, full_block_cnt, full_block_idx, block_size=block_size
        )


def _with_leading_dim(tensor: torch.Tensor) -> torch.Tensor:
    """The view itself, or an alias that names its leading dimension if flash-attn-4 cannot find that by itself.

    The leading dimension has stride 1. flash-attn-4 refuses a capture with several dimensions of stride 1 if none of
    them, or more than one, is longer than 1. Any of them may be named: the elements are read by all strides.
    """
    dims = [d for d, stride in enumerate(tensor.stride()) if stride == 1]
    if len(dims) < 2 or sum(tensor.shape[d] > 1 for d in dims) == 1:
        return tensor
    alias = tensor.detach()  # a new object on the same memory: the caller's tensor must not get the attribute
    alias.__leading_dim__ = max(dims, key=lambda d: tensor.shape[d])  # type: ignore[attr-defined]
    return alias
