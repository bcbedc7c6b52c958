import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import cutout
from flax_spatialdrop.linen import Cutout

from ..errors import exactly

KEY = jax.random.key(22)
X = jax.random.normal(jax.random.key(1), (64, 9, 8, 3))


def hidden_of(x, rate, **options):
    return np.asarray(cutout(clone(KEY), jnp.ones_like(x), rate, **options) == 0)


def test_hides_one_whole_rectangle_in_all_channels():
    hidden = hidden_of(X, 1.0, block_size=(3, 2))
    assert (hidden == hidden[..., :1]).all()
    assert (hidden.sum((1, 2)) == 6).all()
    rows, columns = hidden.any((2, 3)).sum(1), hidden.any((1, 3)).sum(1)
    assert (rows == 3).all()
    assert (columns == 2).all()


def test_places_are_uniform_and_rectangles_there_at_the_rate():
    """A chi-squared test of 1e5 places and a binomial test, with false alarms at 1e-9 each."""
    x = jnp.ones((100_000, 4, 5, 1))
    hidden = np.asarray(cutout(clone(KEY), x, 0.3, block_size=(2, 3)) == 0)[..., 0]
    is_there = hidden.any((1, 2))
    low, high = stats.binom.interval(1 - 1e-9, len(x), 0.3)
    assert low <= is_there.sum() <= high
    corner = np.argmax(hidden[is_there].reshape(-1, 20), axis=1)
    found, counts = np.unique(corner, return_counts=True)
    np.testing.assert_array_equal(found, [0, 1, 2, 5, 6, 7, 10, 11, 12])
    assert stats.chisquare(counts).pvalue > 1e-9


def test_more_rectangles_hide_more_and_may_overlap():
    sizes = [hidden_of(X, 1.0, block_size=3, num_blocks=n)[..., 0].sum((1, 2)) for n in (1, 2, 4)]
    assert (sizes[0] == 9).all()
    assert (sizes[1] <= 18).all()
    assert sizes[0].mean() < sizes[1].mean() < sizes[2].mean()
    assert len(np.unique(sizes[1])) > 1


def test_larger_than_the_image_hides_all_of_it():
    hidden = hidden_of(X, 0.5, block_size=100)
    of_sample = hidden.all((1, 2, 3))
    np.testing.assert_array_equal(hidden.any((1, 2, 3)), of_sample)
    assert 0 < of_sample.mean() < 1


def test_fills_with_the_mean_of_what_is_seen():
    hidden = hidden_of(X, 1.0, block_size=4)
    x = jnp.where(hidden, jnp.nan, X)  # hidden values must not count in the mean
    y = np.asarray(cutout(clone(KEY), x, 1.0, block_size=4, fill="mean"))
    seen = np.ma.masked_array(np.asarray(X, np.float64), hidden)
    mean = np.broadcast_to(seen.mean((1, 2), keepdims=True), X.shape)
    np.testing.assert_allclose(y, np.where(hidden, mean, X), rtol=1e-5, atol=1e-6)
    all_hidden = cutout(clone(KEY), X, 1.0, block_size=9, fill="mean")
    np.testing.assert_array_equal(all_hidden, jnp.zeros_like(X))


def test_a_mean_in_half_precision_is_summed_in_float32():
    x = jnp.full((2, 64, 64, 1), 3.0, jnp.float16)
    y = cutout(clone(KEY), x, 1.0, block_size=8, fill="mean")
    np.testing.assert_array_equal(y, x)
    residuals = jax.tree.leaves(
        jax.vjp(lambda x: cutout(clone(KEY), x, 1.0, block_size=8, fill="mean"), x)[1]
    )
    assert [(r.dtype, r.shape) for r in residuals] == [(jnp.bool_, (2, 64, 64, 1))]


