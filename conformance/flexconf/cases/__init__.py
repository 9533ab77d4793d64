"""A case, the catalogue of them, and the clauses that they cite."""
