"""Meta-training: theta -> unrolled inner loops -> meta-gradient -> outer optimizer. Needs JAX."""
