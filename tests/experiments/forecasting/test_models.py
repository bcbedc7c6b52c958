from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.forecasting.models import (
    LSTM_REGULARIZERS,
    ConvolutionalForecaster,
    RecurrentForecaster,
)
from experiments.forecasting.task import Forecasting
from flax_spatialdrop.linen import summarize

X = jax.random.normal(jax.random.key(0), (4, 16, 3))


def network(name):
    if name.startswith("CNN"):
        return ConvolutionalForecaster(8, 2.0, channels=name == "CNN channels")
    return RecurrentForecaster(8, 2.0, LSTM_REGULARIZERS[name])


def plain_params(name):
    plain = network(Forecasting.plain(name))
    return plain.init(jax.random.key(1), X, jnp.float32(0), deterministic=True)


@partial(jax.jit, static_argnums=0)
def forecast(net, params, x, rate, seed=2):
    rngs = {"dropout": jax.random.key(seed)}
    return net.apply(params, x, rate, deterministic=False, rngs=rngs)


DROPPING = [name for name, plain in Forecasting.regularizers.items() if plain]


@pytest.mark.parametrize("name", DROPPING)
def test_a_rate_of_0_is_the_plain_network_and_another_rate_is_not(name):
    params = plain_params(name)
    plain = forecast(network(Forecasting.plain(name)), params, X, 0.0)
    np.testing.assert_allclose(forecast(network(name), params, X, 0.0), plain, rtol=1e-5)
    dropped = forecast(network(name), params, X, 0.5)
    assert (dropped != plain).any()
    assert (dropped != forecast(network(name), params, X, 0.5, 3)).any()
    silent = network(name).apply(params, X, jnp.float32(0.5), deterministic=True)
    if name != "zoneout":  # zoneout mixes old and new values by the rate
        np.testing.assert_allclose(silent, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "noise_shapes"),
    [
        ("before", [(4, 16, 3)]),
        ("after", [(4, 8)]),
        ("both", [(4, 16, 3), (4, 8)]),
        ("CNN channels", [(4, 8, 1, 1), (4, 8, 1, 1)]),
        ("input mask", [(4, 1, 3)]),
        ("recurrent mask", [(4, 8)]),
        ("zoneout", [(4, 16, 8), (4, 16, 8)]),
        ("CNN none", []),
    ],
)
def test_the_dropout_layers_and_their_noise_shapes(name, noise_shapes):
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    summary = summarize(network(name), X, jnp.float32(0.5), deterministic=False, rngs=rngs)
    assert [site.noise_shape for site in summary.sites] == noise_shapes


# The output of a network if everything is dropped at the place of the name.
@pytest.mark.parametrize("name", DROPPING)
def test_at_a_rate_of_1_nothing_comes_through_the_place(name):
    params = plain_params(name)
    out = forecast(network(name), params, X, 1.0)
    nothing = forecast(network(name), params, jnp.zeros_like(X), 1.0)
    still = forecast(network(Forecasting.plain(name)), params, jnp.zeros_like(X), 0.0)
    if name in ("before", "input mask"):  # the output does not depend on the weather
        np.testing.assert_allclose(out, still, rtol=1e-5)
    elif name == "recurrent mask":  # the gates read the weather, but not the past
        assert (out != nothing).all()
        assert (out != forecast(network("none"), params, X, 0.0)).all()
    else:  # only the bias of the head is left, 0 at the start; zoneout keeps the first state, 0
        np.testing.assert_allclose(out, 0, atol=1e-6)


def test_whole_channels_of_feature_maps_are_dropped_for_each_sample():
    rngs = {"dropout": jax.random.key(2)}
    _, state = network("CNN channels").apply(
        plain_params("CNN channels"), X, jnp.float32(0.5),
        deterministic=False, rngs=rngs, capture_intermediates=True,
    )  # fmt: skip
    [convolved], [dropped] = (
        state["intermediates"][name]["__call__"] for name in ("Conv_0", "Dropout_0")
    )
    maps = nn.relu(convolved).transpose(0, 3, 1, 2)
    kept = dropped.any((2, 3), keepdims=True)
    assert dropped.shape == (4, 8, 1, 6)
    np.testing.assert_allclose(dropped, jnp.where(kept, 2 * maps, 0), rtol=1e-6)
    assert (kept != kept[:1]).any()
    assert (kept != kept[:, :1]).any()


@pytest.mark.parametrize("name", ["none", "CNN none"])
def test_forecasts_are_in_degrees(name):
    params = plain_params(name)
    one = network(name).apply(params, X, jnp.float32(0), deterministic=True)
    other = network(name).clone(scale=20.0).apply(params, X, jnp.float32(0), deterministic=True)
    np.testing.assert_allclose(other, 10 * one, rtol=1e-5)
    assert one.shape == (4,)
