"""The launchers, which run rendered kernels (L8, L9). Only this package imports cutlass or flash_attn."""
