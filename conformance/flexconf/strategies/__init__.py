"""Hypothesis strategies for cases: mods as text, the tensors that they read, the problem and its block mask.

Everything that is drawn is legal: a case constructs, its mods are accepted, every index is within its dimension.
What shrinks, shrinks to what a person would have written: `score`, one head, a few keys, no capture.
"""

from flexconf.strategies.cases import cases, for_subject, narrow_widths, tiled_cases, vector_widths
from flexconf.strategies.features import Features, features

__all__ = ["Features", "cases", "features", "for_subject", "narrow_widths", "tiled_cases", "vector_widths"]
