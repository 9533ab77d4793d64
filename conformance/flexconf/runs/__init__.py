"""Runs many cases on a subject, and compares the outcomes with the cases' expectations and with the known defects."""
