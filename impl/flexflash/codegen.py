"""Writes the body of a `@cute.jit` mod from a ModGraph.

The statements are in graph order. Each subexpression is computed once, and unused statements are dropped.

A mod works on vectors with one element per lane. All lanes of a vector have the same b, h and q (flash-attn-4's
contract) and differ in score and kv. So a load whose index depends on b, h and q alone is done once and broadcast to
all lanes. Any other load is done lane by lane (L6.5).

If the indexer in force is colexicographic over a capture's sizes, the index is written as coordinates. CuTe reads the
same element (L2.4), and does not need to divide a linear index by sizes that flash-attn-4 only knows at run time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sympy
import torch
from torch.fx import Node
from torch.fx.node import map_aggregate

from . import ops, prelude
from .errors import FlexFlashError, said
from .indexing import FixedLayout
from .numbers import Scalar, Unwritable, compute_dtype, filled, is_minus_zero, operand_number
from .ops import Argument, Value, cute_name
from .smoothness import smooth_nodes
from .trace import SIGNATURES, ModGraph, unsupported
from .unroll import unrolled

# The arguments of the mods, under flash-attn-4's names. b, h, q and kv are never negative: as indices they need no
# wrapping.
ARGUMENTS = {
    "score": Value("tSrS_ssa", torch.float32),
    "b": Value("b_idx", torch.int32, None, uniform=True, nonnegative=True),
    "h": Value("h_idx", torch.int32, None, uniform=True, nonnegative=True),
    "q": Value("q_idx", torch.int32, None, uniform=True, nonnegative=True),
    "kv": Value("kv_idx", torch.int32, None, uniform=False, nonnegative=True),
}
RESERVED = frozenset(
    (
        "tSrS_ssa b_idx h_idx q_idx kv_idx seqlen_info aux_tensors score_mod mask_mod cutlass cute launcher float "
        "lane lanes flex_flash_attention Q K V OUT LSE KV_NUM_BLKS KV_IDX FULL_KV_NUM_BLKS FULL_KV_IDX"
    ).split()
)
_INT32_MAX = torch.iinfo(torch.int32).max


class ModBody(NamedTuple):
    """A generated body. `lines` end with `return ...`; `helpers` are the prelude functions that it calls.

    `buffers` are the positions of the captures that it reads, in ascending order. `generate` returns positions among
    the captures of the ModGraph; for the template, `kernel` translates them to positions in aux_tensors.
    """

    lines: tuple[str, ...]
    helpers: frozenset[str]
    buffers: tuple[int, ...]


@dataclass
class _Partial:
    """A capture whose first indices are given: `bias[b]` in `bias[b][q]`.

    `read` says for each index whether it depends on a loaded element (see `_led_by_a_load`).
    """

    position: int
    indices: tuple[Value, ...] = ()
    read: tuple[bool, ...] = ()


@dataclass
class _Statement:
    name: str
    expression: str


@dataclass
class _Writer:
    """Collects statements; implements `ops.Writer`."""

    names: set[str]
    statements: list[_Statement] = field(default_factory=list)
    by_expression: dict[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    hint: str = "value"
    smooth: bool = False
    fast_math: bool = False

    def use(self, helper: str) -> str:
        self.helpers.add(helper)
        return helper

    def assign(self, expression: str, hint: str) -> str:
        known = self.by_expression.get(expression)
        if known is not None:
            return known
        hint = hint or self.hint
        name = self._fresh(f"{hint}_value" if hint in prelude.SOURCES else hint)
        self.statements.append(_Statement(name, expression))
        self.by_expression[expression] = name
        return name

    def operand(self, value: Argument, dtype: torch.dtype) -> str:
        number = ops.constant_of(value)
        if number is not None:
            return self.vector(value, dtype) if is_minus_zero(number, dtype) else literal(number, dtype)
        assert isinstance(value, Value)
        return self._cast(value, dtype)

    def vector(self, value: Argument, dtype: torch.dtype) -> str:
        number = ops.constant_of(value)
        if number is None:
            assert isinstance(value, Value)
            return self._cast(value, dtype)
        # 0.0 and -0.0 are equal in Python, and CuTe keeps one constant for both: the first that it meets. So -0.0 is
        # never written; it is written as the negative of 0.0.
        negative = is_minus_zero(number, dtype)
        text = f"cute.full_like(kv_idx, {literal(abs(number) if negative else number, dtype)}, "
        text += f"{cute_name(compute_dtype(dtype))})"
        return self.assign(f"-{text}" if negative else text, "constant")

    def _cast(self, value: Value, dtype: torch.dtype) -> str:
        source, target = compute_dtype(value.dtype), compute_dtype(dtype)
        if source is target:
            return value.text
        if target is torch.bool:
            # CuTe's own cast to Boolean keeps the lowest bit.
            return self.assign(f"{value.text} != 0", "nonzero")
        short = ops.CUTE_NAMES[target].lower()
        if value.difference is not None and target is torch.float32:
            # Casting both operands is cheaper: two rows of a thread share one cast of kv, and adding floats takes half
            # the time of adding integers.
            x, y = (self._cast(v, dtype) for v in value.difference)
            return self.assign(f"{x} - {y}", f"{value.text}_{short}")
        return self.assign(f"{value.text}.to({cute_name(target)})", f"{value.text}_{short}")

    def _fresh(self, hint: str) -> str:
        name, n = hint, 1
        while name in self.names:
            name, n = f"{hint}_{n}", n + 1
        self.names.add(name)
        return name


def generate(
    graph: ModGraph,
    layouts: Sequence[FixedLayout],
    names: Sequence[str],
    extents: Mapping[str, int],
    fast_math: bool = False,
) -> ModBody:
    """The body of the mod `graph`; `fast_math` allows approximate instructions.

    `extents` are the sizes B, H, M and N under the names b, h, q and kv. `layouts` and `names` have one entry per
    capture of the graph: its layout in memory, and its identifier in the body. The indexer that is in force during the
    call decides the order of the dimensions (L3.1).
    Raises UnsupportedOperation, with the operation's name and the user's line, if an operation has no spelling (L7.7).
    """
    graph = unrolled(graph)
    writer = _Writer(set(RESERVED) | set(prelude.SOURCES) | set(names), fast_math=fast_math)
    smooth = smooth_nodes(graph.graph_module.graph)
    values: dict[Node, Value | _Partial] = {}
    read: list[int] = []
    led = _led_by_a_load(graph) if graph.kind == "mask" else frozenset()
    own, captures = _placeholders(graph)
    for name, node in own.items():
        limit = extents[name] - 1 if name in extents else None
        values[node] = replace(ARGUMENTS[name], limit=limit)
    for position, node in enumerate(captures):
        values[node] = _Partial(position)
    for node in graph.graph_module.graph.nodes:
        if callable(node.target):
            writer.smooth = node in smooth
            values[node] = _Call(graph, node, writer, values, layouts, names, read, led).value()
    result = values[graph.output]
    call = _Call(graph, graph.output, writer, values, layouts, names, read, led)
    value = call.loaded(result)
    final = writer.vector(value, torch.float32 if graph.kind == "score" else torch.bool)
    lines = _lines(writer, final)
    return ModBody(lines, frozenset(writer.helpers), tuple(sorted(set(read))))


@dataclass
class _Call:
    """Writes one node of the graph as statements."""

    graph: ModGraph
    node: Node
    writer: _Writer
    values: dict[Node, Value | _Partial]
    layouts: Sequence[FixedLayout]
    names: Sequence[str]
    read: list[int]
    led: frozenset[Node]

    def value(self) -> Value | _Partial:
        target = self.node.target
        if target is torch.ops.aten.index.Tensor:
            return self._index()
        meta = self.node.meta["val"]
        if target is torch.ops.aten.full.default:
            number = self.node.args[1]
            assert isinstance(number, (bool, int, float))
            try:
                number = filled(number, meta.dtype)
            except Unwritable as error:
                raise self._unsupported(f"cannot be written for {error}") from None
            return ops.constant(number, meta.dtype)
        entry = ops.lookup(target)
        if entry is None:
            raise self._unsupported("has no CuTe spelling")
        if meta.dim() != 0:
            raise self._unsupported(f"gives a tensor of shape {list(meta.shape)}; a mod computes scalars")
        if meta.dtype not in ops.CUTE_NAMES:
            raise self._unsupported(f"gives {meta.dtype}, which CuTe mods do not have")
        args = [self._argument(a) for a in self.node.args]
        kwargs = {k: self._argument(v) for k, v in self.node.kwargs.items()}
        folded = self._folded(args)
        if folded is not None:
            return ops.constant(folded, meta.dtype)
        self.writer.hint = entry.hint
        try:
            entry.check(meta.dtype)
            self._check_operands()
            return entry.emit(self.writer, *ops.converted(target, args, kwargs, meta.dtype), meta.dtype)
        except Unwritable as error:
            raise self._unsupported(f"cannot be written for {error}") from None

    def loaded(self, value: Value | _Partial) -> Value:
        """`value` itself, or the element if it is a fully indexed capture.

        Raises UnsupportedOperation if dimensions of the capture are not indexed.
        """
        if isinstance(value, Value):
            return value
        layout = self.layouts[value.position]
        if len(layout.size) != len(value.indices):
            missing = len(layout.size) - len(value.indices)
            raise self._unsupported(f"takes `{self.names[value.position]}` with {missing} dimensions not indexed")
        return self._load(value, layout)

    def _argument(self, argument: object) -> Argument:
        if isinstance(argument, Node):
            return self.loaded(self.values[argument])
        if argument is None or isinstance(argument, (bool, int, float, str, torch.dtype)):
            return argument
        if isinstance(argument, (torch.layout, torch.memory_format)):
            return str(argument)
        raise self._unsupported(f"takes {argument!r}")

    def _index(self) -> Value | _Partial:
        tensor, indices = self.node.args
        assert isinstance(tensor, Node) and isinstance(indices, (list, tuple))
        base = self.values[tensor]
        assert isinstance(base, _Partial), "an operation that gives more than a scalar was refused where it is"
        given: list[Value] = []
        led: list[bool] = []
        for index in indices:
            if not isinstance(index, Node):
                raise self._unsupported("skips a dimension; index every dimension with one scalar")
            given.append(self.loaded(self.values[index]))
            led.append(index in self.led)
        partial = _Partial(base.position, base.indices + tuple(given), base.read + tuple(led))
        layout = self.layouts[partial.position]
        return self._load(partial, layout) if len(partial.indices) == len(layout.size) else partial

    def _load(self, access: _Partial, layout: FixedLayout) -> Value:
        """Reads one element of a capture for each lane (L2.2, L2.4, L7.4, L7.5)."""
        if layout.dtype not in ops.CUTE_NAMES:
            raise self._unsupported(
                f"reads `{self.names[access.position]}` of {layout.dtype}, which CuTe mods do not have"
            )
        buffer = self.names[access.position]
        self.read.append(access.position)
        long = layout.reaches(_INT32_MAX)  # L2.8
        index_dtype = torch.int64 if long else torch.int32
        symbols: list[sympy.Expr] = []
        indices: list[str | int] = []
        texts: dict[str, str] = {}
        for dimension, (index, extent) in enumerate(zip(access.indices, map(int, layout.size), strict=True)):
            wrapped = self._wrapped(index, extent, index_dtype, buffer, dimension)
            if access.read[dimension] and not isinstance(wrapped, int):
                wrapped = self._held(wrapped, index, extent, index_dtype, buffer)
            indices.append(wrapped)
            if isinstance(wrapped, int):
                symbols.append(sympy.Integer(wrapped))
            else:
                symbol = sympy.Symbol(f"i{dimension}", integer=True)
                texts[symbol.name] = wrapped
                symbols.append(symbol)
        linear = layout.make_indexer()(symbols)
        several = 2 <= len(symbols) <= prelude.MAX_RANK and not long
        as_coordinates = several and _is_colexicographic(linear, symbols, layout.size)
        uniform = all(i.uniform or i.constant is not None for i in access.indices)
        element = compute_dtype(layout.dtype)
        hint = re.sub(r"\W", "_", f"{buffer}_value")
        if uniform:
            if as_coordinates:
                place = ", ".join(str(i) if isinstance(i, int) else f"{i}[0]" for i in indices)
            else:
                place = _print_index(linear, {name: f"{text}[0]" for name, text in texts.items()}, long)
            loaded = f"{buffer}[{place}]"
            if element is not layout.dtype:
                loaded += f".to({cute_name(element)})"
            text = f"cute.full_like(kv_idx, {loaded}, {cute_name(element)})"
        elif as_coordinates:
            gather = self.writer.use(f"gather{len(indices)}")
            lanes = [self.writer.vector(i, index_dtype) if isinstance(i, int) else i for i in indices]
            text = f"{gather}({buffer}, {', '.join(lanes)}, {cute_name(element)})"
        else:
            gather = self.writer.use("gather")
            text = f"{gather}({buffer}, {_print_index(linear, texts, long)}, {cute_name(element)})"
        nonnegative = layout.dtype in (torch.uint8, torch.bool)
        return Value(self.writer.assign(text, hint), layout.dtype, None, uniform, nonnegative)

    def _wrapped(self, index: Value, extent: int, dtype: torch.dtype, buffer: str, dimension: int) -> str | int:
        """The index, counted from the end if it is negative (L7.4). Returns a number or the name of a vector.

        Raises UnsupportedOperation if a constant index is outside the dimension.
        """
        if index.constant is not None:
            number = int(index.constant)
            if not -extent <= number < extent:
                raise self._unsupported(
                    f"reads index {number} of dimension {dimension} of `{buffer}`, whose size is {extent}"
                )
            return number % extent
        text = self.writer.operand(index, dtype)
        if index.nonnegative:
            return text
        size = literal(extent, dtype)
        return self.writer.assign(f"cute.where({text} < 0, {text} + {size}, {text})", f"{buffer}_index")

    def _held(self, text: str, index: Value, extent: int, dtype: torch.dtype, buffer: str) -> str:
        """The vector `text`, with 0 in the lanes where it is outside [0, extent) (L7.4).

        A tile may reach past the last query or key. There a mask_mod reads values that are no elements of a capture.
        Its result is dropped, but such a value must not be used as an index that leads out of a capture.
        """
        zero, size = literal(0, dtype), literal(extent, dtype)
        for inside in (f"{text} < {size}", *(() if index.nonnegative else (f"{text} >= 0",))):
            text = self.writer.assign(
                f"cute.where({inside}, {text}, cute.full_like({text}, {zero}))", f"{buffer}_index"
            )
        return text

    def _folded(self, args: Sequence[Argument]) -> Scalar | None:
        """The result, computed by PyTorch, if every tensor argument is a constant. Returns None otherwise."""
        tensors = [a for a in args if isinstance(a, Value)]
        if not tensors or any(a.constant is None for a in tensors):
            return None

        try:
            result = self._eager()
        except Exception as error:  # PyTorch's errors have no common base class
            raise self._unsupported(f"of constants is refused by PyTorch: {error}") from error
        if isinstance(result, tuple):  # log_sigmoid returns (result, buffer); the buffer is never read
            result = result[0]
        number: Scalar = result.item()
        return number

    def _check_operands(self) -> None:
        """Raises Unwritable if PyTorch refuses the operands: `clamp(x, max=300)` of int8, a divisor 0, x - True (L7.7).

        Tracing does not show this: a meta tensor takes any number, and many dtypes that no kernel supports. So PyTorch
        runs the operation on a CPU. Tensors whose values are not known are 1 there; no operation refuses 1.
        """
        try:
            self._eager()
        except Exception as error:
            values = [self._argument(a) for a in (*self.node.args, *self.node.kwargs.values())]
            if all(ops.constant_of(a) is None for a in values) or self._refuses_ones():
                raise Unwritable(f"operands of which PyTorch says: {said(error)}") from None
            raise Unwritable(f"a number of which PyTorch says: {said(error)}") from None

    def _refuses_ones(self) -> bool:
        try:
            self._eager(ones=True)
        except Exception:
            return True
        return False

    def _eager(self, *, ones: bool = False) -> Any:
        """PyTorch's own result for this node: constants as they are, 1 for every other tensor.

        With `ones`, every constant is 1 as well.
        """

        def real(argument: Any) -> Any:
            if isinstance(argument, Node):
                value = self.loaded(self.values[argument])
                if ones or value.constant is None:
                    return torch.ones((), dtype=value.dtype)
                return torch.full((), value.constant, dtype=value.dtype)
            return int(ones) if ones and type(argument) in (int, float) else argument

        target: Any = self.node.target
        return target(*map_aggregate(self.node.args, real), **map_aggregate(self.node.kwargs, real))

    def _unsupported(self, what: str) -> FlexFlashError:
        return unsupported(self.node, self.graph.kind, what)


def _placeholders(graph: ModGraph) -> tuple[dict[str, Node], list[Node]]:
    """The mod's own arguments by their names, and its captures."""
    nodes = [*graph.graph_module.graph.find_nodes(op="placeholder")]
    names = SIGNATURES[graph.kind]
    return dict(zip(names, nodes[: len(names)], strict=True)), nodes[len(names) :]


