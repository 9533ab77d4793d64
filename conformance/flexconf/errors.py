"""Errors for the person who has to act on them."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(Exception):
    """A case file, mod text, shape, capture or flag is wrong.

    The message is one line: what was asked, what is wrong, what would work. The command line prints it and
    exits with code 2; nothing has been run.
    """
