"""A mod written as text, checked against a small grammar and compiled into a real Python function.

A mod is the body of a FlexAttention `score_mod` or `mask_mod`: one expression, or a few assignments and a final
expression. The grammar allows only the operations of a table, written as operators or as `torch.<operation>(...)`, and
`.to(torch.<dtype>)`. The size of the text is bounded. The compiled function has its captures as closure cells and its
source in `linecache`, so that tracers, tracebacks and repro scripts see ordinary code.
"""

from flexconf.language.modtext.forms import FORMS, JOINED, code_of, operands
from flexconf.language.modtext.function import ScalarIndexing, check_result, compile_mod
from flexconf.language.modtext.syntax import LIMITS, free_names
from flexconf.language.modtext.vocabulary import (
    DTYPES,
    GRAMMAR_NAMES,
    OPERATIONS,
    Kind,
    ModTextError,
    check_capture_name,
)

__all__ = [
    "DTYPES",
    "FORMS",
    "GRAMMAR_NAMES",
    "JOINED",
    "LIMITS",
    "OPERATIONS",
    "Kind",
    "ModTextError",
    "ScalarIndexing",
    "check_capture_name",
    "check_result",
    "code_of",
    "compile_mod",
    "free_names",
    "operands",
]
