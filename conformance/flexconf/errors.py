"""The exception for bad input. Its message is for the user who has to fix the input."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(Exception):
    """A case file, mod text, shape, capture, flag or path is wrong.

    The message is one line. It says what the user asked for, what is wrong, and what would work. The command line
    prints it and exits with code 2.
    """
