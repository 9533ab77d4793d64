"""The Hypothesis profiles for pytest: dev, ci, gate and nightly, chosen by $FLEXCONF_PROFILE.

`dev` is quick, with new examples every time. `ci` has the same examples every time, so that a failing build is caused
by the change. `gate` also has the same examples every time, but more of them, so that two environments are compared on
the same examples. `nightly` has many new examples.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

from flexconf.errors import InputError

VARIABLE = "FLEXCONF_PROFILE"
DEFAULT = "dev"
EXAMPLES = {"dev": 60, "ci": 150, "gate": 1000, "nightly": 5000}
_SAME = ("ci", "gate")


def load() -> str:
    """Register the profiles and load the one that the environment names. Raises InputError for an unknown one."""
    for name, examples in EXAMPLES.items():
        settings.register_profile(
            name,
            max_examples=examples,
            deadline=None,  # the time of an example is mostly the compiler's
            derandomize=name in _SAME,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            print_blob=False,
        )
    chosen = os.environ.get(VARIABLE, DEFAULT)
    if chosen not in EXAMPLES:
        raise InputError(f"{VARIABLE} is {chosen!r}; the profiles are {', '.join(EXAMPLES)}")
    settings.load_profile(chosen)
    return chosen
