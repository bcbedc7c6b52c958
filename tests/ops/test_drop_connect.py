"""Weights are selected by their paths; each leaf has its own key, and others do not change."""

import re
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import apply_mask, drop_connect, fast_key, sample_mask

from ..errors import exactly

KEY = jax.random.key(17)
FALSE_ALARM = 1e-9  # the probability that a statistical test fails although the code is right
RECURRENT = "h./kernel"


def tree(seed=0):
    """Returns leaves in dicts and a list; two of them have the same shape."""
    a, b, c, d = jax.random.split(jax.random.key(seed), 4)
    return {
        "dense": {"kernel": jax.random.normal(a, (16, 24)), "bias": jax.random.normal(b, (24,))},
        "layers": [jax.random.normal(c, (16, 24)), jax.random.normal(d, (24, 8))],
    }


PATHS = ("dense/bias", "dense/kernel", "layers/0", "layers/1")  # in the order of jax.tree.leaves


def key_of(path, key=KEY):
    """Returns the key of a path, as the docstring describes it."""
    return jax.random.fold_in(clone(key), zlib.crc32(path.encode()))


def expected(path, weight, rate, key=KEY):
    return apply_mask(weight, sample_mask(key_of(path, key), rate, weight.shape), rate)


def assert_equal(actual, wanted):
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, actual, wanted)


def test_each_leaf_is_dropped_by_the_mask_of_its_path():
    weights = tree()
    dropped = jax.tree.leaves(drop_connect(clone(KEY), weights, 0.3))
    for path, y, weight in zip(PATHS, dropped, jax.tree.leaves(weights), strict=True):
        np.testing.assert_array_equal(y, expected(path, weight, 0.3))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, jnp.float32(0.3)])
@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        ("kernel", {"dense/kernel"}),
        (re.compile("^layers"), {"layers/0", "layers/1"}),
        (r"0|bias$", {"dense/bias", "layers/0"}),
        (lambda path: path.endswith("1"), {"layers/1"}),
        (None, set(PATHS)),
    ],
)
def test_those_chosen_are_dropped_and_others_are_the_same_objects(paths, chosen, rate):
    weights = tree()
    dropped = drop_connect(clone(KEY), weights, rate, paths=paths)
    assert jax.tree.structure(dropped) == jax.tree.structure(weights)
    leaves = zip(PATHS, jax.tree.leaves(dropped), jax.tree.leaves(weights), strict=True)
    for path, y, weight in leaves:
        if path in chosen:
            np.testing.assert_array_equal(y, expected(path, weight, rate))
        else:
            assert y is weight


def test_one_array_is_a_tree_with_an_empty_path():
    weight = tree()["dense"]["kernel"]
    np.testing.assert_array_equal(drop_connect(clone(KEY), weight, 0.3), expected("", weight, 0.3))


def test_a_leaf_more_changes_no_other_mask():
    weights = tree()
    before = drop_connect(clone(KEY), weights, 0.5)
    more = {"a": jnp.ones((3, 3)), **weights, "e": jnp.ones((3, 3))}
    after = drop_connect(clone(KEY), more, 0.5)
    assert_equal({name: after[name] for name in weights}, before)


def test_leaves_of_one_shape_have_independent_masks():
    """Two fair coins agree in half of the flips; exact binomial bounds, false alarms at 1e-9."""
    weights = {"a": jnp.ones((300, 400)), "b": jnp.ones((300, 400))}
    dropped = drop_connect(clone(KEY), weights, 0.5)
    agree = int(((dropped["a"] != 0) == (dropped["b"] != 0)).sum())
    low, high = stats.binom.interval(1 - FALSE_ALARM, 300 * 400, 0.5)
    assert low <= agree <= high


def test_drops_at_the_rate_and_keeps_the_mean():
    """Exact binomial bounds for 120,000 coin flips per leaf, with false alarms at 1e-9 each."""
    rate = 0.3
    weights = {"a": jnp.ones((300, 400)), "b": {"kernel": jnp.ones((120_000,))}}
    low, high = stats.binom.interval(1 - FALSE_ALARM, 120_000, 1 - rate)
    for y in jax.tree.leaves(drop_connect(clone(KEY), weights, rate)):
        kept = int((y != 0).sum())
        assert low <= kept <= high
        assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
        assert low / 120_000 / (1 - rate) <= y.mean() <= high / 120_000 / (1 - rate)


