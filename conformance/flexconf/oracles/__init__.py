"""Oracles: the results that a correct implementation may return, computed without the implementations under test."""
