"""A case: its mods, the captures that they read, and the problem on which they run.

A case is plain data. It has a digest and a TOML form. It has no tensors: `flexconf.inputs.materialize` makes them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from flexconf.cases import toml
from flexconf.cases.block import BlockSpec
from flexconf.cases.problem import LARGEST, Problem, one_of, whole
from flexconf.errors import InputError
from flexconf.language import distributions, layouts, modtext
from flexconf.language.arithmetic import evaluate, split_arguments

__all__ = ["EXPECTATIONS", "BlockSpec", "Capture", "Case"]

EXPECTATIONS = ("ok", *(f"refused:{stage}" for stage in ("trace", "eligibility", "render")))

_CLAUSE = re.compile(r"L[1-9]\.[1-9]\d?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True)
class Capture:
    """A tensor that a mod reads.

    `shape` holds integers and arithmetic in the problem's symbols (`"M+N-1"`). `dtype` is one of clause L7.5. `values`
    is in the vocabulary of `flexconf.language.distributions`, `layout` in that of `flexconf.language.layouts`. Raises
    InputError if the name, rank, dtype or layout is invalid; `Case` checks the shape and the values.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    values: str = "normal"
    layout: str = "contiguous"
    requires_grad: bool = False

    def __post_init__(self) -> None:
        what = f"capture {self.name!r}"
        modtext.check_capture_name(self.name)
        if len(self.shape) > 4:
            raise InputError(f"{what} has {len(self.shape)} dimensions; captures have 0 to 4")
        one_of(self.dtype, modtext.DTYPES, f"dtype of {what}")
        layouts.parse(self.layout)
        if self.requires_grad and not self.dtype.startswith(("float", "bfloat")):
            raise InputError(f"{what}: only a float can require grad, not {self.dtype}")

    @classmethod
    def parse(cls, spec: str) -> Capture:
        """Parses `NAME=SHAPE:DTYPE[:VALUES[:LAYOUT[:requires_grad]]]`.

        SHAPE is a comma list such as `H,M+N`, or `scalar` for rank 0. VALUES is by default `normal` for floats and
        `bits` for integers and bool, LAYOUT is by default `contiguous`. Raises InputError.

        >>> bias = Capture.parse("bias=H,M+N-1:bfloat16")
        >>> bias.shape, bias.values, bias.layout
        (('H', 'M+N-1'), 'normal', 'contiguous')
        >>> bias.resolve_shape({"H": 4, "M": 160, "N": 192})
        (4, 351)
        >>> Capture.parse("seen=B,N:bool::expanded").values
        'bits'
        """
        name, equals, rest = spec.partition("=")
        example = "write NAME=SHAPE:DTYPE[:VALUES[:LAYOUT]], such as bias=H,M+N:float32"
        if not equals:
            raise InputError(f"buffer {spec[:60]!r} has no '='; {example}")
        parts = [part.strip() for part in rest.split(":")]
        if not 2 <= len(parts) <= 5:
            raise InputError(f"buffer {spec[:60]!r}: {example}")
        shape, dtype, *more = parts
        if len(more) == 3 and more[2] != "requires_grad":
            raise InputError(f"buffer {spec[:60]!r}: the fifth part can only be requires_grad, not {more[2]!r}")
        sizes: tuple[int | str, ...] = ()
        if shape not in ("", "scalar"):
            sizes = tuple(int(part) if part.isdecimal() else part for part in split_arguments(shape))
        return cls(
            name.strip(),
            sizes,
            dtype,
            more[0] if more and more[0] else ("normal" if dtype.startswith(("float", "bfloat")) else "bits"),
            more[1] if len(more) > 1 and more[1] else "contiguous",
            len(more) == 3,
        )

    def spec(self) -> str:
        """The text that `parse` reads after `NAME=`."""
        parts = [",".join(map(str, self.shape)) or "scalar", self.dtype, self.values, self.layout]
        if self.requires_grad:
            return ":".join([*parts, "requires_grad"])
        if self.layout == "contiguous":
            parts.pop()
        return ":".join(parts)

    def resolve_shape(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for the sizes `symbols` of a problem.

        Raises InputError if a size is negative or fractional, or the tensor has more than 2^24 elements.
        """
        what = f"shape of capture {self.name!r}"
        sizes: list[int] = []
        for part in self.shape:
            size = part if isinstance(part, int) else evaluate(part, symbols, what)
            if not isinstance(size, int) or not 0 <= size <= LARGEST:
                raise InputError(f"{what}: {part!r} is {size!r}, but must be a whole number from 0 to {LARGEST}")
            sizes.append(size)
        if math.prod(sizes) > LARGEST:
            raise InputError(f"{what}: {tuple(sizes)} has more than {LARGEST:,} elements")
        return tuple(sizes)


def used(captures: Sequence[Capture], *mods: str | None) -> tuple[Capture, ...]:
    """The captures that the mods read, and the captures whose storage these share. Raises ModTextError."""
    return _named(captures, {name for text in mods if text is not None for name in modtext.free_names(text)})


def _named(captures: Sequence[Capture], names: Set[str]) -> tuple[Capture, ...]:
    """The captures of these names, and the captures whose storage these share.

    A capture stands after the capture whose storage it shares.
    """
    wanted = set(names)
    for capture in reversed(captures):
        of = layouts.parse(capture.layout).of
        if capture.name in wanted and of is not None:
            wanted.add(of)
    return tuple(c for c in captures if c.name in wanted)


@dataclass(frozen=True)
class Case:
    """A score_mod, a mask_mod, both or neither, on one problem.

    `clauses` are the clauses of docs/lowering.md that the case is about. `source` is the paper, library or issue that
    the case comes from. `expect` is "ok" or "refused:<stage>"; `reason_contains` is a part of the refusal's text.
    Raises InputError if a field is invalid, if a mod reads an unknown name, or if no mod reads a capture.
    """

    name: str
    about: str = ""
    score_mod: str | None = None
    mask_mod: str | None = None
    captures: tuple[Capture, ...] = ()
    problem: Problem = field(default_factory=Problem)
    block: BlockSpec = field(default_factory=BlockSpec)
    form: str = "function"
    seed: int = 0
    clauses: tuple[str, ...] = ()
    source: str | None = None
    expect: str = "ok"
    reason_contains: str | None = None

    def __post_init__(self) -> None:
        what = f"case {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise InputError(f"{what}: a name is letters, digits, '_', '-' and '.', then perhaps @shape")
        whole(self.seed, f"seed of {what}", 0, 2**63 - 1)
        one_of(self.form, modtext.FORMS, f"form of {what}")
        one_of(self.expect, EXPECTATIONS, f"expect of {what}")
        if self.reason_contains is not None and self.expect == "ok":
            raise InputError(f"{what}: reason_contains needs expect = 'refused:...'")
        for clause in self.clauses:
            if not _CLAUSE.fullmatch(clause):
                raise InputError(f"{what}: {clause!r} is not a clause, such as 'L7.4'")
        self._check_captures(what)
        self._check_mods(what)

    def _check_captures(self, what: str) -> None:
        earlier: set[str] = set()
        symbols = self.problem.symbols()
        for capture in self.captures:
            if capture.name in earlier:
                raise InputError(f"{what}: capture {capture.name!r} is given twice")
            shared = layouts.parse(capture.layout).of
            if shared is not None and shared not in earlier:
                raise InputError(f"{what}: capture {capture.name!r} is a view of {shared!r}, which must come before it")
            capture.resolve_shape(symbols)
            distributions.check(capture.values, symbols)
            earlier.add(capture.name)

    def _check_mods(self, what: str) -> None:
        given = {capture.name for capture in self.captures}
        needed: set[str] = set()
        if (
            self.form != "function"
            and (self.mask_mod is None)
            and (self.score_mod is None or self.form in modtext.JOINED)
        ):
            raise InputError(f"{what}: form {self.form!r} needs a mod of that form")
        for kind, text in (("score_mod", self.score_mod), ("mask_mod", self.mask_mod)):
            if text is None:
                continue
            try:
                names = modtext.free_names(text)
                if kind == "mask_mod" and self.form in modtext.JOINED:
                    modtext.operands(text, self.form)
            except InputError as error:
                raise InputError(f"{what}: {kind}: {error}") from None
            for name in sorted(names - given):
                close = difflib.get_close_matches(name, [*given, *modtext.GRAMMAR_NAMES], 1, 0.6)
                hint = f"did you mean {close[0]!r}?" if close else f"give it as a buffer: {name}=SHAPE:DTYPE"
                raise InputError(f"{what}: {kind} reads {name!r}, which is not given; {hint}")
            needed |= names
        read = {capture.name for capture in _named(self.captures, needed)}
        for name in sorted(given - read):
            raise InputError(f"{what}: capture {name!r} is given, but no mod reads it")
        if self.mask_mod is None and self.block.kind == "from_mask" and self.block != BlockSpec():
            raise InputError(f"{what}: a block size needs a mask_mod, or a block of kind 'lists'")

    @property
    def kind(self) -> str:
        """The kind of the case: "score_mod", "mask_mod", "combination" (both), or "plain" (neither)."""
        if self.score_mod is not None:
            return "score_mod" if self.mask_mod is None else "combination"
        return "plain" if self.mask_mod is None else "mask_mod"

    def constants(self) -> dict[str, int]:
        """The sizes that a mod may read as Python integers."""
        return self.problem.symbols()

    def replace(self, **changes: Any) -> Case:
        """A copy of the case with some fields changed. Raises InputError if the copy is invalid."""
        return dataclasses.replace(self, **changes)

    def digest(self) -> str:
        """SHA-256, in hex, of all fields of the case except `about`, `source` and `clauses`."""
        content = dataclasses.asdict(self)
        for unessential in ("about", "source", "clauses"):
            del content[unessential]
        # A case that does not use a key keeps the digest that it had before the key existed.
        if self.form == "function":
            del content["form"]
        content["block"] = self.block.essentials()
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_toml(self) -> str:
        """The case as one table of a catalogue file."""
        default = Case(self.name)
        lines = [f"[{toml.key(self.name)}]"]
        for name in (
            "about",
            "source",
            "score_mod",
            "mask_mod",
            "form",
            "seed",
            "clauses",
            "expect",
            "reason_contains",
        ):
            value = getattr(self, name)
            if value != getattr(default, name) or name == "seed":
                lines.append(f"{name} = {toml.value(value)}")
        if self.captures:
            specs = ", ".join(f"{capture.name} = {toml.value(capture.spec())}" for capture in self.captures)
            lines.append(f"captures = {{ {specs} }}")
        lines.append(f"problem = {toml.inline(dataclasses.asdict(self.problem))}")
        if self.block != BlockSpec():
            lines.append(f"block = {toml.inline(self.block.changed())}")
        return "\n".join(lines) + "\n"