def test_jit_equals_eager():
    weights = tree()
    eager = drop_connect(clone(KEY), weights, 0.3, paths="kernel")
    jitted = jax.jit(lambda k, w: drop_connect(k, w, 0.3, paths="kernel"))
    assert_equal(jitted(clone(KEY), weights), eager)


def test_traced_rate_equals_number_in_one_compile_with_no_gradient_to_it():
    weights, traces = tree(), []

    @jax.jit
    def traced(key, weights, rate):
        traces.append(rate)

        def loss(weights, rate):
            dropped = drop_connect(key, weights, rate, paths="kernel|0")
            return sum(leaf.sum() for leaf in jax.tree.leaves(dropped)), dropped

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(weights, rate)

    for rate in (0.0, 0.25, 0.5, 1.0):
        (gradient, of_rate), dropped = traced(clone(KEY), weights, jnp.float32(rate))
        assert_equal(dropped, drop_connect(clone(KEY), weights, rate, paths="kernel|0"))
        ones = jax.tree.map(jnp.ones_like, weights)
        assert_equal(gradient, drop_connect(clone(KEY), ones, rate, paths="kernel|0"))
        assert of_rate == 0
    assert len(traces) == 1


def test_no_key_is_needed_at_0_and_1():
    weights = tree()
    for rate in (0.0, 1.0, 0, 1):
        dropped = drop_connect(None, weights, rate, paths="kernel|bias")
        assert dropped["layers"][0] is weights["layers"][0]
        for name, weight in weights["dense"].items():
            np.testing.assert_array_equal(dropped["dense"][name], (1 - rate) * weight)
    assert drop_connect(None, weights, 0.0)["dense"]["kernel"] is weights["dense"]["kernel"]


def test_gradients_flow_through_what_is_kept_and_nothing_of_the_mask_is():
    weights = tree()

    def loss(weights):
        dropped = drop_connect(clone(KEY), weights, 0.5, paths="kernel")
        return sum(leaf.sum() for leaf in jax.tree.leaves(dropped))

    gradient = jax.grad(loss)(weights)
    mask = sample_mask(key_of("dense/kernel"), 0.5, (16, 24))
    np.testing.assert_array_equal(gradient["dense"]["kernel"], np.where(mask, 2, 0))
    np.testing.assert_array_equal(gradient["layers"][0], np.ones((16, 24)))
    kept = jax.tree.leaves(jax.vjp(loss, weights)[1])
    assert [(r.dtype, r.shape) for r in kept] == [(jnp.uint32, (2,))]  # the key of the one leaf


