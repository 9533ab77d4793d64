"""Hypothesis strategies for cases: mods as text, the tensors that they read, the problem and its block mask.

Every case drawn is legal: it can be constructed, its mods are accepted, and every index lies within its dimension.
Hypothesis shrinks a case towards one that a person would write: `score`, one head, a few keys, no capture.
"""

from flexconf.strategies.cases import cases, for_subject, narrow_widths, tiled_cases, vector_widths
from flexconf.strategies.features import Features, features

__all__ = ["Features", "cases", "features", "for_subject", "narrow_widths", "tiled_cases", "vector_widths"]
