"""The report of the release gate: one Decision as a page, as JSON, as JUnit XML and as a Markdown summary."""

from __future__ import annotations

from pathlib import Path

from flexconf.errors import InputError
from flexconf.gate.model import Decision
from flexconf.gate.report import page, plain
from flexconf.machine import files

__all__ = ["write"]


def write(decision: Decision, folder: Path) -> dict[str, Path]:
    """Write report.html, report.json, junit.xml and summary.md into `folder`, and return their paths by name.

    Each file is written atomically. Raises InputError if one cannot be written.
    """
    made = {
        "report.html": page.html(decision),
        "report.json": plain.as_json(decision),
        "junit.xml": plain.junit(decision),
        "summary.md": plain.markdown(decision),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            files.write(folder / name, text)
    except OSError as error:
        raise InputError(f"{folder}: the report cannot be written: {error.strerror}") from None
    return {name: folder / name for name in made}
