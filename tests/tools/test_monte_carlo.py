"""Many passes equal a Python loop and do not change batch norm; the spread of a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import dropout, fast_key, monte_carlo

from ..errors import exactly

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(0), (5, 6, 7, 3))
SAMPLES = 7


class LinenNet(nn.Module):
    """A network with batch norm and dropout; dropout has its own switch."""

    @nn.compact
    def __call__(self, x, train, drop):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = flax_spatialdrop.linen.SpatialDropout2D(0.3, deterministic=not drop)(x)
        x = nn.Dense(16)(x.mean(axis=(1, 2)))
        x = flax_spatialdrop.linen.Dropout(0.5, deterministic=not drop)(x)
        return nn.Dense(4)(x), (x != 0).astype(x.dtype)


class NNXNet(nnx.Module):
    def __init__(self, rngs, streams=None):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.spatial = flax_spatialdrop.nnx.SpatialDropout2D(0.3, rngs=streams)
        self.dense = nnx.Linear(8, 16, rngs=rngs)
        self.drop = flax_spatialdrop.nnx.Dropout(0.5, rngs=streams)
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.dense(self.spatial(x, rngs=rngs).mean(axis=(1, 2)))
        x = self.drop(x, rngs=rngs)
        return self.head(x), (x != 0).astype(x.dtype)


def linen_passes():
    """Returns apply for a Linen model, and a check that its state does not change."""
    variables = LinenNet().init(jax.random.key(1), X, train=False, drop=False)
    # A step of training first, so that the running averages differ from those of a batch.
    _, changed = LinenNet().apply(variables, X, True, False, mutable="batch_stats")
    variables = {**variables, **changed}

    @jax.jit
    def apply(key):
        return LinenNet().apply(variables, X, False, True, rngs={"dropout": key})

    return apply, lambda: variables["batch_stats"]


def nnx_passes():
    """The same for an NNX model; each pass gives its layers a stream."""
    model = NNXNet(nnx.Rngs(1))
    model(X, rngs=nnx.Rngs(0))
    view = nnx.view(model, deterministic=False, use_running_average=True)

    @jax.jit
    def apply(key):
        return view(X, rngs=nnx.Rngs(dropout=key))

    return apply, lambda: nnx.state(model, nnx.BatchStat)


def nnx_passes_with_streams():
    """The same for an NNX model that holds its streams; each pass reseeds a copy."""
    model = NNXNet(nnx.Rngs(1), nnx.Rngs(dropout=2))
    model(X)
    graph, state = nnx.split(nnx.view(model, deterministic=False, use_running_average=True))

    @jax.jit
    def apply(key):
        copy = nnx.merge(graph, state, copy=True)
        nnx.reseed(copy, dropout=key)
        return copy(X)

    return apply, lambda: nnx.state(model, nnx.Any(nnx.BatchStat, nnx.RngCount))


PASSES = [linen_passes, nnx_passes, nnx_passes_with_streams]


def loop(apply, key):
    return jax.tree.map(lambda *y: jnp.stack(y), *map(apply, jax.random.split(key, SAMPLES)))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 100])
def test_equals_a_python_loop_bit_for_bit(batch_size):
    def apply(key):
        first, second = jax.random.split(key)
        return dropout(second, dropout(first, X, 0.3, broadcast_dims=(1, 2)), 0.5)

    result = monte_carlo(apply, clone(KEY), SAMPLES, batch_size=batch_size)
    samples = loop(apply, clone(KEY))
    assert len(np.unique(samples, axis=0)) == SAMPLES
    np.testing.assert_array_equal(result.mean, jax.jit(lambda y: y.mean(axis=0))(samples))
    np.testing.assert_array_equal(result.variance, jax.jit(lambda y: y.var(0, ddof=1))(samples))
    assert result.entropy is None
    assert result.mutual_information is None


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("passes", PASSES)
def test_a_network_equals_a_python_loop(passes, batch_size):
    """The masks are equal. Logits may differ in rounding, since XLA sums a batch differently."""
    apply, _ = passes()
    logits, kept = monte_carlo(apply, clone(KEY), SAMPLES, batch_size=batch_size).mean
    samples, masks = loop(apply, clone(KEY))
    assert len(np.unique(masks, axis=0)) == SAMPLES
    np.testing.assert_array_equal(kept, jax.jit(lambda y: y.mean(axis=0))(masks))
    np.testing.assert_allclose(logits, samples.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("passes", PASSES)
def test_batch_norm_is_untouched(passes):
    apply, state = passes()
    before = jax.tree.map(jnp.copy, state())
    monte_carlo(apply, clone(KEY), 3)
    jax.tree.map(np.testing.assert_array_equal, state(), before)


@pytest.mark.parametrize("make", [fast_key, jax.random.key_data])
def test_fast_and_legacy_keys(make):
    def apply(key):
        return dropout(key, jnp.ones((4, 3)), 0.5)

    result = monte_carlo(apply, make(clone(KEY)), SAMPLES)
    samples = loop(apply, make(clone(KEY)))
    np.testing.assert_array_equal(result.mean, samples.mean(axis=0))


@pytest.mark.parametrize(("batch_size", "most"), [(None, 1), (2, 2)])  # 7 = 3 * 2 + 1 passes
def test_one_program_under_jit(batch_size, most):
    traces = []

    @jax.jit
    def run(key, x):
        def apply(key):
            traces.append(key)
            return dropout(key, x, 0.5)

        return monte_carlo(apply, key, SAMPLES, batch_size=batch_size).mean

    for seed in range(3):
        run(jax.random.key(seed), X)
    assert len(traces) == most


def test_under_vmap_and_grad():
    keys = jax.random.split(clone(KEY), 2)

    def mean(key, x):
        return monte_carlo(lambda k: dropout(k, x, 0.5), key, SAMPLES).mean

    mapped = jax.vmap(mean, in_axes=(0, None))(clone(keys), X)
    np.testing.assert_array_equal(mapped, jnp.stack([mean(key, X) for key in keys]))
    gradient = jax.grad(lambda x: mean(clone(KEY), x).sum())(jnp.ones(X.shape))
    np.testing.assert_allclose(gradient, mean(clone(KEY), jnp.ones(X.shape)), rtol=1e-6)


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    monte_carlo(lambda k: dropout(k, X, 0.5), key, 2)
    with pytest.raises(jax.errors.KeyReuseError):
        monte_carlo(lambda k: dropout(k, X, 0.5), key, 2)


def test_mean_and_variance_of_dropout_itself():
    """100,000 passes over ones at a rate r have mean 1 and variance r / (1 - r), within 6 sigma.

    The mean of S values of variance v has a standard deviation of sqrt(v / S). By the delta method,
    that of the variance of values 0 and 1 / keep is |1 - 2 keep| / keep^2 times that of the kept
    fraction. The probability that one of the 16 results is outside of 6 sigma is below 4e-8.
    """
    rate, samples, keep = 0.3, 100_000, 0.7
    result = monte_carlo(
        lambda key: dropout(key, jnp.ones(8), rate), clone(KEY), samples, batch_size=10_000
    )
    share = np.sqrt(keep * rate / samples)
    np.testing.assert_allclose(result.mean, 1, atol=6 * share / keep)
    slope = abs(1 - 2 * keep) / keep**2
    np.testing.assert_allclose(result.variance, rate / keep, atol=6 * slope * share + 1e-4)


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_classifier_s_uncertainty(outputs):
    logits = jax.random.normal(jax.random.key(4), (5, 10)) * 3

    def apply(key):
        y = dropout(key, logits, 0.5)
        return y if outputs == "logits" else jax.nn.softmax(y)

    result = monte_carlo(apply, clone(KEY), SAMPLES, outputs=outputs)
    p = np.asarray(jax.nn.softmax(loop(lambda k: dropout(k, logits, 0.5), clone(KEY))), np.float64)
    np.testing.assert_allclose(result.mean, p.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.variance, p.var(0, ddof=1), rtol=1e-4, atol=1e-7)
    entropy = stats.entropy(p.mean(0), axis=-1)
    np.testing.assert_allclose(result.entropy, entropy, rtol=1e-5)
    shared = entropy - stats.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(result.mutual_information, shared, rtol=1e-4, atol=1e-6)


AGREE = (
    "all 5 passes of monte_carlo returned the same values; is dropout on in apply, and does it "
    "use the key that it is given?"
)


def test_passes_that_agree_share_all_information():
    with pytest.warns(UserWarning, match=exactly(AGREE)) as caught:
        result = monte_carlo(lambda key: jnp.eye(3), clone(KEY), 5, outputs="probabilities")
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(result.entropy, np.zeros(3))
    np.testing.assert_array_equal(result.mutual_information, np.zeros(3))


def test_only_passes_that_all_agree_are_warned_of():
    def apply(key):
        return {"same": jnp.full(3, 0.1), "drop": dropout(key, X, 0.5)}

    monte_carlo(apply, clone(KEY), 5)
    jax.jit(lambda key: monte_carlo(lambda key: jnp.ones(3), key, 5))(clone(KEY))
    with pytest.warns(UserWarning, match=exactly(AGREE)):
        monte_carlo(lambda key: jnp.full(3, 0.1), clone(KEY), 5, batch_size=2)


def test_trees_and_half_precision():
    ones = {"a": jnp.ones((4,), jnp.bfloat16), "b": (jnp.ones((2, 3), jnp.complex64),)}
    result = monte_carlo(
        lambda key: jax.tree.map(lambda x: dropout(clone(key), x, 0.5), ones), clone(KEY), 4
    )
    assert jax.tree.map(lambda y: (y.shape, y.dtype.name), result.mean) == {
        "a": ((4,), "float32"),
        "b": (((2, 3), "complex64"),),
    }
    assert result.variance["b"][0].dtype == jnp.float32


REFUSED = [
    (
        {"num_samples": 1},
        ValueError,
        "num_samples must be at least 2 passes, for there to be a variance: got 1",
    ),
    (
        {"num_samples": 2.0},
        TypeError,
        "num_samples must be an integer: got 2.0",
    ),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1 pass at a time: got 0"),
    (
        {"outputs": "softmax"},
        ValueError,
        "outputs must be 'values', 'logits' or 'probabilities': got outputs='softmax'",
    ),
    (
        {"apply": lambda key: jnp.arange(3)},
        TypeError,
        "apply must return floating or complex arrays, to be averaged: got dtype int32",
    ),
    (
        {"apply": lambda key: {"logits": jnp.ones((2, 3))}, "outputs": "logits"},
        TypeError,
        "with outputs='logits' apply must return one real array with the classes on its last "
        "axis: got {'logits': 'float32[2, 3]'}",
    ),
    (
        {"apply": lambda key: None},
        TypeError,
        "apply must return an array, or a tree of them: got None",
    ),
    (
        {"key": None},
        ValueError,
        "monte_carlo draws its passes with a PRNG key: got key=None; pass one, such as "
        "jax.random.key(0)",
    ),
    (
        {"key": jax.random.split(jax.random.key(0))},
        ValueError,
        "key must be one PRNG key: got keys of shape (2,); use jax.vmap to draw with each of them",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_what_is_refused(arguments, error, message):
    usual = {"apply": lambda key: jnp.ones(3), "key": clone(KEY), "num_samples": 2}
    with pytest.raises(error, match=exactly(message)):
        monte_carlo(**usual | arguments)


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_rbg_keys_are_refused(implementation):
    message = (
        "monte_carlo needs keys that jax.vmap keeps apart, such as those of threefry2x32, JAX's "
        f"default: got a key of {implementation}; vmap would draw all passes with one of them"
    )
    key = jax.random.key(0, impl=implementation)
    with pytest.raises(TypeError, match=exactly(message)):
        monte_carlo(lambda key: jnp.ones(3), key, 2)
