"""drop_in replaces the layers of a model in place; they keep their streams."""

import copy
import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.nnx
from flax_spatialdrop import DropInReport
from flax_spatialdrop.nnx import drop_in

from ..errors import exactly
from ..last_bit import assert_same_eagerly
from .gradients import value_and_grad

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
    assert set(drop_in(ours).reached) == PATHS
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
    assert set(drop_in(model).reached) == PATHS - {("blocks", 0, "layers", 1)}
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
    assert drop_in(layer) == DropInReport({(): "flax.nnx.Dropout"})
    assert drop_in(layer) == DropInReport()
    assert str(DropInReport()) == (
        "No layer of Flax that drops was found, or all of them run here already."
    )
    assert type(layer) is flax_spatialdrop.nnx.Dropout


def test_a_swapped_model_goes_through_split_clone_and_state():
    model = Model(nnx.Rngs(1))
    before = nnx.state(model)
    drop_in(model)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(before)
    twin = nnx.clone(model)
    np.testing.assert_array_equal(twin(X), model(X))


class Dropout(nnx.Dropout):
    """Overrides the constructor only, and keeps all streams, as the layers of MaxText do."""

    def __init__(self, rate, *, rngs, broadcast_dims=(), deterministic=False):
        self.rate = rate
        self.broadcast_dims = broadcast_dims
        self.deterministic = deterministic
        self.rng_collection = "dropout"
        self.rngs = rngs.fork()

    def set_view(self, deterministic=None):
        self.deterministic = deterministic


class Louder(nnx.Dropout):
    def __call__(self, inputs, **kwargs):
        return 2 * super().__call__(inputs, **kwargs)


class Decoder(nnx.Module):
    def __init__(self, rngs, layer=Dropout):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop = layer(0.25, broadcast_dims=(-2,), rngs=rngs)
        self.louder = Louder(0.5, rngs=rngs)
        self.bridged = nnx.bridge.ToNNX(nn.Dropout(0.5, deterministic=False), rngs=rngs)

    def __call__(self, x):
        return self.louder(self.drop(self.dense(x)))


def test_derived_classes_that_keep_the_call_of_flax():
    theirs, ours, twin = (Decoder(nnx.Rngs(params=0, dropout=1)) for _ in range(3))
    drop = ours.drop
    report = drop_in(ours)
    assert report.reached == {("drop",): "Dropout"}
    assert ours.drop is drop
    assert isinstance(drop, Dropout)
    assert isinstance(drop, flax_spatialdrop.nnx.Dropout)
    assert set(drop_in(twin).reached) == {("drop",)}
    assert nnx.graphdef(ours) == nnx.graphdef(twin)

    def loss(model, x):
        y = model(x)
        return (y**2).mean(), y

    grad = nnx.jit(value_and_grad(loss, has_aux=True))

    for _ in range(2):
        ((_, y), d), ((_, y_theirs), d_theirs) = grad(ours, X), grad(theirs, X)
        np.testing.assert_allclose(y, y_theirs, rtol=1e-6)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, d, d_theirs)
    assert grad.jitted_fn._cache_size() == 2  # theirs and ours
    assert (grad(ours, X)[0][1] != y).any()  # the streams go on
    (site, _) = flax_spatialdrop.nnx.summarize(ours, X).sites
    assert (site.module, site.stream, site.noise_shape) == ("Dropout", "dropout", (4, 1, 8))
    still = nnx.view(ours, deterministic=True).drop
    assert still(X) is X
    np.testing.assert_array_equal(nnx.clone(drop)(X), copy.deepcopy(drop)(X))
    again = pickle.loads(pickle.dumps(drop))
    assert type(again) is type(drop)
    np.testing.assert_array_equal(again(X), drop(X))


def test_what_is_left_alone_and_why():
    model = Decoder(nnx.Rngs(0), nnx.Dropout)
    reasons = {
        ("louder",): "Louder has a __call__ of its own",
        ("bridged",): "Linen inside NNX: call it in the context flax_spatialdrop.linen.drop_in()",
    }
    assert drop_in(model) == DropInReport({("drop",): "flax.nnx.Dropout"}, reasons)
    assert str(drop_in(model)).splitlines() == [
        "layer    run here",
        f"bridged  no, {reasons['bridged',]}",
        f"louder   no, {reasons['louder',]}",
    ]


def test_a_variable_as_rate():
    layer = nnx.Dropout(nnx.Variable(jnp.float32(0.25)), rngs=nnx.Rngs(0))
    drop_in(layer)
    run = nnx.jit(lambda layer, x: layer(x, rngs=jax.random.key(3)))
    for rate in (0.25, 0.5, 0.0):
        layer.rate[...] = rate
        expected = flax_spatialdrop.dropout(jax.random.key(3), X, jnp.float32(rate))
        np.testing.assert_array_equal(run(layer, X), expected)
    assert run.jitted_fn._cache_size() == 1


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
