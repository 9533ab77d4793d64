"""What a case may say: the text of mods, arithmetic, distributions, layouts, operations."""
