from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sensors.models import REGULARIZERS, SensorNetwork
from experiments.sensors.recordings import SENSORS
from flax_spatialdrop.linen import summarize

X = jax.random.normal(jax.random.key(0), (4, 200, 6))


@pytest.fixture(scope="module")
def params():
    plain = SensorNetwork(8, 3)
    return jax.jit(partial(plain.init, deterministic=True))(jax.random.key(1), X, jnp.float32(0))


@partial(jax.jit, static_argnums=0)
def logits(name, params, x, rate, seed=2):
    rngs = {"dropout": jax.random.key(seed)}
    return SensorNetwork(8, 3, name).apply(params, x, rate, deterministic=False, rngs=rngs)


@pytest.mark.parametrize("name", REGULARIZERS[1:])
def test_a_rate_of_0_is_the_plain_network_and_another_rate_is_not(params, name):
    plain = logits("none", params, X, 0.0)
    np.testing.assert_allclose(logits(name, params, X, 0.0), plain, rtol=1e-5, atol=1e-6)
    dropped = logits(name, params, X, 0.7)
    assert (dropped != plain).any()
    assert (dropped != logits(name, params, X, 0.7, 3)).any()
    silent = SensorNetwork(8, 3, name).apply(params, X, jnp.float32(0.7), deterministic=True)
    np.testing.assert_allclose(silent, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "noise_shapes"),
    [
        ("none", []),
        ("Dropout", 2 * [(4, 25, 8), (4, 13, 8), (4, 13, 8)]),
        ("SpatialDropout1D", 6 * [(4, 1, 8)]),
        ("TimestepDropout", 2 * [(4, 25, 1), (4, 13, 1), (4, 13, 1)]),
        ("DropBlock", 2 * [(4, 25, 8), (4, 13, 8), (4, 13, 8)]),
        ("ModalityDropout", [(2, 4)]),
    ],
)
def test_the_dropout_layers_and_their_noise_shapes(name, noise_shapes):
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    network = SensorNetwork(8, 3, name)
    summary = summarize(network, X, jnp.float32(0.5), deterministic=False, rngs=rngs)
    assert [site.noise_shape for site in summary.sites] == noise_shapes


def test_modality_dropout_hides_one_sensor_of_a_window_and_never_both(params):
    """At a rate near 1, each output is that of a window with one sensor at 0."""
    dropped = logits("ModalityDropout", params, X, 0.9999)
    alone = [
        logits("none", params, jnp.zeros_like(X).at[..., axes].set(X[..., axes]), 0.0)
        for axes in SENSORS.values()
    ]
    of_one = [jnp.isclose(dropped, one, rtol=1e-5, atol=1e-6).all(axis=1) for one in alone]
    assert (of_one[0] ^ of_one[1]).all()


def test_a_branch_reads_one_sensor(params):
    """Its first convolution has the axes of the sensor as inputs."""
    kernels = [
        leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 3 and leaf.shape[1] != 8
    ]
    assert kernels == [(16, 3, 8), (16, 3, 8)]


def test_features_that_are_constant_have_finite_gradients(params):
    """Their deviation is 0, where the gradient of a square root is infinite."""
    network = SensorNetwork(8, 3)
    of_biases = jax.tree.map(lambda leaf: jnp.full_like(leaf, leaf.ndim == 1), params)

    def loss(params):
        return network.apply(params, X, jnp.float32(0), deterministic=True).sum()

    gradients = jax.jit(jax.grad(loss))(of_biases)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
