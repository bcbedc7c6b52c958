import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import apply_mask, drop_block, dropout, spatial_dropout
from flax_spatialdrop.nnx import DropBlock

from ..errors import exactly

KEY = jax.random.key(21)
MAPS = ((7, 7), (14, 14), (28, 20))
X = jax.random.normal(jax.random.key(1), (4, 9, 8, 6))


def mask_of(x, rate, **options):
    return drop_block(clone(KEY), jnp.ones_like(x), rate, normalize=None, **options) != 0


@pytest.mark.parametrize("block_size", [3, 4, 7])
@pytest.mark.parametrize("space", MAPS, ids=str)
def test_drops_the_rate(space, block_size):
    """The dropped fraction of 4,000 maps is within 5 standard errors (false alarms at 6e-7)."""

    @jax.jit
    def shares(key, rate):
        x = jnp.ones((4000, *space, 1), jnp.bfloat16)
        y = drop_block(key, x, rate, block_size=block_size, normalize=None)
        return jnp.mean(y == 0, (1, 2, 3), jnp.float32)

    for i, rate in enumerate((0.05, 0.1, 0.3, 0.5, 0.7, 0.9)):
        found = np.asarray(shares(jax.random.fold_in(KEY, i), np.float32(rate)), np.float64)
        assert abs(found.mean() - rate) <= 5 * stats.sem(found), rate


@pytest.mark.parametrize("space", [(12,), (6, 7), (4, 5, 6)], ids=str)
def test_expected_keeps_the_mean_of_every_position(space):
    """The mean of 1e5 maps is within 6 standard errors at 100 positions (false alarms: 1e-6)."""
    y = jax.jit(lambda key: drop_block(key, jnp.ones((100_000, *space, 1)), 0.3, block_size=3))
    y = np.asarray(y(clone(KEY)), np.float64)[..., 0]
    assert (abs(y.mean(0) - 1) <= 6 * stats.sem(y, axis=0)).all()


def test_every_dropped_position_lies_in_a_whole_dropped_block():
    for block_size, rate in (((3, 2), 0.4), ((4, 4), 0.2), ((1, 5), 0.6)):
        dropped = ~np.asarray(mask_of(X, rate, block_size=block_size))
        covered = np.zeros_like(dropped)
        high, wide = block_size
        for i in range(9 - high + 1):
            for j in range(8 - wide + 1):
                whole = dropped[:, i : i + high, j : j + wide].all((1, 2), keepdims=True)
                covered[:, i : i + high, j : j + wide] |= whole
        np.testing.assert_array_equal(dropped, covered)
        assert 0 < dropped.mean() < 1


@pytest.mark.parametrize("rate", [0.3, 0.9, jnp.float32(0.3)])
def test_blocks_of_one_position_are_dropout(rate):
    ours = drop_block(clone(KEY), X, rate, block_size=1)
    np.testing.assert_array_equal(ours, dropout(clone(KEY), X, rate))
    ours = drop_block(clone(KEY), X, rate, block_size=1, per_channel=False)
    np.testing.assert_array_equal(ours, dropout(clone(KEY), X, rate, broadcast_dims=(-1,)))
    for normalize in ("sample", "batch", None):
        y = drop_block(clone(KEY), X, rate, block_size=1, normalize=normalize)
        np.testing.assert_array_equal(y != 0, dropout(clone(KEY), X, rate) != 0)
        assert 0 < jnp.mean(y != 0) < 1


@pytest.mark.parametrize("block_size", [9, (9, 8), 50])
def test_blocks_as_large_as_the_map_are_spatial_dropout(block_size):
    ours = drop_block(clone(KEY), X, 0.3, block_size=block_size)
    np.testing.assert_array_equal(ours, spatial_dropout(clone(KEY), X, 0.3))
    mask = DropBlock(0.3, block_size=block_size).sample_mask(X, rngs=clone(KEY))
    assert mask.shape == (4, 1, 1, 6)  # no larger than needed


def test_blocks_as_long_as_one_axis_are_blocks_of_the_other_alone():
    both = mask_of(X, 0.3, block_size=(9, 3))
    assert (both == both[:, :1]).all()
    first_row = jnp.ones((4, 8, 6))
    alone = drop_block(clone(KEY), first_row, 0.3, block_size=3, normalize=None) != 0
    np.testing.assert_array_equal(both[:, 0], alone)


def test_layouts_and_batch_axes_draw_alike_for_shared_channels():
    options = {"block_size": (3, 2), "per_channel": False}
    last = drop_block(clone(KEY), X, 0.3, **options)
    first = drop_block(
        clone(KEY), jnp.moveaxis(X, -1, 1), 0.3, data_format="channels_first", **options
    )
    np.testing.assert_array_equal(jnp.moveaxis(first, 1, -1), last)
    two_axes = drop_block(clone(KEY), X.reshape(2, 2, 9, 8, 6), 0.3, batch_dims=2, **options)
    np.testing.assert_array_equal(two_axes.reshape(X.shape), last)
    unbatched = drop_block(clone(KEY), X[0], 0.3, batch_dims=0, **options)
    batch_of_one = drop_block(clone(KEY), X[:1], 0.3, **options)
    np.testing.assert_array_equal(unbatched, batch_of_one[0])


