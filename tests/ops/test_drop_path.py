"""Drop path of rows and of whole batches, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import Rngs, Sequential
from jax.random import clone

from flax_spatialdrop import drop_path, linen, nnx, residual_drop_path, sample_dropout, sample_mask

from ..errors import exactly

KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(0), (8, 6))
W = jax.random.normal(jax.random.key(1), (6, 6))
MODES = ["row", "batch"]
KEYS = list(jax.random.split(jax.random.key(2), 8))  # some keep a branch, some drop it


def keeps(key):
    """Whether the key keeps a branch at a rate of 0.5."""
    return bool(sample_mask(clone(key), 0.5, (1, 1)).all())


KEPT = next(key for key in KEYS if keeps(key))


def block(key, x, w, rate=0.5, **options):
    return residual_drop_path(key, x, lambda x: jnp.tanh(x @ w), rate, **options)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_rows_are_whole_or_gone(rate, scale):
    x = jnp.ones((64, 3, 4, 5))
    y = np.asarray(drop_path(clone(KEY), x, rate, scale=scale)).reshape(64, -1)
    kept = np.float32(1) / np.float32(1 - rate) if scale else 1
    assert {*y[:, 0]} == {0, kept}
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))


@pytest.mark.parametrize("shape", [(8, 6), (6,), ()])
def test_a_batch_is_whole_or_gone_and_need_be_none(shape):
    for key in KEYS:
        y = drop_path(clone(key), jnp.ones(shape), 0.5, mode="batch")
        kept = sample_mask(clone(key), 0.5, (1,) * len(shape)).all()
        np.testing.assert_array_equal(y, jnp.full(shape, 2.0 if kept else 0.0))


@pytest.mark.parametrize("mode", MODES)
def test_at_1_all_is_gone(mode):
    np.testing.assert_array_equal(drop_path(None, X, 1.0, mode=mode), jnp.zeros_like(X))


@pytest.mark.parametrize("batch_axis", [0, -2, (0,), [0]])
def test_rows_are_those_of_sample_dropout(batch_axis):
    expected = sample_dropout(clone(KEY), X, 0.3)
    np.testing.assert_array_equal(drop_path(clone(KEY), X, 0.3, batch_axis=batch_axis), expected)


def test_several_batch_axes():
    x = jnp.ones((4, 5, 6))
    expected = sample_dropout(clone(KEY), x, 0.3, batch_dims=2)
    y = drop_path(clone(KEY), x, 0.3, batch_axis=(1, -3))
    np.testing.assert_array_equal(y, expected)


def test_unscaled_values_stay_as_they_are_bit_for_bit():
    x = jnp.array([-0.0, 65504.0, np.inf, 1 / 3], jnp.float32)[:, None]
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        y = drop_path(clone(KEPT), x.astype(dtype), 0.5, mode="batch", scale=False)
        assert np.asarray(y).tobytes() == np.asarray(x.astype(dtype)).tobytes()


@pytest.mark.parametrize("f", [drop_path, lambda key, x, *a, **k: block(key, x, W, *a, **k)])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (
            ValueError,
            {"batch_axis": 2},
            "batch_axis must name axes of x, from -2 to 1: got 2 in batch_axis=(2,) "
            "for x.shape=(8, 6)",
        ),
        (
            TypeError,
            {"batch_axis": None},
            "batch_axis must be an axis of x, or a tuple of axes: got None",
        ),
        (
            TypeError,
            {"scale": 0.5},
            "scale must be True or False: got 0.5",
        ),
    ],
)
def test_what_is_refused_at_every_rate(f, rate, error, options, message):
    with pytest.raises(error, match=exactly(message)):
        f(clone(KEY), X, rate, **options)


@pytest.mark.parametrize(
    ("f", "modes"), [(drop_path, "'row' or 'batch'"), (block, "'row', 'batch' or 'subset'")]
)
def test_an_unknown_mode(f, modes):
    last = () if f is drop_path else (W,)
    with pytest.raises(ValueError, match=exactly(f"mode must be {modes}: got mode='rows'")):
        f(clone(KEY), X, *last, 0.5, mode="rows")


def test_a_scalar_has_no_rows():
    message = (
        "batch_axis must name axes of x, which has none: got 0 in batch_axis=(0,) for x.shape=()"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        drop_path(clone(KEY), jnp.float32(1), 0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("branch", "got"),
    [
        (lambda x: x[:, :1], "shape (8, 1) and dtype float32"),
        (
            lambda x: x.astype(jnp.bfloat16),
            "shape (8, 6) and dtype bfloat16; cast it by .astype(x.dtype), or give its layers a "
            "dtype",
        ),
        (lambda x: None, "None"),
    ],
)
def test_branches_that_cannot_be_added_are_refused(mode, rate, branch, got):
    message = (
        "the branch of a residual block must return an array that can be added to x, of shape "
        f"(8, 6) and dtype float32: got {got}"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        residual_drop_path(clone(KEY), X, branch, rate, mode=mode)


def test_a_rate_in_the_place_of_the_branch():
    message = "branch must be a function of x or a module, given before rate: got 0.5"
    with pytest.raises(TypeError, match=exactly(message)):
        residual_drop_path(clone(KEY), X, 0.5, jnp.tanh)
    with pytest.raises(TypeError, match=exactly(message)):
        nnx.ResidualDropPath(0.5, jnp.tanh)
    with pytest.raises(TypeError, match=exactly(message)):
        linen.ResidualDropPath(0.5, jnp.tanh, deterministic=True).apply({}, X)


def test_summaries_list_what_is_in_a_branch_whether_it_is_dropped_or_not():
    layer = nnx.ResidualDropPath(nnx.Dropout(0.3, rngs=Rngs(1)), 0.5, mode="batch", rngs=Rngs(0))
    for _ in range(4):  # the branch is dropped in some of them
        assert len(nnx.summarize(Sequential(layer), X).sites) == 2
    branch = linen.Dropout(0.3, deterministic=False)
    layer = linen.ResidualDropPath(branch, 0.5, "batch", deterministic=False)
    for seed in range(4):
        summary = linen.summarize(layer, X, rngs={"dropout": jax.random.key(seed)})
        assert len(summary.sites) == 2


def test_batch_axes_may_be_a_numpy_array():
    axes, key = np.array([0, 1]), jax.random.key(0)
    y = drop_path(clone(key), jnp.ones((2, 3, 4)), 0.5, batch_axis=axes)
    np.testing.assert_array_equal(y, drop_path(key, jnp.ones((2, 3, 4)), 0.5, batch_axis=(0, 1)))
