"""A mod's text as statements, within bounds that hold before the parser sees it."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from flexconf.language.modtext.vocabulary import GRAMMAR_NAMES, HINTS, ModTextError


@dataclass(frozen=True)
class Limits:
    """Bounds on the text of a mod: characters, nodes of the syntax tree, levels of nesting."""

    characters: int = 4000
    nodes: int = 400
    nesting: int = 40


LIMITS = Limits()

_TOKEN = re.compile(r"[A-Za-z_]\w*|[0-9.]+|\*\*|//|<<|>>|[-+~()\[\]{}]|\S")
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, surrogates, separators of lines and of paragraphs
_PREFIX = frozenset({"-", "+", "~", "not", "**", "lambda", "await"})


def parse(text: str) -> list[ast.stmt]:
    """The statements of the text, after the bounds that must hold before the parser sees it."""
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
    Where they do not, the text that is checked would not be the text that runs, so there is one line end. Raises
    ModTextError for every other control character, line separator and lone surrogate.
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
    """Every node that stands for an operation, a name or a number; stops soon after the bound."""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    seen = 0
    while stack and seen <= LIMITS.nodes:
        node, level = stack.pop()
        if level > LIMITS.nesting + 2:  # the module and the statement are levels of their own
            raise ModTextError(f"the mod is nested more than {LIMITS.nesting} levels deep; use assignments")
        if isinstance(node, ast.expr | ast.stmt):
            seen += 1
            yield node
        for child in ast.iter_child_nodes(node):
            # x + y + z + ... is long, not deep: the left operand stays on the level of its parent.
            left = isinstance(node, ast.BinOp) and child is node.left
            stack.append((child, level if left else level + 1))


@functools.lru_cache(maxsize=1024)
def free_names(text: str) -> frozenset[str]:
    """The captures that the text needs: names it reads and the grammar does not give. Raises ModTextError."""
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
    """The names that stand for a value; what is called, or has an attribute but `.to`, is no capture."""
    stack: list[ast.AST] = [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            stack.extend([*node.args, *node.keywords])
        elif not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr != "to"):
            stack.extend(ast.iter_child_nodes(node))
