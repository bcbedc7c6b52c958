import functools

import jax
import numpy as np
import pytest

from experiments.stacks import t5x
from experiments.stacks.layers import repeat
from tests.stacks.test_maxtext import assert_close

SMALL = {"layers": 2, "vocabulary": 11, "features": 8, "heads": 2, "rate": 0.25}


@functools.cache
def gradient(dropout, **options):
    example = t5x.example(dropout, **SMALL, **options)
    batch = tuple(tokens[:2, :6] for tokens in example.batch)
    return jax.jit(jax.value_and_grad(example.loss))(example.params, jax.random.key(4), batch)


def test_none_drops_nothing_and_a_rate_drops():
    example = t5x.example(None, **SMALL)
    batch = tuple(tokens[:2, :6] for tokens in example.batch)
    plain = jax.jit(example.loss)(example.params, jax.random.key(4), batch)
    assert abs(float(plain) - float(gradient(t5x.OURS)[0])) > 1e-3


def test_masks_loss_and_gradients_are_flax_s():
    assert_close(gradient(t5x.OURS), gradient(t5x.THEIRS))


def test_remat_keeps_masks():
    assert_close(gradient(t5x.OURS, remat=True), gradient(t5x.OURS))


def test_weights_are_dropped_for_all_queries_as_t5x_does():
    weights = jax.random.uniform(jax.random.key(0), (2, 3, 4, 5))
    theirs = t5x.drop_weights(jax.random.key(1), weights, 0.25)
    ours = t5x.drop_weights_here(jax.random.key(1), weights, 0.25)
    np.testing.assert_array_equal(theirs != 0, ours != 0)
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    dropped = np.asarray(ours == 0)
    assert dropped.any()
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :, :1], dropped.shape))


def test_a_deterministic_call_needs_no_key():
    model = t5x.Transformer(t5x.OURS, **SMALL, remat=True)
    example = t5x.example(t5x.OURS, **SMALL)
    inputs, targets = (tokens[:2, :6] for tokens in example.batch)
    apply = jax.jit(functools.partial(model.apply, deterministic=True))
    assert np.isfinite(apply(example.params, inputs, targets)).all()


@pytest.mark.parametrize("remat", [False, True])
def test_a_loop_has_the_masks_of_a_scan_over_keys_by_the_rule(remat):
    layer = t5x.Layer(t5x.OURS, 0.25, 2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    rest = jax.numpy.ones((2, 1, 6, 6), bool), None, None, False
    init = jax.vmap(lambda key: layer.init({"params": key, "dropout": key}, x, *rest))
    params = jax.jit(init)(jax.random.split(jax.random.key(1), 2))

    def run(params, key, x):
        return layer.apply(params, x, *rest, rngs={"dropout": key})[0]

    def stack(scan, remat):
        form = functools.partial(repeat, run, scan=scan, remat=remat)
        return jax.jit(form)(params, jax.random.key(2), x)

    assert_close(stack(scan=True, remat=remat), stack(scan=False, remat=False))
