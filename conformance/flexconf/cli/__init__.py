"""The commands of `flexconf` and the tables that they print."""