def _led_by_a_load(graph: ModGraph) -> frozenset[Node]:
    """The nodes whose value depends on an element that a capture holds at an index that depends on q or kv."""
    own, _ = _placeholders(graph)
    positions: set[Node] = {own["q"], own["kv"]}
    led: set[Node] = set()
    for node in graph.graph_module.graph.nodes:
        if not led.isdisjoint(node.all_input_nodes):
            led.add(node)
        if not positions.isdisjoint(node.all_input_nodes):
            positions.add(node)
            if node.target is torch.ops.aten.index.Tensor:
                led.add(node)
    return frozenset(led)


def literal(number: Scalar, dtype: torch.dtype) -> str:
    """`number`, converted by `operand_number`, as Python text that CuTe reads as `compute_dtype(dtype)`.

    CuTe takes a plain bool as Boolean, a plain int as Int32 and a plain float as Float32. Every other type is written
    as a call: `cutlass.Int64(5)`.
    """
    target = compute_dtype(dtype)
    number = operand_number(number, target)
    if target is torch.bool:
        return repr(bool(number))
    if target.is_floating_point:
        number = float(number)
        text = repr(number) if math.isfinite(number) else f'float("{number}")'
        return text if target is torch.float32 else f"{cute_name(target)}({text})"
    text = repr(number) if number >= 0 else f"({number})"
    return text if target is torch.int32 else f"{cute_name(target)}({number})"


