"""The speed of the lowering's kernels on a GPU, beside other implementations of the same attention.

`workloads` defines the attention problems, `providers` the implementations. `measure` times them, `rows` checks their
results. `run` does this in a worker, and `record` defines the file with the measurements.
"""
