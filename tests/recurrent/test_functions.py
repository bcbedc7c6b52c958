"""The functions of recurrent dropout for loops of users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import (
    dropout,
    recurrent_dropout,
    recurrent_masks,
    sample_mask,
    zoneout,
)

from .faces import (
    GATES,
    KEY,
)


def test_recurrent_masks():
    mask = recurrent_masks(clone(KEY), 0.3, 8, 16)
    np.testing.assert_array_equal(mask, sample_mask(clone(KEY), 0.3, (8, 16)))
    assert recurrent_masks(clone(KEY), 0.3, 8, 16, GATES["LSTM"]).shape == (4, 8, 16)
    with pytest.raises(TypeError, match="features must be an integer: got"):
        recurrent_masks(clone(KEY), 0.3, 8, 1.5)
    with pytest.raises(ValueError, match="batch must be at least 0: got -1"):
        recurrent_masks(clone(KEY), 0.3, -1, 8)
    with pytest.raises(TypeError, match="gates must be an integer: got True"):
        recurrent_masks(clone(KEY), 0.3, 8, 8, True)


def test_recurrent_dropout_is_dropout():
    x = jax.random.normal(jax.random.key(1), (3, 4))
    np.testing.assert_array_equal(
        recurrent_dropout(clone(KEY), x, 0.3), dropout(clone(KEY), x, 0.3)
    )


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0, jnp.float32(0.25)])
def test_zoneout(rate):
    x, previous = jnp.ones((40, 50)), jnp.zeros((40, 50))
    y = zoneout(clone(KEY), x, rate, previous=previous)
    mask = sample_mask(clone(KEY), rate, x.shape)
    np.testing.assert_array_equal(y, np.where(mask, 1, 0))
    mean = zoneout(None, x, rate, previous=previous, deterministic=True)
    np.testing.assert_allclose(mean, 1 - np.float32(rate), rtol=1e-6)


def test_zoneout_lets_nothing_of_what_it_leaves_through():
    mask = np.asarray(sample_mask(clone(KEY), 0.5, (30,)))
    new, old = jnp.where(mask, 1.0, jnp.nan), jnp.where(mask, jnp.nan, 2.0)
    y, pullback = jax.vjp(lambda n, o: zoneout(clone(KEY), n, 0.5, previous=o), new, old)
    np.testing.assert_array_equal(y, np.where(mask, 1, 2))
    for gradient, kept in zip(pullback(y), (mask, ~mask), strict=True):
        np.testing.assert_array_equal(gradient != 0, kept)


def test_zoneout_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="previous must have the shape of x: got"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=jnp.ones(4))
    with pytest.raises(TypeError, match="previous must have the dtype of x: got float16"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=jnp.ones(3, jnp.float16))
    with pytest.raises(TypeError, match="previous must be a JAX or NumPy array: got None"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=None)
    with pytest.raises(TypeError, match="deterministic must be True or False: got 'False'"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=jnp.ones(3), deterministic="False")
