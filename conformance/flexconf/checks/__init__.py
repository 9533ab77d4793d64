"""What is asked beside whole runs: a user's own mod, each operation, relations between cases, whose fault it is."""
