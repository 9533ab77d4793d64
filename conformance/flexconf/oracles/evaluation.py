"""Calls the user's own mod over a whole problem and follows it operation by operation.

The mod runs under `torch.vmap` nested four times: this is how FlexAttention itself gives it scalar indices (L7.2). A
dispatch mode beneath vmap sees the physical ATen operations. It executes each on the real tensors, so that dtypes,
promotion and integer wrap-around are PyTorch's. It keeps a `Shadow` for each result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from flexconf.oracles import error_model as em
from flexconf.oracles import (
    pieces,  # noqa: F401  (it adds its rule to the table)
    reduction,
)
from flexconf.oracles.operation import Call, UnmodelledOperation
from flexconf.oracles.promotion import PlainPromotion
from flexconf.oracles.propagate import shadow_of
from flexconf.oracles.shadow import Shadow, as_float, source

Kind = Literal["score", "mask"]
_VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "expand",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
        "alias",
        "clone",
        "detach",
        "lift_fresh",
        "lift",
        "contiguous",
        "_reshape_alias",
        "view_as",
        "movedim",
        "diagonal",
        "stack",
        "cat",
    ]
)
_CONSTANTS = frozenset(
    [
        "full",
        "zeros",
        "ones",
        "scalar_tensor",
        "arange",
        "full_like",
        "zeros_like",
        "ones_like",
        "new_full",
        "new_zeros",
        "new_ones",
        "fill",
        "eye",
        "linspace",
    ]
)
_FILLED = {"full": 1, "full_like": 1, "new_full": 2}
"""Operations that create a constant, with the position of the fill value among their arguments."""

_FIRST_OF_SEVERAL = frozenset(["log_sigmoid_forward"])  # (result, scratch for the backward)
# Sampling, in-place updates and most reductions have no shadow: these operations raise UnmodelledOperation.


class ModResultError(Exception):
    """A mask_mod ran, but its result is not bool."""


@dataclass(frozen=True)
class Bounded:
    """The result of a mod at every element of a problem.

    value: (B, H, M, N), float64 for a score_mod, bool for a mask_mod. error: float64, broadcastable to `value`, a bound
    on |implementation - value|. It is inf where any value is legal; for a mask it is 1 where either outcome is legal.
    dtype: the dtype that PyTorch gives the mod's result.
    """

    value: Tensor
    error: Tensor
    dtype: torch.dtype


class IndexingByTensors(TorchFunctionMode):
    """Turns `table[b, q]` with scalar tensors into aten.index. PyTorch would call `.item()`, which vmap refuses."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            table, index = args
            leaves = list(index) if isinstance(index, (tuple, list)) else [index]
            if all(isinstance(i, Tensor) or type(i) is int for i in leaves):
                return torch.ops.aten.index(table, [i if isinstance(i, Tensor) else torch.tensor(i) for i in leaves])
        return func(*args, **(kwargs or {}))


class _Shadowing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Executes every operation and records the shadow of its result."""

    def __init__(self, on_result: Callable[[str, Tensor, Shadow], None] | None, fast_math: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fast_math = fast_math
        self._shadows: Any = WeakTensorKeyDictionary()
        self._on_result = on_result

    def shadow(self, tensor: Tensor) -> Shadow:
        known = self._shadows.get(tensor)
        if known is None:
            known = self._shadows[tensor] = source(tensor)
        result: Shadow = known
        return result

    def record(self, tensor: Tensor, shadow: Shadow) -> None:
        self._shadows[tensor] = shadow

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        result = _filled(func, args, kwargs or {}) if name in _FILLED else func(*args, **(kwargs or {}))
        if name in _CONSTANTS and isinstance(result, Tensor):
            return result
        whole = result
        if name in _FIRST_OF_SEVERAL:
            result = result[0]
        if func._schema.is_mutable or not isinstance(result, Tensor):
            raise UnmodelledOperation(f"{func} has no error model (in place, or several results)")
        given = _bind(func, args, kwargs or {})
        if name in _VIEWS:
            if any(result is a for a in args):
                return result
            self.record(result, self._moved(func, given, result))
            return result
        shadows = {n: self._argument(a) for n, a in given.items()}
        try:
            shadow = reduction.RULES.get(name, shadow_of)(Call(func, name, shadows, result, self._fast_math))
        except TypeError as error:  # Python would replace it: for `a + b` it says "unsupported operand types"
            raise RuntimeError(f"the error model of {func} failed: {error}") from error
        if name == "_to_copy" and not isinstance(given["self"], Tensor):  # vmap turns Python numbers into tensors
            shadow = replace(shadow, number=True)
        self.record(result, shadow)
        if self._on_result is not None:
            self._on_result(str(func), result, shadow)
        return whole

    def _argument(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self.shadow(a)
        if isinstance(a, (list, tuple)):
            return [self._argument(x) for x in a]
        return a

    def _moved(self, func: Any, given: Mapping[str, Any], result: Tensor) -> Shadow:
        """The shadow of a view or copy, which moves values and errors alike."""
        inputs: list[Shadow] = []

        def pick(part: Callable[[Shadow], Tensor]) -> Any:
            def swap(a: Any) -> Any:
                if isinstance(a, Tensor):
                    return part(self.shadow(a))
                return [swap(x) for x in a] if isinstance(a, (list, tuple)) else a

            return {n: swap(a) for n, a in given.items()}

        for a in given.values():
            for x in a if isinstance(a, (list, tuple)) else [a]:
                if isinstance(x, Tensor):
                    inputs.append(self.shadow(x))
        if all(s.real for s in inputs):
            return Shadow(result, None, result.dtype, real=True)
        v = _unbind(func, pick(lambda s: s.v))
        e = None
        if not all(s.exact for s in inputs):
            # To be moved like the value, the error must have its shape. Expanding copies nothing.
            e = _unbind(func, pick(lambda s: (s.e if s.e is not None else s.error()).expand_as(s.v)))
        return Shadow(v, e, result.dtype, any(s.mixed for s in inputs), any(s.wild for s in inputs))


def _filled(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A constant tensor, with an infinity for a value that overflows float16 or bfloat16.

    PyTorch itself accepts such a value only for a tensor without dimensions, and raises RuntimeError for others.
    """
    try:
        return func(*args, **kwargs)
    except RuntimeError:
        place = _FILLED[func._schema.name.removeprefix("aten::")]
        ones = func(*args[:place], 1, *args[place + 1 :], **kwargs)
        return ones.copy_(torch.full((), args[place], dtype=ones.dtype))


