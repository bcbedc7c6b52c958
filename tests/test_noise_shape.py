import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_spatialdrop import (
    dropout,
    sample_mask,
    spatial_dropout,
    spatial_dropout_1d,
    spatial_dropout_2d,
    spatial_dropout_3d,
    timestep_dropout,
)
from flax_spatialdrop._noise_shape import resolve_noise_shape

from .errors import exactly

KEY = jax.random.key(0)
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@given(shapes, st.data())
def test_none_or_the_size_is_a_draw_per_index_and_1_a_shared_one(shape, data):
    shared = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    spelled = [
        1 if s else data.draw(st.sampled_from([None, size, np.int64(size)]))
        for s, size in zip(shared, shape, strict=True)
    ]
    expected = tuple(1 if s else size for s, size in zip(shared, shape, strict=True))
    assert resolve_noise_shape(shape, spelled) == expected
    axes = tuple(data.draw(st.sampled_from([a, a - len(shape)])) for a, s in enumerate(shared) if s)
    assert resolve_noise_shape(shape, None, axes + axes) == expected
    assert resolve_noise_shape(shape, spelled, ()) == expected


def test_symbolic_sizes_pass_through():
    (batch,) = jax.export.symbolic_shape("b")
    assert resolve_noise_shape((batch, 4), (None, 1)) == (batch, 1)
    assert resolve_noise_shape((batch, 4), (batch, None)) == (batch, 4)
    assert resolve_noise_shape((batch, 4), None, (1,)) == (batch, 1)


BAD_NOISE_SHAPES = [
    (
        (32, 64, 50, 1),
        (64, 1, 1),
        ValueError,
        "noise_shape needs one entry per axis of x: got noise_shape=(64, 1, 1) for "
        "x.shape=(32, 64, 50, 1); write None for the batch axis: (None, 64, 1, 1)",
    ),
    (
        (2, 3, 4),
        (None,),
        ValueError,
        "noise_shape needs one entry per axis of x: got noise_shape=(None,) for "
        "x.shape=(2, 3, 4); write None where an axis has its own draws and 1 where it shares one, "
        "3 in all",
    ),
    (  # here any entry may be the missing one
        (2, 3, 4),
        (None, 1),
        ValueError,
        "noise_shape needs one entry per axis of x: got noise_shape=(None, 1) for "
        "x.shape=(2, 3, 4); write None where an axis has its own draws and 1 where it shares one, "
        "3 in all",
    ),
    (
        (2, 3, 4),
        (2, 3),
        ValueError,
        "noise_shape needs one entry per axis of x: got noise_shape=(2, 3) for x.shape=(2, 3, 4); "
        "write None where an axis has its own draws and 1 where it shares one, 3 in all",
    ),
    (
        (2, 3),
        (None, 1, 1, 1),
        ValueError,
        "noise_shape needs one entry per axis of x: got noise_shape=(None, 1, 1, 1) for "
        "x.shape=(2, 3); leave out 2 entries",
    ),
    (
        (2, 3, 4),
        (2, 2, 4),
        ValueError,
        "noise_shape[1] must be None, 1 or the size of that axis of x: "
        "got 2 in noise_shape=(2, 2, 4) for x.shape=(2, 3, 4)",
    ),
    (
        (2, 3, 4),
        (None, 0, None),
        ValueError,
        "noise_shape[1] must be None, 1 or the size of that axis of x: "
        "got 0 in noise_shape=(None, 0, None) for x.shape=(2, 3, 4)",
    ),
    (
        (2, 3, 4),
        (None, 1, -1),
        ValueError,
        "noise_shape[2] must be None, 1 or the size of that axis of x: "
        "got -1 in noise_shape=(None, 1, -1) for x.shape=(2, 3, 4)",
    ),
    (
        (1, 3, 4),
        (True, 1, 1),
        TypeError,
        "noise_shape[0] must be None, 1 or the size of that axis of x: "
        "got True in noise_shape=(True, 1, 1) for x.shape=(1, 3, 4)",
    ),
    (
        (2, 3, 4),
        (2.0, 1, 1),
        TypeError,
        "noise_shape[0] must be None, 1 or the size of that axis of x: "
        "got 2.0 in noise_shape=(2.0, 1, 1) for x.shape=(2, 3, 4)",
    ),
    (
        (2, 3, 4),
        ([2], 1, 1),
        TypeError,
        "noise_shape[0] must be None, 1 or the size of that axis of x: "
        "got [2] in noise_shape=([2], 1, 1) for x.shape=(2, 3, 4)",
    ),
    (
        (2, 3, 4),
        3,
        TypeError,
        "noise_shape must be a tuple with one entry per axis of x, which has shape (2, 3, 4): "
        "got 3",
    ),
    (
        (2, 3, 4),
        "abc",
        TypeError,
        "noise_shape must be a tuple with one entry per axis of x, which has shape (2, 3, 4): "
        "got 'abc'",
    ),
]


@pytest.mark.parametrize(("shape", "noise_shape", "error", "message"), BAD_NOISE_SHAPES)
def test_bad_noise_shapes(shape, noise_shape, error, message):
    with pytest.raises(error, match=exactly(message)):
        dropout(KEY, np.ones(shape, np.float32), 0.0, noise_shape=noise_shape)


