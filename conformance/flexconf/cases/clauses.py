"""The numbered clauses of `docs/lowering.md`, which cases, expectations and tests cite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from flexconf.errors import InputError

_GROUP = re.compile(r"^## (L\d+) (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^- \*\*(L\d+\.\d+)\*\* ((?:\[(?:S|C|X|GPU)\] ?)+)(.*)$")


@dataclass(frozen=True)
class Clause:
    """One clause: its number, its kinds (S, C, X, GPU), and its text as one line of Markdown."""

    number: str
    kinds: tuple[str, ...]
    text: str

    @property
    def title(self) -> str:
        """The first sentence."""
        return self.text.split(". ")[0].rstrip(".")

    @property
    def gpu_only(self) -> bool:
        """Whether the clause can be checked only on a GPU."""
        return "GPU" in self.kinds


def groups() -> dict[str, str]:
    """The titles of the groups of clauses by number, such as {"L2": "Indexing"}, in document order."""
    return {number: title.strip() for number, title in _GROUP.findall(_document().read_text(encoding="utf-8"))}


def load() -> list[Clause]:
    """All clauses in document order. Raises InputError if the document holds none."""
    path = _document()
    clauses: list[Clause] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = _ITEM.match(line)
        if found:
            kinds = tuple(re.findall(r"\[(\w+)\]", found[2]))
            clauses.append(Clause(found[1], kinds, found[3].strip()))
        elif clauses and line.startswith("  ") and line.strip():
            last = clauses[-1]
            clauses[-1] = Clause(last.number, last.kinds, f"{last.text} {line.strip()}")
    if not clauses:
        raise InputError(f"no clauses in {path}; it needs items such as `- **L1.1** [S] Text.`")
    return clauses


def _document() -> Traversable:
    packaged = resources.files("flexconf").joinpath("_docs/lowering.md")
    return packaged if packaged.is_file() else Path(__file__).parents[3] / "docs" / "lowering.md"
