"""LSTM, GRU and SimpleRNN equal Flax's without dropout, and the papers' equations with it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from ..nnx.gradients import value_and_grad
from .faces import (
    BOTH,
    CELLS,
    FACES,
    FEATURES,
    HIDDEN,
    KEY,
    KINDS,
    SOME_VARIANTS,
    VARIANTS,
    X,
    assert_close,
    each_face,
    each_kind,
    loop,
    one_face,
    some_variants,
)


@each_face
@pytest.mark.parametrize(
    ("kind", "time"),
    # pieces of the loop and a rest; less than a piece
    [*((kind, 19) for kind in KINDS), ("LSTM", 3)],
)
def test_without_dropout_it_is_the_host_s(face, kind, time):
    layer, x = face(kind), jax.random.normal(jax.random.key(1), (3, time, FEATURES))
    assert_close(layer(x, return_carry=True), layer.of_host(x, return_carry=True))
    for options in ({"reverse": True}, {"reverse": True, "keep_order": True}):
        assert_close(layer(x, **options), layer.of_host(x, **options))
    time_first = jnp.swapaxes(x, 0, 1)
    assert_close(jnp.swapaxes(layer(time_first, time_major=True), 0, 1), layer(x))


@each_face
@each_kind
def test_computed_in_bfloat16(face, kind):
    """Products are bfloat16; the carry has the dtype of the parameters."""
    layer, exact = face(kind, dtype=jnp.bfloat16), face(kind)
    carry, outputs = layer(X, return_carry=True)
    assert {part.dtype for part in (*jax.tree.leaves(carry), outputs)} == {jnp.dtype("float32")}
    expected = exact(X)
    assert (outputs != expected).any()
    assert_close(outputs, expected, 0.03)
    gradients = [jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(X) for f in (layer, exact)]
    assert_close(*gradients, 0.1)


@each_kind
def test_linen_parameters_are_those_of_the_host(kind):
    layer, host = getattr(flax_spatialdrop.linen, kind)(HIDDEN), FACES["linen"](kind).host
    ours, theirs = (m.init(jax.random.key(2), X) for m in (layer, host))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@each_kind
def test_nnx_parameters_are_those_of_the_host_and_without_a_stream_there_is_no_other_state(kind):
    make = partial(getattr(flax_spatialdrop.nnx, kind), FEATURES, HIDDEN, **BOTH)
    layer = make(rngs=nnx.Rngs(3), dropout_rngs=False)
    with_stream = nnx.state(make(rngs=nnx.Rngs(3)), nnx.Param)
    cell = getattr(nnx, CELLS[kind])(FEATURES, HIDDEN, rngs=nnx.Rngs(3))
    ours, theirs = nnx.state(layer), nnx.state(nnx.RNN(cell, rngs=False))
    jax.tree.map(np.testing.assert_array_equal, with_stream, theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("face", "kind", "options"),
    [("nnx", *variant) for variant in VARIANTS]
    + [("linen", *variant) for variant in SOME_VARIANTS],
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)
def test_it_is_the_papers_loop(face, kind, options):
    x = jax.random.normal(jax.random.key(1), (4, 19, FEATURES))
    layer = FACES[face](kind, **BOTH, **options)
    masks = layer.masks(x, clone(KEY))
    carry, outputs = layer(x, masks=masks, return_carry=True)
    expected, last = loop(
        kind, layer.weights(), np.asarray(x, np.float64), masks, 0.3, 0.4, options["variant"]
    )
    assert_close(outputs, expected, 1e-5)
    assert_close(carry, last, 1e-5)
    np.testing.assert_array_equal(layer.drawn(x, clone(KEY)), layer(x, masks=masks))


@each_face
@each_kind
def test_at_rate_1_nothing_of_the_inputs_is_seen(face, kind):
    layer = face(kind)
    outputs = layer.drawn(X, clone(KEY), dropout=1.0)
    assert_close(outputs, layer(jnp.zeros_like(X)))
    assert (layer.drawn(X, clone(KEY), recurrent_dropout=1.0) != outputs).any()


@each_face
@each_kind
def test_zoneout_in_evaluation_is_the_mean(face, kind):
    """One step from a state that is not 0. The new h comes from the new c, not from its mean."""
    layer = face(kind, recurrent_dropout=0.25, variant="zoneout")
    carry, _ = layer(X, deterministic=True, return_carry=True)
    x = X[:, :1]
    new, _ = layer(
        x, deterministic=True, recurrent_dropout=0.0, initial_carry=carry, return_carry=True
    )
    mixed, outputs = layer(x, deterministic=True, initial_carry=carry, return_carry=True)
    expected = jax.tree.map(lambda n, c: 0.75 * n + 0.25 * c, new, carry)
    assert_close(mixed, expected)
    assert_close(outputs[:, 0], jax.tree.leaves(expected)[-1])


def test_masks_differ_from_sequence_to_sequence_and_call_to_call():
    layer = FACES["nnx"]("LSTM", **BOTH)
    first, second = (layer.masks(X, key) for key in jax.random.split(clone(KEY)))
    assert (first.state != second.state).any()
    assert len(np.unique(first.state, axis=0)) > 1
    assert first.inputs.shape == (4, FEATURES)
    assert first.state.shape == (4, HIDDEN)


@pytest.mark.parametrize("variant", ["variational", "no_memory_loss", "zoneout"])
def test_the_carried_state_is_never_scaled(variant):
    """A network that only remembers keeps its memory for 512 steps at a rate of 0.5."""
    layer = FACES["nnx"]("LSTM", recurrent_dropout=0.5, variant=variant)
    cell = layer.layer.cell
    for part in (cell.hi, cell.hf, cell.hg, cell.ho, cell.ii, cell.if_, cell.ig, cell.io):
        part.kernel[...] = jnp.zeros_like(part.kernel[...])
    cell.hf.bias[...] = jnp.full(HIDDEN, 20.0)
    cell.hi.bias[...] = jnp.full(HIDDEN, -20.0)
    carry = (jnp.ones((4, HIDDEN)), jnp.ones((4, HIDDEN)))
    (memory, _), _ = layer.layer(
        jnp.ones((4, 512, FEATURES)), rngs=clone(KEY), initial_carry=carry, return_carry=True
    )
    np.testing.assert_allclose(memory, 1, rtol=1e-5)


@pytest.mark.parametrize("variant", ["variational", "no_memory_loss", "zoneout"])
def test_the_state_of_a_gru_that_keeps_it_is_never_scaled(variant):
    """The gates z are 1, so that h does not change, although all products read h dropped."""
    layer = FACES["nnx"]("GRU", recurrent_dropout=0.5, variant=variant)
    bias = layer.layer.cell.dense_i.bias
    bias[...] = bias[...].at[HIDDEN : 2 * HIDDEN].set(100.0)
    start = 1.0 + jnp.arange(4.0 * HIDDEN).reshape(4, HIDDEN)
    last, _ = layer.layer(
        jnp.zeros((4, 512, FEATURES)), rngs=clone(KEY), initial_carry=start / 28, return_carry=True
    )
    np.testing.assert_allclose(last, start / 28, rtol=1e-4)


@each_face
def test_batches_of_any_rank(face):
    layer = face("GRU", **BOTH)
    x = jax.random.normal(jax.random.key(1), (2, 3, 9, FEATURES))
    masks = layer.masks(x, clone(KEY))
    assert masks.inputs.shape == (2, 3, FEATURES)
    flat = jax.tree.map(lambda m: m.reshape(6, -1), masks)
    outputs = layer(x, masks=masks)
    assert_close(outputs.reshape(6, 9, HIDDEN), layer(x.reshape(6, 9, FEATURES), masks=flat))
    one = jax.tree.map(lambda m: m[0, 0], masks)
    assert_close(layer(x[0, 0], masks=one), outputs[0, 0])


@pytest.mark.parametrize(
    "rngs",
    [
        {"rngs": nnx.Rngs(params=0, dropout=1)},
        {"rngs": nnx.Rngs(params=0), "dropout_rngs": nnx.Rngs(dropout=1)},
    ],
)
def test_an_nnx_layer_with_a_stream(rngs):
    layer = flax_spatialdrop.nnx.LSTM(FEATURES, HIDDEN, **BOTH, **rngs)
    assert (layer(X) != layer(X)).any()
    layer.eval()
    np.testing.assert_array_equal(layer(X), layer(X))
    np.testing.assert_array_equal(nnx.view(layer, deterministic=True)(X), layer(X))


@one_face
@some_variants
def test_a_sequence_in_chunks_is_the_whole(face, kind, options):
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))
    whole = layer(X, masks=masks)
    carry, parts = None, []
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        part = masks
        if options["variant"] == "zoneout":
            part = masks._replace(state=tuple(mask[:, start:stop] for mask in masks.state))
        carry, outputs = layer(X[:, start:stop], masks=part, initial_carry=carry, return_carry=True)
        parts.append(outputs)
    assert_close(jnp.concatenate(parts, axis=1), whole)


@one_face
@some_variants
def test_traced_rates_are_right_at_0_and_1_in_one_compile(face, kind, options):
    layer, traces = face(kind, **BOTH, **options), []

    @jax.jit
    def run(rate, key):
        traces.append(rate)
        return layer.drawn(X, key, dropout=rate, recurrent_dropout=rate)

    for rate in (0.25, 1.0):
        traced = run(jnp.float32(rate), clone(KEY))
        static = layer.drawn(X, clone(KEY), dropout=rate, recurrent_dropout=rate)
        assert_close(traced, static)
    assert len(traces) == 1
    assert_close(
        run(jnp.float32(0), clone(KEY)), layer(X, deterministic=True, recurrent_dropout=0.0)
    )


def test_linen_s_own_bidirectional_takes_them_and_each_direction_has_its_masks():
    def make(**options):
        layers = [flax_spatialdrop.linen.LSTM(HIDDEN, **options) for _ in range(2)]
        return nn.Bidirectional(*layers)

    hosts = nn.Bidirectional(*[nn.RNN(nn.LSTMCell(HIDDEN)) for _ in range(2)])
    params = hosts.init(jax.random.key(0), X)
    assert_close(make().apply(params, X), hosts.apply(params, X))
    # With equal weights and equal steps, only different masks make the directions differ.
    forward, backward = params["params"]
    same = {"params": {name: params["params"][forward] for name in (forward, backward)}}
    steady = jnp.ones_like(X)
    model = make(recurrent_dropout=0.5, deterministic=False)
    y = model.apply(same, steady, rngs={"dropout": clone(KEY)})
    assert (y[..., :HIDDEN] != y[:, ::-1, HIDDEN:]).any()
    z = make().apply(same, steady)
    assert_close(z[..., :HIDDEN], z[:, ::-1, HIDDEN:])


def test_nnx_s_own_bidirectional_takes_them_and_each_direction_has_its_masks():
    def make(**options):
        rngs = [nnx.Rngs(0), nnx.Rngs(0)]  # equal weights
        layers = [
            flax_spatialdrop.nnx.LSTM(FEATURES, HIDDEN, rngs=each, **options) for each in rngs
        ]
        return nnx.Bidirectional(*layers, rngs=False)  # else it passes its own stream to both

    steady = jnp.ones_like(X)
    y = make(recurrent_dropout=0.5, dropout_rngs=nnx.Rngs(dropout=1))(steady)
    assert (y[..., :HIDDEN] != y[:, ::-1, HIDDEN:]).any()
    z = make()(steady)
    assert_close(z[..., :HIDDEN], z[:, ::-1, HIDDEN:])


def test_streams_that_an_nnx_layer_takes_and_leaves():
    """As in Flax: no stream at a rate of 0; and `dropout_rngs` is used before `rngs`."""
    gru = partial(flax_spatialdrop.nnx.GRU, FEATURES, HIDDEN)
    assert gru(rngs=nnx.Rngs(0)).rngs is None
    assert gru(dropout=0.5, rngs=nnx.Rngs(params=0)).rngs is None
    assert gru(dropout=0.5, rngs=nnx.Rngs(0), dropout_rngs=False).rngs is None
    first, second = (
        gru(dropout=0.5, rngs=nnx.Rngs(seed), dropout_rngs=nnx.Rngs(dropout=5)) for seed in (0, 1)
    )
    np.testing.assert_array_equal(first.sample_masks(X).inputs, second.sample_masks(X).inputs)
    cell = nnx.GRUCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))
    around = flax_spatialdrop.nnx.RNN(cell, dropout=0.5, rngs=nnx.Rngs(carry=0, dropout=5))
    assert (around(X) != around(X)).any()


def test_an_nnx_layer_trains():
    layer = flax_spatialdrop.nnx.GRU(5, 5, dropout=0.2, rngs=nnx.Rngs(params=0, dropout=1))
    loss = nnx.jit(value_and_grad(lambda layer: (layer(X) ** 2).mean()))
    assert loss(layer)[0] != loss(layer)[0]