BAD_BROADCAST_DIMS = [
    (
        (2, 3, 4),
        (7,),
        ValueError,
        "broadcast_dims must name axes of x, from -3 to 2: got 7 in broadcast_dims=(7,) for "
        "x.shape=(2, 3, 4)",
    ),
    (
        (2, 3, 4),
        (0, -4),
        ValueError,
        "broadcast_dims must name axes of x, from -3 to 2: got -4 in broadcast_dims=(0, -4) for "
        "x.shape=(2, 3, 4)",
    ),
    (
        (),
        (0,),
        ValueError,
        "broadcast_dims must name axes of x, which has none: got 0 in broadcast_dims=(0,) "
        "for x.shape=()",
    ),
    (
        (2, 3),
        1,
        TypeError,
        "broadcast_dims must be a tuple of axes of x: got 1; write (1,) to share the draw along "
        "axis 1",
    ),
    (
        (2, 3),
        (True,),
        TypeError,
        "broadcast_dims must hold integers, the axes of x that share a draw: got True in "
        "broadcast_dims=(True,)",
    ),
]


@pytest.mark.parametrize(("shape", "broadcast_dims", "error", "message"), BAD_BROADCAST_DIMS)
def test_bad_broadcast_dims(shape, broadcast_dims, error, message):
    with pytest.raises(error, match=exactly(message)):
        dropout(KEY, np.ones(shape, np.float32), 0.0, broadcast_dims=broadcast_dims)


def test_both_ways_at_once():
    message = (
        "at most one of noise_shape and broadcast_dims may be given: "
        "got noise_shape=(None, 1) and broadcast_dims=(1,)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        dropout(KEY, np.ones((2, 3)), 0.5, noise_shape=(None, 1), broadcast_dims=(1,))


BAD_RANKS = [
    (
        spatial_dropout_1d,
        (2, 3, 4, 5),
        {},
        "1D spatial dropout takes x with 3 axes (1 batch axis, 1 space, 1 channel): got "
        "x.shape=(2, 3, 4, 5); use spatial_dropout_2d (SpatialDropout2D), which takes 4 axes",
    ),
    (
        spatial_dropout_2d,
        (2, 3, 4),
        {},
        "2D spatial dropout takes x with 4 axes (1 batch axis, 2 space, 1 channel): got "
        "x.shape=(2, 3, 4); pass batch_dims=0 if x has no batch axis, or use spatial_dropout_1d "
        "(SpatialDropout1D), which takes 3 axes",
    ),
    (
        spatial_dropout_2d,
        (2, 3, 4, 5),
        {"batch_dims": 2},
        "2D spatial dropout takes x with 5 axes (2 batch axes, 2 space, 1 channel): got "
        "x.shape=(2, 3, 4, 5) with batch_dims=2; use spatial_dropout_1d "
        "(SpatialDropout1D), which takes 4 axes",
    ),
    (
        spatial_dropout_3d,
        (2, 3, 4, 5, 6, 7),
        {},
        "3D spatial dropout takes x with 5 axes (1 batch axis, 3 space, 1 channel): got "
        "x.shape=(2, 3, 4, 5, 6, 7); use spatial_dropout, which takes any rank",
    ),
    (
        spatial_dropout_3d,
        (2,),
        {},
        "3D spatial dropout takes x with 5 axes (1 batch axis, 3 space, 1 channel): got "
        "x.shape=(2,); x has too few axes",
    ),
    (
        timestep_dropout,
        (2, 3, 4, 5),
        {},
        "timestep dropout takes x with 3 axes (1 batch axis, 1 space, 1 channel): got "
        "x.shape=(2, 3, 4, 5); use dropout(noise_shape=...) to say which axes share a draw",
    ),
    (
        spatial_dropout,
        (2,),
        {},
        "x needs at least 2 axes, 1 batch axis and a channel axis: got x.shape=(2,) with "
        "batch_dims=1",
    ),
]


@pytest.mark.parametrize(("function", "shape", "options", "message"), BAD_RANKS)
def test_bad_ranks(function, shape, options, message):
    with pytest.raises(ValueError, match=exactly(message)):
        function(KEY, np.ones(shape, np.float32), 0.0, **options)


BAD_LAYOUTS = [
    (
        {"data_format": "NHWC"},
        ValueError,
        "data_format must be 'channels_last' or 'channels_first': got data_format='NHWC'",
    ),
    ({"batch_dims": -1}, ValueError, "batch_dims must be at least 0: got -1"),
    (
        {"batch_dims": True},
        TypeError,
        "batch_dims must be an integer, how many leading axes are batch axes: got True",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_LAYOUTS)
def test_bad_layouts(options, error, message):
    with pytest.raises(error, match=exactly(message)):
        spatial_dropout(KEY, np.ones((2, 3, 4), np.float32), 0.0, **options)


BAD_MASK_SHAPES = [
    (3, TypeError, "the noise_shape of a mask must be a tuple of sizes: got 3"),
    (
        (None, 1),
        TypeError,
        "the noise_shape of a mask must hold integers: got None in (None, 1); entries may "
        "be None only where x is given",
    ),
    (
        ([2], 2),
        TypeError,
        "the noise_shape of a mask must hold integers: got [2] in ([2], 2); entries may be "
        "None only where x is given",
    ),
    (
        (2, -1),
        ValueError,
        "the noise_shape of a mask cannot have a negative size: got (2, -1)",
    ),
]


@pytest.mark.parametrize(("noise_shape", "error", "message"), BAD_MASK_SHAPES)
def test_bad_mask_shapes(noise_shape, error, message):
    with pytest.raises(error, match=exactly(message)):
        sample_mask(KEY, 0.0, noise_shape)
