"""The machine: versions, GPUs, compile caches, and files that are written atomically."""
