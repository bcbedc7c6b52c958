"""Recurrent layers under the transformations of Linen and NNX, and several in one model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from .faces import BOTH, HIDDEN, KEY, X, assert_close, each_face

SQUARE = jax.random.normal(jax.random.key(0), (4, 11, HIDDEN))


class Layer(flax_spatialdrop.linen.LSTM):
    """A layer that is called with inputs only."""

    features: int = HIDDEN
    dropout: float = 0.3
    recurrent_dropout: float = 0.4
    deterministic: bool = False


def test_two_layers_of_a_linen_model_draw_different_masks():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [Layer().sample_masks(x) for _ in range(2)]

    first, second = Model().apply({}, SQUARE, rngs={"dropout": clone(KEY)})
    assert (first.inputs != second.inputs).any()
    assert (first.state != second.state).any()


def test_two_layers_of_an_nnx_model_draw_different_masks():
    rngs = nnx.Rngs(params=0, dropout=1)
    layers = [
        flax_spatialdrop.nnx.LSTM(HIDDEN, HIDDEN, **BOTH, rngs=rngs, dropout_rngs=rngs)
        for _ in range(2)
    ]
    for first, second in (
        [layer.sample_masks(SQUARE) for layer in layers],
        [layer.sample_masks(SQUARE, rngs=rngs) for layer in layers],
    ):
        assert (first.inputs != second.inputs).any()
        assert (first.state != second.state).any()


@pytest.mark.parametrize("lift", [nn.jit, nn.remat])
def test_linen_s_jit_and_remat_change_nothing(lift):
    """The key is given, since nn.jit changes the keys of streams, as for Flax's own layer."""
    plain, lifted = Layer(name="layer"), lift(Layer)(name="layer")
    params = plain.init({"params": KEY, "dropout": KEY}, SQUARE)

    def run(layer, params):
        return (layer.apply(params, SQUARE, rng=clone(KEY)) ** 2).sum()

    expected, gradient = jax.jit(jax.value_and_grad(lambda p: run(plain, p)))(params)
    found, other = jax.jit(jax.value_and_grad(lambda p: run(lifted, p)))(params)
    assert_close(found, expected, 1e-5)
    assert_close(other, gradient, 1e-5)


@pytest.mark.parametrize("split", [True, False])
def test_linen_s_scan_over_layers_and_vmap_over_examples(split):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return Layer()(x), Layer(name="masks").sample_masks(x).state

    rngs = {"params": True, "dropout": split}
    scanned = nn.scan(Body, variable_axes={"params": 0}, split_rngs=rngs, length=3)()
    (_, masks), _ = scanned.init_with_output({"params": KEY, "dropout": clone(KEY)}, SQUARE, None)
    assert (masks[0] != masks[1]).any() == split
    mapped = nn.vmap(
        Body,
        variable_axes={"params": None},
        split_rngs={"params": False, "dropout": split},
        in_axes=(0, None),
        out_axes=0,
    )()
    (_, masks), _ = mapped.init_with_output(
        {"params": KEY, "dropout": clone(KEY)}, jnp.stack([SQUARE] * 2), None
    )
    assert (masks[0] != masks[1]).any() == split


@each_face
def test_vmap_over_keys_and_scan_over_calls_draw_as_a_loop_does(face):
    layer = face("GRU", **BOTH)
    keys = jax.random.split(clone(KEY), 3)
    expected = jnp.stack([layer.drawn(X, key) for key in jax.random.clone(keys)])
    assert_close(jax.vmap(lambda key: layer.drawn(X, key))(jax.random.clone(keys)), expected, 1e-5)
    _, found = jax.lax.scan(lambda c, key: (c, layer.drawn(X, key)), None, keys)
    assert_close(found, expected, 1e-5)


def test_nnx_s_jit_moves_the_stream_on():
    rngs = nnx.Rngs(params=0, dropout=1)
    layer = flax_spatialdrop.nnx.GRU(HIDDEN, HIDDEN, **BOTH, rngs=rngs, dropout_rngs=rngs)
    other = nnx.clone(layer)
    run = nnx.jit(lambda layer, x: layer(x))
    for _ in range(2):
        assert_close(run(layer, SQUARE), other(SQUARE), 1e-5)
    assert (layer(SQUARE) != layer(SQUARE)).any()


def test_second_derivatives_of_a_layer_around_a_cell_and_of_our_own_agree():
    own = flax_spatialdrop.linen.SimpleRNN(HIDDEN, **BOTH)
    around = flax_spatialdrop.linen.RNN(nn.SimpleCell(HIDDEN), **BOTH)
    params = own.init(jax.random.key(0), X[:1, :3], deterministic=True)
    masks = own.apply(params, X[:1, :3], rng=clone(KEY), deterministic=False, method="sample_masks")

    def loss(layer, x):
        return (layer.apply(params, x, masks=masks, deterministic=False) ** 2).sum()

    first, second = (
        jax.jit(jax.hessian(lambda x, layer=layer: loss(layer, x)))(X[:1, :3])
        for layer in (own, around)
    )
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
