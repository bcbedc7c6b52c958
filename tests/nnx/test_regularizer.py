"""The state of a module: none without rngs, and a forked stream with rngs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import nnx as nnx_modules
from flax_spatialdrop.nnx import FeatureDropout, SampleDropout, SpatialDropout1D

from ..catalogue import CASES

KEY = jax.random.key(10)
X = jax.random.normal(jax.random.key(0), (3, 4, 16))

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@each_case
def test_without_rngs_there_is_no_state(case):
    layer = case.module("nnx")(0.5, **case.options)
    assert jax.tree.leaves(nnx.state(layer)) == []
    layer(jnp.ones(case.shape), rngs=clone(KEY))
    assert jax.tree.leaves(nnx.state(layer)) == []


@each_case
def test_with_rngs_there_is_a_key_and_a_count(case):
    state = nnx.state(case.module("nnx")(0.5, **case.options, rngs=nnx.Rngs(0)))
    assert len(jax.tree.leaves(state)) == 2
    kinds = {type(v) for v in jax.tree.leaves(state, is_leaf=lambda v: isinstance(v, nnx.Variable))}
    assert kinds == {nnx.RngKey, nnx.RngCount}


class Model(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(16, 16, rngs=rngs)
        self.drop = SpatialDropout1D(0.5)

    def __call__(self, x, rngs):
        return self.drop(self.dense(x), rngs=rngs)


def test_an_explicit_key_under_jax_s_own_transforms():
    """No call changes state, so jax.jit, scan, grad and vmap accept the merged model."""
    graph, state = nnx.split(Model(nnx.Rngs(0)))

    def run(state, key, x=X):
        return nnx.merge(graph, state, copy=False)(x, rngs=key)

    keys = jax.random.split(KEY, 3)
    looped = jnp.stack([run(state, key) for key in keys])
    np.testing.assert_array_equal(jax.jit(run)(state, clone(keys)[0]), jax.jit(run)(state, keys[0]))
    _, scanned = jax.lax.scan(lambda c, key: (c, run(state, key)), 0, clone(keys))
    np.testing.assert_array_equal(scanned != 0, looped != 0)
    np.testing.assert_allclose(scanned, looped, rtol=1e-6, atol=1e-6)
    mapped = jax.vmap(run, in_axes=(None, 0))(state, clone(keys))
    np.testing.assert_array_equal(mapped != 0, looped != 0)
    np.testing.assert_allclose(mapped, looped, rtol=1e-6, atol=1e-6)
    dropped = (looped[0] == 0).all(axis=(0, 1))
    gradient = jax.grad(lambda state: run(state, clone(keys)[0]).sum())(state)
    np.testing.assert_array_equal(gradient["dense"]["bias"][...] == 0, dropped)


def test_positional_arguments_are_refused_as_flax_refuses_them():
    with pytest.raises(TypeError):
        SpatialDropout1D(0.5, "channels_first")


def test_arguments_choose_the_layout():
    x = jnp.ones((3, 4, 16))
    last = FeatureDropout(0.5)(x, rngs=clone(KEY))
    first = FeatureDropout(0.5, data_format="channels_first")(
        jnp.moveaxis(x, -1, 1), rngs=clone(KEY)
    )
    np.testing.assert_array_equal(jnp.moveaxis(first, 1, -1), last)
    y = SampleDropout(0.5, batch_dims=2)(x, rngs=clone(KEY))
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[..., :1], y.shape))


def test_the_stream_is_forked_as_flax_forks_it():
    ours, theirs = nnx.Rngs(7), nnx.Rngs(7)
    for _ in range(2):
        layer = SpatialDropout1D(0.5, rngs=ours)
        flax_s = nnx.Dropout(0.5, broadcast_dims=(1,), rngs=theirs)
        np.testing.assert_array_equal(layer(X), flax_s(X))
        np.testing.assert_array_equal(layer(X), flax_s(X))


def test_sample_mask_where_nothing_is_drawn():
    layer = SpatialDropout1D(0.5)
    assert layer.sample_mask(X, rate=0.0).all()
    assert layer.sample_mask(X, deterministic=True).all()
    assert not layer.sample_mask(X, rate=1.0).any()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (nnx_modules.Dropout, {"noise_shape": [None, 1, None]}),
        (nnx_modules.Dropout, {"broadcast_dims": [1]}),
        (nnx_modules.AlphaDropout, {"noise_shape": [None, 1, None]}),
        (nnx_modules.GaussianDropout, {"broadcast_dims": [1]}),
        (nnx_modules.DropBlock, {"block_size": [3, 2]}),
        (nnx_modules.Cutout, {"block_size": [3, 2], "fill": [0.1, 0.2]}),
        (nnx_modules.TokenDropout, {"mask_id": 3, "special_ids": [0, 1]}),
    ],
)
def test_a_list_is_a_tuple_in_the_graph_which_is_hashed(module, options):
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    of_lists, of_tuples = (nnx.graphdef(module(0.5, **given)) for given in (options, tuples))
    assert hash(of_lists) == hash(of_tuples)
    assert of_lists == of_tuples
