"""Goldens: what the float64 oracle says of the cases of `cases/mustpass.txt`, kept so that no change goes unseen."""
