"""Finds the tensors that a user's mod reads and that require grad, and detaches them for a check."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from flexconf.errors import InputError
from flexconf.language.modtext import Kind
from flexconf.oracles.evaluation import IndexingByTensors, over_indices


class _Watching(TorchFunctionMode):
    """Keeps the tensors that require grad and that a function of PyTorch gets."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for given in pytree.tree_leaves((args, kwargs or {})):
            if isinstance(given, Tensor) and given.requires_grad and all(given is not other for other in self.found):
                self.found.append(given)
        return func(*args, **(kwargs or {}))


def wanting(mod: Callable[..., Tensor], kind: Kind) -> list[Tensor]:
    """The tensors that require grad and that `mod` reads, in the order of their first use.

    The mod runs once, at b = h = q = kv = 0 and with grad mode off. A mod that PyTorch refuses has those before that.
    """
    first = [torch.zeros(1, 1, 1, 1)] if kind == "score" else []
    watching = _Watching()
    with torch.no_grad(), IndexingByTensors(), watching:
        try:
            over_indices(mod, kind)(*first, *(torch.zeros(1, dtype=torch.int32) for _ in range(4)))
        except Exception:
            return watching.found  # the check itself says what is wrong with the mod
    return watching.found


def described(mod: Callable[..., Tensor], tensors: Sequence[Tensor]) -> str:
    """The tensors by the names under which the mod reaches them, with their shapes: "weight (8, 64)"."""
    names = {id(tensor): name for name, tensor in reversed([*_reachable(mod)])}
    return ", ".join(f"{names.get(id(t), 'a tensor')} {tuple(t.shape)}" for t in tensors)


def detach(mod: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
    """Makes the tensors stop requiring grad, wherever the mod keeps them. Raises InputError if one cannot.

    The tensors themselves are changed, so this is for a process that runs one check and ends.
    """
    for tensor in tensors:
        try:
            if tensor.is_leaf:
                tensor.requires_grad_(False)
            else:
                torch.utils.swap_tensors(tensor, tensor.detach())  # type: ignore[no-untyped-call, unused-ignore]
        except RuntimeError as error:
            said = " ".join(str(error).split())[:120]
            raise InputError(
                f"{described(mod, [tensor])} cannot be detached; detach it in your module: {said}"
            ) from None


def _reachable(mod: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(mod, functools.partial):
        yield from _reachable(mod.func)
        yield from _named({f"argument {n}": value for n, value in enumerate(mod.args)} | dict(mod.keywords))
        return
    owner = getattr(mod, "__self__", None)
    owner = mod if owner is None and not inspect.isfunction(mod) else owner
    if owner is not None:
        yield from _named({"self": owner} if isinstance(owner, torch.nn.Module) else vars(owner))
    function = getattr(mod, "__func__", mod)
    if inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        yield from _named({**used.globals, **used.nonlocals})


def _named(values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, torch.nn.Module):
            yield from ((f"{name}.{inner}".removeprefix("self."), p) for inner, p in value.named_parameters())
