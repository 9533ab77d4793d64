"""The operations that mods may use, one row for each: how it is called, its dtypes, its result, its domain.

The vocabulary of mods, `flexconf ops`, the generator of cases, and the coverage report and the cuts of fuzzing read
this table. The lowering (`flexflash.ops`) and the oracle (`flexconf.oracles.error_model`) have tables of their own, so
that a mistake here is not repeated there.
"""

from flexconf.language.operations.lookup import (
    CATALOGUE,
    OPERATIONS,
    ROWS,
    SIGNATURES,
    row_of,
    rows_by_function,
    text_of,
)
from flexconf.language.operations.rows import (
    ALL,
    FLOATS,
    HALVES,
    INTEGER_RANGES,
    INTEGERS,
    NUMBERS,
    SIGNED,
    UNKNOWN,
    FunctionRow,
    Operation,
    Range,
    Signature,
    Text,
)

__all__ = [
    "ALL",
    "CATALOGUE",
    "FLOATS",
    "HALVES",
    "INTEGERS",
    "INTEGER_RANGES",
    "NUMBERS",
    "OPERATIONS",
    "ROWS",
    "SIGNATURES",
    "SIGNED",
    "UNKNOWN",
    "FunctionRow",
    "Operation",
    "Range",
    "Signature",
    "Text",
    "row_of",
    "rows_by_function",
    "text_of",
]
