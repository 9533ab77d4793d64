"""A case, the catalogue of cases, and the clauses that cases cite."""
