"""Embedding noise: the noise of `jax.random.uniform`, and a gradient that keeps nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import embedding_noise, fast_key

from ..catalogue import FACES
from ..errors import exactly
from ..hlo import sizes_of_words

KEY = jax.random.key(5)
LENGTHS = np.array([7, 3, 0, 6])
X = np.random.default_rng(0).normal(size=(4, 7, 6)).astype(np.float32)
X[1, 4, 2] = -0.0
ALPHA = 5.3

each_face = pytest.mark.parametrize("face", FACES)


def noise(key, lengths, alpha=ALPHA, shape=X.shape):
    """The noise, by NumPy, which rounds each operation to float32."""
    uniform = np.asarray(jax.random.uniform(clone(key), shape, np.float32, -1, 1))
    root = np.sqrt(np.maximum(lengths, 1).astype(np.float32) * np.float32(shape[-1]))
    scaled = np.float32(alpha) * (1 / root[:, None, None]) * uniform
    is_inside = np.arange(shape[1])[:, None] < lengths[:, None, None]
    return np.where(is_inside, scaled, np.float32(-0.0))


def assert_same_bits(actual, desired):
    """Compares bits, so that 0 and -0 differ."""
    assert np.asarray(actual).tobytes() == np.asarray(desired).tobytes()


def face_of(face, alpha=ALPHA):
    """Returns embedding noise as f(key, x, lengths), by the function or a module."""
    if face == "function":
        return lambda key, x, lengths=None: embedding_noise(key, x, alpha, lengths=lengths)
    layer = getattr(flax_spatialdrop, face).EmbeddingNoise(alpha)
    if face == "linen":
        return lambda key, x, lengths=None: layer.apply({}, x, False, key, lengths=lengths)
    return lambda key, x, lengths=None: layer(x, rngs=key, lengths=lengths)


@each_face
def test_adds_the_noise_of_jax_bit_for_bit(face):
    """Eager and jitted, inside a larger program, and with traced lengths."""
    f = face_of(face)
    for lengths in (None, LENGTHS):
        y = X + noise(KEY, np.full(4, 7) if lengths is None else lengths)
        assert_same_bits(f(clone(KEY), X, lengths), y)
        twice = jax.jit(lambda key, half, n, f=f: f(key, half + half, n) * 2)
        assert_same_bits(twice(clone(KEY), X / 2, lengths), 2 * y)


@pytest.mark.parametrize(
    "key",
    [fast_key(clone(KEY)), jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0)],
    ids=["fast", "rbg", "legacy"],
)
def test_other_keys(key):
    def copy():
        return clone(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key

    uniform = np.asarray(jax.random.uniform(copy(), X.shape, np.float32, -1, 1))
    y = X + np.float32(ALPHA) * (1 / np.sqrt(np.float32(42))) * uniform
    assert_same_bits(embedding_noise(copy(), X, ALPHA), y)
    padded = np.arange(7)[:, None] >= LENGTHS[:, None, None]
    found = np.asarray(embedding_noise(copy(), X, ALPHA, lengths=LENGTHS))
    np.testing.assert_array_equal((found == X).all(2), padded[:, :, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_any_dtype_is_rounded_once(dtype):
    with jax.enable_x64(True):
        x = X.astype(dtype)
        y = embedding_noise(clone(KEY), x, ALPHA, lengths=LENGTHS)
        wide = np.promote_types(np.float32, dtype) if dtype != "bfloat16" else np.float32
        assert_same_bits(y, (x.astype(wide) + noise(KEY, LENGTHS).astype(wide)).astype(dtype))


def test_the_law():
    """Moments of 4e5 draws; false alarms at 1e-9 each."""
    shape, alpha = (4, 1000, 100), 7.0
    y = np.asarray(embedding_noise(clone(KEY), jnp.zeros(shape), alpha), np.float64)
    u = y / (alpha / np.sqrt(1000 * 100))
    assert np.abs(u).max() <= 1
    assert stats.kstest(u.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-9
    np.testing.assert_allclose(np.linalg.norm(y, axis=(1, 2)), alpha / np.sqrt(3), rtol=0.01)


def test_a_traced_strength_compiles_once_and_has_no_gradient():
    compiled = []

    @jax.jit
    def f(alpha):
        compiled.append(1)
        return embedding_noise(clone(KEY), X, alpha, lengths=LENGTHS)

    for alpha in (ALPHA, 0.0, 2.0):
        np.testing.assert_array_equal(f(alpha), X + noise(KEY, LENGTHS, alpha))
    assert len(compiled) == 1
    assert jax.grad(lambda alpha: f(alpha).sum())(2.0) == 0


def test_the_gradient_is_the_identity_and_keeps_nothing():
    for key in (clone(KEY), jax.random.key(0, impl="rbg")):
        y, pullback = jax.vjp(lambda x: embedding_noise(key, x, ALPHA, lengths=LENGTHS), X)  # noqa: B023
        assert jax.tree.leaves(pullback) == []
        assert_same_bits(pullback(y)[0], y)


def test_the_noise_is_not_written_down():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(lambda key, x: embedding_noise(key, x, ALPHA)).lower(clone(KEY), x).compile()
    entry = compiled.as_text().split("ENTRY")[1]
    assert max(sizes_of_words(entry), default=0) < 64


def test_vmap_and_a_scan_with_remat_equal_a_loop():
    keys, f = jax.random.split(jax.random.key(2), 3), face_of("function")
    looped = jnp.stack([f(key, X, LENGTHS) for key in keys])
    assert_same_bits(jax.vmap(f, (0, None, None))(clone(keys), X, LENGTHS), looped)
    body = jax.checkpoint(lambda c, key: (c, f(key, X, LENGTHS)))
    assert_same_bits(jax.lax.scan(body, 0, clone(keys))[1], looped)


def test_symbolic_sizes():
    batch, length = jax.export.symbolic_shape("b, t")
    f = jax.jit(lambda key, x: embedding_noise(key, x, ALPHA))
    x = jax.ShapeDtypeStruct((batch, length, 6), np.float32)
    y = jax.export.export(f)(clone(KEY), x).call(clone(KEY), X)
    assert_same_bits(y, f(clone(KEY), X))


@each_face
def test_an_alpha_of_0_returns_x_and_needs_no_key(face):
    x = jnp.asarray(X)
    assert face_of(face, 0)(None, x, LENGTHS) is x


@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_noise_and_alpha_at_the_call(face):
    x = jnp.asarray(X)
    layer = getattr(flax_spatialdrop, face).EmbeddingNoise(None)
    if face == "linen":

        def call(method="__call__", deterministic=False, rngs=None, **options):
            options |= {"deterministic": deterministic, "rng": rngs, "method": method}
            return layer.apply({}, x, **options)
    else:

        def call(method="__call__", **options):
            return getattr(layer, method)(x, **options)

    options = {"lengths": LENGTHS, "alpha": 2.0}
    drawn = call("sample_mask", rngs=clone(KEY), **options)
    assert_same_bits(drawn, noise(KEY, LENGTHS, 2.0))
    for y in (call(rngs=clone(KEY), **options), call(mask=drawn, **options)):
        assert_same_bits(y, X + noise(KEY, LENGTHS, 2.0))
    assert call(deterministic=True, alpha=2.0) is x
    assert not call("sample_mask", alpha=0.0).any()
    with pytest.raises(
        TypeError, match=exactly("alpha must be a number or a scalar array: got None")
    ):
        call(rngs=clone(KEY))
    message = (
        "the mask of embedding noise is the noise that is added to x, and must be a float32 array: "
        "got dtype bool"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        call(mask=np.ones(X.shape, bool), alpha=2.0)


def test_a_summary_shows_the_strength():
    """A strength of 1 or more does not drop everything."""
    layer = flax_spatialdrop.nnx.EmbeddingNoise(1.0, rngs=nnx.Rngs(0))
    summary = flax_spatialdrop.nnx.summarize(layer, X)
    assert summary.remarks == ()
    (site,) = flax_spatialdrop.nnx.summarize(layer, X, alpha=jnp.float32(7)).sites
    assert (site.rates, site.kept_bytes) == ((7.0,), 0)
    cutout = flax_spatialdrop.nnx.Cutout(1.0, rngs=nnx.Rngs(0))
    assert flax_spatialdrop.nnx.summarize(cutout, X).remarks == ()


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    embedding_noise(key, X, ALPHA)
    with pytest.raises(jax.errors.KeyReuseError):
        embedding_noise(key, X, ALPHA)


ERRORS = [
    ({"x": X[0, 0]}, ValueError, "x must be [*batch, length, features]: got x.shape=(6,)"),
    (
        {"x": X.astype(np.complex64)},
        TypeError,
        "x must have a floating dtype: got dtype complex64",
    ),
    ({"alpha": -1}, ValueError, "alpha must be at least 0 and finite: got alpha=-1"),
    (
        {"alpha": float("inf")},
        ValueError,
        "alpha must be at least 0 and finite: got alpha=inf",
    ),
    ({"alpha": "5"}, TypeError, "alpha must be a number or a scalar array: got '5'"),
    (
        {"alpha": np.ones(4, np.float32)},
        ValueError,
        "alpha must be one number or a scalar array, the same for all of x: "
        "got an array of shape (4,)",
    ),
    (
        {"lengths": np.arange(3)},
        ValueError,
        "lengths must have the shape (4,), that of x without its last two axes: "
        "got lengths.shape=(3,)",
    ),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors(face, change, error, message):
    given = {"x": X, "alpha": ALPHA, "lengths": None} | change
    with pytest.raises(error, match=exactly(message)):
        face_of(face, given["alpha"])(clone(KEY), given["x"], given["lengths"])
