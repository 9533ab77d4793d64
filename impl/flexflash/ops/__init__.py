"""How each operation is written in CuTe, in one table: `lookup(overload)` (L7.2, L7.3, L7.6).

An entry receives a `Writer` and the node's arguments as `Value`s, and returns the `Value` of the result. Arithmetic in
float16 and bfloat16 is carried out in Float32 (L7.2); an explicit cast to them rounds. The entries are right at any
vector width, because a `Value` is either a Python constant or a vector with one element per lane.

`values`: the arguments and results of an entry. `ranges`: known bounds and signs of values. `table`: the table itself.
`pieces`: expressions that many entries share. `arithmetic`, `logic`, `bounds`, `functions`: the entries.
"""

from . import arithmetic, bounds, functions, logic  # noqa: F401  (they fill the table)
from .table import converted, lookup, supported
from .values import CUTE_NAMES, Argument, Emitter, Value, Writer, constant, constant_of, cute_name, operand_dtype

__all__ = [
    "CUTE_NAMES", "Argument", "Emitter", "Value", "Writer", "constant", "constant_of", "converted", "cute_name",
    "lookup", "operand_dtype", "supported",
]  # fmt: skip
