"""Goldens: the float64 oracle's results for the cases of `cases/mustpass.txt`, kept so that every change is noticed."""
