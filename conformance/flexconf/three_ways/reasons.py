"""What may legally differ between the three ways, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flexconf.three_ways.forms import Form

LOWERING_TAKES: Final = "lowering takes it"
LOWERING_REFUSES: Final = "lowering refuses"


@dataclass(frozen=True)
class Reason:
    """Forms on which one way may stand apart.

    `who`: the kind of disagreement, as `check` says it. `operations` and `text`, a pattern, say which forms; `why` is
    the reason.
    """

    key: str
    who: str
    operations: tuple[str, ...]
    text: str
    why: str

    def covers(self, form: Form) -> bool:
        """Whether the reason is about this form."""
        return form.operation in self.operations and re.search(self.text, form.text) is not None


REASONS: Final[tuple[Reason, ...]] = ()
