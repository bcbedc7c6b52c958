"""Masks, outputs and gradients on 8 devices equal those on one, without communication."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import dropout, fast_key, sample_mask
from flax_spatialdrop.linen import Dropout, drop_in

from .catalogue import REPRESENTATIVES
from .hlo import collectives

KEY = jax.random.key(4)
SHAPE = (8, 16, 24)
SPECS = [P("d"), P(None, "d"), P(None, None, "d"), P()]
NOISE_SHAPES = [None, (None, 1, None), (None, None, 1), (1, 1, None), (None, 1, 1), (1, 1, 1)]
X = np.asarray(jax.random.normal(jax.random.key(0), SHAPE))
SHARDABLE = [case for case in REPRESENTATIVES if case.shape and 0 not in case.shape]


def with_gradient(f):
    """Returns a function that returns f(x), and the gradient of its sum of squares."""
    return lambda x: (f(x), jax.grad(lambda x: (f(x) ** 2).sum())(x))


def drop(x, rate=0.3, noise_shape=None):
    return dropout(clone(KEY), x, rate, noise_shape=noise_shape)


@functools.cache
def on_one_device(noise_shape):
    return with_gradient(functools.partial(drop, noise_shape=noise_shape))(X)


each_axis_type = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"]
)


@each_axis_type
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("noise_shape", NOISE_SHAPES, ids=str)
def test_same_mask_and_x_s_own_sharding(axis_type, spec, noise_shape):
    f = with_gradient(functools.partial(drop, noise_shape=noise_shape))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        for run in (f, jax.jit(f)):
            y, gradient = run(x)
            assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
            np.testing.assert_array_equal(y, on_one_device(noise_shape)[0])
            np.testing.assert_array_equal(gradient, on_one_device(noise_shape)[1])


@each_axis_type
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_where_nothing_is_drawn_x_keeps_its_sharding_too(axis_type, spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        for rate, kept in ((0.0, 1), (1.0, 0)):
            y, gradient = with_gradient(functools.partial(drop, rate=rate))(x)
            assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
            np.testing.assert_array_equal(y, kept * X)
            np.testing.assert_array_equal(gradient, 2 * kept * X)


@each_axis_type
@pytest.mark.parametrize("case", SHARDABLE, ids=lambda case: case.id)
def test_every_mechanism_takes_sharded_input(case, axis_type):
    f = case.face()
    x = np.asarray(jax.random.normal(jax.random.key(0), case.shape))
    size = case.shape[0]
    mesh = jax.make_mesh((size,), ("d",), axis_types=(axis_type,), devices=jax.devices()[:size])
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("d")))
        y = jax.jit(lambda x: f(clone(KEY), x, 0.3))(sharded)
        assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    np.testing.assert_array_equal(y, f(clone(KEY), x, 0.3))


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_modules_take_explicitly_sharded_input_where_flax_s_own_fails(spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    layer = Dropout(0.3, broadcast_dims=(1,), deterministic=False)
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        theirs = nn.Dropout(0.3, broadcast_dims=(1,), deterministic=False)
        with pytest.raises(Exception, match=r"[Ss]harding"):
            theirs.apply({}, x, rngs={"dropout": clone(KEY)})
        y = layer.apply({}, x, rngs={"dropout": clone(KEY)})
        assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
        with drop_in():  # inside, Flax's layer keeps the sharding too
            again = theirs.apply({}, x, rngs={"dropout": clone(KEY)})
        assert again.sharding.is_equivalent_to(x.sharding, x.ndim)
    np.testing.assert_array_equal(y, layer.apply({}, X, rngs={"dropout": clone(KEY)}))
    np.testing.assert_array_equal(again, y)


def compiled_text(f, spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=NamedSharding(mesh, spec))
    out = jax.tree.map(lambda _: NamedSharding(mesh, spec), jax.eval_shape(f, clone(KEY), x))
    return jax.jit(f, out_shardings=out).lower(clone(KEY), x).compile().as_text()


@pytest.mark.parametrize("noise_shape", NOISE_SHAPES, ids=str)
@pytest.mark.parametrize("make", [lambda key: key, fast_key], ids=["key", "fast_key"])
def test_no_collective_under_batch_sharding(noise_shape, make):
    def f(key, x):
        y, pullback = jax.vjp(lambda x: dropout(make(key), x, 0.3, noise_shape=noise_shape), x)
        return y, pullback(y)

    assert not collectives(compiled_text(f, P("d")))


def test_a_collective_would_be_seen():
    assert collectives(compiled_text(lambda key, x: x - x.sum(0, keepdims=True), P("d")))


def test_a_mask_drawn_in_parts_on_all_devices_is_the_same_mask():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    draw = jax.jit(
        lambda key: sample_mask(key, 0.3, SHAPE), out_shardings=NamedSharding(mesh, P(None, "d"))
    )
    np.testing.assert_array_equal(draw(clone(KEY)), sample_mask(clone(KEY), 0.3, SHAPE))


@pytest.mark.parametrize("noise_shape", [None, (None, 1, None)], ids=str)
@pytest.mark.parametrize("make", [lambda key: key, fast_key], ids=["key", "fast_key"])
def test_same_values_inside_shard_map(noise_shape, make):
    """A key that is the same on every device draws the same mask on every device."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    f = jax.shard_map(
        lambda key, x: dropout(key, x, 0.5, noise_shape=noise_shape),
        mesh=mesh,
        in_specs=(P(), P("d")),
        out_specs=P("d"),
    )
    y = np.asarray(jax.jit(f)(make(clone(KEY)), jnp.ones(SHAPE)))
    one = dropout(make(clone(KEY)), jnp.ones((1, 16, 24)), 0.5, noise_shape=noise_shape)
    np.testing.assert_array_equal(y, np.repeat(one, 8, axis=0))
