"""Pure functions with keys and named axes, as in Haiku and Haliax; and Haiku itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stacks import haiku, haliax
from flax_spatialdrop import dropout, sample_mask, spatial_dropout_1d
from tests.stacks.recorded import DEPTH, assert_close, kept_bytes, masks_of, value_and_gradient

BATCH, TIME, FEATURES = 2, 6, 8


def haiku_masks(key):
    for layer in range(DEPTH):
        keys = haiku.Keys(jax.random.fold_in(key, layer))
        for _ in range(2):
            yield sample_mask(next(keys), haiku.RATE, (BATCH, TIME, FEATURES))


def haliax_masks(key):
    for layer in range(DEPTH):
        mask = sample_mask(jax.random.fold_in(key, layer), haliax.RATE, (BATCH, 1, FEATURES))
        yield jnp.broadcast_to(mask, (BATCH, TIME, FEATURES))


@pytest.mark.parametrize(("stack", "by_rule"), [(haiku, haiku_masks), (haliax, haliax_masks)])
def test_masks_are_those_of_the_rule_with_and_without_scan_and_remat(stack, by_rule):
    expected = {np.asarray(mask).tobytes() for mask in by_rule(jax.random.key(5))}
    assert masks_of(stack, stack.OURS, scan=False) == expected
    assert masks_of(stack, stack.OURS, scan=True, remat=True) == expected


@pytest.mark.parametrize("stack", [haiku, haliax])
def test_it_draws_the_masks_of_dropout_written_by_hand(stack):
    theirs = value_and_gradient(stack, stack.THEIRS)
    assert_close(value_and_gradient(stack, stack.OURS, remat=True), theirs)
    assert masks_of(stack, stack.OURS) == masks_of(stack, stack.THEIRS)


def test_the_backward_pass_keeps_a_key_or_a_mask_in_its_noise_shape():
    every = BATCH * TIME * FEATURES
    less = kept_bytes(haiku, haiku.THEIRS) - kept_bytes(haiku, haiku.OURS)
    assert less >= 2 * DEPTH * (every - 8)  # two masks in a layer, or their keys
    less = kept_bytes(haliax, haliax.THEIRS) - kept_bytes(haliax, haliax.OURS)
    assert less >= DEPTH * (every - BATCH * FEATURES)


def test_functions_run_inside_haiku():
    hk = pytest.importorskip("haiku")
    x = jax.random.normal(jax.random.key(0), (BATCH, TIME, FEATURES))

    def network(drop):
        def forward(x):
            x = drop(hk.next_rng_key(), hk.Linear(FEATURES)(x))
            return x + hk.remat(lambda x: drop(hk.next_rng_key(), jnp.tanh(x)))(x)

        return hk.transform(forward)

    def by_haiku(key, x):
        with jax.numpy_dtype_promotion("standard"):  # it multiplies by a bool
            return hk.dropout(key, 0.25, x)

    params = network(by_haiku).init(jax.random.key(1), x)
    theirs = network(by_haiku).apply(params, jax.random.key(2), x)
    ours = network(lambda key, x: dropout(key, x, 0.25)).apply(params, jax.random.key(2), x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert (ours != x).any()
    shared = network(lambda key, x: spatial_dropout_1d(key, x, 0.25))
    assert shared.apply(params, jax.random.key(2), x).shape == x.shape
