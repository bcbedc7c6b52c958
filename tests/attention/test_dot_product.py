"""dot_product_attention has the masks, values and gradients of Flax's, in Linen and NNX."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import apply_mask, linen, sample_mask
from flax_spatialdrop import nnx as ours_nnx

KEY = jax.random.key(8)
OURS = {"linen": linen.dot_product_attention, "nnx": ours_nnx.dot_product_attention}
FLAX = {"linen": nn.dot_product_attention, "nnx": nnx.dot_product_attention}
BATCH, QUERIES, KEYS, HEADS = 2, 5, 7, 4
WEIGHTS = (BATCH, HEADS, QUERIES, KEYS)

each_host = pytest.mark.parametrize("host", OURS)
either_broadcast = pytest.mark.parametrize("broadcast", [True, False])


def normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


QUERY = normal(0, (BATCH, QUERIES, HEADS, 8))
KEY_ARRAY = normal(1, (BATCH, KEYS, HEADS, 8))
VALUE = normal(2, (BATCH, KEYS, HEADS, 8))
QKV = (QUERY, KEY_ARRAY, VALUE)
BIAS = normal(3, (1, HEADS, QUERIES, KEYS))
MASK = jax.random.bernoulli(jax.random.key(4), 0.8, (BATCH, 1, QUERIES, KEYS))


def attend(attention, qkv=QKV, rate=0.3, **options):
    return attention(*qkv, dropout_rng=clone(KEY), dropout_rate=rate, **options)


def dropped_weights(host, qkv=QKV, rate=0.3, **options):
    """Returns the weights after dropout: the output if the values are unit vectors."""
    length, heads = qkv[1].shape[-3:-1]
    unit = jnp.broadcast_to(jnp.eye(length, dtype=qkv[1].dtype)[:, None], (length, heads, length))
    value = jnp.broadcast_to(unit, (*qkv[1].shape[:-3], *unit.shape))
    return jnp.swapaxes(attend(OURS[host], (*qkv[:2], value), rate, **options), -3, -2)


@each_host
def test_every_argument_of_flax_s_own_is_in_its_place(host):
    theirs, ours = (list(inspect.signature(f[host]).parameters.values()) for f in (FLAX, OURS))
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert [(p.name, p.default, p.kind) for p in ours[len(theirs) :]] == [
        ("segment_ids", None, inspect.Parameter.KEYWORD_ONLY),
        ("window", None, inspect.Parameter.KEYWORD_ONLY),
        ("soft_cap", None, inspect.Parameter.KEYWORD_ONLY),
        ("noise_shape", None, inspect.Parameter.KEYWORD_ONLY),
        ("broadcast_dims", None, inspect.Parameter.KEYWORD_ONLY),
        ("span", 1, inspect.Parameter.KEYWORD_ONLY),
        ("axis_name", None, inspect.Parameter.KEYWORD_ONLY),
    ]


@each_host
@either_broadcast
def test_same_values_and_gradients_as_flax(host, broadcast):
    def run(attention):
        def f(qkv):
            y = attend(attention, qkv, bias=BIAS, mask=MASK, broadcast_dropout=broadcast)
            return (y**2).sum(), y

        return jax.jit(jax.grad(f, has_aux=True))(QKV)

    (theirs, y_theirs), (ours, y_ours) = run(FLAX[host]), run(OURS[host])
    np.testing.assert_allclose(y_ours, y_theirs, rtol=2e-6, atol=2e-6)
    assert np.abs(y_ours).max() > 0.1
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@each_host
@either_broadcast
@pytest.mark.parametrize(("batch", "rate"), [((), 0.1), ((2, 3), 0.9)], ids=str)
def test_same_values_for_any_number_of_batch_axes(host, broadcast, batch, rate):
    qkv = tuple(normal(i, (*batch, 3, 2, 4)) for i in range(3))
    theirs, ours = (attend(f[host], qkv, rate, broadcast_dropout=broadcast) for f in (FLAX, OURS))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@each_host
@either_broadcast
def test_the_mask_is_drawn_as_flax_draws_it(host, broadcast):
    shape = (1, 1, QUERIES, KEYS) if broadcast else WEIGHTS
    kept = jax.random.bernoulli(clone(KEY), np.float32(0.7), shape)
    dropped = dropped_weights(host, broadcast_dropout=broadcast)
    np.testing.assert_array_equal(np.asarray(dropped) != 0, np.broadcast_to(kept, WEIGHTS))


NOISE_SHAPES = {
    "queries": ((None, None, 1, None), (-2,), (BATCH, HEADS, 1, KEYS)),
    "heads": ((None, 1, None, None), (1,), (BATCH, 1, QUERIES, KEYS)),
    "batch": ((1, HEADS, None, None), (0,), (1, HEADS, QUERIES, KEYS)),
    "none": ((None, None, None, None), (), WEIGHTS),
}


@each_host
@pytest.mark.parametrize("shared", NOISE_SHAPES)
def test_a_noise_shape_takes_the_place_of_broadcast_dropout(host, shared):
    noise_shape, broadcast_dims, expected = NOISE_SHAPES[shared]
    weights = dropped_weights(host, deterministic=True)
    mask = sample_mask(clone(KEY), 0.3, expected)
    for said in ({"noise_shape": noise_shape}, {"broadcast_dims": broadcast_dims}):
        dropped = dropped_weights(host, broadcast_dropout=True, **said)
        np.testing.assert_allclose(dropped, apply_mask(weights, mask, 0.3), rtol=2e-6)


@each_host
@pytest.mark.parametrize("rate", [0.3, 1, jnp.float32(0.3)], ids=["number", "one", "array"])
def test_deterministic_or_a_rate_of_0_is_flax_s_own(host, rate):
    options = {"bias": BIAS, "mask": MASK}
    theirs = FLAX[host](*QKV, dropout_rate=0.3, deterministic=True, **options)
    ours = OURS[host](*QKV, dropout_rate=rate, deterministic=True, **options)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(OURS[host](*QKV, **options), FLAX[host](*QKV, **options))


@each_host
def test_traced_rates_are_right_in_one_compile(host):
    traces = []

    @jax.jit
    def f(rate, qkv, deterministic=False):
        traces.append(rate)
        return attend(OURS[host], qkv, rate)

    for rate in (0.0, 0.25, 1.0):
        expected = attend(OURS[host], QKV, rate)
        np.testing.assert_allclose(f(jnp.float32(rate), QKV), expected, rtol=2e-6, atol=2e-6)
    assert len(traces) == 1
    d_rate, d_qkv = jax.jit(jax.grad(lambda *args: f(*args).sum(), argnums=(0, 1)))(1.0, QKV)
    assert d_rate == 0
    assert all((d == 0).all() for d in d_qkv)
    ours = jax.jit(lambda r: OURS[host](*QKV, dropout_rate=r, deterministic=True))(0.5)
    theirs = FLAX[host](*QKV, dropout_rate=0.5, deterministic=True)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@each_host
def test_a_rate_of_1_drops_all_without_a_key(host):
    np.testing.assert_array_equal(OURS[host](*QKV, dropout_rate=1.0), jnp.zeros(QUERY.shape))


@each_host
@either_broadcast
def test_vmap_scan_and_remat_equal_a_loop(host, broadcast):
    keys = jax.random.split(jax.random.key(5), 3)
    qkv = jax.tree.map(lambda a: jnp.stack([a, 2 * a, 3 * a]), QKV)

    def f(key, qkv):
        y = OURS[host](*qkv, dropout_rng=key, dropout_rate=0.3, broadcast_dropout=broadcast)
        return y.sum(), y

    # Jitted, because eager JAX counts a draw that remat repeats as a second use of the key.
    grad = jax.jit(jax.grad(jax.checkpoint(f), argnums=1, has_aux=True))
    samples = [jax.tree.map(lambda a, i=i: a[i], qkv) for i in range(3)]
    looped = [grad(key, sample) for key, sample in zip(clone(keys), samples, strict=True)]
    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    mapped = jax.vmap(grad)(clone(keys), qkv)
    _, scanned = jax.lax.scan(lambda _, xs: (None, grad(*xs)), None, (clone(keys), qkv))
    for other in (mapped, scanned):
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(looped), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_host
def test_the_derivative_keeps_the_mask_in_noise_shape_or_the_key_beyond_flax_without(host):
    def kept(attention, **options):
        def f(*qkv):
            return attention(*qkv, dropout_rng=clone(KEY), dropout_rate=0.3, **options)

        leaves = jax.tree.leaves(jax.vjp(f, *QKV)[1])
        return sorted((str(r.dtype), r.shape) for r in leaves if r.shape != ())

    without = kept(FLAX[host], deterministic=True)
    shared = ("bool", (BATCH, KEYS, HEADS, 1))  # applied to the values, since all queries share it
    assert kept(OURS[host], broadcast_dims=(-2,)) == sorted([*without, shared])
    assert kept(OURS[host], broadcast_dropout=False) == sorted([*without, ("uint32", (2,))])
    assert kept(FLAX[host], broadcast_dropout=False) == sorted([*without, ("float32", WEIGHTS)])


@each_host
def test_bfloat16_weights_are_scaled_in_float32(host):
    qkv = tuple(a.astype(jnp.bfloat16) for a in QKV)
    weights = dropped_weights(host, qkv, deterministic=True)
    dropped = dropped_weights(host, qkv, broadcast_dropout=False)
    assert dropped.dtype == jnp.bfloat16
    theirs, ours = (attend(f[host], qkv, broadcast_dropout=False) for f in (FLAX, OURS))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=2**-6, atol=2**-6
    )
    kept = np.asarray(dropped) != 0
    expected = (np.float32(1) / np.float32(0.7) * np.asarray(weights, np.float32))[kept]
    np.testing.assert_allclose(np.asarray(dropped, np.float32)[kept], expected, rtol=2**-7)
