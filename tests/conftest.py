"""A strict test run: JAX has eight virtual devices, and hypothesis draws alike each time.

Warnings are errors by pyproject.toml.
"""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # test files run side by side, and threads that wait for a core spin
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # no run of the tests serves another
# Programs of tests are compiled for longer than they run. Without optimization and with the older
# emitters of fused loops, XLA compiles ten times as fast.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("ci")


@pytest.fixture
def one_thread():
    """Processor time of one thread: the measure that other work on the machine disturbs least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
