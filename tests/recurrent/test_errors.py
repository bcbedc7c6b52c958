"""The errors of recurrent layers for arguments that do not fit."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import (
    RecurrentMasks,
)

from ..errors import exactly
from .faces import BOTH, FACES, HIDDEN, X, each_face

REFUSED = [
    (
        "LSTM",
        {"variant": "gal"},
        {},
        ("variant must be 'variational', 'no_memory_loss' or 'zoneout': got variant='gal'"),
    ),
    (
        "SimpleRNN",
        {"per_gate": True},
        {},
        "per_gate=True draws a mask for each gate, and SimpleRNN has no gates; use LSTM or GRU",
    ),
    (
        "SimpleRNN",
        {"variant": "no_memory_loss"},
        {},
        (
            "variant='no_memory_loss' drops the new content that a gate adds to the state, and "
            "SimpleRNN has no gates; use 'variational' or 'zoneout', or LSTM or GRU"
        ),
    ),
    (
        "GRU",
        {},
        {"dropout": 1.5},
        "dropout is the probability to drop and must be in [0, 1]: got dropout=1.5",
    ),
    (
        "GRU",
        {},
        {"seq_lengths": jnp.array([1, 2, 3, 12])},
        ("seq_lengths must be from 0 to the 11 steps of the sequence: got from 1 to 12"),
    ),
    (
        "GRU",
        {},
        {"seq_lengths": jnp.ones(3, int)},
        ("seq_lengths needs one length for each sequence, of shape (4,): got shape (3,)"),
    ),
    (
        "LSTM",
        {},
        {"initial_carry": jnp.ones((4, HIDDEN))},
        "initial_carry must have the shapes ((4, 7), (4, 7)): got (4, 7)",
    ),
    (
        "GRU",
        {},
        {"initial_carry": jnp.ones((3, HIDDEN))},
        "initial_carry must have the shapes (4, 7): got (3, 7)",
    ),
    (
        "GRU",
        {"dropout": 0.5},
        {"masks": RecurrentMasks(jnp.ones((4, 6), bool))},
        "masks.inputs must have the shape (4, 5): got (4, 6)",
    ),
]


@each_face
@pytest.mark.parametrize(("kind", "options", "call", "message"), REFUSED)
def test_what_is_refused(face, kind, options, call, message):
    with pytest.raises(ValueError, match=exactly(message)):
        face(kind, **options)(X, **call)


@each_face
def test_types_that_are_refused(face):
    layer = face("GRU")
    with pytest.raises(TypeError, match="takes inputs of a floating dtype: got dtype int32"):
        layer(X.astype(int))
    with pytest.raises(TypeError, match="seq_lengths must be integers: got dtype float32"):
        layer(X, seq_lengths=jnp.ones(4))
    with pytest.raises(TypeError, match="masks must be RecurrentMasks, as sample_masks returns"):
        layer(X, masks=jnp.ones((4, 5), bool), dropout=0.5)
    with pytest.raises(ValueError, match=r"takes inputs \[\*batch, time, features\]: got shape"):
        layer(X[0, 0])


def test_no_key_and_active():
    message = exactly(
        "LSTM draws a mask and needs a key: got no rngs; pass dropout_rngs=nnx.Rngs(...) to the "
        "constructor, or nnx.Rngs or a key as rngs= at the call, or set deterministic=True"
    )
    with pytest.raises(
        flax.errors.InvalidRngError, match="LSTM draws a mask and needs a key of the stream"
    ):
        FACES["linen"]("LSTM", **BOTH)(X, deterministic=False)
    with pytest.raises(ValueError, match=message):
        FACES["nnx"]("LSTM", **BOTH)(X, deterministic=False)


def test_parameters_that_do_not_fit_are_told_in_flax_s_words():
    layer = flax_spatialdrop.linen.LSTM(HIDDEN)
    params = layer.init(jax.random.key(0), X)
    del params["params"]["cell"]["hi"]
    for wrong in ({}, params):
        with pytest.raises(flax.errors.FlaxError, match=r"hi|ii"):
            layer.apply(wrong, X)
    params = layer.init(jax.random.key(0), X[..., :3])
    with pytest.raises(flax.errors.ScopeParamShapeError):
        layer.apply(params, X)


def test_a_key_for_the_stream_of_an_nnx_layer_is_refused():
    message = "LSTM takes nnx.Rngs, an nnx.RngStream or None as dropout_rngs: got"
    with pytest.raises(TypeError, match=message):
        flax_spatialdrop.nnx.LSTM(2, 3, rngs=nnx.Rngs(0), dropout_rngs=jax.random.key(0))


SWITCHES = ("time_major", "return_carry", "reverse", "keep_order")


@each_face
@pytest.mark.parametrize("name", SWITCHES)
def test_switches_are_true_or_false(face, name):
    message = exactly(f"{name} must be True or False: got 'False'")
    with pytest.raises(TypeError, match=message):
        face("GRU")(X, **{name: "False"})
    with pytest.raises(TypeError, match=message):
        face("GRU", **{name: "False"})(X)
    with pytest.raises(TypeError, match=f"{name} must be a Python bool, known when tracing"):
        jax.jit(lambda value: face("GRU")(X, **{name: value}))(True)
    np.testing.assert_array_equal(face("GRU", time_major=np.bool_(False))(X), face("GRU")(X))


@each_face
def test_per_gate_and_unroll_are_checked(face):
    with pytest.raises(TypeError, match=exactly("per_gate must be True or False: got 1")):
        face("GRU", per_gate=1)(X)
    with pytest.raises(ValueError, match=exactly("unroll must be at least 1: got 0")):
        face("GRU", unroll=0)(X)


@each_face
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seq_lengths": "a"}, "seq_lengths must be a JAX or NumPy array: got 'a'"),
        ({"initial_carry": 0}, "initial_carry must be a JAX or NumPy array: got 0"),
        ({"masks": {}, "dropout": 0.5}, "masks must be RecurrentMasks, as sample_masks returns"),
        (
            {"masks": RecurrentMasks(jnp.ones((4, 5))), "dropout": 0.5},
            "masks.inputs must be a bool array, True where a value is kept: got dtype float32",
        ),
        ({"inputs": [1.0]}, "inputs must be a JAX or NumPy array: got [1.0]"),
    ],
)
def test_a_message_names_the_argument(face, call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        face("GRU")(**{"x": X, **{"x" if k == "inputs" else k: v for k, v in call.items()}})


@pytest.mark.parametrize("name", ["kernel_init", "bias_init", "carry_init", "activation_fn"])
def test_linen_s_initializers_must_be_functions(name):
    message = f"{name} must be a function: got [0.5]"
    with pytest.raises(TypeError, match=exactly(message)):
        flax_spatialdrop.linen.SimpleRNN(3, **{name: [0.5]})


def test_keys_are_named_as_they_are_written():
    message = "must be a JAX PRNG key, such as jax.random.key(0): got an array of shape (3,)"
    with pytest.raises(TypeError, match=re.escape(f"rngs {message}")):
        FACES["nnx"]("GRU", **BOTH)(X, rngs=jnp.ones(3))
    with pytest.raises(TypeError, match=re.escape(f"rng {message}")):
        FACES["linen"]("GRU", **BOTH)(X, rng=jnp.ones(3), deterministic=False)
