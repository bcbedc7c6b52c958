import jax
import jax.numpy as jnp
import numpy as np
from jax.random import clone

from flax_spatialdrop import linen

KEY = jax.random.key(10)


def test_attributes_choose_the_layout():
    x = jnp.ones((3, 4, 16))
    last = linen.FeatureDropout(0.5).apply({}, x, False, clone(KEY))
    first = linen.FeatureDropout(0.5, "channels_first").apply(
        {}, jnp.moveaxis(x, -1, 1), False, clone(KEY)
    )
    np.testing.assert_array_equal(jnp.moveaxis(first, 1, -1), last)


def test_positional_attributes():
    layer = linen.SampleDropout(0.5, "channels_last", 2, False, "noise")
    y = layer.apply({}, jnp.ones((8, 8, 3)), rngs={"noise": clone(KEY)})
    assert (np.asarray(y) == np.asarray(y)[..., :1]).all()
    assert len(np.unique(y)) == 2
