"""Run catalogue cases under NVIDIA's compute-sanitizer, which finds accesses outside a kernel's own memory.

A comparison of results cannot see an overread whose value is masked away. `run` drives the tool, `target` is the
program that runs under it, `log` reads its reports, `tight` removes the guards around the inputs.
"""
