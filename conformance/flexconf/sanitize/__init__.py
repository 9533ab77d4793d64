"""Catalogue cases under NVIDIA's compute-sanitizer: does a kernel touch what is not its own?

A comparison sees a wrong number; an overread whose value is masked away it cannot see. `run` drives the tool, `target`
is what runs under it, `log` reads its reports, `tight` takes the guards off the inputs.
"""
