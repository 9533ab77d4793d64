"""Parses a mod's text into statements. Length and nesting are bounded before Python's parser sees the text."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from flexconf.language.modtext.vocabulary import GRAMMAR_NAMES, HINTS, METHODS, ModTextError


@dataclass(frozen=True)
class Limits:
    """Bounds on the text of a mod: characters, expressions and statements in its syntax tree, levels of nesting."""

    characters: int = 4000
    nodes: int = 400
    nesting: int = 40


LIMITS = Limits()

_TOKEN = re.compile(r"[A-Za-z_]\w*|[0-9.]+|\*\*|//|<<|>>|[-+~()\[\]{}]|\S")
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, surrogates, line separators, paragraph separators
_PREFIX = frozenset({"-", "+", "~", "not", "**", "lambda", "await"})


def parse(text: str) -> list[ast.stmt]:
    """Parses a mod's text into its statements.

    Raises ModTextError if the text is empty or not valid Python, exceeds LIMITS, holds a character that `normalised`
    refuses, or ends with an assignment.
    """
    if len(text) > LIMITS.characters:
        raise ModTextError(
            f"the mod has {len(text):,} characters, at most {LIMITS.characters:,} are allowed; put tables into captures"
        )
    if not text.strip():
        raise ModTextError("the mod is empty; the identity is the score itself: score")
    text = normalised(text)
    _check_nesting(text)
    try:
        tree = ast.parse(textwrap.dedent(text).strip())
    except SyntaxError as error:
        at = f"line {error.lineno}, column {error.offset}" if error.lineno else "the text"
        line = (error.text or "").strip()[:60]
        raise ModTextError(f"{at}: {error.msg}{f' in {line!r}' if line else ''}") from None
    except (RecursionError, MemoryError, ValueError):
        raise ModTextError(f"the mod is nested too deeply; at most {LIMITS.nesting} levels are allowed") from None
    nodes = sum(1 for _ in _limited_walk(tree))
    if nodes > LIMITS.nodes:
        raise ModTextError(f"the mod has more than {LIMITS.nodes} operations and names; put tables into captures")
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Assign) or last is None:
            raise ModTextError("the last line must be an expression: the mod's result")
    return tree.body


def normalised(text: str) -> str:
    r"""The text with the line ends "\r\n" and "\r" written as "\n".

    Python's tokenizer, `str.splitlines`, `linecache` and this package do not agree on which characters end a line.
    With another line end, the text that runs could differ from the text that was checked, so "\n" is the only one.
    Raises ModTextError for every other control character (except tab), line or paragraph separator, and lone surrogate.

    >>> normalised("d = q - kv\r\nscore + d")
    'd = q - kv\nscore + d'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for at, character in enumerate(text):
        if character not in "\n\t" and unicodedata.category(character) in _UNSEEN:
            line = text.count("\n", 0, at) + 1
            name = "a null character" if character == "\0" else f"the character U+{ord(character):04X}"
            raise ModTextError(f"line {line}: the mod holds {name}; write a space, or a line end")
    return text


def _check_nesting(text: str) -> None:
    depth = run = 0
    for token in _TOKEN.findall(text):
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        run = run + 1 if token in _PREFIX else 0
        if depth > LIMITS.nesting or run > LIMITS.nesting:
            raise ModTextError(f"the mod is nested more than {LIMITS.nesting} levels deep; use assignments")


def _limited_walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields each expression and statement node. Stops one node after LIMITS.nodes.

    Raises ModTextError if the tree is nested too deeply.
    """
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    seen = 0
    while stack and seen <= LIMITS.nodes:
        node, level = stack.pop()
        if level > LIMITS.nesting + 2:  # plus one level for the module and one for the statement
            raise ModTextError(f"the mod is nested more than {LIMITS.nesting} levels deep; use assignments")
        if isinstance(node, ast.expr | ast.stmt):
            seen += 1
            yield node
        for child in ast.iter_child_nodes(node):
            # A sum x + y + z + ... is long, not deep: its left operand stays on the level of its parent.
            left = isinstance(node, ast.BinOp) and child is node.left
            stack.append((child, level if left else level + 1))


@functools.lru_cache(maxsize=1024)
def free_names(text: str) -> frozenset[str]:
    r"""The captures that a mod's text needs: the names that it reads, and that neither it nor the grammar defines.

    Names with a hint, such as `abs`, are left out: compile_mod refuses them with that hint. Raises ModTextError if
    `parse` does.

    >>> sorted(free_names("d = q - kv\nscore + bias[h, d] - slope[h]"))
    ['bias', 'slope']
    """
    free: set[str] = set()
    assigned: set[str] = set()
    for statement in parse(text):
        value = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
        if value is not None:
            free |= set(_values(value)) - assigned - GRAMMAR_NAMES
        if isinstance(statement, ast.Assign):
            assigned |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return frozenset(free - set(HINTS))


def _values(expression: ast.expr) -> Iterator[str]:
    """Yields the names that stand for a value: not a called name, nor a name with an attribute that is no method."""
    stack: list[ast.AST] = [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            stack.extend([*node.args, *node.keywords])
        elif not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr not in METHODS):
            stack.extend(ast.iter_child_nodes(node))
