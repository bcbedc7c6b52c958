"""The arguments of a call: rate, mask, deterministic and rngs, for all modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import apply_mask
from flax_spatialdrop.nnx import Dropout, SpatialDropout1D

from ..errors import exactly

KEY = jax.random.key(9)
X = jax.random.normal(jax.random.key(0), (2, 3, 4))
LAYER = SpatialDropout1D(0.5)
MASK = jnp.array([[[True, False, True, True]], [[False, True, True, False]]])


def test_a_rate_at_the_call_replaces_the_attribute():
    y = LAYER(X, rngs=clone(KEY), rate=0.2)
    np.testing.assert_array_equal(y, SpatialDropout1D(0.2)(X, rngs=clone(KEY)))
    assert LAYER(X, rate=0.0) is X


@pytest.mark.parametrize("mask", [MASK, jnp.broadcast_to(MASK, X.shape), np.asarray(MASK)])
def test_a_mask_is_used_and_no_key_asked_for(mask):
    np.testing.assert_array_equal(LAYER(X, mask=mask), apply_mask(X, MASK, 0.5))


def test_a_mask_is_used_at_rate_1_and_ignored_at_0_and_when_deterministic():
    np.testing.assert_array_equal(LAYER(X, mask=MASK, rate=1.0), apply_mask(X, MASK, 1.0))
    assert LAYER(X, mask=MASK, rate=0.0) is X
    assert LAYER(X, mask=MASK, deterministic=True) is X


def test_a_stream_is_asked_only_when_a_mask_is_drawn():
    layer = SpatialDropout1D(0.5, rngs=nnx.Rngs(0))
    for quiet in (
        {"deterministic": True},
        {"rate": 0.0},
        {"rate": 1.0},
        {"mask": MASK},
        {"rngs": clone(KEY)},
        {"rngs": nnx.Rngs(1)},
    ):
        layer(X, **quiet)
        assert layer.rngs.count[...] == 0
    layer(X)
    assert layer.rngs.count[...] == 1
    layer.sample_mask(X)
    assert layer.rngs.count[...] == 2


def test_what_rngs_may_be_at_the_call():
    expected = LAYER(X, rngs=nnx.Rngs(dropout=3).dropout())
    for rngs in (nnx.Rngs(dropout=3), nnx.Rngs(3), nnx.Rngs(dropout=3).dropout):
        np.testing.assert_array_equal(LAYER(X, rngs=rngs), expected)


def test_a_call_s_deterministic_comes_first():
    always = SpatialDropout1D(0.5, deterministic=True)
    assert always(X) is X
    assert (always(X, deterministic=False, rngs=clone(KEY)) != X).any()


@pytest.mark.parametrize("truth", [True, np.True_, jnp.array(True)])
def test_deterministic_may_be_any_concrete_truth(truth):
    assert LAYER(X, deterministic=truth) is X


NO_RNGS = (
    "SpatialDropout1D draws a mask and needs a key: got no rngs; pass rngs=nnx.Rngs(...) to the "
    "constructor, or nnx.Rngs or a key as rngs= at the call, or set deterministic=True"
)
UNDECIDED = (
    "SpatialDropout1D needs to know whether to drop: got deterministic=None; give a bool to the "
    "constructor or the call, or use nnx.view(model, deterministic=...)"
)
TRACED = (
    "deterministic must be a Python bool, known when tracing: got a traced value; name it in "
    "nnx.jit(..., static_argnames='deterministic'), or pass a model in its mode, "
    "nnx.view(model, deterministic=...)"
)
NO_KEY = "SpatialDropout1D takes nnx.Rngs, an nnx.RngStream or a JAX PRNG key as rngs: got 7"
NO_STREAM = (
    "SpatialDropout1D takes nnx.Rngs, an nnx.RngStream or None as rngs: got 7; a key is given at "
    "the call, rngs=key"
)


def test_no_key_and_active():
    with pytest.raises(ValueError, match=exactly(NO_RNGS)):
        LAYER(X)
    with pytest.raises(ValueError, match=exactly(NO_RNGS)):
        LAYER.sample_mask(X)


def test_rngs_of_another_type():
    with pytest.raises(TypeError, match=exactly(NO_KEY)):
        LAYER(X, rngs=7)
    with pytest.raises(TypeError, match=exactly(NO_STREAM)):
        SpatialDropout1D(0.5, rngs=7)


def test_a_missing_stream_is_of_flax_s_type():
    with pytest.raises(KeyError, match="draws a mask with a key of the stream 'dropout'"):
        LAYER(X, rngs=nnx.Rngs(params=0))


def test_deterministic_said_nowhere():
    with pytest.raises(ValueError, match=exactly(UNDECIDED)):
        SpatialDropout1D(0.5, deterministic=None)(X)


def test_a_traced_deterministic():
    @jax.jit
    def f(x, deterministic):
        return LAYER(x, deterministic=deterministic, rngs=clone(KEY))

    with pytest.raises(TypeError, match=exactly(TRACED)):
        f(X, True)


def test_the_ways_out_that_the_message_names():
    @nnx.jit(static_argnames="deterministic")
    def run(layer, x, deterministic=None):
        return layer(x, deterministic=deterministic)

    np.testing.assert_array_equal(run(LAYER, X, deterministic=True), X)
    np.testing.assert_array_equal(run(nnx.view(LAYER, deterministic=True), X), X)


BAD_MASKS = [
    (
        jnp.ones((2, 3, 1), bool),
        ValueError,
        "mask must have the noise shape (2, 1, 4) or the shape of x: got mask.shape=(2, 3, 1) "
        "for x.shape=(2, 3, 4)",
    ),
    (
        jnp.ones((2, 1, 4)),
        TypeError,
        "mask must be a bool array, True where a value is kept: got dtype float32",
    ),
]


@pytest.mark.parametrize(("rate", "off"), [(0.5, False), (0.0, False), (0.5, True)])
@pytest.mark.parametrize(("mask", "error", "message"), BAD_MASKS)
def test_bad_masks_are_seen_even_where_nothing_drops(mask, error, message, rate, off):
    with pytest.raises(error, match=exactly(message)):
        LAYER(X, mask=mask, rate=rate, deterministic=off)


def test_bad_input_is_seen_even_when_deterministic():
    layer = SpatialDropout1D(0.5, deterministic=True)
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        layer(X[0])
    with pytest.raises(TypeError, match="x must have a floating or complex dtype"):
        layer(X.astype(int))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]: got rate=2"):
        layer(X, rate=2)


def test_both_noise_shape_and_broadcast_dims():
    layer = Dropout(0.5, broadcast_dims=(1,), noise_shape=(None, 1, None), deterministic=True)
    with pytest.raises(
        ValueError, match="at most one of noise_shape and broadcast_dims may be given"
    ):
        layer(X)
