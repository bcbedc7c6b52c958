"""nnx.Dropout replaces flax.nnx.Dropout: same arguments, masks, values and transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.nnx

from ..last_bit import assert_same_eagerly

CLASSES = (nnx.Dropout, flax_spatialdrop.nnx.Dropout)
X = jax.random.normal(jax.random.key(0), (4, 6, 8))


def assert_equal_to_flax(run, is_model=False):
    """Compares Flax's class to ours, each with a stream of seed 5; returns the outputs of ours."""
    theirs, ours = (run(cls, nnx.Rngs(dropout=5), X) for cls in CLASSES)
    assert_same_eagerly(ours, theirs, is_model)
    return ours


def test_has_every_attribute_of_flax_s_own():
    """Our class does not call Flax's constructor, which may set new attributes in the future."""
    theirs, ours = (set(vars(cls(0.5))) for cls in CLASSES)
    assert ours - theirs == {"noise_shape", "axis_name"}
    assert theirs <= ours


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("broadcast_dims", [(), (1,), (-2,), (0, 2), [1]])
def test_same_mask_and_values(rate, broadcast_dims):
    def run(cls, rngs, x):
        layer = cls(rate, broadcast_dims=broadcast_dims, rngs=rngs)
        return jnp.stack([layer(x), nnx.jit(lambda layer, x: layer(x))(layer, x), layer(x)])

    assert_equal_to_flax(run)


def test_same_gradient():
    def run(cls, rngs, x):
        layer = cls(0.3, broadcast_dims=(1,), rngs=rngs)
        return nnx.jit(nnx.grad(lambda x, layer: (layer(x) ** 2).sum()))(x, layer)

    assert_equal_to_flax(run)


@pytest.mark.parametrize("give", ["constructor", "stream", "call", "key", "default"])
def test_same_streams_however_they_are_given(give):
    def run(cls, rngs, x):
        if give == "constructor":
            return cls(0.5, rngs=rngs)(x)
        if give == "stream":
            return cls(0.5, rngs=rngs.dropout)(x)
        if give == "call":
            return cls(0.5)(x, rngs=rngs)
        if give == "key":
            return cls(0.5)(x, rngs=rngs.dropout())
        return cls(0.5, rng_collection="noise", rngs=nnx.Rngs(3))(x)

    assert_equal_to_flax(run)


def test_another_stream():
    assert_equal_to_flax(
        lambda cls, _, x: cls(0.5, rng_collection="noise", rngs=nnx.Rngs(0, noise=1))(x)
    )


class Block:
    """A model with Flax's class or ours."""

    def __new__(cls, dropout, rngs):
        class Model(nnx.Module):
            def __init__(self):
                self.first = dropout(0.2, broadcast_dims=(-2,), rngs=rngs)
                self.rest = nnx.Sequential(jnp.tanh, dropout(0.3, rngs=rngs))

            def __call__(self, x):
                return x + self.rest(self.first(x))

        return Model()


@pytest.mark.parametrize("mode", ["train", "eval", "view", "set_attributes"])
def test_modes(mode):
    def run(cls, rngs, x):
        model = Block(cls, rngs)
        if mode == "view":
            return nnx.view(nnx.view(model, deterministic=True), deterministic=False)(x)
        if mode == "set_attributes":
            model.set_attributes(nnx.Dropout, deterministic=True)
        else:
            getattr(model, mode)()
        return model(x)

    y = assert_equal_to_flax(run, is_model=True)
    assert (y != X + jnp.tanh(X)).any() == (mode in ("train", "view"))


def test_filters_by_flax_s_class_find_ours():
    model = Block(flax_spatialdrop.nnx.Dropout, nnx.Rngs(0))
    view = nnx.view(model, only=nnx.Dropout, deterministic=True)
    assert view.first.deterministic
    assert not model.first.deterministic


def test_flax_knows_what_a_view_may_set():
    layer = flax_spatialdrop.nnx.SpatialDropout2D(0.5)
    told = nnx.view_info(layer)
    assert "SpatialDropout2D:" in told
    assert "if True, disables dropping." in told


def test_a_list_of_axes_or_sizes_is_no_state():
    for options in ({"broadcast_dims": [1]}, {"noise_shape": [None, 1, None]}):
        layer = flax_spatialdrop.nnx.Dropout(0.5, **options)
        assert jax.tree.leaves(nnx.state(layer)) == []
        y = nnx.jit(lambda layer, x, key: layer(x, rngs=key))(layer, X, jax.random.key(0))
        np.testing.assert_array_equal(y != 0, np.broadcast_to((y != 0)[:, :1], X.shape))


def test_noise_shape():
    key = jax.random.key(1)
    y = flax_spatialdrop.nnx.Dropout(0.5, noise_shape=(None, 1, None))(X, rngs=key)
    z = nnx.Dropout(0.5, broadcast_dims=(1,))(X, rngs=jax.random.clone(key))
    np.testing.assert_array_equal(y, z)


def test_a_rate_that_is_an_array_attribute_is_data():
    layer = flax_spatialdrop.nnx.Dropout(jnp.float32(0.25))
    run = nnx.jit(lambda layer, x, key: layer(x, rngs=key))
    key = jax.random.key(2)
    static = flax_spatialdrop.nnx.Dropout(0.25)(X, rngs=jax.random.clone(key))
    np.testing.assert_array_equal(run(layer, X, key), static)
