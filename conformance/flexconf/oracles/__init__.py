"""Oracles: the results that a correct implementation may return, computed without running any implementation."""
