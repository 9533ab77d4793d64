"""Compiles a mod's text into a function: the code that a user would have written, with its source."""

from __future__ import annotations

import ast
import hashlib
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexconf.language.modtext import forms
from flexconf.language.modtext.checker import Checker
from flexconf.language.modtext.syntax import normalised, parse
from flexconf.language.modtext.vocabulary import CONSTANTS, Kind, ModTextError, check_capture_name


class ScalarIndexing(TorchFunctionMode):
    """Turns `tensor[scalar tensors and ints]` into `aten.index`, as FlexAttention does.

    So no index is read back to Python, and `bias[b][q]` means `bias[b, q]`. The mode sees calls outside vmap only; use
    PyTorch's own mode under vmap.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            tensor, index = args
            parts = index if isinstance(index, tuple) else (index,)
            if all(isinstance(part, Tensor | int) for part in parts):
                indices = [
                    part if isinstance(part, Tensor) else torch.tensor(part, device=tensor.device) for part in parts
                ]
                return torch.ops.aten.index(tensor, indices)
        return func(*args, **(kwargs or {}))


def compile_mod(
    text: str,
    kind: Kind,
    captures: Mapping[str, Tensor],
    constants: Mapping[str, int | float],
    name: str = "mod",
    form: str = "function",
) -> Callable[..., Tensor]:
    """Compiles the mod `text` into a function of scalar tensors, or into another callable of `form` (see `forms`).

    `kind` "score" gives `(score, b, h, q, kv) -> score`, "mask" gives `(b, h, q, kv) -> bool`. `captures` are the
    tensors that the mod may read, by name. `constants` are the sizes of the problem (B, H, Hkv, M, N, D, Dv) as Python
    numbers. `name` appears in tracebacks. Raises ModTextError if the text is outside the grammar.

    >>> import inspect
    >>> mod = compile_mod("score - slope[h] * (q - kv)", "score", {"slope": torch.tensor([0.5, 0.25])}, {})
    >>> print(inspect.getsource(mod), end="")
        def score_mod(score, b, h, q, kv):
            return score - slope[h] * (q - kv)
    >>> score, b, h, q, kv = torch.tensor(3.0), *map(torch.tensor, (0, 1, 7, 5))
    >>> mod(score, b, h, q, kv).item()
    2.5
    >>> compile_mod("0 <= q - kv < 64", "mask", {}, {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    flexconf.language.modtext.vocabulary.ModTextError: line 1, column 1: a chained comparison is Python control ...
    """
    statements = parse(text)
    shapes = {key: tuple(value.shape) for key, value in captures.items()}
    for key in captures:
        check_capture_name(key)
    checker = Checker(kind, shapes, constants)
    for statement in statements:
        checker.statement(statement)

    cells: dict[str, Any] = {}
    for used in checker.used:
        if used in captures:
            cells[used] = captures[used]
        elif used in constants:
            cells[used] = constants[used]
        elif used in CONSTANTS:
            cells[used] = CONSTANTS[used]
    tensors = [used for used in cells if used in captures]
    source = forms.source(normalised(text), statements, kind, list(cells), tensors, form)
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<flexconf {kind}_mod {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    # Dynamo looks up the function's globals in the module that `__name__` names. This module defines them.
    namespace: dict[str, Any] = {"torch": torch, "__name__": __name__}
    tree = ast.parse(source, filename)
    assert forms.said(tree, kind, tensors, form) == forms.said_by(statements), (
        f"{filename}: what was checked is not what would run"
    )
    exec(compile(tree, filename, "exec"), namespace)  # the text has passed the checker above
    mod: Callable[..., Tensor] = namespace["make_mod"](**cells)
    return mod


def check_result(mod: Callable[..., Tensor], kind: Kind) -> None:
    """Calls the mod once on meta tensors, and checks the dtype and rank of its result.

    A mask_mod must return a bool scalar, a score_mod a scalar of a floating dtype. `mod` must be a function by
    compile_mod: for the call, its captures are replaced by meta tensors of the same shape and dtype. Raises
    ModTextError if the result is another one, or PyTorch raises an error.

    >>> check_result(compile_mod("q - kv", "mask", {}, {}), "mask")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    flexconf.language.modtext.vocabulary.ModTextError: the result is int32, but a mask is bool; ...
    """
    meta = torch.device("meta")
    index = [torch.empty((), dtype=torch.int32, device=meta) for _ in range(4)]
    scalars = index if kind == "mask" else [torch.empty((), dtype=torch.float32, device=meta), *index]
    with torch.no_grad(), ScalarIndexing():
        try:
            result: object = _without_data(mod)(*scalars)
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModTextError(f"PyTorch refuses it: {reason[0][:200]}") from None
    if not isinstance(result, Tensor):
        like = "torch.full_like(score, x)" if kind == "score" else "torch.ones_like(q, dtype=torch.bool)"
        raise ModTextError(f"the result is the Python value {result!r}, not a tensor; write {like}")
    if result.dim() != 0:
        raise ModTextError(f"the result has the shape {tuple(result.shape)}; a mod returns a scalar")
    if kind == "mask" and result.dtype != torch.bool:
        raise ModTextError(
            f"the result is {_short(result.dtype)}, but a mask is bool; write a comparison, such as q >= kv"
        )
    if kind == "score" and not result.dtype.is_floating_point:
        raise ModTextError(
            f"the result is {_short(result.dtype)}, but a score is a float; "
            "write torch.where(condition, score, -inf) or x.to(torch.float32)"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _without_data(mod: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same mod with its captures on the meta device. `mod` must come from compile_mod."""
    factory_globals = mod.__globals__
    names = mod.__code__.co_freevars
    cells = [cell.cell_contents for cell in mod.__closure__ or ()]
    swapped = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value
        for name, value in zip(names, cells, strict=True)
    }
    made: Callable[..., Tensor] = factory_globals["make_mod"](**swapped)
    return made
