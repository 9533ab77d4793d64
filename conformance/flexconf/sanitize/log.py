"""Parse a log of compute-sanitizer into reports with their offsets.

Every line of the tool begins with `=========`. The first line of a report follows after one space; its further lines
are indented more (user manual of Compute Sanitizer, "Tool Examples").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PREFIX = "========="
_SHOWN = 6  # lines kept of a report
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: ([\d,]+) (?:errors?|hazards?)(?! were not printed)\b")
_NOT_PRINTED = re.compile(r"SUMMARY: [\d,]+ (?:errors?|hazards?) were not printed")
# Messages that the tool itself failed. A log with one of them proves nothing, even without reports.
_TROUBLE = (
    "Internal Sanitizer Error",
    "Error: Target application terminated before first instrumented API call",
    "Error: No attachable process found",
    "Error: process didn't terminate successfully",
    "Target application returned an error",
    "Target application terminated",
    "Error: Failed to",
    "Unable to find injection library",
    "Device not supported",
    "timed-out",
)


@dataclass(frozen=True)
class SanitizerReport:
    """One report: its first `lines`, without the prefix, and the byte `offset` at which it begins."""

    lines: tuple[str, ...]
    offset: int

    @property
    def title(self) -> str:
        """The first line, such as "Invalid __global__ read of size 4 bytes"."""
        return self.lines[0]

    @property
    def kernel(self) -> str:
        """The kernel or function that the report names. Returns "" if it names none."""
        for line in self.lines[1:] or self.lines:
            found = re.search(r"\bat (?:0x[0-9a-f]+ in )?(.+?)(?:\+0x[0-9a-f]+.*)?$", line)
            if found:
                return found.group(1)
        return ""


@dataclass(frozen=True)
class Log:
    """The content of a log. `errors` is the sum of the counts in its summaries.

    `errors` is None if there is no summary: the tool did not end properly. `trouble` holds the tool's messages about
    its own failures. `truncated` says that it did not print all reports.
    """

    reports: tuple[SanitizerReport, ...]
    errors: int | None
    trouble: tuple[str, ...]
    truncated: bool

    @property
    def complete(self) -> bool:
        """Whether the tool worked and printed a report for every error that it counted."""
        return self.errors is not None and not self.trouble and not self.truncated and self.errors <= len(self.reports)


def parse(text: bytes) -> Log:
    """Parse the bytes of a log file."""
    reports: list[SanitizerReport] = []
    trouble: list[str] = []
    counts: list[int] = []
    truncated = False
    lines: list[str] | None = None
    for offset, line in _lines(text):
        begins = line.startswith(f"{_PREFIX} ") and len(line) > len(_PREFIX) + 1 and line[len(_PREFIX) + 1] != " "
        content = line.removeprefix(_PREFIX).strip()
        if not line.startswith(_PREFIX) or not content:
            lines = None
        elif not begins:
            if lines is not None and len(lines) < _SHOWN:
                lines.append(content)
                reports[-1] = SanitizerReport(tuple(lines), reports[-1].offset)
        elif found := _SUMMARY.search(content):
            counts.append(int(found.group(1).replace(",", "")))
            lines = None
        elif _NOT_PRINTED.search(content):
            truncated, lines = True, None
        elif any(words in content for words in _TROUBLE):
            trouble.append(content)
            lines = None
        elif content == "COMPUTE-SANITIZER" or "SUMMARY:" in content:
            lines = None
        else:
            lines = [content]
            reports.append(SanitizerReport((content,), offset))
    return Log(tuple(reports), sum(counts) if counts else None, tuple(trouble), truncated)


def _lines(text: bytes) -> Iterator[tuple[int, str]]:
    offset = 0
    for line in text.splitlines(keepends=True):
        yield offset, line.decode(errors="replace").rstrip()
        offset += len(line)
