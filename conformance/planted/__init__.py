"""Planted faults: named switches that make the reference or the harness wrong as in a real bug, to test the tester.

Test code, not installed. `catalogue.FAULTS` holds the faults. `flexconf.tampering` switches one on and labels the runs
with it. `python -m flexconf.planted` measures how soon fuzzing finds them.
"""
