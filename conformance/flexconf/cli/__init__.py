"""The commands and their tables."""
