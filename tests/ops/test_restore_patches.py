"""Patches are put back in their places, with a fill and its gradient where they were dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import patch_dropout, patch_mask, restore_patches

from ..errors import exactly

KEY = jax.random.key(7)
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 9, 4)), jnp.float32)
TOKEN = jnp.arange(4, dtype=jnp.float32)


def expected(y, indices, num_patches, fill):
    """By a loop over samples."""
    y, indices = np.asarray(y), np.asarray(indices)
    prefix = y.shape[-2] - indices.shape[-1]
    shape = (*y.shape[:-2], prefix + num_patches, y.shape[-1])
    restored = np.array(np.broadcast_to(np.asarray(fill, y.dtype), shape))
    for sample in np.ndindex(y.shape[:-2]):
        restored[sample][:prefix] = y[sample][:prefix]
        restored[sample][prefix + indices[sample]] = y[sample][prefix:]
    return restored


@pytest.mark.parametrize(
    ("shape", "batch_dims", "prefix"), [((8, 9, 4), 1, 1), ((9, 4), 0, 0), ((2, 4, 9, 4), 2, 3)]
)
@pytest.mark.parametrize("fill", [0.0, 2, np.arange(4.0, dtype=np.float32)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_tokens_return_to_their_places(shape, batch_dims, prefix, fill, dtype):
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape) * 9, dtype)
    n = shape[-2] - prefix
    options = {"num_prefix_tokens": prefix, "batch_dims": batch_dims}
    y, indices = patch_dropout(clone(KEY), x, 0.5, **options)
    restored = restore_patches(y, indices, n, fill=fill)
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, expected(y, indices, n, fill))
    kept = np.asarray(patch_mask(indices, n))
    assert kept.shape == (*shape[:-2], n)
    assert (kept.sum(-1) == indices.shape[-1]).all()
    np.testing.assert_array_equal(
        np.asarray(restored)[..., prefix:, :][kept], np.asarray(x)[..., prefix:, :][kept]
    )


def test_in_any_order_and_of_none():
    y, indices = X[:, :4], jnp.array([[5, 0, 3]] * 8)
    np.testing.assert_array_equal(
        restore_patches(y, indices, 6, fill=TOKEN), expected(y, indices, 6, TOKEN)
    )
    none = restore_patches(X[:, :1], jnp.zeros((8, 0), int), 3, fill=TOKEN)
    np.testing.assert_array_equal(none[:, 1:], jnp.broadcast_to(TOKEN, (8, 3, 4)))
    assert not patch_mask(jnp.zeros((8, 0), int), 3).any()


def test_the_gradient_reaches_the_mask_token_and_the_kept_tokens():
    y, indices = patch_dropout(clone(KEY), X, 0.75)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=X.shape), jnp.float32)

    def loss(y, token):
        return (weights * restore_patches(y, indices, 8, fill=token)).sum()

    for_y, for_token = jax.jit(jax.grad(loss, (0, 1)))(y, TOKEN)
    dropped = ~np.asarray(patch_mask(indices, 8))
    np.testing.assert_allclose(
        for_token, np.asarray(weights)[:, 1:][dropped].sum(0), rtol=1e-5, atol=1e-5
    )
    of_kept = np.take_along_axis(np.asarray(weights)[:, 1:], np.asarray(indices)[..., None], 1)
    np.testing.assert_array_equal(for_y, np.concatenate([weights[:, :1], of_kept], axis=1))


def test_a_nan_among_the_kept_does_not_spread():
    y, indices = patch_dropout(clone(KEY), X, 0.5)
    restored = restore_patches(y.at[:, 1].set(jnp.nan), indices, 8)
    assert np.isnan(restored).sum() == 8 * 4


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (
            ValueError,
            lambda: restore_patches(X, jnp.zeros((8, 2, 2), int), 8),
            "indices must be [*batch, k] for y of [*batch, prefix + k, features]: got "
            "indices.shape=(8, 2, 2) for y.shape=(8, 9, 4)",
        ),
        (
            ValueError,
            lambda: restore_patches(X, jnp.zeros((8, 5), int), 4),
            "there must be at most as many indices as tokens of y and as patches: got 5 indices "
            "for y.shape=(8, 9, 4) and num_patches=4",
        ),
        (
            TypeError,
            lambda: restore_patches(X, jnp.zeros((8, 5)), 8),
            "indices must be an array of integers with one axis or more, as patch_dropout returns "
            "them: got dtype float32 and shape (8, 5)",
        ),
        (
            TypeError,
            lambda: restore_patches(X, jnp.zeros((8, 5), int), 8.5),
            "num_patches must be an integer: got 8.5",
        ),
        (
            ValueError,
            lambda: restore_patches(X, jnp.zeros((8, 5), int), 8, fill=jnp.zeros(3)),
            "fill must be a number, or an array that broadcasts to (8, 8, 4), such as a mask token "
            "of [features]: got fill.shape=(3,)",
        ),
        (
            TypeError,
            lambda: restore_patches(X, jnp.zeros((8, 5), int), 8, fill="mean"),
            "fill must be a JAX or NumPy array: got 'mean'",
        ),
        (
            ValueError,
            lambda: patch_mask(jnp.zeros((8, 5), int), 0),
            "num_patches must be at least 1: got 0",
        ),
    ],
)
def test_errors(error, call, message):
    with pytest.raises(error, match=exactly(message)):
        call()
