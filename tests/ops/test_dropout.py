import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import dropout, feature_dropout, sample_dropout, timestep_dropout

KEY = jax.random.key(5)
X = jnp.ones((16, 8, 32))  # sample, time, channel


def kept(y):
    return np.asarray(y) != 0


def is_shared(mask, axis):
    return bool((mask == mask.take([0], axis)).all())


@pytest.mark.parametrize(
    ("y", "shared"),
    [
        (lambda key: dropout(key, X, 0.5), set()),
        (lambda key: timestep_dropout(key, X, 0.5), {2}),
        (lambda key: feature_dropout(key, X, 0.5), {0, 1}),
        (lambda key: sample_dropout(key, X, 0.5), {1, 2}),
        (lambda key: dropout(key, X, 0.5, noise_shape=(16, 1, 32)), {1}),
        (lambda key: dropout(key, X, 0.5, broadcast_dims=(0, -1)), {0, 2}),
        (lambda key: dropout(key, X, 0.5, broadcast_dims=[0, 0]), {0}),
    ],
    ids=["element", "timestep", "feature", "sample", "noise_shape", "broadcast_dims", "duplicates"],
)
def test_which_axes_share_a_draw(y, shared):
    mask = kept(y(clone(KEY)))
    assert {axis for axis in range(3) if is_shared(mask, axis)} == shared


def test_noise_shape_and_broadcast_dims_draw_the_same_mask():
    by_noise_shape = dropout(clone(KEY), X, 0.3, noise_shape=(None, 1, None))
    by_broadcast_dims = dropout(clone(KEY), X, 0.3, broadcast_dims=(-2,))
    np.testing.assert_array_equal(by_noise_shape, by_broadcast_dims)


def test_none_stands_for_any_batch_size_and_a_number_for_one():
    for batch in (1, 3):
        assert dropout(clone(KEY), X[:batch], 0.5, noise_shape=(None, 1, 1)).shape[0] == batch
    message = r"noise_shape\[0\] must be None, 1 .*: got 16 in .* for x\.shape=\(3, 8, 32\)"
    with pytest.raises(ValueError, match=message):
        dropout(clone(KEY), X[:3], 0.5, noise_shape=(16, 1, 1))


def test_two_keys_draw_two_masks():
    one, two = jax.random.split(clone(KEY))
    assert (kept(dropout(one, X, 0.5)) != kept(dropout(two, X, 0.5))).any()


def test_inside_while_and_cond():
    def body(state):
        key, x, step = state
        key, now = jax.random.split(key)
        x = jax.lax.cond(step > 0, lambda x: dropout(now, x, 0.5), lambda x: x, x)
        return key, x, step + 1

    def run(key):
        return jax.lax.while_loop(lambda s: s[2] < 2, body, (key, X, 0))[1]

    key, _ = jax.random.split(clone(KEY))
    _, now = jax.random.split(key)
    np.testing.assert_array_equal(jax.jit(run)(clone(KEY)), dropout(now, X, 0.5))


def test_exports_with_a_symbolic_batch():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 4, 3), jnp.float32)
    words = jax.random.key_data(jax.random.key(9))
    f = jax.jit(lambda key, x: dropout(key, x, 0.5, noise_shape=(None, 1, None)))
    exported = jax.export.export(f)(words, x)
    np.testing.assert_array_equal(exported.call(words, X[:2, :4, :3]), f(words, X[:2, :4, :3]))


@pytest.mark.parametrize("noise_shape", [None, (None, 1)], ids=["per element", "shared"])
def test_a_rate_not_seen_before_costs_no_compile(noise_shape, caplog):
    def compiles(rate):
        caplog.clear()
        with jax.log_compiles():
            dropout(clone(KEY), x, rate, noise_shape=noise_shape)
        return [record for record in caplog.records if "ompiling" in record.getMessage()]

    x = jnp.ones((5, 77))
    assert compiles(0.11)  # the first call compiles
    assert compiles(0.12) == compiles(0.13) == []
