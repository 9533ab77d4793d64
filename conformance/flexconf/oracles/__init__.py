"""Oracles: what a correct implementation may compute, established without looking at one."""
