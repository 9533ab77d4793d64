"""Traces a mod (any Python callable) to an FX graph of ATen calls; its captures become placeholders (L4.2, L7).

The mod is called once, with zero-dimensional tensors that have no data. A dispatch mode sees every ATen call. It runs
the call on meta tensors, so that PyTorch itself promotes the types, and records it. A tensor that the trace did not
produce is a capture. It becomes a placeholder at its first use, so captures are in the order of their first use. Each
capture is lifted once, however it reaches the mod (closure, global, default argument, attribute, partial).
"""

from __future__ import annotations

import functools
import inspect
import keyword
import linecache
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from traceback import walk_stack, walk_tb
from types import TracebackType
from typing import Any, Literal, TypeAlias

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import decompose
from .errors import TraceError, UnsupportedOperation
from .traced import Traced

Mod: TypeAlias = Callable[..., torch.Tensor]
ModKind: TypeAlias = Literal["score", "mask"]

SIGNATURES: dict[ModKind, tuple[str, ...]] = {
    "score": ("score", "b", "h", "q", "kv"),
    "mask": ("b", "h", "q", "kv"),
}

_CPU = torch.device("cpu")
_aten = torch.ops.aten
_FOREIGN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
_FACTORIES: dict[Any, Any] = {
    _aten.zeros.default: 0,
    _aten.zeros_like.default: 0,
    _aten.new_zeros.default: 0,
    _aten.ones.default: 1,
    _aten.ones_like.default: 1,
    _aten.new_ones.default: 1,
}
_FILLS = {
    _aten.full.default: 1,
    _aten.full_like.default: 1,
    _aten.new_full.default: 2,
    _aten.scalar_tensor.default: 0,
}


@dataclass(frozen=True)
class ModGraph:
    """A traced mod.

    `graph_module` has placeholders (the mod's own arguments, then one per capture), ATen calls, and one output. Every
    placeholder and call has `meta["val"]` (a meta tensor) and `meta["tensor_meta"]`; a call also has `meta["where"]`,
    the user's line. `captures` are the captured tensors, `names` readable and unique identifiers for them.
    """

    kind: ModKind
    graph_module: GraphModule
    captures: tuple[torch.Tensor, ...]
    names: tuple[str, ...]

    @property
    def output(self) -> Node:
        """The node whose value the mod returns."""
        result = next(n for n in self.graph_module.graph.nodes if n.op == "output").args[0]
        assert isinstance(result, Node)
        return result

    @property
    def is_identity(self) -> bool:
        """Whether this is a score_mod that returns its score untouched."""
        return self.output.op == "placeholder" and self.output.name == "score"  # no capture has that name


def trace(mod: Mod | None, kind: ModKind, device: torch.device = _CPU) -> ModGraph:
    """Trace `mod` to a ModGraph. None stands for the identity score_mod, or for the mask_mod that is always True.

    A score_mod takes (score: float32, b, h, q, kv: int32) and returns a number; a mask_mod takes (b, h, q, kv) and
    returns a bool (L7.1). The arguments say that they are on `device`, the query's device. Raises TraceError, with the
    user's line if it is known, for Python control flow on a tensor, an index that PyTorch does not take, a tensor
    that is changed in place, a result that is not one scalar, and a mask that is not bool.
    """
    if mod is None:
        mod = _pass_score if kind == "score" else _pass_all
    recorder = _Recorder(kind, dict(_reachable_tensors(mod)), device)
    arguments = recorder.arguments()
    try:
        with torch.no_grad(), _ScalarIndexing(recorder), recorder:
            result = mod(*arguments)
    except TraceError:
        raise
    except RecursionError:
        raise TraceError(f"the {kind}_mod recurses without end") from None
    except Exception as error:
        raise TraceError(f"{_one_line(error)}{_at(_user_line(error.__traceback__))}") from error
    return recorder.finish(result)


