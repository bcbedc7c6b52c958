"""Compares to Keras and PyTorch with the same weights, if they are installed."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from .faces import BOTH, FACES, FEATURES, HIDDEN, KEY, LinenLayer, X


@pytest.fixture(autouse=True)
def _as_keras_is_written():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def keras_layer(kind, layer, **options):
    """Makes a layer of Keras with our weights. The gates of its GRU are z, r, n."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    theirs = getattr(keras.layers, kind)(HIDDEN, return_sequences=True, **options)
    theirs.build(X.shape)
    weights = layer.weights()
    if kind == "LSTM":
        theirs.set_weights([weights.inputs, weights.state, weights.state_bias])
        return theirs

    def order(array):
        r, z, n = np.split(array, 3, axis=-1)
        return np.concatenate([z, r, n], axis=-1)

    state_bias = np.zeros(3 * HIDDEN) if weights.state_bias is None else weights.state_bias
    biases = np.stack([order(weights.input_bias), order(state_bias)])
    theirs.set_weights([order(weights.inputs), order(weights.state), biases])
    return theirs


@pytest.mark.parametrize("face", FACES.values(), ids=list(FACES))
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_keras_without_dropout(face, kind):
    layer = face(kind)
    theirs = keras_layer(kind, layer)
    np.testing.assert_allclose(layer(X), theirs(np.asarray(X)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_keras_with_our_masks_in_place_of_its_own(kind):
    layer = LinenLayer(kind, **BOTH, per_gate=True)
    masks = layer.masks(X, clone(KEY))
    theirs = keras_layer(kind, layer, **BOTH)
    order = [0, 1, 2, 3] if kind == "LSTM" else [1, 0, 2]
    cell = theirs.cell
    inputs = [masks.inputs[gate] / np.float32(0.7) for gate in order]
    state = [masks.state[gate] / np.float32(0.6) for gate in order]
    cell.get_dropout_mask = lambda step: inputs
    cell.get_recurrent_dropout_mask = lambda step: state
    expected = theirs(np.asarray(X), training=True)
    np.testing.assert_allclose(layer(X, masks=masks), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(expected - layer(X, deterministic=True))).max() > 0.01


def test_pytorch_s_lstm():
    torch = pytest.importorskip("torch")
    layer = LinenLayer("LSTM")
    weights = layer.weights()
    theirs = torch.nn.LSTM(FEATURES, HIDDEN, batch_first=True)
    with torch.no_grad():  # PyTorch has our order of gates: i, f, g, o
        theirs.weight_ih_l0.copy_(torch.tensor(weights.inputs.T))
        theirs.weight_hh_l0.copy_(torch.tensor(weights.state.T))
        theirs.bias_ih_l0.zero_()
        theirs.bias_hh_l0.copy_(torch.tensor(weights.state_bias))
        outputs, (h, c) = theirs(torch.tensor(np.asarray(X)))
    carry, ours = layer(X, return_carry=True)
    np.testing.assert_allclose(ours, outputs.numpy(), rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, jnp.asarray(b[0].numpy()), rtol=1e-5, atol=1e-5),
        carry,
        (c, h),
    )
