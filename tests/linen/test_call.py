"""The arguments of a call: rate, mask, deterministic and rng, for all modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import apply_mask
from flax_spatialdrop.linen import Dropout, SpatialDropout1D

from ..errors import exactly

KEY = jax.random.key(9)
X = jax.random.normal(jax.random.key(0), (2, 3, 4))
LAYER = SpatialDropout1D(0.5)
MASK = jnp.array([[[True, False, True, True]], [[False, True, True, False]]])


def test_a_rate_at_the_call_replaces_the_attribute():
    y = LAYER.apply({}, X, False, clone(KEY), rate=0.2)
    np.testing.assert_array_equal(y, SpatialDropout1D(0.2).apply({}, X, False, clone(KEY)))
    assert LAYER.apply({}, X, False, rate=0.0) is X


@pytest.mark.parametrize("mask", [MASK, jnp.broadcast_to(MASK, X.shape), np.asarray(MASK)])
def test_a_mask_is_used_and_no_key_asked_for(mask):
    y = LAYER.apply({}, X, False, mask=mask)
    np.testing.assert_array_equal(y, apply_mask(X, MASK, 0.5))


def test_a_mask_is_used_at_rate_1_and_ignored_at_0_and_when_deterministic():
    np.testing.assert_array_equal(
        LAYER.apply({}, X, False, mask=MASK, rate=1.0), apply_mask(X, MASK, 1.0)
    )
    assert LAYER.apply({}, X, False, mask=MASK, rate=0.0) is X
    assert LAYER.apply({}, X, True, mask=MASK) is X


def test_a_stream_is_asked_only_when_a_mask_is_drawn():
    """If the first layer asked the stream for a key, the second would get another key."""

    class Model(nn.Module):
        first: dict
        cls: type = Dropout

        @nn.compact
        def __call__(self, x):
            drop = self.cls(0.5)
            drop(x, **self.first)
            return drop(x, deterministic=False)

    def run(**first):
        return Model(first).apply({}, X, rngs={"dropout": clone(KEY)})

    alone = Dropout(0.5).apply({}, X, False, rngs={"dropout": clone(KEY)})
    undrawn = run(deterministic=True)
    assert (undrawn != alone).any()  # a nested module has another path, so another key
    flax_s = Model({"deterministic": True}, nn.Dropout)
    np.testing.assert_array_equal(undrawn, flax_s.apply({}, X, rngs={"dropout": clone(KEY)}))
    for first in (
        {"deterministic": False, "rate": 0.0},
        {"deterministic": False, "rate": 1.0},
        {"deterministic": False, "mask": jnp.ones(X.shape, bool)},
        {"deterministic": False, "rng": jax.random.key(1)},
    ):
        np.testing.assert_array_equal(run(**first), undrawn)
    assert (run(deterministic=False) != undrawn).any()


def test_numpy_inputs_come_back_as_jax_arrays():
    y = LAYER.apply({}, np.ones((2, 3, 4), np.float32), True)
    assert isinstance(y, jax.Array)


@pytest.mark.parametrize("truth", [True, np.True_, jnp.array(True)])
def test_deterministic_may_be_any_concrete_truth(truth):
    assert LAYER.apply({}, X, truth) is X


TRACED = (
    "deterministic must be a Python bool, known when tracing: got a traced value; name it in "
    "jax.jit(..., static_argnames='deterministic'), or give its position in "
    "nn.remat(..., static_argnums=...), which counts the module itself as 0"
)


def test_a_traced_deterministic():
    @jax.jit
    def f(x, deterministic):
        return LAYER.apply({}, x, deterministic, clone(KEY))

    with pytest.raises(TypeError, match=exactly(TRACED)):
        f(X, True)


def test_the_ways_out_that_the_message_names():
    f = jax.jit(
        lambda x, deterministic: LAYER.apply({}, x, deterministic), static_argnames="deterministic"
    )
    np.testing.assert_array_equal(f(X, deterministic=True), X)
    layer = nn.remat(SpatialDropout1D, static_argnums=(2,))(0.5)
    np.testing.assert_array_equal(layer.apply({}, X, True), X)


def test_flax_sees_one_call_a_module():
    _, state = LAYER.apply(
        {}, X, False, clone(KEY), capture_intermediates=lambda *_: True, mutable="intermediates"
    )
    assert set(state["intermediates"]) == {"__call__"}


BAD_MASKS = [
    (
        jnp.ones((2, 3, 1), bool),
        ValueError,
        "mask must have the noise shape (2, 1, 4) or the shape of x: got mask.shape=(2, 3, 1) "
        "for x.shape=(2, 3, 4)",
    ),
    (
        jnp.ones((2, 4), bool),
        ValueError,
        "mask must have the noise shape (2, 1, 4) or the shape of x: got mask.shape=(2, 4) "
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
        LAYER.apply({}, X, off, mask=mask, rate=rate)


def test_bad_input_is_seen_even_when_deterministic():
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        LAYER.apply({}, X[0], True)
    with pytest.raises(TypeError, match="x must have a floating or complex dtype"):
        LAYER.apply({}, X.astype(int), True)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]: got rate=2"):
        LAYER.apply({}, X, True, rate=2)
