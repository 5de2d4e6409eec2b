"""Protects users of one framework from the other, and the core from both."""

import subprocess
import sys

import pytest

import celo2
import celo2.baselines
import celo2.jax
import celo2.torch

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Block())
"""

TORCH = """
import torch, celo2.torch
model = torch.nn.Linear(3, 3)
optimizer = celo2.torch.Celo2(model, lr=1e-3)
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
"""
JAX = """
import jax.numpy as jnp, celo2.jax
optimizer = celo2.jax.celo2(1e-3)
params = jnp.ones((3, 3))
optimizer.update(params, optimizer.init(params), params)
"""
BASELINES = """
import jax.numpy as jnp, celo2.baselines
optimizer = celo2.baselines.celo(10)
params = jnp.ones((3, 3))
optimizer.update(params, optimizer.init(params), params, value=1.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "code"),
    [
        (["jax", "jaxlib", "optax", "flax", "rich", "tyro", "matplotlib"], TORCH),
        (["torch", "flax", "haiku", "rich", "tyro", "matplotlib"], JAX),
        (["torch", "flax", "haiku", "msgpack", "rich", "tyro", "matplotlib"], BASELINES),
        (
            ["jax", "jaxlib", "optax", "torch", "rich", "tyro"],
            "import celo2; celo2.load_theta('celo2')",
        ),
    ],
    ids=["torch without jax", "jax without torch", "baselines without torch", "core without both"],
)
def test_a_front_end_needs_no_other(blocked, code):
    subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=set(blocked)) + code], check=True, timeout=120
    )


def test_a_command_without_its_extra_says_how_to_install_it():
    code = BLOCK.format(blocked={"rich"}) + "import celo2.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "celo2's commands need rich; in a checkout: pip install -e '.[cli]'\n"


@pytest.mark.parametrize("module", [celo2, celo2.baselines, celo2.jax, celo2.torch])
def test_public_names_are_complete_and_sorted(module):
    assert list(module.__all__) == sorted(module.__all__)
    public = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    assert {name for name in public if not name.startswith("_")} <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert all(
        getattr(module, name).__doc__ for name in module.__all__ if callable(getattr(module, name))
    )
