"""The GPUs of this machine, seen from outside: how many, of what capability, and which worker gets which.

Nothing here makes a CUDA context: that belongs to the workers, which a fault may end.
"""

from __future__ import annotations

import functools
import os

from flexconf.errors import InputError
from flexconf.machine import environment

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@functools.cache
def count() -> int:
    """The number of CUDA devices that this process may use; 0 where torch is built without CUDA."""
    import torch

    return torch.cuda.device_count()


def why_none() -> str:
    """Why `count` is 0, in a few words."""
    import torch

    if torch.version.cuda is None:
        return f"no CUDA device: torch {torch.__version__} is built without CUDA"
    if os.environ.get(_VISIBLE, "unset").strip() in ("", "-1"):
        return f"no CUDA device: {_VISIBLE} hides them all"
    return "no CUDA device"


def require(what: str) -> None:
    """Raises InputError where there is no CUDA device; `what` needs one."""
    if count() == 0:
        raise InputError(f"{what} needs a GPU, and there is none here ({why_none()})")


def assign(place: int) -> dict[str, str]:
    """The environment of worker `place`: one device, chosen round robin, is all that it sees."""
    total = count()
    if total == 0:
        return {}
    listed = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    names = listed[:total] if len(listed) >= total else [str(n) for n in range(total)]
    return {_VISIBLE: names[place % total]}


@functools.cache
def capability() -> str | None:
    """The compute capability of the first GPU that the driver lists, such as "9.0"; None without one."""
    gpus = environment.read().gpus
    return gpus[0].compute_capability if gpus else None
