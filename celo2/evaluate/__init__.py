"""What optimizers are compared on, each tuned: problems, baselines, runs, scores. Needs JAX."""