def test_normalize_divides_by_the_kept_share():
    mask = np.asarray(mask_of(X, 0.4, block_size=3))
    of_sample = mask.mean((1, 2, 3), keepdims=True)
    assert len(np.unique(of_sample)) > 1
    for normalize, share in (("sample", of_sample), ("batch", mask.mean()), (None, 1)):
        y = drop_block(clone(KEY), X, 0.4, block_size=3, normalize=normalize)
        np.testing.assert_allclose(y, mask * np.asarray(X) / share, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("normalize", ["expected", "sample", "batch", None])
@pytest.mark.parametrize("rate", [1.0, jnp.float32(1), jnp.float32(jnp.nan), 0.99])
def test_where_all_is_dropped_there_are_zeros_and_no_nan(normalize, rate):
    def f(x):
        return drop_block(clone(KEY), x, rate, block_size=5, normalize=normalize)

    x = jnp.full((3, 9, 9, 2), 60_000, jnp.float16)
    y, pullback = jax.vjp(f, x)
    (dx,) = pullback(jnp.ones_like(x))
    is_dropped = np.asarray(jnp.all(y == 0, (1, 2)))
    assert is_dropped.any()
    assert np.isfinite(np.asarray(dx)).all()
    assert not np.isnan(np.asarray(y)).any()
    assert (np.asarray(dx)[np.asarray(y) == 0] == 0).all()


def test_a_kept_count_beyond_float16_is_no_matter():
    """There are 1e5 kept values. torchvision counts them in the dtype of x, and returns zeros."""
    x = jnp.ones((1, 320, 320, 1), jnp.float16)
    y = drop_block(clone(KEY), x, 0.1, block_size=7, normalize="batch")
    np.testing.assert_allclose(jnp.mean(y, dtype=jnp.float32), 1, rtol=1e-3)


def test_half_precision_keeps_every_scale_finite_at_high_rates():
    x = jnp.ones((8, 14, 14, 4), jnp.float16)
    grad = jax.grad(lambda x: drop_block(clone(KEY), x, 0.9).astype(jnp.float32).sum())(x)
    assert np.isfinite(np.asarray(grad)).all()
    far = jax.grad(lambda x: drop_block(clone(KEY), x, 0.9999, block_size=(51, 51)).sum())
    assert np.isfinite(np.asarray(far(jnp.ones((1, 200, 200, 1))))).all()


def test_a_mask_given_is_scaled_as_one_drawn():
    layer = DropBlock(0.3, block_size=[3, 2], normalize="sample")
    mask = layer.sample_mask(X, rngs=clone(KEY))
    drawn = layer(X, rngs=clone(KEY))
    np.testing.assert_array_equal(layer(X, mask=mask), drawn)
    expected = DropBlock(0.3, block_size=3)(X, mask=jnp.ones(X.shape, bool))
    corner, middle = np.asarray(expected / X)[0, 0, 0, 0], np.asarray(expected / X)[0, 4, 4, 0]
    assert 1 < corner < middle


def test_apply_mask_and_the_mask_are_it_but_for_the_scale():
    mask = mask_of(X, 0.3, block_size=3)
    y = drop_block(clone(KEY), X, 0.3, block_size=3, normalize=None)
    np.testing.assert_array_equal(y, apply_mask(X, mask, 0.0))


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        (
            (4, 6),
            {},
            ValueError,
            "DropBlock takes x with 1 to 3 space axes between 1 batch axis and the channel axis: "
            "got x.shape=(4, 6), which has 0",
        ),
        (
            (2, 3, 3, 3, 3, 5),
            {},
            ValueError,
            "DropBlock takes x with 1 to 3 space axes between 1 batch axis and the channel axis: "
            "got x.shape=(2, 3, 3, 3, 3, 5), which has 4",
        ),
        (
            (2, 9, 9, 5),
            {"block_size": 0},
            ValueError,
            "block_size must be at least 1 along every axis: got 0",
        ),
        (
            (2, 9, 9, 5),
            {"block_size": (3, -1)},
            ValueError,
            "block_size must be at least 1 along every axis: got (3, -1)",
        ),
        (
            (2, 9, 9, 5),
            {"block_size": (3, 3, 3)},
            ValueError,
            "block_size needs one entry per space axis of x, 2 in all: got block_size=(3, 3, 3)",
        ),
        (
            (2, 9, 9, 5),
            {"block_size": 2.5},
            TypeError,
            "block_size must be an integer, or a tuple of one per space axis: got 2.5",
        ),
        (
            (2, 9, 9, 5),
            {"per_channel": 1},
            TypeError,
            "per_channel must be True or False: got 1",
        ),
        (
            (2, 9, 9, 5),
            {"normalize": "mean"},
            ValueError,
            "normalize must be 'expected', 'sample', 'batch' or None: got normalize='mean'",
        ),
    ],
)
def test_bad_arguments(shape, options, error, message):
    for rate in (0.0, 0.5):
        with pytest.raises(error, match=exactly(message)):
            drop_block(clone(KEY), jnp.ones(shape), rate, **options)


@pytest.mark.parametrize("rate", [0.1, jnp.float32(0.1)])
def test_a_map_too_large_to_count_position_by_position(rate):
    x = jax.ShapeDtypeStruct((1, 2**17, 2**17, 1), jnp.float32)
    y = jax.eval_shape(lambda x: drop_block(jax.random.key(0), x, rate), x)
    assert y.shape == x.shape
