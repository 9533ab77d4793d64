"""Eager PyTorch, the oracle and the lowering on the same points: whoever is wrong stands alone."""