def test_layouts_and_batch_axes_draw_alike():
    options = {"block_size": (3, 2), "fill": (1, 2, 3)}
    last = cutout(clone(KEY), X, 0.7, **options)
    first = cutout(clone(KEY), jnp.moveaxis(X, -1, 1), 0.7, data_format="channels_first", **options)
    np.testing.assert_array_equal(jnp.moveaxis(first, 1, -1), last)
    one = cutout(clone(KEY), X[0], 1.0, batch_dims=0, **options)
    np.testing.assert_array_equal(one, cutout(clone(KEY), X[:1], 1.0, **options)[0])
    sequence = cutout(clone(KEY), X[:, 0], 1.0, block_size=3)
    assert ((np.asarray(sequence) == 0).sum(1) == 3).all()


def test_a_rate_of_1_still_needs_a_key():
    with pytest.raises(ValueError, match="key must be a JAX PRNG key where anything is drawn"):
        cutout(None, X, 1.0)
    layer = Cutout(1.0, block_size=3, deterministic=False)
    y = layer.apply({}, X, rngs={"dropout": clone(KEY)})
    assert ((np.asarray(y) == 0).sum((1, 2, 3)) == 27).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"num_blocks": 0},
            ValueError,
            "num_blocks must be at least 1 rectangle: got 0",
        ),
        (
            {"num_blocks": 1.5},
            TypeError,
            "num_blocks must be an integer: got 1.5",
        ),
        (
            {"fill": (1, 2)},
            ValueError,
            "fill must be a number, or one number for each of the 3 channels of x: got fill=(1, 2)",
        ),
        (
            {"fill": "median"},
            ValueError,
            "fill must be a real number, one for each channel, or 'mean': got 'median'",
        ),
        (
            {"fill": 1j},
            TypeError,
            "fill must be a real number, one for each channel, or 'mean': got 1j",
        ),
        (
            {"fill": np.ones(3, complex)},
            TypeError,
            "fill must be a real number, one for each channel, or 'mean': got an array of shape "
            "(3,) and dtype complex128",
        ),
        (
            {"fill": np.array(["a", "b", "c"])},
            TypeError,
            "fill must be a real number, one for each channel, or 'mean': got an array of shape "
            "(3,) and dtype <U1",
        ),
        (
            {"fill": (0.0, 1e39, 0.0)},
            ValueError,
            "fill must be finite in x's dtype, float32: got (0.0, 1e+39, 0.0)",
        ),
        (
            {"fill": np.full(3, -1e39)},
            ValueError,
            "fill must be finite in x's dtype, float32: got an array of shape (3,) and dtype "
            "float64",
        ),
        (
            {"fill": 10**400},
            ValueError,
            "fill must be finite in x's dtype, float32: got an integer of 401 digits",
        ),
        (
            {"block_size": 0},
            ValueError,
            "block_size must be at least 1 along every axis: got 0",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    for rate in (0.0, 0.5):
        with pytest.raises(error, match=exactly(message)):
            cutout(clone(KEY), X, rate, **options)


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="got dtype uint8"):
        cutout(clone(KEY), np.zeros((2, 8, 8, 3), np.uint8), 0.5)


def test_what_fills_may_be():
    whole = {"block_size": 8}
    x = jnp.ones((1, 3, 2), jnp.float16)
    for fill in (2, np.int64(2), (2, 2.0), jnp.array([2, 2]), np.full(2, 2, np.uint8)):
        np.testing.assert_array_equal(cutout(clone(KEY), x, 1.0, fill=fill, **whole), 2)
    np.testing.assert_array_equal(cutout(clone(KEY), x, 1.0, fill=np.inf, **whole), np.inf)
    y = cutout(clone(KEY), x.astype(np.complex64), 1.0, fill=1 + 2j, **whole)
    np.testing.assert_array_equal(y, 1 + 2j)


def test_places_are_counted_in_32_bits():
    x = jax.ShapeDtypeStruct((1, 2**17, 2**17, 1), jnp.float32)
    message = "x must have a known number of places for a rectangle, below 2^31: got 17175937249"
    with pytest.raises(ValueError, match=exactly(message)):
        jax.eval_shape(lambda x: cutout(clone(KEY), x, 0.5, block_size=16), x)
