"""linen.Dropout replaces flax.linen.Dropout: same arguments, masks, values and errors."""

import inspect

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import linen

from ..last_bit import assert_same_eagerly

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (4, 6, 8))


def assert_equal_to_flax(run, is_model=False):
    """Compares Flax's class to ours, eager and jitted; returns the outputs of ours."""
    theirs, ours = (lambda k, x, c=c: run(c, k, x) for c in (nn.Dropout, linen.Dropout))
    y = ours(clone(KEY), X)
    assert_same_eagerly(y, theirs(clone(KEY), X), is_model)
    np.testing.assert_array_equal(jax.jit(ours)(clone(KEY), X), jax.jit(theirs)(clone(KEY), X))
    return y


def test_every_argument_of_flax_s_own_is_in_its_place():
    def signature(cls):
        return [(p.name, p.default) for p in inspect.signature(cls).parameters.values()]

    theirs, ours = signature(nn.Dropout), signature(linen.Dropout)
    ours = [p for p in ours if p[0] not in ("noise_shape", "axis_name")]
    assert ours == theirs
    position = [p.name for p in inspect.signature(linen.Dropout).parameters.values()]
    assert position[:4] == ["rate", "broadcast_dims", "deterministic", "rng_collection"]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("broadcast_dims", [(), (1,), (-2,), (0, 2), (1, 1), [1]])
def test_same_mask_and_values(rate, broadcast_dims):
    def run(cls, key, x):
        layer = cls(rate, broadcast_dims, deterministic=False)
        return layer.apply({}, x, rngs={"dropout": key})

    assert_equal_to_flax(run)


def test_same_gradient():
    """Jitted, since Flax's eager gradient divides and ours multiplies, which rounds differently."""

    def grad(cls):
        layer = cls(0.3, broadcast_dims=(1,))
        return jax.grad(lambda x, key: (layer.apply({}, x, False, key) ** 2).sum())

    theirs, ours = jax.jit(grad(nn.Dropout)), jax.jit(grad(linen.Dropout))
    np.testing.assert_array_equal(ours(X, clone(KEY)), theirs(X, clone(KEY)))


def test_a_key_given_at_the_call_is_used_as_it_is():
    y = assert_equal_to_flax(
        lambda cls, key, x: cls(0.5).apply({}, x, deterministic=False, rng=key)
    )
    np.testing.assert_array_equal(y != 0, jax.random.bernoulli(clone(KEY), 0.5, X.shape))


def test_another_stream():
    assert_equal_to_flax(
        lambda cls, key, x: cls(0.5, (), False, "noise").apply({}, x, rngs={"noise": key})
    )


def model(cls):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = cls(0.2, broadcast_dims=(-2,))(x, deterministic=not train)
            x = nn.Sequential([nn.tanh, cls(0.3, deterministic=not train)])(x)
            return x + cls(0.5, deterministic=not train)(x)

    return Block


class Setup(nn.Module):
    cls: type

    def setup(self):
        self.drop = self.cls(0.3, deterministic=False)

    def __call__(self, x):
        return self.drop(self.drop(x))


@pytest.mark.parametrize("lift", ["plain", "remat", "jit", "vmap", "scan", "setup"])
def test_same_streams_through_the_lifted_transforms(lift):
    def run(cls, key, x):
        if lift == "setup":
            return Setup(cls).apply({}, x, rngs={"dropout": key})
        block = model(cls)
        if lift == "remat":
            block = nn.remat(block, static_argnums=(2,))
        elif lift == "jit":
            block = nn.jit(block, static_argnums=(2,))
        elif lift == "vmap":
            block = nn.vmap(block, in_axes=(0, None), split_rngs={"dropout": True})
        elif lift == "scan":

            class Body(nn.Module):
                @nn.compact
                def __call__(self, x, _):
                    return model(cls)()(x), None

            split = {"dropout": True, "params": True}
            scan = nn.scan(Body, variable_axes={"params": 0}, split_rngs=split, length=3)
            return scan().apply({}, x, None, rngs={"dropout": key})[0]
        return block().apply({}, x, True, rngs={"dropout": key})

    assert_equal_to_flax(run, is_model=True)


def test_init_without_a_dropout_stream_when_deterministic():
    variables = linen.Dropout(0.5, deterministic=True).init(jax.random.key(0), X)
    assert variables == {}


def test_init_falls_back_to_params_as_flax_does():
    for cls in (nn.Dropout, linen.Dropout):
        assert cls(0.5, deterministic=False).init(jax.random.key(0), X) == {}


@pytest.mark.parametrize("cls", [nn.Dropout, linen.Dropout])
def test_errors_are_of_flax_s_types(cls):
    with pytest.raises(flax.errors.InvalidRngError, match=r"needs (PRNG for|a key of the stream)"):
        cls(0.5).apply({}, X, deterministic=False)
    with pytest.raises(ValueError, match=r'deterministic"? must be (passed|given) (either )?to'):
        cls(0.5).apply({}, X)
    with pytest.raises(ValueError, match=r"to the constructor .*(just once|got both)"):
        cls(0.5, deterministic=True).apply({}, X, deterministic=True)


def test_a_stream_of_flax_s_own_layer_that_is_no_name():
    layer = nn.Dropout(0.5, rng_collection=np.ones(3))
    with linen.drop_in(), pytest.raises(TypeError, match="rng_collection must be a string: got an"):
        layer.apply({}, X, False)


def test_noise_shape():
    y = linen.Dropout(0.5, noise_shape=(None, 1, None)).apply({}, X, False, clone(KEY))
    z = linen.Dropout(0.5, broadcast_dims=(1,)).apply({}, X, False, clone(KEY))
    np.testing.assert_array_equal(y, z)


def test_both_noise_shape_and_broadcast_dims():
    layer = linen.Dropout(0.5, (1,), noise_shape=(None, 1, None), deterministic=True)
    with pytest.raises(
        ValueError, match="at most one of noise_shape and broadcast_dims may be given"
    ):
        layer.apply({}, X)


def test_a_rate_that_is_an_array_attribute():
    @jax.jit
    def f(rate, key, x):
        return linen.Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": key})

    traced = f(jnp.float32(0.25), clone(KEY), X)
    static = linen.Dropout(0.25, deterministic=False).apply({}, X, rngs={"dropout": clone(KEY)})
    np.testing.assert_array_equal(traced, static)
