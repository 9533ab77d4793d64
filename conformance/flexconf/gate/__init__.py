"""The release gate: record what an environment computes, and compare two of them."""
