"""Planted faults: named ways in which the reference or the harness is wrong as in a real bug, to test the tester.

Test code, not installed. `catalogue.FAULTS` holds them; `flexconf.tampering` switches one on and labels what ran with
it; `python -m flexconf.planted` looks for them by fuzzing.
"""
