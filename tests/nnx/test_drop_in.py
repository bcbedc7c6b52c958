"""drop_in replaces the layers of a model in place; they keep their streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.nnx
from flax_spatialdrop.nnx import drop_in

from ..errors import exactly
from ..last_bit import assert_same_eagerly

X = jax.random.normal(jax.random.key(0), (4, 6, 8))


class Model(nnx.Module):
    """A model that does not use this package."""

    def __init__(self, rngs, sharing=False):
        first = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.blocks = nnx.List([nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), first)])
        self.table = nnx.Dict(last=nnx.Dropout(0.2, broadcast_dims=(1,), rngs=rngs))
        self.again = first if sharing else nnx.Dropout(0.3, rngs=rngs)
        self.without_stream = nnx.Dropout(0.1)

    def __call__(self, x):
        x = self.again(self.blocks[0](self.dense(x)))
        return self.without_stream(self.table["last"](x), rngs=jax.random.key(0))


PATHS = {("blocks", 0, "layers", 1), ("again",), ("table", "last"), ("without_stream",)}


def test_same_masks_and_values_from_where_the_streams_had_got_to():
    theirs, ours = Model(nnx.Rngs(1)), Model(nnx.Rngs(1))
    np.testing.assert_array_equal(ours(X), theirs(X))
    assert set(drop_in(ours)) == PATHS
    for _ in range(2):
        assert_same_eagerly(ours(X), theirs(X), is_model=True)
    np.testing.assert_array_equal(
        nnx.jit(lambda m, x: m(x))(ours, X), nnx.jit(lambda m, x: m(x))(theirs, X)
    )
    state, expected = (nnx.state(m, nnx.RngCount) for m in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_layers_stay_the_objects_that_they_are():
    model = Model(nnx.Rngs(1), sharing=True)
    shared, stream = model.again, model.again.rngs
    assert set(drop_in(model)) == PATHS - {("blocks", 0, "layers", 1)}
    assert type(shared) is flax_spatialdrop.nnx.Dropout
    assert model.again is shared is model.blocks[0].layers[1]
    assert shared.rngs is stream
    assert isinstance(shared, nnx.Dropout)
    assert shared.noise_shape is None


def test_modes_and_views_go_on_working():
    model = Model(nnx.Rngs(1))
    model.eval()
    drop_in(model)
    y = model(X)
    np.testing.assert_array_equal(model(X), y)
    model.train()
    assert (model(X) != y).any()
    np.testing.assert_array_equal(nnx.view(model, only=nnx.Dropout, deterministic=True)(X), y)


def test_it_is_this_package_that_runs():
    model = nnx.Sequential(nnx.Dropout(0.5))

    def kept_bytes(model):
        def run(x):
            return model(x, rngs=jax.random.key(0))

        return sum(r.size * r.dtype.itemsize for r in jax.tree.leaves(jax.vjp(run, X)[1]))

    assert kept_bytes(model.layers[0]) >= X.size
    drop_in(model)
    assert kept_bytes(model.layers[0]) == 8


def test_a_second_time_and_the_model_itself():
    layer = nnx.Dropout(0.5)
    assert drop_in(layer) == ((),)
    assert drop_in(layer) == ()
    assert type(layer) is flax_spatialdrop.nnx.Dropout


def test_a_swapped_model_goes_through_split_clone_and_state():
    model = Model(nnx.Rngs(1))
    before = nnx.state(model)
    drop_in(model)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(before)
    twin = nnx.clone(model)
    np.testing.assert_array_equal(twin(X), model(X))


def test_derived_classes_are_not_reached():
    class Louder(nnx.Dropout):
        def __call__(self, inputs, **kwargs):
            return 2 * super().__call__(inputs, **kwargs)

    assert drop_in(nnx.Sequential(Louder(0.5))) == ()


def test_what_is_no_module():
    with pytest.raises(
        TypeError,
        match=exactly(
            "model must be an instance of nnx.Module: got 'model'; for Linen, call the model in "
            "the context flax_spatialdrop.linen.drop_in()"
        ),
    ):
        drop_in("model")


def test_a_swapped_layer_takes_what_ours_take():
    layer = nnx.Dropout(0.5)
    drop_in(layer)
    y = layer(X, rngs=jax.random.key(0), rate=jnp.float32(0.25))
    np.testing.assert_array_equal(y, flax_spatialdrop.nnx.Dropout(0.25)(X, rngs=jax.random.key(0)))
    assert layer(X, mask=jnp.ones((4, 6, 8), bool)).shape == X.shape
