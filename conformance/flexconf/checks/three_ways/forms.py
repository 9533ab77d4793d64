"""The forms in which the check calls every operation of the vocabulary: operands, dtypes, numbers and keywords.

A form is one expression. An operand is an element of a table read at `kv` or `q`, a 0-dim capture, the score, an index,
or a Python number. Together the forms cover every pair of dtypes in every pair of positions. A new operation of the
vocabulary gets its forms from its signature. A new keyword needs an entry with its values here.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from flexconf.checks.three_ways.values import DTYPES, FLOATS, INTEGERS
from flexconf.checks.three_ways.written import BOOLS, INTS, WRITTEN_FLOATS, kind_of, numbers, some, takes, written
from flexconf.language.modtext import OPERATIONS
from flexconf.language.operations import ROWS, Signature

SYMBOLS: Final = ("+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^", "==", "!=", "<", "<=", ">", ">=")
UNARY_SYMBOLS: Final = ("-", "+", "~")
UNCOVERED: Final = tuple(call for row in ROWS if row.refused for call in row.calls)
"""The vocabulary has these functions only so that a case can expect their refusal (L7.7)."""

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "alpha": ("1", "1.0", "True", "3", "-2", "0.5", "-0.7", "0"),
    "rounding_mode": ('"floor"', '"trunc"', "None"),
    "approximate": ('"none"', '"tanh"'),
    "decimals": ("0", "1", "2", "-1", "3"),
    "beta": ("1", "1.0", "2", "0.5", "-1.5"),
    "threshold": ("20", "20.0", "5", "-1", "0.5"),
    "negative_slope": ("0.01", "0.25", "-0.5", "2", "0", "True"),
    "min_val": ("-1.0", "-1", "0.1", "-3"),
    "max_val": ("1.0", "1", "2.5", "6"),
    "value": ("1", "1.0", "-0.7", "3", "0"),
    "nan": ("0.0", "0", "1.5", "-inf"),
    "posinf": ("0.0", "7", "2.5"),
    "neginf": ("0.0", "-7", "-2.5"),
    "eps": ("0.25", "1e-6"),
    "lambd": ("0.5", "0.1", "2"),
    "dtype": tuple(f"torch.{d}" for d in DTYPES),
}
"""The values of each keyword: first the default, then others."""
_POSITIONS: Final[dict[str, tuple[str, ...]]] = {
    "torch.nn.functional.softplus": ("beta", "threshold"),
    "torch.nn.functional.hardtanh": ("min_val", "max_val"),
    "torch.nn.functional.leaky_relu": ("negative_slope",),
    "torch.nn.functional.elu": ("alpha",),
    "torch.nn.functional.celu": ("alpha",),
    "torch.nan_to_num": ("nan", "posinf", "neginf"),
}
"""The keyword arguments that may also be given by position, after the operands."""


@dataclass(frozen=True)
class Form:
    """One way to call `operation`. `text` is an expression of the mod grammar over captures of `values.capture`."""

    operation: str
    text: str

    @property
    def over_queries(self) -> bool:
        """Whether the value depends on q."""
        return re.search(r"\bq\b", self.text) is not None

    @property
    def over_keys(self) -> bool:
        """Whether the value depends on kv, directly or through the score."""
        return re.search(r"\b(kv|score)\b", self.text) is not None


@functools.cache
def plan(full: bool = False) -> dict[str, tuple[Form, ...]]:
    """All forms by operation.

    With `full`, every operation has every pair of dtypes in every pair of positions. Otherwise it has a quarter of the
    pairs, in positions that rotate from one operation to the next.
    """
    found: dict[str, tuple[Form, ...]] = {}
    turn = itertools.count()
    for name, signature in OPERATIONS.items():
        found[name] = _forms(name, _of_call(name, signature, next(turn), full))
    for symbol in SYMBOLS:
        name, n = f"x {symbol} y", next(turn)
        indices = itertools.islice(_of_indices(symbol), 0 if full else n % 3, None, 1 if full else 3)
        step = 3 if symbol == "**" and not full else 1  # torch.pow has more of them
        found[name] = _forms(name, [*[*_binary(symbol, f"{{a}} {symbol} {{b}}", n, full)][::step], *indices])
    for symbol in UNARY_SYMBOLS:
        found[f"{symbol}x"] = _forms(f"{symbol}x", _unary(f"{symbol}{{a}}", next(turn), full))
    casts = [t for d in DTYPES for t in _unary(f"{{a}}.to(torch.{d})", next(turn), full)]
    found["x.to(dtype)"] = _forms("x.to(dtype)", casts)
    return found


FAMILY: Final = 320


def families() -> dict[str, tuple[Form, ...]]:
    """The plan in parts of about `FAMILY` forms, so that they take about the same time. An operation is never split.

    The key of a part names its first and its last operation.
    """
    parts: dict[str, tuple[Form, ...]] = {}
    names: list[str] = []
    forms: list[Form] = []
    plan_ = [(name, forms) for name, forms in plan().items() if forms]
    for name, own in plan_:
        names.append(name)
        forms += own
        if len(forms) >= FAMILY or name == plan_[-1][0]:
            parts[f"{names[0]} to {names[-1]}"] = tuple(forms)
            names, forms = [], []
    return parts


def _forms(operation: str, texts: Iterator[str] | Sequence[str]) -> tuple[Form, ...]:
    return tuple(Form(operation, text) for text in dict.fromkeys(texts))


def _of_call(name: str, signature: Signature, turn: int, full: bool) -> Iterator[str]:
    if name in UNCOVERED:
        return
    special = {
        "torch.clamp": _clamp,
        "torch.where": _where,
        "torch.lerp": _lerp,
        "torch.full_like": _full_like,
        "torch.heaviside": _heaviside,
        "torch.nn.functional.threshold": _threshold,
    }.get(name)
    if special is not None:
        yield from special(turn, full)
        return
    letters = "abc"[: signature.least]
    call = f"{name}({', '.join(f'{{{letter}}}' for letter in letters)}{{more}})"
    yield from _operands(name, call.replace("{more}", ""), len(letters), turn, full)
    for more in _extras(name, signature):
        template = call.replace("{more}", f", {more}")
        turn += 1
        yield from _operands(name, template, len(letters), turn, full, plain=True)


def _extras(name: str, signature: Signature) -> Iterator[str]:
    """Texts that may follow the operands: each keyword with each value, by name or position, or several keywords."""
    words = sorted(word for word in signature.keywords if word in _WORDS)
    for word in words:
        yield from (f"{word}={value}" for value in _WORDS[word] if _spelled(word, value))
    if len(words) > 1:
        yield ", ".join(f"{word}={_WORDS[word][0]}" for word in words)
        yield ", ".join(f"{word}={_WORDS[word][1]}" for word in reversed(words))
    positions = _POSITIONS.get(name, ())[: signature.most - signature.least]
    for count in range(1, len(positions) + 1):
        for i in range(4):
            yield ", ".join(_WORDS[word][min(i, len(_WORDS[word]) - 1)] for word in positions[:count])


def _spelled(word: str, value: str) -> bool:
    """Whether the grammar allows this value of a keyword."""
    from flexconf.language.modtext.vocabulary import STRING_CHOICES

    choices = STRING_CHOICES.get(word)
    return choices is None or value.strip('"') in map(str, choices)


def _operands(name: str, template: str, count: int, turn: int, full: bool, plain: bool = False) -> Iterator[str]:
    if count == 1 and plain and not full:
        yield from _some_of_unary(template, turn)
    elif count == 1:
        yield from _unary(template, turn, full)
    elif count == 2 and plain:
        yield from _alike(name, template, turn, full)
    elif count == 2:
        # Integer powers take long to compile.
        step = 2 if name == "torch.pow" and not full else 1
        yield from itertools.islice(_binary(name, template, turn, full), 0, None, step)
    else:
        yield from _ternary(template, turn, plain and not full)


def _unary(template: str, turn: int, full: bool) -> Iterator[str]:
    for dtype in DTYPES:
        yield template.format(a=f"x_{dtype}[kv]")
    yield template.format(a="score")
    yield template.format(a="kv")
    for n, dtype in enumerate(DTYPES):
        if full or (n + turn) % 4 == 0:
            yield template.format(a=f"z_{dtype}_any_{n + turn}")


def _some_of_unary(template: str, turn: int) -> Iterator[str]:
    """Three forms with a keyword: a float element or the score, a 0-dim float, and an integer, bool or index.

    Their dtypes rotate with `turn`.
    """
    yield template.format(a=("score", f"x_{FLOATS[turn % 4]}[kv]")[turn % 5 > 0])
    yield template.format(a=f"z_{FLOATS[(turn + 1) % 4]}_any_{turn}")
    whole = (*INTEGERS, "bool")[turn % 6]
    yield template.format(a=("kv", f"x_{whole}[kv]")[turn % 7 > 0])


def _alike(name: str, template: str, turn: int, full: bool) -> Iterator[str]:
    """Forms with a keyword and two operands: four for each dtype with `full`, else one of the four in turn.

    The four are: two elements of the dtype; an element and a 0-dim capture of another dtype; such a capture and an
    element; an element and a number.
    """
    kind = kind_of(name)
    for n, dtype in enumerate(DTYPES):
        other = DTYPES[(3 * n + turn) % len(DTYPES)]
        a, z = f"x_{dtype}[kv]", f"z_{other}_{kind}_{2 + n}"
        y, number = f"y_{dtype}_{kind}[q]", ("3", "2.5", "True")[n % 3]
        places = ((a, y), (a, z), (f"z_{other}_any_{2 + n}", y), (a, number))
        for place in range(4) if full else ((n + turn) % 4,):
            yield template.format(a=places[place][0], b=places[place][1])


def _binary(name: str, template: str, turn: int, full: bool) -> Iterator[str]:
    kind = kind_of(name)
    for i, first in enumerate(DTYPES):
        for j, second in enumerate(DTYPES):
            n = i + 3 * j + turn
            if n % 4 and not full:
                continue
            a = ("score", f"x_{first}[kv]")[n // 4 % 5 > 0] if first == "float32" else f"x_{first}[kv]"
            a = ("kv", a)[n // 4 % 5 > 0] if first == "int32" else a
            b = f"y_{second}_{kind}[q]"
            za, zb = f"z_{first}_any_{n}", f"z_{second}_{kind}_{n + 1}"
            positions = ((a, b), (a, zb), (za, b), (za, zb))
            for place in range(4) if full else ((j + turn // 4) % 4,):
                yield template.format(a=positions[place][0], b=positions[place][1])
    for n, dtype in enumerate(DTYPES):
        yield from _with_numbers(name, template, dtype, kind, n + turn, full)


def _with_numbers(name: str, template: str, dtype: str, kind: str, n: int, full: bool) -> Iterator[str]:
    operands = (f"x_{dtype}[kv]", f"z_{dtype}_any_{n}")
    rights, lefts = numbers(name, dtype)
    if not full:  # if PyTorch takes no number here, a few forms show that they are refused
        rights = rights if takes(name, 1) else rights[: int(n % 4 == 0)]
        lefts = lefts if takes(name, 0) else lefts[: int(n % 4 == 1)]
    for position, number in enumerate(some(rights, n, full)):
        yield template.format(a=operands[position % 3 == 2], b=written(number))
    for position, number in enumerate(some(lefts, n + 3, full)[n % 3 if not full else 0 :: 1 if full else 2]):
        b = (f"y_{dtype}_{kind}[q]", f"z_{dtype}_{kind}_{n}")[position % 3 == 2]
        yield template.format(a=written(number), b=b)


def _of_indices(symbol: str) -> Iterator[str]:
    """Forms of indices and their sums and differences. Unlike for other integers, sign and limit are known for them."""
    if symbol in ("<<", ">>"):
        yield from (f"kv {symbol} {n}" for n in (0, 1, 5, 31))
        yield f"1 {symbol} (kv % 8)"
        return
    for left in ("kv", "q", "(q - kv)", "(kv - 7)", "(q + 1)"):
        for right in ("1", "7", "8", "True", "2.5", "2147483647", "(-3)"):
            if not (symbol == "**" and right in ("2147483647", "(-3)")):
                yield f"{left} {symbol} {right}"
    for left in ("7", "(-3)", "2.5"):
        yield f"{left} {symbol} (kv + 1)"


def _ternary(template: str, turn: int, one_way: bool) -> Iterator[str]:
    """Forms of every dtype in four positions or, with `one_way`, in one of them that rotates."""
    for n, dtype in enumerate(DTYPES):
        second, third = DTYPES[(n + turn) % 10], DTYPES[(n * 3 + turn) % 10]
        ways = (
            (f"x_{dtype}[kv]", f"y_{dtype}_any[q]", f"x_{dtype}[q]"),
            (f"x_{dtype}[kv]", f"y_{second}_any[q]", f"z_{third}_any_{n}"),
            (f"z_{dtype}_any_{n}", f"y_{second}_any[q]", f"x_{third}[kv]"),
            (f"x_{second}[kv]", f"z_{third}_any_{n}", f"y_{dtype}_any[q]"),
        )
        for a, b, c in ways[(n + turn) % 4 :][:1] if one_way else ways:
            yield template.format(a=a, b=b, c=c)


def _heaviside(turn: int, full: bool) -> Iterator[str]:
    """Forms of torch.heaviside with two operands of one dtype, and one form with two dtypes, which PyTorch refuses."""
    yield "torch.heaviside(score, y_float32_any[q])"
    yield "torch.heaviside(x_float32[kv], y_float16_any[q])"
    for n, dtype in enumerate(DTYPES):
        a, b = f"x_{dtype}[kv]", f"y_{dtype}_any[q]"
        za, zb = f"z_{dtype}_any_{n}", f"z_{dtype}_any_{n + 1}"
        yield from (f"torch.heaviside({x}, {y})" for x, y in ((a, b), (a, zb), (za, b)))


def _threshold(turn: int, full: bool) -> Iterator[str]:
    """Forms of threshold. PyTorch takes only numbers as the threshold and the value."""
    numbers = ("1, 7", "-0.5, 2.5", "0.1, 0.7", "0, -1", "-1, True", "-2.5, -3.9", "inf, 0.0", "0.0, -inf", "nan, 1")
    for n, dtype in enumerate(DTYPES):
        for m, given in enumerate(numbers):
            if full or (n + m + turn) % 3 == 0:
                operand = (f"x_{dtype}[kv]", f"z_{dtype}_any_{n}", "score")[(n + m) % 4 // 2]
                yield f"torch.nn.functional.threshold({operand}, {given})"


def _clamp(turn: int, full: bool) -> Iterator[str]:
    """Forms of clamp, without those whose only bound is the number nan: torch 2.11 ignores it, 2.13 returns NaN."""
    return (text for text in _clamps(turn, full) if not _ONE_NAN.match(text))


_ONE_NAN: Final = re.compile(r"torch\.clamp\([^,]+, (min=|max=)?nan\)")


def _clamps(turn: int, full: bool) -> Iterator[str]:
    for place, shape in enumerate(("{b}", "min={b}", "max={b}")):
        texts = _binary("torch.clamp", f"torch.clamp({{a}}, {shape})", turn + place, full)
        yield from itertools.islice(texts, 0 if full else place, None, 1 if full else 2)
    both = ("{b}, {c}", "min={b}, max={c}", "{b}, max={c}")
    for n, dtype in enumerate(DTYPES):
        for place, shape in enumerate(both):
            m = n + turn + 4 * place
            second, third = DTYPES[m % 10], DTYPES[(m * 3 + 1) % 10]
            call = f"torch.clamp({{a}}, {shape})"
            if not full and (n + place) % 3:
                continue
            yield call.format(a=f"x_{dtype}[kv]", b=f"y_{second}_any[q]", c=f"z_{third}_any_{m}")
            yield call.format(a=f"x_{dtype}[kv]", b=f"z_{second}_any_{m}", c=f"y_{third}_any[q]")
            yield call.format(a=f"z_{dtype}_any_{m}", b=f"z_{second}_any_{m}", c=f"y_{third}_any[q]")
            low, high = INTS[m % len(INTS)], WRITTEN_FLOATS[m % len(WRITTEN_FLOATS)]
            yield call.format(a=f"x_{dtype}[kv]", b=written(low), c=written(high))
            yield call.format(a=f"x_{dtype}[kv]", b=written(high), c=written(low))
            yield call.format(a=f"x_{dtype}[kv]", b=("-0.5", "1.5", "-2", "True")[m % 4], c=("2.5", "3", "1.5")[m % 3])


def _where(turn: int, full: bool) -> Iterator[str]:
    conditions = ("x_bool[kv]", "(kv > q)", "z_bool_any_0", "z_bool_any_1", "x_bool[q]")
    for n, condition in enumerate(conditions):
        texts = _binary("torch.where", f"torch.where({condition}, {{a}}, {{b}})", turn + n, full)
        yield from itertools.islice(texts, n if not full else None, None, len(conditions) if not full else 1)
    for first, second in ((1, 2.5), (True, 3), (2**31, 1), (-0.0, 0), (math.inf, True), (2.5, 0.1)):
        yield f"torch.where(x_bool[kv], {written(first)}, {written(second)})"
    for dtype in ("uint8", "int32", "float32"):
        yield f"torch.where(x_{dtype}[kv], x_int32[kv], 0)"


def _lerp(turn: int, full: bool) -> Iterator[str]:
    for n, dtype in enumerate(FLOATS):
        other = FLOATS[(n + 1) % 4]
        for weight in (
            "0.25",
            "0.75",
            "0.5",
            "1",
            "0",
            "True",
            "-1.5",
            "2",
            "nan",
            f"x_{dtype}[q]",
            f"z_{dtype}_any_7",
        ):
            yield f"torch.lerp(x_{dtype}[kv], y_{dtype}_any[q], {weight})"
        for weight in ("0.3", f"z_{dtype}_any_16"):
            yield f"torch.lerp(z_{dtype}_any_2, y_{dtype}_any[q], {weight})"
            yield f"torch.lerp(x_{dtype}[kv], z_{dtype}_any_8, {weight})"
        yield f"torch.lerp(x_{dtype}[kv], y_{other}_any[q], 0.5)"
        yield f"torch.lerp(x_{dtype}[kv], y_{dtype}_any[q], z_{other}_any_7)"
    for dtype in (*INTEGERS, "bool"):
        yield f"torch.lerp(x_{dtype}[kv], y_{dtype}_any[q], 0.5)"


def _full_like(turn: int, full: bool) -> Iterator[str]:
    numbers = (*BOOLS, *INTS, *WRITTEN_FLOATS)
    for n, dtype in enumerate(DTYPES):
        for number in some(numbers, n + turn, full):
            yield f"torch.full_like(x_{dtype}[kv], {written(number)})"
        for m, target in enumerate(DTYPES):
            for number in some(numbers, 10 * n + m, full)[: None if full else 1]:
                yield f"torch.full_like(x_{dtype}[kv], {written(number)}, dtype=torch.{target})"
