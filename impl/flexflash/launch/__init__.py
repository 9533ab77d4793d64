"""Where a rendered kernel runs. Only the modules of this package import cutlass or flash_attn (L8, L9)."""
