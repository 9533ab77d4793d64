"""`python -m flexconf.planted`: fuzzes with faults planted. They are test code, so it needs a checkout."""

from __future__ import annotations

import importlib

from flexconf import tampering
from flexconf.cli import options
from flexconf.errors import InputError


def main() -> None:
    """Entry point. Outside a checkout that is one line on stderr and exit code 2."""
    try:
        tampering.faults()
    except InputError as error:
        options.refuse(str(error))
    importlib.import_module("planted.cli").main()


if __name__ == "__main__":
    main()