def _is_colexicographic(linear: sympy.Expr, symbols: Sequence[sympy.Expr], size: Sequence[object]) -> bool:
    """Whether `linear` is i0 + s0*i1 + s0*s1*i2 + ..., the index that CuTe turns back into the same coordinates."""
    wanted, runner = sympy.Integer(0), sympy.Integer(1)
    for symbol, extent in zip(symbols, size, strict=True):
        wanted += runner * symbol
        runner *= sympy.sympify(extent)
    found = linear.replace(lambda e: e.func.__name__ == "Identity", lambda e: e.args[0])
    return bool(sympy.expand(found - wanted) == 0)


def _print_index(linear: sympy.Expr, texts: dict[str, str], long: bool) -> str:
    """The sum that the indexer built, its terms in the order of the dimensions; sympy's own order may differ."""

    def number(value: int) -> str:
        return f"cutlass.Int64({value})" if long else str(value)

    constant = 0
    printed: list[tuple[int, str]] = []
    for term in sympy.Add.make_args(linear):
        weight, atom = term.as_coeff_Mul()
        inner = atom.args[0] if atom.func.__name__ == "Identity" else atom
        if inner.is_Integer:
            constant += int(weight) * int(inner)
            continue
        text = texts[inner.name]
        dimension = int(inner.name.removeprefix("i"))
        printed.append((dimension, text if weight == 1 else f"{number(int(weight))} * {text}"))
    parts = [text for _, text in sorted(printed)]
    if constant or not parts:
        parts.append(number(constant))
    return " + ".join(parts)


def _lines(writer: _Writer, final: str) -> tuple[str, ...]:
    """The statements that `final` needs. If the last one computes `final`, it becomes the `return`."""
    live: set[str] = {final}
    kept: list[_Statement] = []
    for statement in reversed(writer.statements):
        if statement.name in live:
            kept.append(statement)
            live.update(re.findall(r"[A-Za-z_]\w*", statement.expression))
    kept.reverse()
    if kept and kept[-1].name == final:
        return (*(f"{s.name} = {s.expression}" for s in kept[:-1]), f"return {kept[-1].expression}")
    return (*(f"{s.name} = {s.expression}" for s in kept), f"return {final}")
