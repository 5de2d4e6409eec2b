"""Protects the reading of axes: each entry is in exactly one matrix, and returns to its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celo2 import InputError, MatrixAxes
from celo2.parameters.state import ParameterState, join, moment_shapes, pack, unpack
from celo2.parameters.views import matrix_views
from celo2.rule.spec import Spec


@st.composite
def parameters(draw):
    """(shape, axes) of a parameter of two to five axes, perhaps split."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    order = draw(st.permutations(range(len(shape))))
    ins = draw(st.integers(1, len(shape) - 1))
    outs = draw(st.integers(1, len(shape) - ins))
    fan_in, fan_out = tuple(order[:ins]), tuple(order[ins : ins + outs])
    if draw(st.booleans()):
        fan_in, fan_out = fan_in[0], fan_out[0]
    split = draw(st.integers(0, len(shape) - 1))
    length = shape[split]
    cuts = sorted(draw(st.sets(st.integers(1, length - 1), max_size=3))) if length > 1 else []
    sizes = tuple(np.diff([0, *cuts, length]).tolist()) if cuts else ()
    from_the_end = (
        fan_out - len(shape)
        if isinstance(fan_out, int)
        else tuple(axis - len(shape) for axis in fan_out)
    )
    return shape, MatrixAxes(fan_in, from_the_end, split, sizes)


@given(parameters())
def test_views_and_their_inverses_are_a_partition(parameter):
    shape, axes = parameter
    x = np.arange(np.prod(shape)).reshape(shape)
    parts = matrix_views(shape, axes)
    matrices = [part.view(np, x) for part in parts]
    assert all(m.shape[-2] <= m.shape[-1] for m in matrices)
    assert sorted(np.concatenate([m.ravel() for m in matrices])) == list(range(x.size))
    np.testing.assert_array_equal(join(np, parts, matrices), x)


@given(parameters())
def test_leading_axes_are_left_alone(parameter):
    shape, axes = parameter
    x = np.arange(3 * np.prod(shape)).reshape(3, *shape)
    for part in matrix_views(shape, axes):
        np.testing.assert_array_equal(part.view(np, x), np.stack([part.view(np, one) for one in x]))


@given(st.one_of(parameters(), st.sampled_from([((), MatrixAxes()), ((5,), MatrixAxes())])))
def test_state_packs_and_unpacks(parameter):
    shape, axes = parameter
    rng = np.random.default_rng(0)
    parts = matrix_views(shape, axes)
    moments = (rng.random(length) for length in moment_shapes(Spec(), parts, rng.random(shape), np))
    state = ParameterState(rng.random((4, *shape)), *moments)
    again = pack(np, parts, list(unpack(np, parts, state)))
    for ours, theirs in zip(again, state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((4, 6), MatrixAxes(), (4, 6)),
        ((6, 4), MatrixAxes(), (4, 6)),
        ((6, 4), MatrixAxes(1, 0, 0), (4, 6)),
        ((3, 3, 8, 16), MatrixAxes(), (3, 3, 8, 16)),
        ((16, 8, 3, 3), MatrixAxes(1, 0, 0), (3, 3, 8, 16)),
        ((16, 8, 3, 3), MatrixAxes((1, 2, 3), 0), (16, 72)),
        ((16, 4, 3, 3), MatrixAxes((1, 2, 3), 0, 0, (8, 8)), (2, 8, 36)),
        ((3, 3, 8, 16), MatrixAxes((0, 1, 2), 3), (16, 72)),
        ((), MatrixAxes(), (1, 1)),
        ((5,), MatrixAxes(), (1, 5)),
        ((24, 8), MatrixAxes(1, 0, 0, (8, 8, 8)), (3, 8, 8)),
        ((5, 24, 8), MatrixAxes(2, 1, 1, (12, 12)), (5, 2, 8, 12)),
    ],
)
def test_shapes_of_views(shape, axes, expected):
    (part,) = matrix_views(shape, axes)
    assert part.view(np, np.zeros(shape)).shape == expected


def test_a_tie_puts_fan_in_first():
    x = np.arange(9).reshape(3, 3)
    (in_out,), (out_in,) = (
        matrix_views((3, 3), MatrixAxes(0, 1)),
        matrix_views((3, 3), MatrixAxes(1, 0)),
    )
    np.testing.assert_array_equal(in_out.view(np, x), x)
    np.testing.assert_array_equal(out_in.view(np, x), x.T)


def test_a_kernel_as_one_matrix_is_the_matrix_that_multiplies_patches():
    kernel = np.arange(16 * 2 * 3 * 3).reshape(16, 2, 3, 3)
    (part,) = matrix_views(kernel.shape, MatrixAxes((1, 2, 3), 0))
    patch = np.random.default_rng(0).integers(0, 9, (2, 3, 3))
    by_matrix = part.view(np, kernel) @ patch.reshape(-1)  # 16 outputs are fewer than 18 inputs
    np.testing.assert_array_equal(by_matrix, (kernel * patch).sum((1, 2, 3)))


@given(parameters())
def test_each_axis_of_a_view_names_the_axes_it_is_made_of(parameter):
    shape, axes = parameter
    for part in matrix_views(shape, axes):
        made_of = part.axes(len(shape))
        view = part.view(np, np.zeros(shape))
        assert len(made_of) == view.ndim
        for length, own in zip(view.shape, made_of, strict=True):
            lengths = [part.size if axis == part.split else shape[axis] for axis in own]
            assert length == (np.prod(lengths) if own else part.count)


def test_blocks_of_a_fused_matrix_are_its_rows_in_order():
    x = np.arange(24).reshape(6, 4)
    (part,) = matrix_views((6, 4), MatrixAxes(1, 0, 0, (2, 2, 2)))
    np.testing.assert_array_equal(part.view(np, x)[1], x[2:4])


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (MatrixAxes(0, 0), "fan_in 0 and fan_out 0 of shape .* are not different axes"),
        (MatrixAxes((0, 1), 1), "are not different axes; state each axis once"),
        (MatrixAxes(0, 3), "axis 3 does not exist in shape"),
        (MatrixAxes(0, 1, 1, (2, 2)), "do not add up to 5, the length of axis 1"),
    ],
)
def test_axes_that_do_not_fit(axes, message):
    with pytest.raises(InputError, match=message):
        matrix_views((4, 5), axes)
