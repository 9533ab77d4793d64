"""The GPUs of this machine: how many there are, their compute capability, and which worker gets which GPU.

Nothing here creates a CUDA context. Only workers create one, since a fault may end the process that has it.
"""

from __future__ import annotations

import functools
import os

from flexconf.errors import InputError
from flexconf.machine import environment

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@functools.cache
def count() -> int:
    """The number of CUDA devices that this process may use. Returns 0 if torch is built without CUDA."""
    import torch

    return torch.cuda.device_count()


def why_none() -> str:
    """The reason, in a few words, why `count` is 0."""
    import torch

    if torch.version.cuda is None:
        return f"no CUDA device: torch {torch.__version__} is built without CUDA"
    if os.environ.get(_VISIBLE, "unset").strip() in ("", "-1"):
        return f"no CUDA device: {_VISIBLE} hides them all"
    return "no CUDA device"


def require(what: str) -> None:
    """Raises InputError if there is no CUDA device. The message says that `what` needs one."""
    if count() == 0:
        raise InputError(f"{what} needs a GPU, and there is none here ({why_none()})")


def assign(place: int) -> dict[str, str]:
    """The environment variables that show worker `place` a single GPU, chosen round robin.

    Returns {} if there is no GPU.
    """
    total = count()
    if total == 0:
        return {}
    listed = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    names = listed[:total] if len(listed) >= total else [str(n) for n in range(total)]
    return {_VISIBLE: names[place % total]}


@functools.cache
def capability() -> str | None:
    """The compute capability of the first GPU that nvidia-smi lists, such as "9.0". Returns None if it lists none."""
    gpus = environment.read().gpus
    return gpus[0].compute_capability if gpus else None
