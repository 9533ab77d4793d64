"""The values that a mod is called with: tensors with a shape, a dtype and the query's device, but without data."""

from __future__ import annotations

from typing import Any

import torch

from .errors import TraceError


class Traced(torch.Tensor):
    """A value of a mod while it is traced.

    It says that it is on the device that the kernel will run on. So a mod may ask for `score.device`, make constants
    there, and move a captured tensor there. With a meta tensor, all of these would end up on the meta device.
    """

    @staticmethod
    def __new__(cls, meta: torch.Tensor, device: torch.device) -> Traced:
        """A value with the shape, strides and dtype of `meta` that says that it is on `device`."""
        value: Traced = torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), dtype=meta.dtype, device=device
        )
        return value

    # PyTorch does not wrap results in this class.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Raises TraceError. This runs only when no trace is running: the mod has kept one of its values."""
        raise TraceError(f"{func} on a value that a mod was called with, after the call; a mod keeps none of them")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"<{str(self.dtype).removeprefix('torch.')} scalar of a mod>"

    def __copy__(self) -> Traced:
        return self

    def __deepcopy__(self, memo: object) -> Traced:
        return self

    def data_ptr(self) -> int:
        """Raises TraceError: there is no data."""
        raise TraceError("a value of a mod has no address")
