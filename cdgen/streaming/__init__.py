"""The order of training tokens, as arithmetic: no buffers, nothing to lose at a resume."""
