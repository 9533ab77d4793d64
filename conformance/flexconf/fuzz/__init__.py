"""Fuzzing: runs generated cases on a subject in isolated workers, shrinks and keeps failures, and counts coverage.

`engine.fuzz` runs drivers (`driver`), which write records (`stream`) and findings (`findings`). `outline` reads the
operations, dtypes and captures of a case from its text. `coverage` counts them.
"""
