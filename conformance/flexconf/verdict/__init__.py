"""Compares the output of a subject with an oracle, and records the outcome."""
