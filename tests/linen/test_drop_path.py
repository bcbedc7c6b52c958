"""Residual blocks of Linen modules: variables and streams of a branch that may not run."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import residual_drop_path, sample_mask
from flax_spatialdrop.linen import Dropout, ResidualDropPath, summarize

from ..errors import exactly
from ..hlo import always_run

X = jax.random.normal(jax.random.key(0), (8, 6))
KEYS = list(jax.random.split(jax.random.key(2), 8))
MODES = ["row", "batch"]


KEPT, DROPPED = (
    next(key for key in KEYS if sample_mask(clone(key), 0.5, (1, 1)).all() == kept)
    for kept in (True, False)
)


class Branch(nn.Module):
    """A branch with parameters, statistics, a stream, and a second argument."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        return Dropout(self.rate, deterministic=not train)(x)


def block(rate=0.5, mode="batch", branch_rate=0.0, **options):
    return ResidualDropPath(Branch(branch_rate), rate, mode, **options)


def variables(layer):
    return layer.init(jax.random.key(1), X, False, deterministic=True)


def run(layer, state, key, rngs=None):
    options = {"deterministic": False, "rng": clone(key), "mutable": ["batch_stats"]}
    return layer.apply(state, X, True, rngs=rngs, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rate", "scale"),
    [(0.0, True), (0.5, True), (0.5, False), (1.0, True), (jnp.float32(0.5), True)],
)
def test_is_the_function_of_its_branch(mode, rate, scale):
    layer = block(rate, mode, scale=scale)
    state = variables(layer)

    def branch(x):
        inner = {name: tree["branch"] for name, tree in state.items()}
        return Branch().apply(inner, x, True, mutable=["batch_stats"])[0]

    for key in (KEPT, DROPPED):
        y, _ = run(layer, state, key)
        expected = residual_drop_path(clone(key), X, branch, rate, mode=mode, scale=scale)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_variables_are_made_whatever_is_dropped(mode, rate):
    shapes = jax.tree.map(jnp.shape, variables(block(mode=mode)))
    for key in KEYS[:4]:
        rngs = {"params": jax.random.key(1), "dropout": clone(key)}
        made = block(rate, mode).init(rngs, X, True, deterministic=False)
        assert jax.tree.map(jnp.shape, made) == shapes
    assert shapes["params"]["branch"]["Dense_0"]["kernel"] == (6, 6)


def test_a_skipped_branch_leaves_its_statistics_and_has_no_gradient():
    layer = block()
    state = variables(layer)

    def loss(params, key):
        y, new = run(layer, {**state, "params": params}, key)
        return (y**2).sum(), (y, new)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    g, (y, new) = gradient(state["params"], clone(DROPPED))
    np.testing.assert_array_equal(y, X)
    jax.tree.map(np.testing.assert_array_equal, new, {"batch_stats": state["batch_stats"]})
    assert not any(leaf.any() for leaf in jax.tree.leaves(g))
    g, (y, new) = gradient(state["params"], clone(KEPT))
    assert new["batch_stats"]["branch"]["BatchNorm_0"]["mean"].any()
    assert g["branch"]["BatchNorm_0"]["scale"].all()


def test_gradients_are_those_of_rows_of_one_sample():
    """For a batch of one sample, both modes are the same, but their programs differ."""
    x = X[:1]

    def gradient(mode):
        layer = ResidualDropPath(nn.Sequential([nn.Dense(9), nn.tanh, nn.Dense(6)]), 0.5, mode)
        params = layer.init(jax.random.key(1), x, deterministic=True)

        def loss(params, x, key):
            return (layer.apply(params, x, deterministic=False, rng=key) ** 2).sum()

        return partial(jax.jit(jax.grad(loss, argnums=(0, 1))), params, x)

    batch, row = gradient("batch"), gradient("row")
    for key in (KEPT, DROPPED):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            batch(clone(key)),
            row(clone(key)),
        )


def test_a_branch_with_a_stream_draws_the_same_mask_in_both_passes():
    layer = block(branch_rate=0.5)
    state = variables(layer)
    rngs = {"dropout": jax.random.key(3)}

    def f(bias):
        params = jax.tree.map(lambda p: p, state["params"])
        params["branch"]["BatchNorm_0"]["bias"] = bias
        return run(layer, {**state, "params": params}, KEPT, rngs)[0]

    y, pullback = jax.vjp(f, jnp.full((6,), 100.0))
    kept = np.asarray(y - X) != 0
    assert kept.any()
    assert not kept.all()
    np.testing.assert_allclose(pullback(jnp.ones_like(y))[0], 4.0 * kept.sum(0), rtol=1e-5)