def _pass_score(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return score


def _pass_all(b: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return b.new_ones((), dtype=torch.bool)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs each ATen call on meta tensors and appends it to the graph."""

    def __init__(self, kind: ModKind, names: dict[int, str], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind: ModKind = kind
        self.device = device
        self.graph = Graph()
        self.known_names = names
        self.nodes: dict[int, Node] = {}
        self.kept: list[torch.Tensor] = []  # keeps ids valid while the trace runs
        self.captures: list[torch.Tensor] = []
        self.capture_nodes: dict[tuple[object, ...], Node] = {}
        self.moved: dict[tuple[int, torch.device], torch.Tensor] = {}
        self.part_of: Any = None  # the operation that is being decomposed
        self.taken = {"score", "b", "h", "q", "kv"}

    def arguments(self) -> list[torch.Tensor]:
        values: list[torch.Tensor] = []
        for name in SIGNATURES[self.kind]:
            dtype = torch.float32 if name == "score" else torch.int32
            value = torch.empty((), dtype=dtype, device="meta")
            values.append(self._bind(self._placeholder(name, value, requires_grad=False), value, self.device))
        return values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = decompose.as_aten(func, args, dict(kwargs or {}))
        if func is _aten._local_scalar_dense.default:
            raise TraceError(
                "Python control flow, int(), float() or a Python index on a tensor cannot be compiled; "
                f"use torch.where, &, |, ~ or tensor arithmetic{_at(_user_line())}"
            )
        if func is _aten.lift_fresh.default and id(args[0]) not in self.nodes:
            return self._literal(*args)
        if func in (_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default):
            return self._same_value(*args)
        changed = _written(func, args, kwargs)
        if changed is not None:
            raise TraceError(
                f"{func} changes {self._called(changed)} in place; a mod returns its result and changes nothing: "
                f"write x = x + y for x += y, and change captured tensors outside the mod{_at(_user_line())}"
            )
        if func is _aten.index.Tensor:
            self._check_indices(args[1])
        moved = self._moved(func, args, kwargs)
        if moved is not None:
            return moved
        constant = self._constant(func, args, kwargs)
        if constant is not None:
            return constant
        whole = decompose.lookup(func)
        if whole is not None:
            return self._decomposed(func, whole, args, kwargs)
        if self.part_of is not None:  # PyTorch does not split composite calls of a decomposition
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        try:
            value = func(*self._as_meta(args), **self._as_meta(kwargs))
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(f"{func}: {_one_line(error)}{_at(_user_line())}") from error
        if func is _aten.log_sigmoid_forward.default:
            # (result, a buffer for backward that is never read)
            node = self.graph.call_function(func, self._as_nodes(args), {})
            device = self._device(args, kwargs)
            return self._bind(node, value[0], device), Traced(value[1], device)
        if not isinstance(value, torch.Tensor):
            raise TraceError(
                f"{func} returns several tensors; a mod is made of pointwise operations{_at(_user_line())}"
            )
        device = self._device(args, kwargs)
        kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        node = self.graph.call_function(func, self._as_nodes(args), self._as_nodes(kwargs))
        return self._bind(node, value, device)

    def _decomposed(self, func: Any, whole: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Record `func` as the operations that PyTorch's own decomposition `whole` calls.

        Raises TraceError if PyTorch refuses `func` on these arguments.
        """
        said = decompose.refused(func, args, kwargs)
        if said is not None:
            raise TraceError(f"{func}: {said}{_at(_user_line())}")
        args, kwargs = decompose.prepared(func, args, kwargs)
        before, self.part_of = self.part_of, self.part_of or func
        try:
            with self:
                return whole(*args, **kwargs)
        finally:
            self.part_of = before

    def finish(self, result: object) -> ModGraph:
        """Close the graph and drop captures that the result does not need.

        Raises TraceError if `result` is not one scalar of the right kind.
        """
        if isinstance(result, (bool, int, float)):
            dtype = torch.bool if self.kind == "mask" and isinstance(result, bool) else None
            result = self._full(result, dtype or (torch.float32 if self.kind == "score" else torch.int64))
        if not isinstance(result, torch.Tensor):
            raise TraceError(f"the {self.kind}_mod returned {type(result).__name__}, not a tensor")
        if result.dim() != 0:
            raise TraceError(
                f"the {self.kind}_mod returned a tensor of shape {list(result.shape)}, not one scalar: "
                "a captured tensor needs one index for each of its dimensions"
            )
        if self.kind == "mask" and result.dtype is not torch.bool:
            raise TraceError(
                f"the mask_mod returned {_short(result.dtype)}, not bool; compare the value, for example `x > 0`"
            )
        self.graph.output(self._node(result))
        self.graph.eliminate_dead_code()
        used = [*self.graph.find_nodes(op="placeholder")][len(SIGNATURES[self.kind]) :]
        live = [(t, n) for t, n in zip(self.captures, used, strict=True) if n.users]
        for node in used:
            if not node.users:
                self.graph.erase_node(node)
        module = GraphModule(torch.nn.Module(), self.graph, class_name=f"{self.kind}_mod")
        return ModGraph(self.kind, module, tuple(t for t, _ in live), tuple(str(n.target) for _, n in live))

    def index_call(self, tensor: torch.Tensor, indices: list[object]) -> torch.Tensor:
        """Record `tensor[indices]` with scalar indices as one ATen call; a Python int becomes an int64 scalar (L7.4).

        Raises TraceError if there are more indices than dimensions.
        """
        tensors = [self._full(i, torch.int64) if isinstance(i, int) else i for i in indices]
        if tensor.dim() < len(tensors):
            raise TraceError(
                f"{len(tensors)} indices for {self._called(tensor)} of rank {tensor.dim()}{_at(_user_line())}"
            )
        result = _aten.index.Tensor(tensor, tensors)
        assert isinstance(result, torch.Tensor)
        return result

    def _called(self, tensor: torch.Tensor) -> str:
        if isinstance(tensor, Traced):
            return "a value of the mod"
        return f"`{self.known_names[id(tensor)]}`" if id(tensor) in self.known_names else "a captured tensor"

    def _placeholder(self, name: str, value: torch.Tensor, *, requires_grad: bool) -> Node:
        node = self.graph.create_node("placeholder", name, (), {}, name=name)
        annotate(node, value, requires_grad)
        return node

    def _bind(self, node: Node, meta: torch.Tensor, device: torch.device) -> Traced:
        """The value that the mod sees for `node`. `meta` has the shape, strides and dtype of the result."""
        if node.op != "placeholder":
            annotate(node, meta, requires_grad=False)
            node.meta["where"] = _user_line()
            if self.part_of is not None:
                node.meta["part_of"] = self.part_of
        value = Traced(meta, device)
        self.nodes[id(value)] = node
        self.kept.append(value)
        return value

    def _device(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
        """The device of a call's result: its `device` argument, else its first tensor's device, else the query's."""
        devices: list[torch.device] = []
        map_aggregate(args, lambda x: devices.append(x.device) if isinstance(x, torch.Tensor) else None)
        return torch.device(kwargs.get("device") or (devices or [self.device])[0])

    def _full(self, value: bool | int | float, dtype: torch.dtype, device: torch.device | None = None) -> Traced:
        arguments: Any = ([], value)
        node = self.graph.call_function(_aten.full.default, arguments, {"dtype": dtype})
        with torch._C._DisableTorchDispatch():
            meta = torch.empty((), dtype=dtype, device="meta")
        return self._bind(node, meta, device or self.device)

    def _literal(self, tensor: torch.Tensor) -> torch.Tensor:
        """`torch.tensor(...)` inside the mod: a scalar becomes a constant; any other tensor becomes a capture."""
        if tensor.dim() == 0:
            with torch._C._DisableTorchDispatch():
                value = tensor.item()
            return self._full(value, tensor.dtype, tensor.device)
        return tensor

    def _same_value(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = Traced(tensor, tensor.device)
        self.nodes[id(copy)] = self._node(tensor)
        self.kept.append(copy)
        return copy

    def _constant(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        """A factory call as `aten.full([], value)`. Returns None if `func` is no factory or the value is no number.

        Raises TraceError if the call makes more than a scalar.
        """
        if func in _FACTORIES:
            value = _FACTORIES[func]
        elif func in _FILLS:
            value = args[_FILLS[func]]
        else:
            return None
        if not isinstance(value, (bool, int, float)):
            return None
        meta = func(*self._as_meta(args), **{**self._as_meta(kwargs), "device": "meta"})
        if meta.dim() != 0:
            raise TraceError(
                f"{func} makes a tensor of shape {list(meta.shape)} inside the mod; "
                f"make it outside and capture it{_at(_user_line())}"
            )
        if meta.dtype is torch.bool:
            value = bool(value)
        elif meta.dtype.is_floating_point and float(value) == value:  # else PyTorch rounds the integer, once
            value = float(value)
        return self._full(value, meta.dtype, self._device(args, kwargs))

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        """For `table.to(score.device)`, a capture on another device: its copy there, which is captured in its place.

        Each tensor is copied once per device. Returns None for any other call.
        """
        if func is not _aten._to_copy.default or isinstance(args[0], Traced):
            return None
        source, device = args[0], kwargs.get("device")
        if device is None or device == source.device or kwargs.get("dtype") not in (None, source.dtype):
            return None
        key = (id(source), device)
        if key not in self.moved:
            copy = func(source, **kwargs).requires_grad_(source.requires_grad)
            self.moved[key] = copy
            self.kept += [source, copy]
            if id(source) in self.known_names:
                self.known_names[id(copy)] = self.known_names[id(source)]
        return self.moved[key]

    def _check_indices(self, indices: Sequence[torch.Tensor | None]) -> None:
        """Raises TraceError if an index selects by mask (bool, uint8) or PyTorch does not index with its dtype."""
        for index in indices:
            if index is None or index.dtype in (torch.int32, torch.int64):
                continue
            what = "selects by mask" if index.dtype in (torch.bool, torch.uint8) else "is not taken by PyTorch"
            raise TraceError(
                f"an index of {_short(index.dtype)} {what}; cast it with .to(torch.int32){_at(_user_line())}"
            )

    def _node(self, tensor: torch.Tensor) -> Node:
        known = self.nodes.get(id(tensor))
        if known is not None:
            return known
        if tensor.device.type == "meta":
            raise TraceError("a capture on the meta device has no values")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise TraceError(
                f"{self._called(tensor)} is a {type(tensor).__name__}; a mod captures plain tensors: "
                f"capture x.as_subclass(torch.Tensor){_at(_user_line())}"
            )
        # Two tensors that are the same view of the same memory are one capture. Another view is another capture.
        key = (
            tensor.device,
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.requires_grad,
        )
        node = self.capture_nodes.get(key)
        if node is None:
            name = self._unique(self.known_names.get(id(tensor), f"capture{len(self.captures)}"))
            with torch._C._DisableTorchDispatch():
                value = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            *_, last = self.graph.find_nodes(op="placeholder")
            with self.graph.inserting_after(last):
                node = self._placeholder(name, value, requires_grad=tensor.requires_grad)
            self.captures.append(tensor)
            self.capture_nodes[key] = node
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)
        return node

    def _unique(self, name: str) -> str:
        candidate, n = name, 1
        while candidate in self.taken:
            candidate, n = f"{name}_{n}", n + 1
        self.taken.add(candidate)
        return candidate

    def _as_nodes(self, value: Any) -> Any:
        return map_aggregate(value, lambda x: self._node(x) if isinstance(x, torch.Tensor) else x)

    def _as_meta(self, value: Any) -> Any:
        def convert(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                return self._node(x).meta["val"]
            return torch.device("meta") if isinstance(x, torch.device) else x

        return map_aggregate(value, convert)


class _ScalarIndexing(TorchFunctionMode):
    """Makes `tensor[i, j]` with scalar tensors or ints one `aten.index` call. Plain indexing would call `.item()`."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            indices = list(args[1]) if isinstance(args[1], (tuple, list)) else [args[1]]
            while indices and (indices[-1] is Ellipsis or indices[-1] == slice(None)):
                indices.pop()  # a trailing `:` or `...` leaves the remaining dimensions as they are
            indices = [i if isinstance(i, torch.Tensor) else _whole(i) for i in indices]
            if any(i is None for i in indices):
                raise TraceError(
                    "a mod indexes a captured tensor with one scalar a dimension; slices, None and bools are not "
                    f"supported, make the view outside the mod{_at(_user_line())}"
                )
            return self.recorder.index_call(args[0], indices) if indices else args[0]
        return func(*args, **(kwargs or {}))


def _whole(index: object) -> int | None:
    """A Python or NumPy integer as an int. Returns None for anything else, such as a slice or a bool."""
    if isinstance(index, bool):
        return None
    try:
        return operator.index(index)  # type: ignore[arg-type]
    except TypeError:
        return None


def unsupported(node: Node, kind: ModKind, what: str) -> UnsupportedOperation:
    """The refusal of a call (L7.7), with its name and the user's line."""
    where = node.meta.get("where")
    line = f" (at {where[0]}:{where[1]}: {where[2][:120]})" if where else ""
    whole = node.meta.get("part_of")
    name = f"{node.target}" if whole is None else f"{whole} (its part {node.target})"
    return UnsupportedOperation(f"{name} in the {kind}_mod {what}{line}")


def annotate(node: Node, value: torch.Tensor, requires_grad: bool = False) -> None:
    """Says that `node` has the shape, dtype and strides of the meta tensor `value`."""
    node.meta["val"] = value
    node.meta["tensor_meta"] = TensorMetadata(value.shape, value.dtype, requires_grad, value.stride(), None, False, {})


def _reachable_tensors(mod: Mod) -> Iterator[tuple[int, str]]:
    """Pairs (id, name) of the tensors that the mod refers to by a name, so that placeholders have readable names.

    If two pairs have the same id, the later pair counts.
    """
    if isinstance(mod, functools.partial):
        yield from _reachable_tensors(mod.func)
        yield from _named(mod.keywords)
        yield from _named({f"argument{i}": a for i, a in enumerate(mod.args)})
        return
    owner = getattr(mod, "__self__", None)
    if owner is None and not inspect.isfunction(mod):
        owner = mod
    if owner is not None:
        yield from _named(getattr(owner, "__dict__", {}))
    function = getattr(mod, "__func__", mod)
    if not inspect.isfunction(function):
        function = vars(type(mod)).get("__call__")
    if inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        yield from _named(used.globals)
        defaults = {
            name: p.default
            for name, p in inspect.signature(function).parameters.items()
            if p.default is not inspect.Parameter.empty
        }
        yield from _named(defaults)
        yield from _named(used.nonlocals)
        for inner in used.nonlocals.values():
            if inspect.isfunction(inner) and inner is not function:
                yield from _named(inspect.getclosurevars(inner).nonlocals)


def _named(values: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    for name, value in values.items():
        # The rendered text is ASCII. Other characters, such as Greek letters, become _; a name that is then no
        # identifier is skipped.
        plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")
        if isinstance(value, torch.Tensor) and plain.isidentifier() and not keyword.iskeyword(plain):
            yield id(value), plain


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The first tensor that the call changes in place, by its schema: `x.add_(1)`, `x[0] = 1`, `out=x`.

    Returns None if the call changes no tensor.
    """
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = kwargs.get(argument.name, args[position] if position < len(args) else None)
            if isinstance(given, torch.Tensor):
                return given
    return None


def _user_line(traceback: TracebackType | None = None) -> tuple[str, int, str] | None:
    """(file, line number, line) of the innermost frame that is neither PyTorch's nor this package's.

    Returns None if there is no such frame.
    """
    frames = walk_stack(sys._getframe()) if traceback is None else reversed([*walk_tb(traceback)])
    for frame, number in frames:
        path = frame.f_code.co_filename
        if not path.startswith(_FOREIGN) and not path.startswith("<frozen"):
            return path, number, linecache.getline(path, number).strip()
    return None


def _at(where: tuple[str, int, str] | None) -> str:
    if where is None:
        return ""
    path, number, text = where
    return f" (at {path}:{number}" + (f": {text[:120]})" if text else ")")


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
