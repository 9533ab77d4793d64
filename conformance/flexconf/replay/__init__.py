"""Record here, replay there: the kernels that one torch generates, run on a machine that has another torch."""