def test_deterministic_is_x_plus_the_branch_and_needs_no_stream():
    layer = block(deterministic=True)
    state = variables(block())
    expected = X + Branch().apply({n: t["branch"] for n, t in state.items()}, X, False)
    np.testing.assert_array_equal(layer.apply(state, X, False), expected)
    with pytest.raises(ValueError, match="deterministic"):
        block().apply(state, X, False)


def test_the_stream_is_asked_once_and_a_traced_rate_may_come_at_the_call():
    layer = block()
    state = variables(layer)
    traces = []

    @jax.jit
    def f(rate):
        traces.append(rate)
        rngs = {"dropout": jax.random.key(4)}
        options = {"deterministic": False, "rngs": rngs, "mutable": ["batch_stats"]}
        return layer.apply(state, X, True, rate=rate, **options)[0]

    np.testing.assert_array_equal(f(jnp.float32(1)), X)
    assert (f(jnp.float32(0)) != X).all()
    assert len(traces) == 1
    with pytest.raises(Exception, match="dropout"):
        layer.apply(state, X, True, deterministic=False, mutable=["batch_stats"])


def test_products_run_inside_conditionals_only():
    layer = block()
    state = variables(layer)

    def loss(params, key):
        return (run(layer, {**state, "params": params}, key)[0] ** 2).sum()

    f = jax.jit(jax.grad(loss))
    text = f.lower(state["params"], clone(KEPT)).compile().as_text()
    assert " dot(" in text
    assert " dot(" not in always_run(text)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_branch_that_cannot_be_added_is_refused(mode, rate):
    layer = ResidualDropPath(nn.Dense(5), rate, mode, deterministic=False)
    message = (
        "the branch of a residual block must return an array that can be added to x, of shape "
        "(8, 6) and dtype float32: got shape (8, 5) and dtype float32"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    state = {"params": {"branch": nn.Dense(5).init(jax.random.key(0), X)["params"]}}
    with pytest.raises(ValueError, match=exactly(message)):
        layer.apply(state, X, rng=clone(KEPT), rate=0.5)


def test_intermediates_of_a_branch_that_may_be_skipped_are_refused():
    layer = ResidualDropPath(nn.Dense(6), 0.5, "batch", deterministic=False)
    state = layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    message = (
        "with mode='batch' a branch must make no variables, such as sown or captured "
        "intermediates, and keep the shape and dtype of those it has: got a change of "
        "['intermediates']['branch']['__call__'][0]"
    )
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
    with pytest.raises(ValueError, match=exactly(message)):
        layer.apply(state, X, rng=clone(KEPT), **capture)
    row = layer.clone(mode="row")
    assert "branch" in row.apply(state, X, rng=clone(KEPT), **capture)[1]["intermediates"]


class Network(nn.Module):
    """A scan over blocks with stacked weights."""

    @nn.compact
    def __call__(self, x):
        def layer(module, x, _):
            return ResidualDropPath(nn.Dense(6), 0.5, "batch", deterministic=False)(x), None

        scan = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=4,
        )
        return scan(self, x, None)[0]


def test_inside_nn_scan():
    model = Network()
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = model.init(rngs, X)

    def loss(params, key):
        return (model.apply(params, X, rngs={"dropout": key}) ** 2).sum()

    g = jax.jit(jax.grad(loss))(params, jax.random.key(3))
    (kernel,) = (leaf for leaf in jax.tree.leaves(g) if leaf.ndim == 3)
    assert kernel.shape == (4, 6, 6)
    assert 0 < sum(bool(layer.any()) for layer in kernel) < 4


@pytest.mark.parametrize("mode", MODES)
def test_summarize_lists_the_block_as_any_other(mode):
    rngs = {"dropout": jax.random.key(0)}
    summary = summarize(block(mode=mode), X, True, deterministic=False, rngs=rngs)
    (site,) = (site for site in summary.sites if site.module == "ResidualDropPath")
    flips = 8 if mode == "row" else 1
    assert (site.coin_flips, site.kept_bytes, site.rates) == (flips, flips, (0.5,))
    assert site.noise_shape == ((8, 1) if mode == "row" else (1, 1))
    assert site.stream == "dropout"
