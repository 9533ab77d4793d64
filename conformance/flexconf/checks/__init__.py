"""Checks beside whole runs: a user's own mod, single operations, relations between runs, attribution of failures."""
