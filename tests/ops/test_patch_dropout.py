"""Patch dropout: which patches are kept and how many; all sets of patches are equally likely."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.errors import InvalidRngError
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import patch_dropout
from flax_spatialdrop.linen import summarize

from ..catalogue import FACES
from ..errors import exactly

KEY = jax.random.key(7)
# A class token and 8 patches.
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 9, 4)), jnp.float32)

each_face = pytest.mark.parametrize("face", FACES)


def face_of(face, rate=0.5, **options):
    """Returns patch dropout as f(key, x), by the function or a module."""
    if face == "function":
        return lambda key, x: patch_dropout(key, x, rate, **options)
    layer = getattr(flax_spatialdrop, face).PatchDropout(rate, **options)
    if face == "linen":
        return lambda key, x: layer.apply({}, x, False, key)
    return lambda key, x: layer(x, rngs=key)


def check(x, y, indices, prefix, num_keep):
    """Checks that y is the prefix and the patches of indices, and that indices are sorted."""
    assert indices.dtype == jnp.int32
    assert indices.shape == (*x.shape[:-2], num_keep)
    indices = np.asarray(indices)
    assert (np.diff(indices) > 0).all()
    assert (indices >= 0).all()
    assert (indices < x.shape[-2] - prefix).all()
    rest = np.take_along_axis(np.asarray(x)[..., prefix:, :], indices[..., None], axis=-2)
    kept = np.concatenate([np.asarray(x)[..., :prefix, :], rest], axis=-2)
    np.testing.assert_array_equal(np.asarray(y), kept)


@each_face
@pytest.mark.parametrize(
    ("shape", "batch_dims", "prefix"), [((8, 9, 4), 1, 1), ((9, 4), 0, 0), ((2, 4, 9, 4), 2, 3)]
)
def test_keeps_the_prefix_and_some_patches_in_order(face, shape, batch_dims, prefix):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    f = face_of(face, num_keep=5, rate=None, num_prefix_tokens=prefix, batch_dims=batch_dims)
    y, indices = f(clone(KEY), x)
    check(x, y, indices, prefix, 5)
    for again in (jax.jit(f)(clone(KEY), x), f(jax.random.key_data(KEY), x)):
        np.testing.assert_array_equal(again[0], y)
        np.testing.assert_array_equal(again[1], indices)


@pytest.mark.parametrize(
    ("rate", "patches", "kept"), [(0.5, 8, 4), (0.9, 10, 1), (0.9, 100, 10), (0.75, 196, 49)]
)
def test_how_many_are_kept(rate, patches, kept):
    """Rounding errors of 1 - rate, such as 0.09999999999999998, do not remove one patch more."""
    x = jax.ShapeDtypeStruct((2, 1 + patches, 1), jnp.float32)
    y, indices = jax.eval_shape(lambda x: patch_dropout(KEY, x, rate), x)
    assert (y.shape, indices.shape) == ((2, 1 + kept, 1), (2, kept))


def test_timm_keeps_as_many_but_for_rounding():
    for rate, patches in itertools.product((0.1, 0.25, 0.3, 0.5, 0.9), (8, 49, 196)):
        x = jax.ShapeDtypeStruct((1, 1 + patches, 1), jnp.float32)
        ours = jax.eval_shape(lambda x: patch_dropout(KEY, x, rate), x)[1].shape[1]  # noqa: B023
        assert abs(ours - max(1, int(patches * (1 - rate)))) <= 1


def test_keeps_those_with_the_smallest_bits():
    bits = np.asarray(jax.random.bits(clone(KEY), (8, 8), np.uint32))
    expected = np.sort(np.argsort(bits, axis=-1, kind="stable")[:, :3], axis=-1)
    _, indices = patch_dropout(clone(KEY), X, num_keep=3)
    np.testing.assert_array_equal(indices, expected)


def test_all_sets_of_patches_are_alike():
    """Counts the 15 pairs of 6 patches in 1e5 samples, with false alarms at 1e-9 for all."""
    samples = 100_000
    _, indices = patch_dropout(
        clone(KEY), jnp.zeros((samples, 6, 1)), None, num_keep=2, num_prefix_tokens=0
    )
    counts = np.bincount(np.asarray(indices) @ [6, 1], minlength=36).reshape(6, 6)
    low, high = stats.binom.interval(1 - 1e-9 / 15, samples, 1 / 15)
    for pair in itertools.combinations(range(6), 2):
        assert low <= counts[pair] <= high


@each_face
def test_without_a_key_where_all_are_kept(face):
    for options in ({"rate": 0}, {"rate": 0.01}, {"rate": None, "num_keep": 8}):
        y, indices = face_of(face, **options)(None, X)
        assert y is X
        check(X, y, indices, 1, 8)


def test_deterministic_modules_keep_all():
    layer = flax_spatialdrop.nnx.PatchDropout(0.5, rngs=nnx.Rngs(0))
    assert layer(X)[0].shape == (8, 5, 4)
    layer.eval()
    state = jax.tree.leaves(nnx.state(layer))
    y, indices = layer(X)
    assert y is X
    check(X, y, indices, 1, 8)
    assert state == jax.tree.leaves(nnx.state(layer))
    y, indices = flax_spatialdrop.linen.PatchDropout(0.5).apply({}, X, True)
    assert y is X
    check(X, y, indices, 1, 8)


def test_streams_and_rate_at_the_call():
    key, other = jax.random.split(clone(KEY))
    layer = flax_spatialdrop.linen.PatchDropout(0.5, deterministic=False)
    y, indices = layer.apply({}, X, rngs={"dropout": key}, rate=0.25)
    check(X, y, indices, 1, 6)
    with pytest.raises(InvalidRngError, match="PatchDropout draws a mask and needs a key of the"):
        layer.apply({}, X)
    its_twin = flax_spatialdrop.nnx.PatchDropout(0.5)
    assert jax.tree.leaves(nnx.state(its_twin)) == []
    y, indices = its_twin(X, rngs=other, rate=0.25)
    check(X, y, indices, 1, 6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "int8", "bool"])
def test_any_dtype_the_same_patches(dtype):
    y, indices = patch_dropout(clone(KEY), X.astype(dtype), 0.5)
    assert y.dtype == dtype
    check(X.astype(dtype), y, indices, 1, 4)
    np.testing.assert_array_equal(indices, patch_dropout(clone(KEY), X, 0.5)[1])


def test_the_same_patches_under_x64():
    expected = patch_dropout(clone(KEY), X, 0.5)
    with jax.enable_x64(True):
        y, indices = patch_dropout(clone(KEY), X, 0.5)
        check(X, y, indices, 1, 4)
        np.testing.assert_array_equal(y, expected[0])


def test_vmap_and_scan_equal_loop():
    keys = jax.random.split(jax.random.key(2), 3)
    looped = jnp.stack([patch_dropout(key, X, 0.5)[0] for key in keys])
    mapped = jax.vmap(lambda key: patch_dropout(key, X, 0.5)[0])(clone(keys))
    np.testing.assert_array_equal(mapped, looped)
    body = jax.checkpoint(lambda c, key: (c, patch_dropout(key, X, 0.5)[0]))
    np.testing.assert_array_equal(jax.lax.scan(body, 0, clone(keys))[1], looped)


def test_gradient_is_1_where_kept_and_nothing_dropped_leaks():
    _, indices = patch_dropout(clone(KEY), X, 0.5)
    kept = np.zeros((8, 9, 1))
    kept[:, 0] = 1
    np.put_along_axis(kept, np.asarray(indices)[..., None] + 1, 1, axis=1)
    x = jnp.where(kept == 1, X, np.float32(np.nan))
    y, pullback = jax.vjp(lambda x: patch_dropout(clone(KEY), x, 0.5)[0], x)
    assert bool(jnp.isfinite(y).all())
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0], np.broadcast_to(kept, x.shape))


def test_backward_keeps_the_indices_alone():
    residuals = jax.tree.leaves(jax.vjp(lambda x: patch_dropout(clone(KEY), x, 0.5)[0], X)[1])
    assert [(r.dtype, r.size) for r in residuals] == [(jnp.int32, 8 * 4)]


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    patch_dropout(key, X, 0.5)
    with pytest.raises(jax.errors.KeyReuseError):
        patch_dropout(key, X, 0.5)


def test_a_summary_lists_it():
    layer = flax_spatialdrop.linen.PatchDropout(0.5, deterministic=False)
    (site,) = summarize(layer, X, rngs={"dropout": clone(KEY)}).sites
    assert (site.module, site.shape, site.noise_shape) == ("PatchDropout", (8, 9, 4), (8, 8, 1))
    assert (site.rates, site.active, site.kept_bytes) == ((0.5,), True, 8 * 4 * 4)
    layer = flax_spatialdrop.nnx.PatchDropout(0.3, deterministic=True)
    (site,) = flax_spatialdrop.nnx.summarize(layer, X).sites
    assert (site.path, site.rates, site.active) == ("", (0.25,), False)


ERRORS = [
    ({"x": [1.0]}, TypeError, "x must be a JAX or NumPy array: got [1.0]"),
    (
        {"x": X[0]},
        ValueError,
        "patch dropout takes x with 3 axes (1 batch axis, tokens, features): got x.shape=(9, 4)",
    ),
    ({"batch_dims": -1}, ValueError, "batch_dims must be at least 0: got -1"),
    ({"num_prefix_tokens": 1.0}, TypeError, "num_prefix_tokens must be an integer: got 1.0"),
    (
        {"num_prefix_tokens": -1},
        ValueError,
        "num_prefix_tokens must be at least 0 and below 9, the number of tokens: "
        "got num_prefix_tokens=-1 for x.shape=(8, 9, 4)",
    ),
    (
        {"num_prefix_tokens": 9},
        ValueError,
        "num_prefix_tokens must be at least 0 and below 9, the number of tokens: "
        "got num_prefix_tokens=9 for x.shape=(8, 9, 4)",
    ),
    (
        {"num_keep": 4},
        ValueError,
        "exactly one of rate and num_keep must be given: got rate=0.5 and num_keep=4",
    ),
    (
        {"rate": None},
        ValueError,
        "exactly one of rate and num_keep must be given: got rate=None and num_keep=None",
    ),
    (
        {"rate": None, "num_keep": 0},
        ValueError,
        "num_keep must be from 1 to 8, the number of patches: got num_keep=0 for x.shape=(8, 9, 4)",
    ),
    (
        {"rate": None, "num_keep": 9},
        ValueError,
        "num_keep must be from 1 to 8, the number of patches: got num_keep=9 for x.shape=(8, 9, 4)",
    ),
    ({"rate": None, "num_keep": 2.0}, TypeError, "num_keep must be an integer: got 2.0"),
    (
        {"rate": 1},
        ValueError,
        "rate must keep at least one of the 8 patches, but (1 - rate) * 8 rounds to 0: "
        "got rate=1.0",
    ),
    (
        {"rate": jnp.float32(0.5)},
        TypeError,
        "the rate of patch dropout determines the shape of the output and must be a number, "
        "known when tracing: got an array of dtype float32",
    ),
    (
        {"rate": 1.5},
        ValueError,
        "rate is the probability to drop and must be in [0, 1]: got rate=1.5",
    ),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors(face, change, error, message):
    options = {"x": X, "rate": 0.5} | change
    x = options.pop("x")
    with pytest.raises(error, match=exactly(message)):
        face_of(face, **options)(clone(KEY), x)


def test_a_missing_key():
    with pytest.raises(ValueError, match=r"got key=None; pass one"):
        patch_dropout(None, X, 0.5)
