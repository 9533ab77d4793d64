"""The vocabulary of cases: the text of mods, arithmetic, distributions, layouts, operations."""
