"""How fast the lowering's kernels are on a GPU, beside what else computes the same attention.

`workloads` says what is measured, `providers` by whom, `measure` how, `rows` whether what was timed is right; `run`
runs it in a worker, `record` is the file that it leaves.
"""
