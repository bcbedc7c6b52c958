"""Bidirectional equals that of Linen and NNX, and each direction has its own masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import RecurrentMasks

from ..errors import exactly
from .faces import BOTH, FEATURES, HIDDEN, KEY, LENGTHS, X, assert_close


def linen_layer(**options):
    layers = [flax_spatialdrop.linen.LSTM(HIDDEN, **options) for _ in range(2)]
    return flax_spatialdrop.linen.Bidirectional(*layers)


def nnx_layer(seeds=(0, 1), **options):
    layers = [
        flax_spatialdrop.nnx.LSTM(FEATURES, HIDDEN, rngs=nnx.Rngs(seed), **options)
        for seed in seeds
    ]
    return flax_spatialdrop.nnx.Bidirectional(*layers)


@pytest.mark.parametrize("options", [{}, {"seq_lengths": LENGTHS}, {"return_carry": True}])
def test_without_dropout_it_is_linen_s_own(options):
    host = nn.Bidirectional(*[nn.RNN(nn.LSTMCell(HIDDEN)) for _ in range(2)])
    params = host.init(jax.random.key(0), X)
    found, expected = (m.apply(params, X, **options) for m in (linen_layer(), host))
    if "seq_lengths" in options:  # Flax computes outputs in the padding; ours are 0
        words = jnp.arange(11)[None] < LENGTHS[:, None]
        expected = jnp.where(words[..., None], expected, 0)
    assert_close(found, expected)


def test_without_dropout_it_is_nnx_s_own():
    layer = nnx_layer()
    host = nnx.Bidirectional(layer.forward_rnn, layer.backward_rnn, rngs=False)
    assert_close(layer(X, return_carry=True), host(X, return_carry=True))
    assert_close(layer(X.swapaxes(0, 1), time_major=True), layer(X).swapaxes(0, 1))


def test_each_direction_has_masks_of_its_own_from_one_key_or_stream():
    """With equal weights and equal steps, only different masks make the directions differ."""
    steady = jnp.ones_like(X)
    layer = nnx_layer(seeds=(0, 0), recurrent_dropout=0.5)
    for rngs in (clone(KEY), nnx.Rngs(dropout=1)):
        y = layer(steady, rngs=rngs)
        assert (y[..., :HIDDEN] != y[:, ::-1, HIDDEN:]).any()
    model = linen_layer(recurrent_dropout=0.5, deterministic=False)
    params = model.init({"params": clone(KEY), "dropout": clone(KEY)}, steady)
    one = next(iter(params["params"].values()))
    same = {"params": dict.fromkeys(params["params"], one)}
    for source in ({"rng": clone(KEY)}, {"rngs": {"dropout": clone(KEY)}}):
        y = model.apply(same, steady, **source)
        assert (y[..., :HIDDEN] != y[:, ::-1, HIDDEN:]).any()


def test_masks_as_values_are_those_of_the_call():
    layer = nnx_layer(**BOTH)
    masks = layer.sample_masks(X, rngs=clone(KEY))
    np.testing.assert_array_equal(layer(X, masks=masks), layer(X, rngs=clone(KEY)))
    model = linen_layer(**BOTH)
    params = model.init(jax.random.key(0), X, deterministic=True)
    drawn = {"rng": clone(KEY), "deterministic": False}
    masks = model.apply(params, X, **drawn, method="sample_masks")
    given = model.apply(params, X, masks=masks, deterministic=False)
    np.testing.assert_array_equal(
        given, model.apply(params, X, rng=clone(KEY), deterministic=False)
    )


def test_one_layer_for_both_directions_is_refused():
    message = exactly("Bidirectional takes a layer for each direction: got the same one twice")
    layer = nnx_layer().forward_rnn
    with pytest.raises(ValueError, match=message):
        flax_spatialdrop.nnx.Bidirectional(layer, layer)
    layer = flax_spatialdrop.linen.LSTM(HIDDEN)
    with pytest.raises(ValueError, match=message):
        flax_spatialdrop.linen.Bidirectional(layer, layer).init(jax.random.key(0), X)


def test_layers_of_flax_are_refused():
    message = r"this package \(RNN\(cell\) for any cell\): got forward_rnn=flax\.\w+\.[\w.]+\.RNN"
    layers = [nn.RNN(nn.GRUCell(HIDDEN)) for _ in range(2)]
    with pytest.raises(TypeError, match=message):
        flax_spatialdrop.linen.Bidirectional(*layers).init(jax.random.key(0), X)
    layers = [nnx.RNN(nnx.GRUCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))) for _ in range(2)]
    with pytest.raises(TypeError, match=message):
        flax_spatialdrop.nnx.Bidirectional(*layers)


@pytest.mark.parametrize("name", ["masks", "initial_carry"])
@pytest.mark.parametrize("wrong", [(), {}, False, 0, RecurrentMasks()])
def test_what_is_no_pair_is_refused(name, wrong):
    message = f"{name} must be a pair, one for each direction: got "
    model = linen_layer()
    for run in (nnx_layer(), lambda x, **k: model.init(jax.random.key(0), x, **k)):
        with pytest.raises((TypeError, ValueError), match=message):
            run(X, **{name: wrong})


def test_the_second_direction_is_made_from_the_first():
    """It has its own parameters and stream, also if the cell is a module."""
    first = flax_spatialdrop.nnx.GRU(FEATURES, HIDDEN, **BOTH, rngs=nnx.Rngs(0), unroll=2)
    layer = flax_spatialdrop.nnx.Bidirectional(first)
    kernels = [each.cell.dense_i.kernel[...] for each in (first, layer.backward_rnn)]
    assert (kernels[0] != kernels[1]).any()
    assert layer.backward_rnn.unroll == 2
    masks = layer.sample_masks(X)
    assert (masks[0].inputs != masks[1].inputs).any()

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            cell = flax_spatialdrop.linen.RNN(nn.GRUCell(HIDDEN))
            return flax_spatialdrop.linen.Bidirectional(cell)(x)

    params = Model().init(jax.random.key(0), X)["params"]
    backward = params["Bidirectional_0"]["backward_rnn"]["cell"]
    forward = params["GRUCell_0"]
    assert jax.tree.map(jnp.shape, forward) == jax.tree.map(jnp.shape, backward)
    assert (forward["in"]["kernel"] != backward["in"]["kernel"]).any()
    cell = nnx.GRUCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="not for an RNN or a clone: got RNN; pass backward_rnn"):
        flax_spatialdrop.nnx.Bidirectional(flax_spatialdrop.nnx.RNN(cell))


def test_keras_words_for_merging():
    layer = nnx_layer()
    a, b = flax_spatialdrop.nnx.Bidirectional(layer.forward_rnn, layer.backward_rnn, merge_fn=None)(
        X
    )
    expected = {"concat": jnp.concatenate([a, b], -1), "sum": a + b, "mul": a * b}
    for word, value in {**expected, "ave": (a + b) / 2}.items():
        layer.merge_fn = word
        np.testing.assert_array_equal(layer(X), value)
    message = exactly(
        "merge_fn must be a function of the outputs of both directions, or 'concat', 'sum', 'mul', "
        "'ave' or None: got 'max'"
    )
    with pytest.raises(ValueError, match=message):
        flax_spatialdrop.nnx.Bidirectional(layer.forward_rnn, layer.backward_rnn, merge_fn="max")
