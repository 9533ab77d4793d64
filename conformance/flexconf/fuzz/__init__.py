"""Fuzzing: generated cases on a subject, in isolated workers; failures are shrunk and kept, and what was reached is
counted.

`engine.fuzz` runs drivers (`driver`), which write `stream` records and `findings`; `outline` reads what a case says
from its text, `coverage` adds that up.
"""
