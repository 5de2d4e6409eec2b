"""The problems theta is learned on, and their augmentation. Needs JAX."""
