"""Protects the fast step by the readable one: parameters and state, in any layout, step by step."""

import numpy as np
import pytest
import torch

from celo2.parameters.views import MatrixAxes
from celo2.torch import Celo2, Celo2Reference
from tests.cases import REFERENCE, THETA, draw
from tests.oracle import oracle_steps

LINEAR = {"axes": (1, 0)}
ONE_MATRIX = {"axes": ((1, 2, 3), 0)}
TRANSPOSED = {"axes": (0, (1, 2, 3))}
CASES = {
    "linear": ((6, 10), LINEAR),
    "row": ((1, 9), LINEAR),
    "fused QKV": ((12, 6), {**LINEAR, "split_axis": 0, "split_sizes": (6, 4, 2)}),
    "heads": ((12, 6), {**LINEAR, "split_axis": 0, "split_sizes": (4, 4, 4)}),
    "experts": ((4, 5, 7), {"axes": (2, 1)}),
    "conv": ((6, 5, 3, 2), ONE_MATRIX),
    "wide conv": ((40, 3, 3, 2), ONE_MATRIX),
    "conv by taps": ((6, 5, 3, 2), {"axes": (1, 0)}),
    "1x1 conv": ((6, 5, 1, 1), ONE_MATRIX),
    "depthwise conv": ((6, 1, 3, 3), {**ONE_MATRIX, "split_axis": 0, "split_sizes": (1,) * 6}),
    "grouped conv": ((6, 4, 3, 3), {**ONE_MATRIX, "split_axis": 0, "split_sizes": (2, 2, 2)}),
    "transposed conv": ((6, 5, 3, 2), TRANSPOSED),
    "grouped transposed conv": (
        (6, 4, 3, 3),
        {**TRANSPOSED, "split_axis": 0, "split_sizes": (3, 3)},
    ),
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: (
        x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.mT.contiguous().mT
    ),
    "with gaps": lambda x: torch.empty(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x),
    "a window": lambda x: torch.zeros([n + 2 for n in x.shape])[
        tuple(slice(1, n + 1) for n in x.shape)
    ].copy_(x),
}


def reference_axes(reading):
    fan_in, fan_out = reading["axes"]
    return MatrixAxes(
        fan_in, fan_out, reading.get("split_axis", -1), reading.get("split_sizes", ())
    )


def both(value, reading, **options):
    """A parameter under Celo2, and a contiguous copy of it under the reference."""
    p, q = (
        torch.nn.Parameter(value),
        torch.nn.Parameter(value.clone(memory_format=torch.contiguous_format)),
    )
    group = {"params": [p], "rule": "celo2", "weight_decay": 0.1, **reading}
    fast = Celo2([group], lr=0.01, theta=THETA, **options)
    slow = Celo2Reference([q], lr=0.01, weight_decay=0.1, axes=reference_axes(reading), theta=THETA)
    return p, fast, q, slow


def check_equal(p, fast, q, slow):
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-5)
    for key, expected in slow.state[q].items():
        torch.testing.assert_close(
            fast.state[p][key], expected, rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_parameters_and_state_step_by_step(case, layout):
    torch.manual_seed(0)
    shape, reading = CASES[case]
    p, fast, q, slow = both(LAYOUTS[layout](torch.randn(shape)), reading)
    for step in range(4):
        # The gradient need not lie in memory as the parameter does, nor as it did before.
        q.grad = torch.randn(shape)
        p.grad = LAYOUTS[layout](q.grad) if step % 2 else q.grad.clone()
        fast.step()
        slow.step()
        check_equal(p, fast, q, slow)


def test_a_model_that_becomes_channels_last_after_some_steps():
    """State is then laid out unlike its parameter, and must be written back where it lies."""
    torch.manual_seed(0)
    shape, reading = CASES["conv"]
    p, fast, q, slow = both(torch.randn(shape), reading)
    for step in range(4):
        q.grad = torch.randn(shape)
        p.grad = q.grad.clone()
        if step == 2:
            p.data = p.data.to(memory_format=torch.channels_last)
        fast.step()
        slow.step()
        check_equal(p, fast, q, slow)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_small_kernels_are_stacked_in_either_memory_format(layout):
    torch.manual_seed(0)
    shape, reading = CASES["conv"]
    values = [LAYOUTS[layout](torch.randn(shape)) for _ in range(3)]
    pairs = [both(value, reading) for value in values]
    params = [p for p, *_ in pairs]
    together = Celo2(
        [{"params": params, "rule": "celo2", "weight_decay": 0.1, **reading}], lr=0.01, theta=THETA
    )
    for _ in range(3):
        for p, _, q, slow in pairs:
            q.grad = torch.randn(shape)
            p.grad = LAYOUTS[layout](q.grad)
            slow.step()
        together.step()
    for p, _, q, slow in pairs:
        check_equal(p, together, q, slow)


def test_the_reference_is_the_oracle():
    w, grads = draw((5, 7))
    p = torch.nn.Parameter(torch.from_numpy(w.T.copy()))
    optimizer = Celo2Reference([p], lr=0.01, weight_decay=0.1, theta=THETA)
    for g in grads:
        p.grad = torch.from_numpy(g.T.copy())
        optimizer.step()
    _, expected = oracle_steps(REFERENCE, grads, w, True, weight_decay=0.1)
    np.testing.assert_allclose(p.detach().numpy(), expected[-1].T, rtol=0, atol=1e-5)
