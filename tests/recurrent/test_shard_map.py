"""Recurrent layers in a shard_map that checks replication (check_vma); each shard has its masks.

The mesh has an axis over which the batch is split, and one over which all is replicated.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen as fl
import flax_spatialdrop.nnx as fn
from flax_spatialdrop import fold_in_axes

from .faces import BOTH, FEATURES, HIDDEN, KEY, LENGTHS, X, assert_close

MESH = jax.make_mesh((2, 2), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
X, LENGTHS = X[:, :3], jnp.minimum(LENGTHS, 3)


def linen(layer):
    """Returns the parameters of a layer, and run(params, key, x, lengths)."""
    params = layer.init(jax.random.key(0), X, deterministic=True)

    def run(params, key, x, lengths):
        return layer.apply(params, x, rng=key, deterministic=False, seq_lengths=lengths)

    return params, run


def nnx_(layer):
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def run(params, key, x, lengths):
        return nnx.merge(graph, params, rest)(x, rngs=key, seq_lengths=lengths)

    return params, run


SIZES = {"in_features": FEATURES, "hidden_features": HIDDEN, "rngs": nnx.Rngs(0)}
OPTIONS = {**BOTH, "dropout_rngs": False}
LAYERS = {
    "linen.LSTM": lambda: linen(fl.LSTM(HIDDEN, **BOTH)),
    "nnx.GRU": lambda: nnx_(fn.GRU(**SIZES, **OPTIONS, variant="zoneout", reverse=True)),
    "nnx.SimpleRNN": lambda: nnx_(fn.SimpleRNN(**SIZES, **OPTIONS)),
    "linen.RNN": lambda: linen(fl.RNN(nn.MGUCell(HIDDEN), **BOTH)),
    "nnx.RNN": lambda: nnx_(fn.RNN(nnx.GRUCell(**SIZES), **OPTIONS)),
    "linen.Bidirectional": lambda: linen(
        fl.Bidirectional(fl.GRU(HIDDEN, **BOTH, variant="no_memory_loss"))
    ),
}


def with_gradients(run):
    """Returns the outputs of run, and the gradients of the sum of their squares."""

    def f(params, key, x, lengths):
        y, pullback = jax.vjp(lambda params, x: run(params, key, x, lengths), params, x)
        return y, *pullback(2 * y)

    return f


def in_each_shard(run, params, x, lengths, of_x):
    """Runs in a shard_map; `of_x` are the axes over which x is split."""

    def shard(params, key, x, lengths):
        return with_gradients(run)(params, fold_in_axes(key, "data"), x, lengths)

    specs = {"in_specs": (P(), P(), of_x, of_x), "out_specs": (P("data"), P(), of_x)}
    return jax.jit(jax.shard_map(shard, mesh=MESH, **specs))(params, clone(KEY), x, lengths)


def one_by_one(run, params, xs, lengths):
    """Runs each shard alone, and returns lists of outputs and gradients."""
    f = jax.jit(with_gradients(run))
    shards = enumerate(zip(xs, lengths, strict=True))
    found = [f(params, jax.random.fold_in(clone(KEY), i), *inputs) for i, inputs in shards]
    return zip(*found, strict=True)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_values_and_gradients_are_those_of_each_shard_alone(make):
    params, run = make()
    y, dparams, dx = in_each_shard(run, params, X, LENGTHS, P("data"))
    ys, each, dxs = one_by_one(run, params, jnp.split(X, 2), jnp.split(LENGTHS, 2))
    assert_close(y, jnp.concatenate(ys), 1e-5)
    assert_close(dx, jnp.concatenate(dxs), 1e-4)
    assert_close(dparams, jax.tree.map(jnp.add, *each), 1e-4)


@pytest.mark.parametrize("make", [LAYERS["linen.LSTM"], LAYERS["nnx.RNN"]], ids=["LSTM", "RNN"])
def test_inputs_that_shards_share_and_masks_that_differ(make):
    """So inputs and the first carry are the same in all shards, and later carries are not."""
    params, run = make()
    x, lengths = X[:2], LENGTHS[:2]
    y, dparams, dx = in_each_shard(run, params, x, lengths, P())
    ys, each, dxs = one_by_one(run, params, [x, x], [lengths, lengths])
    assert_close(y, jnp.concatenate(ys), 1e-5)
    assert_close(dx, dxs[0] + dxs[1], 1e-4)
    assert_close(dparams, jax.tree.map(jnp.add, *each), 1e-4)
    assert np.abs(ys[0] - ys[1]).max() > 1e-3
