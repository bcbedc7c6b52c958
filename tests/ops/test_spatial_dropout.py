import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import (
    spatial_dropout,
    spatial_dropout_1d,
    spatial_dropout_2d,
    spatial_dropout_3d,
)

KEY = jax.random.key(6)
BY_RANK = {1: spatial_dropout_1d, 2: spatial_dropout_2d, 3: spatial_dropout_3d}


@pytest.mark.parametrize("num_space", [1, 2, 3])
def test_drops_whole_channels_of_single_samples(num_space):
    x = jax.random.normal(jax.random.key(0), (8, *[3] * num_space, 16)) + 10
    y = np.asarray(BY_RANK[num_space](clone(KEY), x, 0.5)).reshape(8, -1, 16)
    alive = (y != 0).any(axis=1)
    whole = (y != 0).all(axis=1)
    np.testing.assert_array_equal(alive, whole)
    assert 0 < alive.sum() < alive.size
    assert (alive != alive[0]).any()  # samples differ


@pytest.mark.parametrize("num_space", [1, 2, 3])
def test_channels_first_is_channels_last_moved(num_space):
    f = BY_RANK[num_space]
    last = jax.random.normal(jax.random.key(0), (8, *[3] * num_space, 16))
    first = jnp.moveaxis(last, -1, 1)
    y_last = f(clone(KEY), last, 0.5)
    y_first = f(clone(KEY), first, 0.5, data_format="channels_first")
    np.testing.assert_array_equal(jnp.moveaxis(y_first, 1, -1), y_last)


@pytest.mark.parametrize("num_space", [1, 2, 3])
def test_any_rank_and_batch_dims(num_space):
    f = BY_RANK[num_space]
    x = jnp.ones((2, 3, *[2] * num_space, 4))
    np.testing.assert_array_equal(
        f(clone(KEY), x, 0.5, batch_dims=2), spatial_dropout(clone(KEY), x, 0.5, batch_dims=2)
    )
    one = jnp.ones((*[2] * num_space, 4))
    np.testing.assert_array_equal(
        f(clone(KEY), one, 0.5, batch_dims=0), f(clone(KEY), one[None], 0.5)[0]
    )
