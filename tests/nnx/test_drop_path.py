"""Residual blocks of NNX modules: state and streams of a branch that may not run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import residual_drop_path, sample_mask
from flax_spatialdrop.nnx import Dropout, DropPath, ResidualDropPath, summarize

from ..errors import exactly
from ..hlo import always_run
from .gradients import value_and_grad

X = jax.random.normal(jax.random.key(0), (8, 6))
KEYS = list(jax.random.split(jax.random.key(2), 8))
MODES = ["row", "batch"]


def keeps(key):
    return bool(sample_mask(clone(key), 0.5, (1, 1)).all())


KEPT = next(key for key in KEYS if keeps(key))
DROPPED = next(key for key in KEYS if not keeps(key))


def block(rate=0.5, mode="batch", **options):
    rngs = nnx.Rngs(params=0, dropout=1)
    branch = nnx.Sequential(
        nnx.Linear(6, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs), Dropout(0.5, rngs=rngs)
    )
    return ResidualDropPath(branch, rate, mode=mode, **options)


def branch_state(layer):
    """Returns the state that a run of the branch changes: statistics, and a stream's count."""
    _, norm, drop = layer.branch.layers
    return [np.asarray(v[...]) for v in (norm.mean, norm.var, drop.rngs.count)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rate", "scale"),
    [(0.0, True), (0.5, True), (0.5, False), (1.0, True), (jnp.float32(0.5), True)],
)
def test_is_the_function_of_its_branch(mode, rate, scale):
    dense = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
    layer = ResidualDropPath(dense, rate, mode=mode, scale=scale)
    for key in (KEPT, DROPPED):
        expected = residual_drop_path(clone(key), X, dense, rate, mode=mode, scale=scale)
        np.testing.assert_allclose(layer(X, rngs=clone(key)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("jit", [lambda f: f, nnx.jit], ids=["eager", "nnx.jit"])
@pytest.mark.parametrize("key", [KEPT, DROPPED], ids=["kept", "dropped"])
def test_the_branch_s_state_changes_if_it_runs(jit, key):
    layer = block()
    before = branch_state(layer)

    def loss(layer, key):
        return (layer(X, rngs=key) ** 2).sum()

    _, gradient = jit(value_and_grad(loss))(layer, clone(key))
    ran = keeps(key)
    for old, new in zip(before, branch_state(layer), strict=True):
        assert (old != new).all() == ran
        assert (old != new).any() == ran
    assert bool(gradient["branch"]["layers"][1]["scale"][...].any()) == ran


def test_a_skipped_branch_is_the_identity():
    layer = block()
    layer.branch.layers[0].kernel[...] = jnp.full((6, 6), jnp.nan)
    np.testing.assert_array_equal(layer(X, rngs=clone(DROPPED)), X)
    assert jnp.isnan(layer(X, rngs=clone(KEPT))).any()


def test_gradients_are_those_of_rows_of_one_sample():
    """For a batch of one sample, both modes are the same, but their programs differ."""

    def gradient(mode, key):
        rngs = nnx.Rngs(0)
        branch = nnx.Sequential(nnx.Linear(6, 9, rngs=rngs), nnx.tanh, nnx.Linear(9, 6, rngs=rngs))
        layer = ResidualDropPath(branch, 0.5, mode=mode)
        return nnx.grad(lambda m, x: (m(x, rngs=clone(key)) ** 2).sum(), argnums=(0, 1))(
            layer, X[:1]
        )

    for key in (KEPT, DROPPED):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            jax.tree.leaves(gradient("batch", key)),
            jax.tree.leaves(gradient("row", key)),
        )


def test_its_own_stream_train_eval_and_view():
    layer = block(rngs=nnx.Rngs(dropout=3))
    call = nnx.jit(lambda layer: layer(X))
    ys = [call(layer) for _ in range(8)]
    assert 0 < sum(bool((y == X).all()) for y in ys) < 8
    assert layer.rngs.count[...] == 8
    layer.eval()
    np.testing.assert_array_equal(layer(X), X + layer.branch(X))
    assert layer.rngs.count[...] == 8
    assert nnx.view(layer, deterministic=False).deterministic is False
    assert block(rngs=None).rngs is None
    message = (
        "ResidualDropPath draws a mask and needs a key: got no rngs; pass rngs=nnx.Rngs(...) to "
        "the constructor, or nnx.Rngs or a key as rngs= at the call, or set deterministic=True"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        block()(X)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_branch_that_cannot_be_added_is_refused(rate):
    layer = ResidualDropPath(nnx.Linear(6, 5, rngs=nnx.Rngs(0)), rate, mode="batch")
    message = (
        "the branch of a residual block must return an array that can be added to x, of shape "
        "(8, 6) and dtype float32: got shape (8, 5) and dtype float32"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        layer(X, rngs=clone(KEPT))


def test_arguments_of_the_branch_and_plain_functions():
    layer = ResidualDropPath(lambda x, a, b: x * a * b, 0.0)
    np.testing.assert_allclose(layer(X, 2, b=3), 7 * X, rtol=1e-6)
    layer = ResidualDropPath(lambda x, a, b: x * a * b, 0.5, mode="batch")
    np.testing.assert_allclose(layer(X, 2, b=3, rngs=clone(KEPT)), 13 * X, rtol=1e-6)


class Jitters(nnx.Module):
    """A module that draws with given streams, and counts its calls in a plain array."""

    def __init__(self):
        self.drop = Dropout(0.5)
        self.calls = jnp.zeros((), jnp.int32)

    def __call__(self, x, rngs):
        self.calls = self.calls + 1
        return self.drop(x, rngs=rngs)


@pytest.mark.parametrize("key", [KEPT, DROPPED], ids=["kept", "dropped"])
def test_streams_that_a_branch_is_called_with_advance_if_it_runs(key):
    layer, given, same = ResidualDropPath(Jitters(), 0.5, mode="batch"), *map(nnx.Rngs, (3, 3))
    ran = keeps(key)
    expected = X + 2 * Dropout(0.5)(X, rngs=same) if ran else X
    np.testing.assert_array_equal(layer(X, given, rngs=clone(key)), expected)
    assert int(given.default.count[...]) == int(layer.branch.calls) == ran


class Sows(nnx.Module):
    def __call__(self, x):
        self.seen = nnx.Intermediate(x)
        return x


def test_a_branch_that_makes_variables_and_may_be_skipped_is_refused():
    message = (
        "with mode='batch' a branch must make no variables, such as sown or captured "
        "intermediates, and keep the shape and dtype of those it has: got a change of "
        "['branch']['seen'].value"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        ResidualDropPath(Sows(), 0.5, mode="batch")(X, rngs=clone(KEPT))
    layer = ResidualDropPath(Sows(), 0.5, mode="row")
    layer(X, rngs=clone(KEPT))
    np.testing.assert_array_equal(layer.branch.seen[...], X)


def test_products_run_inside_conditionals_only():
    graph, state = nnx.split(block())

    def loss(state, key):
        return (nnx.merge(graph, state)(X, rngs=key) ** 2).sum()

    f = jax.jit(jax.grad(loss, allow_int=True))
    text = f.lower(state, clone(KEPT)).compile().as_text()
    assert " dot(" in text
    assert " dot(" not in always_run(text)


def test_parameters_are_not_copied_through_the_conditional():
    layer = ResidualDropPath(nnx.Linear(6, 6, rngs=nnx.Rngs(0)), 0.5, mode="batch")
    graph, state = nnx.split(layer)
    program = jax.make_jaxpr(lambda s, x, k: nnx.merge(graph, s)(x, rngs=k))(state, X, clone(KEPT))
    assert "f32[6,6]" in str(program)
    (outer,) = (e for e in program.eqns if e.primitive.name in ("checkpoint", "remat2", "remat"))
    assert [v.aval.shape for v in outer.outvars] == [(8, 6)]


@pytest.mark.parametrize("mode", MODES)
def test_summarize_lists_the_block_as_any_other(mode):
    summary = summarize(nnx.Sequential(block(mode=mode, rngs=nnx.Rngs(dropout=3))), X)
    (site,) = (site for site in summary.sites if site.module == "ResidualDropPath")
    flips = 8 if mode == "row" else 1
    assert (site.coin_flips, site.kept_bytes, site.rates) == (flips, flips, (0.5,))
    assert site.noise_shape == ((8, 1) if mode == "row" else (1, 1))
    assert (site.path, site.stream) == ("layers/0", "dropout")


def test_a_list_of_batch_axes_is_a_tuple_in_the_graph():
    for make in (partial(DropPath, 0.5), partial(ResidualDropPath, jnp.tanh, 0.5)):
        graphs = [nnx.graphdef(make(batch_axis=axes)) for axes in ([0, 1], (0, 1), (0,))]
        assert hash(graphs[0]) == hash(graphs[1])
        assert graphs[0] == graphs[1] != graphs[2]
