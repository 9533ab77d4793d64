"""Isolated processes, and a case as their task."""
