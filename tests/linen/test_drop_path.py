"""Residual blocks of Linen modules: variables and streams of a branch that may not run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import residual_drop_path, sample_mask
from flax_spatialdrop.linen import Dropout, DropPath, ResidualDropPath, summarize

from ..errors import exactly
from ..hlo import always_run

X = jax.random.normal(jax.random.key(0), (8, 6))
KEYS = list(jax.random.split(jax.random.key(2), 8))
MODES = ["row", "batch"]


def keeps(key):
    return bool(sample_mask(clone(key), 0.5, (1, 1)).all())


KEPT = next(key for key in KEYS if keeps(key))
DROPPED = next(key for key in KEYS if not keeps(key))


class Branch(nn.Module):
    """With parameters, statistics and a stream, and an argument besides x."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        return Dropout(self.rate, deterministic=not train)(x)


def block(rate=0.5, mode="batch", branch_rate=0.0, **options):
    return ResidualDropPath(Branch(branch_rate), rate, mode, **options)


def variables(layer):
    return layer.init(jax.random.key(1), X, False, deterministic=True)


def run(layer, state, key, rngs=None, **options):
    return layer.apply(
        state,
        X,
        True,
        deterministic=False,
        rng=clone(key),
        rngs=rngs,
        mutable=["batch_stats"],
        **options,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0, jnp.float32(0.5)])
@pytest.mark.parametrize("scale", [True, False])
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
    norm = "branch", "BatchNorm_0", "mean"
    assert new["batch_stats"][norm[0]][norm[1]][norm[2]].any()
    assert g["branch"]["BatchNorm_0"]["scale"].all()


def test_gradients_are_those_of_rows_of_one_sample():
    """At a batch of one the two modes are the same thing, by different programs."""
    x = X[:1]

    def gradient(mode, key):
        layer = ResidualDropPath(nn.Sequential([nn.Dense(9), nn.tanh, nn.Dense(6)]), 0.5, mode)
        params = layer.init(jax.random.key(1), x, deterministic=True)

        def loss(params, x):
            return (layer.apply(params, x, deterministic=False, rng=clone(key)) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(params, x)

    for key in (KEPT, DROPPED):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            gradient("batch", key),
            gradient("row", key),
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


def test_a_branch_that_cannot_be_added_is_refused():
    layer = ResidualDropPath(nn.Dense(5), 0.5, "batch", deterministic=False)
    message = (
        "the branch of a residual block must return an array that is added to x, of shape (8, 6) "
        "and dtype float32: got shape (8, 5) and dtype float32"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)


class Network(nn.Module):
    """Blocks as a scan over their stacked weights."""

    depth: int = 4

    @nn.compact
    def __call__(self, x):
        def layer(module, x, _):
            return ResidualDropPath(nn.Dense(6), 0.5, "batch", deterministic=False)(x), None

        scan = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
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


def test_drop_path_takes_a_mask_as_any_other():
    layer = DropPath(0.5, mode="batch", deterministic=False)
    y = layer.apply({}, X, mask=jnp.zeros((1, 1), bool))
    np.testing.assert_array_equal(y, jnp.zeros_like(X))
