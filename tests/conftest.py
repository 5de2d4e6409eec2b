"""A strict session: warnings are errors (pyproject.toml), and every test sees the same hypothesis profile."""

import jax
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("ci")
jax.config.update("jax_platforms", "cpu")
