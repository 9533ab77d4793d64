"""Arithmetic over the sizes of a problem, as cases write it: `M+N-1`, `2*H`, `max(M, N)`."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping

from flexconf.errors import InputError

__all__ = ["SYMBOLS", "evaluate", "split_arguments"]

SYMBOLS = ("B", "H", "Hkv", "M", "N", "D", "Dv")
"""The sizes of a problem: batch, query heads, key/value heads, length of q, length of k/v, head dim of q/k and of v."""

_LONGEST = 120
_DEEPEST = 12
_NUMBERS: Mapping[str, float] = {"inf": float("inf"), "nan": float("nan")}


def evaluate(text: str, symbols: Mapping[str, int], what: str) -> int | float:
    """Evaluates an arithmetic expression over `symbols`.

    An expression consists of numbers, `inf`, `nan`, the symbols, `+ - * / // % **`, `max` and `min`. `what` names the
    expression in error messages. Raises InputError if the text is no such expression, or has no value, such as `1/0`.

    >>> evaluate("max(M, N) // 2 + H", {"H": 4, "M": 160, "N": 192}, "shape of bias")
    100
    >>> evaluate("2*L", {"M": 160}, "shape of bias")
    Traceback (most recent call last):
        ...
    flexconf.errors.InputError: shape of bias: unknown symbol 'L'; the symbols are B, H, Hkv, M, N, D, Dv
    """
    if len(text) > _LONGEST or _depth(text) > _DEEPEST:
        raise InputError(f"{what}: {text[:30]!r}... is too long or too deeply nested")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{what}: {text!r} is not arithmetic; write for example 2*H or M+N-1") from None
    try:
        value = _value(tree.body, symbols, what)
    except (ZeroDivisionError, OverflowError):
        raise InputError(f"{what}: {text!r} has no value for {_given(symbols)}") from None
    return value


def split_arguments(text: str) -> list[str]:
    """Splits a list of arguments at the commas outside brackets.

    >>> split_arguments("H, max(M, N)")
    ['H', 'max(M, N)']
    """
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return parts


def _depth(text: str) -> int:
    """The deepest nesting of brackets, or the longest run of the operators `+ - ~ *` if that is more."""
    depth = deepest = run = 0
    for character in text:
        run = run + 1 if character in "+-~*" else (run if character == " " else 0)
        depth += (character in "([") - (character in ")]")
        deepest = max(deepest, depth, run)
    return deepest


def _given(symbols: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in symbols.items())


def _value(node: ast.expr, symbols: Mapping[str, int], what: str) -> int | float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            if name in symbols:
                return symbols[name]
            if name in _NUMBERS:
                return _NUMBERS[name]
            close = difflib.get_close_matches(name, SYMBOLS, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"the symbols are {', '.join(SYMBOLS)}"
            raise InputError(f"{what}: unknown symbol {name!r}; {hint}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, symbols, what)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, symbols, what), _value(right, symbols, what)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
                case ast.FloorDiv():
                    return a // b
                case ast.Mod():
                    return a % b
                case ast.Pow() if abs(b) <= 64 and abs(a) <= 2**16:
                    power = a**b
                    if isinstance(power, int | float):  # a fractional power of a negative number is complex
                        return power
        case ast.Call(func=ast.Name(id=("max" | "min") as name), args=args, keywords=[]) if args:
            values = [_value(argument, symbols, what) for argument in args]
            return max(values) if name == "max" else min(values)
    raise InputError(f"{what}: only numbers, {', '.join(SYMBOLS)}, + - * / // % **, max and min are allowed")
