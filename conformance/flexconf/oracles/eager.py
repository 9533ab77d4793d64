"""Checks whether PyTorch itself runs the mods of a case, at every index of the problem and on a CPU.

A mod that PyTorch refuses is a bad input: no lowering of it is right or wrong. `trial` finds this out before it runs a
kernel for a case that expects a result. So no such kernel reads outside a buffer (L7.4) or divides an integer by zero.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexconf.errors import InputError
from flexconf.oracles.evaluation import IndexingByTensors, Kind, over_indices

if TYPE_CHECKING:
    from flexconf.inputs import Inputs

_SAID = 200  # characters of PyTorch's own message


def require(given: Inputs) -> None:
    """Raises InputError if PyTorch does not run the mods. The message names the case."""
    why = refusal(given)
    if why:
        raise InputError(f"case {given.case.name!r}: {why}")


def refusal(given: Inputs) -> str:
    """The reason why PyTorch does not run the score_mod or the mask_mod of `given`, as one sentence.

    Returns "" if PyTorch runs both, or if the problem is empty. Both mods are mapped over the indices with
    `torch.vmap`, as FlexAttention maps them. The scores are zeros.
    """
    p = given.case.problem
    sizes = (p.B, p.H, p.M, p.N)
    if 0 in sizes:
        return ""
    masks = (given.block_mask.mask_mod if given.block_mask is not None else None, given.mask_mod)
    mods: dict[Kind, Any] = {"score": given.score_mod, "mask": next((m for m in masks if m is not None), None)}
    return next((why for kind, mod in mods.items() if mod is not None and (why := _said_of(mod, kind, sizes))), "")


class _NoResult(Exception):
    """The mod returned something other than a scalar tensor, or a mask_mod returned another dtype than bool."""


def _said_of(mod: Callable[..., Tensor], kind: Kind, sizes: tuple[int, int, int, int]) -> str:
    def scalar(*given: Tensor) -> Tensor:
        result: object = mod(*given)
        if not isinstance(result, Tensor):
            like = "torch.full_like(score, x)" if kind == "score" else "torch.ones_like(q, dtype=torch.bool)"
            returned = f"{type(result).__name__} {str(result)[:40]}"
            raise _NoResult(f"returns the Python {returned}, not a tensor; write {like}")
        if result.dim():
            raise _NoResult(f"returns the shape {tuple(result.shape)}; a mod returns a scalar")
        if kind == "mask" and result.dtype != torch.bool:
            raise _NoResult(f"returns {result.dtype}, but a mask is bool; write a comparison, such as q >= kv")
        return result

    first = [torch.zeros(sizes)] if kind == "score" else []
    indices = [torch.arange(n, dtype=torch.int32) for n in sizes]
    try:
        with torch.no_grad(), IndexingByTensors():
            over_indices(scalar, kind)(*first, *indices)
    except _NoResult as error:
        return f"the {kind}_mod {error}"
    except RecursionError:
        return f"the {kind}_mod recurses without end"
    except Exception as error:  # a user's function may raise any exception
        return _sentence(error, kind, _line(error, mod))
    return ""


def _sentence(error: Exception, kind: Kind, at: str) -> str:
    said = " ".join(str(error).split())[:_SAID]
    if isinstance(error, IndexError) and "out of bounds" in said:
        return f"the {kind}_mod reads outside a buffer: {said}; valid are -size to size - 1{at}"
    if "ZeroDivisionError" in said:
        return f"the {kind}_mod divides an integer by zero, which PyTorch refuses{at}"
    return f"PyTorch cannot run the {kind}_mod: {type(error).__name__}: {said}{at}"


def _line(error: Exception, mod: Callable[..., Tensor]) -> str:
    """The line of the mod that raised `error`, as " (at file:line: text)", or " (at text)" if the mod has no file.

    Returns "" if the line is not known.
    """
    code = getattr(mod, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    if not frames or frames[-1].lineno is None:
        return ""
    text = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()[:120]
    if frames[-1].filename.startswith("<"):
        return f" (at {text.removeprefix('return ')})"
    return f" (at {frames[-1].filename}:{frames[-1].lineno}: {text})"
