"""What the table gives: the rows, the operations by text, the signatures by callable, and lookups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flexconf.language.operations.rows import INTEGERS, FunctionRow, Operation, Signature, Text
from flexconf.language.operations.table import TABLE

_UNLISTED = FunctionRow("")


def _rows() -> dict[str, FunctionRow]:
    rows: dict[str, FunctionRow] = {}
    for entry in TABLE:
        if isinstance(entry, FunctionRow):
            assert entry.name not in rows, f"two rows for {entry.name}"
            rows[entry.name] = entry
        else:
            rows[entry.name] = replace(rows[entry.name], texts=(*rows[entry.name].texts, *entry.texts))
    return rows


def _operations(row: FunctionRow, text: Text) -> Iterator[Operation]:
    """The text on its dtypes: one operation, or one for integers and one for floats if y takes other values."""
    second, dtypes = text.second or row.second, text.dtypes or row.dtypes
    kinds = ((second.integers if dtype in INTEGERS else second.floats, dtype) for dtype in dtypes)
    for kind, some in itertools.groupby(kinds, key=lambda pair: pair[0]):
        yield Operation(row.name, text.text, tuple(dtype for _, dtype in some), kind)


_BY_NAME: Mapping[str, FunctionRow] = _rows()
ROWS: tuple[FunctionRow, ...] = tuple(_BY_NAME.values())
"""All rows, each with all its texts."""

CATALOGUE: tuple[Operation, ...] = tuple(
    operation for entry in TABLE for text in entry.texts for operation in _operations(_BY_NAME[entry.name], text)
)
"""The operations of all texts, in the order of the table."""

OPERATIONS: tuple[Operation, ...] = tuple(o for o in CATALOGUE if not _BY_NAME[o.name].filled)
"""The operations that `flexconf ops` checks: all but those whose result does not depend on x."""

SIGNATURES: Mapping[str, Signature] = {call: signature for row in ROWS for call, signature in row.calls.items()}
"""The signatures of all callable operations by dotted name."""

_BY_TEXT: Mapping[str, Text] = {text.text: text for row in ROWS for text in row.texts}


def row_of(name: str) -> FunctionRow:
    """The row with this name in ATen, or an empty row with neither domain nor range if there is none."""
    return _BY_NAME.get(name, _UNLISTED)


def text_of(text: str) -> Text:
    """The text in the table, or the same text with the values of its row if the table has no such text."""
    return _BY_TEXT.get(text, Text(text))


def rows_by_function() -> Mapping[str, FunctionRow]:
    """The rows by their names in ATen and by the last part of each dotted name: "div", "true_divide", "logsigmoid"."""
    return {row.name: row for row in ROWS} | {call.rpartition(".")[2]: row for row in ROWS for call in row.calls}
