"""The table: ATen overload -> its CuTe spelling, and the dtypes and numbers that PyTorch takes there (L7.2, L7.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from ..numbers import Unwritable, operand_number, rounded_number
from .values import Argument, Emitter, Value, operand_dtype

Kind: TypeAlias = Literal["integers", "floats"]


class Entry(NamedTuple):
    """An operation's entry: the `hint` that names its results, its emitter, and the only kind of dtype that it takes.

    Integers include bool. If `only` is None, the operation takes every dtype.
    """

    hint: str
    emit: Emitter
    only: Kind | None = None

    def check(self, dtype: torch.dtype) -> None:
        """Raises Unwritable if PyTorch does not have the operation on `dtype`.

        Tracing does not show this: PyTorch infers `dtype` as the result's dtype all the same.
        """
        if dtype.is_floating_point and self.only == "integers":
            raise Unwritable("floating-point numbers, as in PyTorch; cast to an integer first")
        if not dtype.is_floating_point and self.only == "floats":
            raise Unwritable("whole numbers, as in PyTorch; cast to float32 first")


_TABLE: dict[Any, Entry] = {}


def lookup(target: Any) -> Entry | None:
    """The entry of an ATen overload. Returns None if it has no spelling."""
    return _TABLE.get(target)


def supported() -> tuple[str, ...]:
    """The overloads that have a spelling, as `aten.add.Tensor`, sorted."""
    return tuple(sorted(str(target) for target in _TABLE))


def _overloads(names: str) -> list[Any]:
    found = []
    for name in names.split():
        packet, _, overload = name.partition(".")
        found.append(getattr(getattr(torch.ops.aten, packet), overload or "default"))
    return found


def spell(names: str, hint: str | None = None, *, only: Kind | None = None) -> Callable[[Emitter], Emitter]:
    """Decorator that enters the emitter of these overloads, given as "add.Tensor add.Scalar", in the table.

    `hint` names the variables of the results; by default it is the operation's name. `only` is the kind of dtype on
    which PyTorch has the operation, if it does not have it on every dtype.
    """

    def register(emitter: Emitter) -> Emitter:
        for target in _overloads(names):
            name = hint or target._schema.name.removeprefix("aten::").strip("_")
            _TABLE[target] = Entry(name, emitter, only)
        return emitter

    return register


_COMPARISONS = frozenset("eq ne lt le gt ge".split())
_ROUNDED = _COMPARISONS | frozenset("clamp clamp_min clamp_max hardtanh masked_fill".split())


def converted(
    target: Any, args: Sequence[Argument], kw: dict[str, Argument], dtype: torch.dtype
) -> tuple[list[Argument], dict[str, Argument]]:
    """The arguments, their Python numbers converted as the operation reads them. `dtype` is the result's."""
    name = target.overloadpacket.__name__
    common = operand_dtype(*args) if name in _COMPARISONS else dtype
    number = rounded_number if name in _ROUNDED else operand_number

    def convert(argument: Argument) -> Argument:
        if name == "masked_fill" and argument is args[2] and isinstance(argument, Value):
            known = argument.constant
            return argument if known is None else replace(argument, constant=rounded_number(known, common))
        return number(argument, common) if type(argument) in (int, float) else argument  # type: ignore[arg-type]

    return [convert(a) for a in args], {k: convert(v) for k, v in kw.items()}
