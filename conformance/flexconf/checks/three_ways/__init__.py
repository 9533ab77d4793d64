"""Compares eager PyTorch, the oracle and the lowering on the same points: the one that is wrong stands alone."""
