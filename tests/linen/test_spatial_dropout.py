import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import linen

KEY = jax.random.key(11)


@pytest.mark.parametrize("num_space", [1, 2, 3])
def test_is_flax_s_dropout_with_broadcast_dims(num_space):
    """Many JAX models use this form. A key is given, since keys of streams depend on paths."""
    x = jax.random.normal(jax.random.key(0), (4, *[3] * num_space, 8))
    layer = getattr(linen, f"SpatialDropout{num_space}D")(0.5)
    ours = layer.apply({}, x, False, clone(KEY))
    space = tuple(range(1, 1 + num_space))
    theirs = nn.Dropout(0.5, broadcast_dims=space).apply({}, x, False, clone(KEY))
    np.testing.assert_array_equal(ours, theirs)


def test_two_layers_of_a_model_draw_different_masks():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [linen.SpatialDropout1D(0.5, deterministic=False)(x) for _ in range(2)]

    one, two = Model().apply({}, jnp.ones((8, 3, 16)), rngs={"dropout": clone(KEY)})
    assert (one != two).any()