@pytest.mark.parametrize("rate", [0.5, jnp.float32(0.5)])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_dropped_is_gone(bad, rate):
    mask = np.asarray(sample_mask(key_of("w"), rate, (16, 24)))
    weights = {"w": jnp.where(mask, 1, np.float32(bad))}
    y, pullback = jax.vjp(lambda w: drop_connect(clone(KEY), w, rate), weights)
    np.testing.assert_array_equal(y["w"], np.where(mask, 2, 0))
    np.testing.assert_array_equal(pullback(weights)[0]["w"], np.where(mask, 2, 0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_keeps_the_dtype_and_the_mask_in_every_dtype(dtype):
    y = drop_connect(clone(KEY), {"w": jnp.ones((16, 24), dtype)}, 0.25)["w"]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y != 0, sample_mask(key_of("w"), 0.25, (16, 24)))


def test_vmap_over_keys_draws_for_each_example():
    kernel, x = tree()["dense"]["kernel"], jax.random.normal(jax.random.key(1), (5, 16))
    keys = jax.random.split(jax.random.key(2), 5)
    y = jax.vmap(lambda key, x: x @ drop_connect(key, kernel, 0.5))(clone(keys), x)
    looped = [x[i] @ drop_connect(key, kernel, 0.5) for i, key in enumerate(keys)]
    np.testing.assert_allclose(y, jnp.stack(looped), rtol=1e-5, atol=1e-5)


def test_scan_and_remat_equal_eager():
    """A network of layers in a scan; each layer has its own weights."""
    # Small weights, so that no tanh is saturated and the gradient is 0 only for dropped weights.
    weights = {"kernel": 0.1 * jax.random.normal(jax.random.key(1), (3, 16, 16))}
    keys = jax.random.split(jax.random.key(2), 3)

    @jax.checkpoint
    def layer(x, inputs):
        key, weights = inputs
        return jnp.tanh(x @ drop_connect(key, weights, 0.5)["kernel"]), None

    def scanned(weights):
        return jax.lax.scan(layer, jnp.ones((2, 16)), (clone(keys), weights))[0].sum()

    def looped(weights):
        x = jnp.ones((2, 16))
        for i in range(3):
            dropped = drop_connect(clone(keys[i]), {"kernel": weights["kernel"][i]}, 0.5)
            x = jnp.tanh(x @ dropped["kernel"])
        return x.sum()

    gradient, wanted = jax.grad(scanned)(weights), jax.grad(looped)(weights)
    assert ((gradient["kernel"] != 0) == (wanted["kernel"] != 0)).all()
    np.testing.assert_allclose(gradient["kernel"], wanted["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [fast_key, jax.random.key_data, lambda key: jax.random.key(17, impl="rbg")],
    ids=["fast_key", "legacy", "rbg"],
)
def test_other_kinds_of_keys(make):
    key, weights = make(clone(KEY)), tree()
    rate = 0.25  # a fast key rounds other rates
    y = drop_connect(clone(key), weights, rate, paths="kernel")["dense"]["kernel"]
    wanted = expected("dense/kernel", weights["dense"]["kernel"], rate, key)
    np.testing.assert_array_equal(y, wanted)


def test_a_key_used_twice_is_caught():
    key, weights = jax.random.key(11), tree()
    drop_connect(key, weights, 0.5)
    with pytest.raises(jax.errors.KeyReuseError):
        drop_connect(key, weights, 0.5)

    def twice(key, weights):
        return drop_connect(key, drop_connect(key, weights, 0.5), 0.5)

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(twice)(jax.random.key(12), weights)


X = jax.random.normal(jax.random.key(0), (3, 6, 4))


@pytest.mark.parametrize("wrap", [lambda tree: tree, freeze], ids=["dict", "FrozenDict"])
def test_recurrent_kernels_of_a_linen_lstm(wrap):
    layer = flax_spatialdrop.linen.LSTM(5)
    weights = wrap(layer.init(jax.random.key(1), X, deterministic=True))
    dropped = drop_connect(clone(KEY), weights, 0.5, paths=RECURRENT)
    cell, of_cell = weights["params"]["cell"], dropped["params"]["cell"]
    for name in ("hi", "hf", "hg", "ho"):
        wanted = expected(f"params/cell/{name}/kernel", cell[name]["kernel"], 0.5)
        np.testing.assert_array_equal(of_cell[name]["kernel"], wanted)
        assert of_cell[name]["bias"] is cell[name]["bias"]
    y = layer.apply(dropped, X, deterministic=True)
    assert (y != layer.apply(weights, X, deterministic=True))[:, 1:].any()
    np.testing.assert_array_equal(y[:, 0], layer.apply(weights, X, deterministic=True)[:, 0])


def test_recurrent_kernels_of_an_nnx_lstm():
    layer = flax_spatialdrop.nnx.LSTM(4, 5, dropout=0.2, rngs=nnx.Rngs(0))
    graph, weights, rest = nnx.split(layer, nnx.Param, ...)
    dropped = drop_connect(clone(KEY), weights, 0.5, paths=RECURRENT)
    for name in ("hi", "hf", "hg", "ho"):
        kernel = weights["cell"][name]["kernel"]
        wanted = expected(f"cell/{name}/kernel", kernel[...], 0.5)
        assert type(dropped["cell"][name]["kernel"]) is nnx.Param
        np.testing.assert_array_equal(dropped["cell"][name]["kernel"][...], wanted)
    y = nnx.merge(graph, dropped, rest)(X, deterministic=True)
    plain = layer(X, deterministic=True)
    assert (y != plain)[:, 1:].any()
    np.testing.assert_array_equal(y[:, 0], plain[:, 0])


def test_nnx_and_linen_weights_of_one_path_have_one_mask():
    """The boxes of Flax add nothing to a path, so a pattern matches in both hosts."""
    kernel = tree()["dense"]["kernel"]
    linen = {"dense": {"kernel": nn.Partitioned(kernel, names=(None, "d"))}}
    variable = nnx.State({"dense": {"kernel": nnx.Param(kernel)}})
    wanted = expected("dense/kernel", kernel, 0.3)
    boxed = drop_connect(clone(KEY), linen, 0.3, paths="kernel$")["dense"]["kernel"]
    assert boxed.names == (None, "d")
    np.testing.assert_array_equal(boxed.value, wanted)
    state = drop_connect(clone(KEY), variable, 0.3, paths="kernel$")
    np.testing.assert_array_equal(state["dense"]["kernel"][...], wanted)


def test_a_parameter_called_value_keeps_its_name():
    weights = {"query": jnp.ones((4, 5)), "value": jnp.ones((4, 5))}
    dropped = drop_connect(clone(KEY), weights, 0.3, paths="value")
    assert dropped["query"] is weights["query"]
    np.testing.assert_array_equal(dropped["value"], expected("value", weights["value"], 0.3))


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_errors(rate):
    weights = {"cell": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "count": jnp.ones(1, int)}
    message = (
        "paths must select at least one of the weights: got paths='kernal', "
        "and weights at 'cell/bias', 'cell/kernel', 'count'"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(KEY, weights, rate, paths="kernal")
    message = "paths must select at least one of the weights: got paths=None, and no weights"
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(KEY, {}, rate)
    message = (
        "weights at 'count' must have a floating or complex dtype, since kept values are scaled "
        "by 1 / (1 - rate): got dtype int32; leave it out with paths"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        drop_connect(KEY, weights, rate)
    message = "weights at 'count' must be a JAX or NumPy array: got 1.5; leave it out with paths"
    with pytest.raises(TypeError, match=exactly(message)):
        drop_connect(KEY, {"count": 1.5}, rate)
    got = "a masked array of shape (3,) and dtype float64"
    with pytest.raises(TypeError, match=exactly(message.replace("1.5", got))):
        drop_connect(KEY, {"count": np.ma.ones(3)}, rate)
    message = (
        "paths must be a regular expression: got paths='h[', "
        "unterminated character set at position 1"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(KEY, weights, rate, paths="h[")
    message = "paths must be a regular expression or a function of a path: got ['kernel']"
    with pytest.raises(TypeError, match=exactly(message)):
        drop_connect(KEY, weights, rate, paths=["kernel"])


def test_an_error_lists_so_many_paths_and_no_more():
    weights = {f"layer_{i:02}": jnp.ones(1) for i in range(30)}
    with pytest.raises(ValueError, match=r"'layer_00', .*'layer_15' and 14 more\Z"):
        drop_connect(KEY, weights, 0.5, paths="kernel")


def test_weights_whose_paths_share_a_crc32_are_refused_where_both_are_drawn():
    weights = {"plumless": jnp.ones(4), "buckeroo": jnp.ones(4)}
    message = (
        "paths of weights must differ in their crc32, since masks depend on it: "
        "got 'buckeroo' and 'plumless'"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(KEY, weights, 0.5)
    drop_connect(clone(KEY), weights, 0.5, paths="plum")
    drop_connect(None, weights, 0.0)


def test_weights_with_the_same_path_are_refused():
    """They would have the same mask."""
    weights = {"a/b": jnp.ones((4, 4)), "a": {"b": jnp.ones((4, 4))}, "c": jnp.ones(4)}
    message = (
        "weights must have different paths, since their masks depend on the paths: "
        "got several weights at 'a/b'"
    )
    for rate in (0.0, 0.5):
        with pytest.raises(ValueError, match=exactly(message)):
            drop_connect(clone(KEY), weights, rate)
    assert drop_connect(clone(KEY), weights, 0.5, paths="c")["a/b"] is weights["a/b"]


def test_a_missing_key_and_a_wrong_rate_are_refused():
    message = (
        "key must be a JAX PRNG key where anything is drawn: got key=None; pass one, such as "
        "jax.random.key(0)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(None, tree(), 0.5)
    message = "rate is the probability to drop and must be in [0, 1]: got rate=1.5"
    with pytest.raises(ValueError, match=exactly(message)):
        drop_connect(None, tree(), 1.5)


@pytest.mark.parametrize(
    ("paths", "error"),
    [(re.compile(b"a"), TypeError), ("a{99999999999999}", ValueError), ("(" * 5000, ValueError)],
    ids=["bytes", "huge count", "deep"],
)
def test_patterns_that_are_none(paths, error):
    with pytest.raises(error, match=r"\Apaths must be a regular expression[^\n]{,300}\Z"):
        drop_connect(clone(KEY), {"a": np.ones(3)}, 0.5, paths=paths)


def test_a_dtype_without_a_zero_is_refused():
    weights = {"a": jnp.ones(3, jnp.float8_e8m0fnu)}
    with pytest.raises(TypeError, match=r"\Aweights at 'a' must have a dtype that can rep"):
        drop_connect(clone(KEY), weights, 0.5)
