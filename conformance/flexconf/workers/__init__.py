"""Isolated worker processes, and cases as their tasks."""
