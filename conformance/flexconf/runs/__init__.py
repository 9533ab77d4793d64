"""Many cases on a subject, held against what is expected and against the known defects."""