def _bind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by schema name, without device, layout, pin_memory, memory_format and dtype."""
    names = [a.name for a in func._schema.arguments]
    bound = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {n: a for n, a in bound.items() if n not in ("device", "layout", "pin_memory", "memory_format", "dtype")}


def _unbind(func: Any, given: Mapping[str, Any]) -> Any:
    named = {a.name for a in func._schema.arguments if a.kwarg_only}
    positional = [a for n, a in given.items() if n not in named]
    try:
        return func(*positional, **{n: a for n, a in given.items() if n in named})
    except RuntimeError:  # a view that the strides of an expanded error do not allow
        positional = [a.contiguous() if isinstance(a, Tensor) else a for a in positional]
        return func(*positional, **{n: a for n, a in given.items() if n in named})


def over_indices(fn: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """`fn` mapped over kv, q, h and b (innermost first), as FlexAttention maps it."""
    score = (0,) if kind == "score" else ()
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        fn = torch.vmap(fn, in_dims=score + dims)
    return fn


def follow(
    fn: Callable[..., Tensor | tuple[Tensor, ...]],
    kind: Kind,
    score: tuple[Tensor, Tensor | None] | None,
    B: int,
    H: int,
    M: int,
    N: int,
    *,
    fast_math: bool = False,
    on_result: Callable[[str, Tensor, Shadow], None] | None = None,
) -> list[tuple[Tensor, Shadow]]:
    """Evaluates a mod like `evaluate`, but keeps each result in its own dtype: a list of (result, shadow).

    The list has one entry for each tensor that `fn` returns. `result` and the shadow's `v` broadcast to (B, H, M, N).
    The arguments are those of `evaluate`. Raises UnmodelledOperation, ValueError for a score_mod without scores, and
    any exception of the mod itself.
    """
    mode = _Shadowing(on_result, fast_math)
    indices = [torch.arange(n, dtype=torch.int32) for n in (B, H, M, N)]
    first: list[Tensor] = []
    if kind == "score":
        if score is None:
            raise ValueError("a score_mod needs scores")
        value, error = score
        real = value.to(torch.float32)
        first = [real]
        wild = error is not None and bool(error.isinf().any())
        mode.record(real, Shadow(value, error, torch.float32, mixed=error is not None, wild=wild))
    promotion = PlainPromotion()
    with torch.no_grad(), IndexingByTensors(), promotion, mode:
        given = over_indices(promotion.watching(fn), kind)(*first, *indices)
    results = given if isinstance(given, tuple) else (given,)
    return [(result, mode.shadow(result)) for result in results]


def evaluate(
    fn: Callable[..., Tensor],
    kind: Kind,
    score: tuple[Tensor, Tensor | None] | None,
    B: int,
    H: int,
    M: int,
    N: int,
    *,
    fast_math: bool = False,
    on_result: Callable[[str, Tensor, Shadow], None] | None = None,
) -> Bounded:
    """The exact value of a mod at every (b, h, q, kv), with a bound on any correct implementation's error (L7).

    fn: the user's own `score_mod(score, b, h, q, kv)` or `mask_mod(b, h, q, kv)`. score: for a score_mod, the scores
    (B, H, M, N) in float64 and their error bounds (None if they are exact). fast_math: the implementation may use the
    approximations of `error_model.FAST`. on_result: called with each operation's name, its result as PyTorch computed
    it, and its shadow (for audits).

    Raises UnmodelledOperation for an operation outside `error_model.OPS`, ModResultError for a mask_mod that does not
    return bool, ValueError for a score_mod without scores, and any exception of the mod itself.
    """
    [(result, shadow)] = follow(fn, kind, score, B, H, M, N, fast_math=fast_math, on_result=on_result)
    if kind == "mask":
        if result.dtype != torch.bool:
            raise ModResultError(f"mask_mod returned {result.dtype}; a mask is boolean (write a comparison)")
    else:
        shadow = as_float(shadow, torch.float32)
    return Bounded(shadow.v.expand(B, H, M, N), shadow.error().expand(B, H, M, N), result.dtype)


def modelled() -> tuple[str, ...]:
    """Names of the operations that have an error model, sorted."""
    return tuple(sorted(em.OPS))
