"""Protects the memory of a step with donated buffers: one copy of the largest matrix, Gram matrices
of its shorter side, and tiles; not a copy of the stack, and none per channel of the rule."""

import os
import subprocess
import sys

import pytest

STACK, A, B = 8, 1024, 8192
PROGRAM = f"""
import jax, jax.numpy as jnp
from celo2.jax import scale_by_celo2
optimizer = scale_by_celo2()
p = jax.ShapeDtypeStruct(({STACK}, {A}, {B}), jnp.float32)
state = jax.eval_shape(optimizer.init, p)
step = jax.jit(optimizer.update, donate_argnums=(0, 1)).lower(p, state, p).compile()
memory = step.memory_analysis()
print(memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes)
"""
GRAMS = 8 * A * A
TILES = 24 * (1 << 16) + 2 * (1 << 20)


@pytest.mark.slow
def test_temporaries_are_one_matrix_and_tiles():
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    temporary, new = map(int, result.stdout.split())
    assert temporary < 4 * (A * B + GRAMS + TILES)
    assert new < 1000, "state and gradients were not overwritten"
