"""Inside the context, the rates of all modules are multiplied; JAX's caches know of it."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import dropout, linen, scale_rates, schedules

from .errors import exactly
from .nnx.gradients import value_and_grad

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (4, 6, 8))
HALF = jnp.float32(0.5)


def apply(layer, x=X, *rest, **options):
    variables = options.pop("variables", {})
    rngs = {"dropout": clone(KEY)}
    return layer.apply(variables, x, *rest, rngs=rngs, **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


QUERY = jax.random.normal(jax.random.key(1), (2, 5, 2, 4))


class Attend(nn.Module):
    """A function of attention as a module."""

    attention_fn: Callable
    rate: float
    deterministic: bool

    def __call__(self, x):
        options = {"broadcast_dropout": False, "dropout_rng": self.make_rng("dropout")}
        return self.attention_fn(x, x, x, dropout_rate=self.rate, **options)


class Lstm(nn.Module):
    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x):
        rates = {"dropout": self.rate, "recurrent_dropout": self.rate}
        return linen.LSTM(4, **rates, deterministic=self.deterministic)(x)


# One layer for each place where a rate is read.
LAYERS = {
    linen.GaussianDropout: X,
    partial(linen.ResidualDropPath, nn.Dense(8)): X,
    Lstm: X,
    partial(Attend, linen.dot_product_attention): QUERY,
    partial(Attend, linen.blockwise_attention): QUERY,
}


@pytest.mark.parametrize("make", LAYERS, ids=["noise", "branch", "lstm", "weights", "blockwise"])
def test_a_scaled_rate_is_that_rate(make):
    x = LAYERS[make]

    def run(rate, scale):
        layer = make(rate=rate, deterministic=False)
        with scale_rates(scale):
            return apply(layer, x, variables=variables)

    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    variables = make(rate=0.5, deterministic=False).init(rngs, x)
    assert_same(run(0.5, 0.5), run(0.25, 1.0))
    assert_same(run(0.5, HALF), run(jnp.float32(0.25), 1))
    assert_same(run(HALF, 0.5), run(jnp.float32(0.25), 1))
    assert_same(run(0.5, 0.0), run(0.0, 1))
    assert not np.array_equal(run(0.5, 0.5), run(0.5, 1))
    traced = []
    compiled = jax.jit(lambda scale: traced.append(scale) or run(0.5, scale))
    for scale in (0.5, 1.0):
        np.testing.assert_allclose(compiled(scale), run(0.5, jnp.float32(scale)), 1e-5, 1e-6)
    assert len(traced) == 1


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return linen.Dropout(0.5, deterministic=False)(nn.Dense(8)(x)), None


STACK = {
    "length": 3,
    "variable_axes": {"params": 0},
    "split_rngs": {"params": True, "dropout": True},
}


def test_one_compile_serves_all_steps_and_a_scan_with_remat_and_jit_inside():
    model = nn.scan(nn.remat(nn.jit(Body)), **STACK)()
    variables = model.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, X, None)
    scale_at, traces = schedules.linear(4), []

    # Jitted outside of the context, so that its cache could keep a tracer of another trace.
    inner = jax.jit(lambda variables, key: model.apply(variables, X, None, rngs={"dropout": key}))

    @jax.jit
    def step(variables, key, step):
        traces.append(None)

        def loss(variables):
            with scale_rates(scale_at(step)):
                return (inner(variables, key)[0] ** 2).mean()

        return jax.value_and_grad(loss)(variables)

    found = [step(variables, clone(KEY), i) for i in range(6)]
    assert len(traces) == 1
    for i in (0, 1, 4):
        with scale_rates(scale_at(i)):  # eager, the scale is known
            expected = (apply(model, X, None, variables=variables)[0] ** 2).mean()
        np.testing.assert_allclose(found[i][0], expected, rtol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert found[0][0] != found[2][0] != found[4][0] == found[5][0]
    step(variables, clone(KEY), jnp.float32(1))  # another trace uses none of the first tracers
    assert len(traces) == 2
    batched = jax.vmap(lambda i: step(variables, clone(KEY), i)[0])(jnp.arange(3))
    np.testing.assert_allclose(batched, [loss for loss, _ in found[:3]], rtol=1e-5)


def test_a_function_that_was_jitted_outside_is_traced_once_for_each_known_scale():
    traces = []

    @jax.jit
    def run(x):
        traces.append(None)
        return linen.Dropout(0.5, deterministic=False).apply({}, x, rng=clone(KEY))

    plain = run(X)
    for _ in range(2):
        with scale_rates(1):
            assert_same(run(X), plain)
        with scale_rates(0.0):
            assert_same(run(X), X)
        with scale_rates(0.5):
            assert_same(run(X), dropout(clone(KEY), X, 0.25))
        with scale_rates(jnp.float32(0.5)):
            run(X)
        assert_same(run(X), plain)
    assert len(traces) == 4  # none, 0.0, 0.5 and the array


def test_tracers_do_not_leak():
    model = nn.scan(nn.remat(Body), **STACK)()
    variables = model.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, X, None)

    @jax.jit
    def run(scale):
        with scale_rates(scale):
            return apply(model, X, None, variables=variables)[0]

    with jax.checking_leaks():
        run(HALF)


def test_a_scan_over_steps_with_the_scale_in_its_body():
    scale_at = schedules.late(2)

    def body(x, step):
        with scale_rates(scale_at(step)):
            return linen.Dropout(0.5, deterministic=False).apply({}, x, rng=clone(KEY)), None

    after, _ = jax.jit(lambda x: jax.lax.scan(body, x, jnp.arange(3)))(X)
    np.testing.assert_array_equal(after, dropout(clone(KEY), X, 0.5))


def test_nested_scales_are_multiplied_and_end():
    layer = linen.Dropout(1.0, deterministic=False)

    def rate():
        (site,) = linen.summarize(layer, X, rngs={"dropout": clone(KEY)}).sites
        return site.rates

    with scale_rates(0.5):
        with scale_rates(0.5), scale_rates(1.0):
            assert rate() == (0.25,)
            with scale_rates(HALF):
                assert rate() == (0.125,)
        assert rate() == (0.5,)
        with pytest.raises(RuntimeError), scale_rates(0.5):
            raise RuntimeError
        assert rate() == (0.5,)
    assert rate() == (1.0,)
    assert scale_rates(0.25)(rate)() == (0.25,)
    quarter = scale_rates(0.25)
    with quarter, quarter:
        assert rate() == (0.0625,)
    with quarter:
        assert rate() == (0.25,)


def test_functions_and_flax_s_own_layers_are_not_scaled():
    theirs = nn.Dropout(0.5, deterministic=False)
    plain, by_function = apply(theirs), dropout(clone(KEY), X, 0.5)
    with scale_rates(0.5):
        assert_same(dropout(clone(KEY), X, 0.5), by_function)
        assert_same(apply(theirs), plain)
        (site,) = linen.summarize(theirs, X, rngs={"dropout": clone(KEY)}).sites
    assert site.rates == (0.5,)


def test_what_has_no_rate_is_not_scaled_and_an_alpha_is_only_multiplied():
    for host in (linen, flax_spatialdrop.nnx):
        for scale in (0.0, 0.5, jnp.float32(0)):
            layer = host.SpecAugment(max_time_width=4, deterministic=False)
            noise = host.EmbeddingNoise(4.0, deterministic=False)
            run = apply if host is linen else lambda layer: layer(X, rngs=clone(KEY))
            plain, by_scale = run(layer), run(host.EmbeddingNoise(4.0 * scale, deterministic=False))
            assert (plain != X).any()
            assert (run(noise) != by_scale).any()
            with scale_rates(scale):
                assert_same(run(layer), plain)
                assert_same(run(noise), by_scale)


def test_an_array_is_clipped_and_a_product_of_numbers_is_not():
    layer = linen.Dropout(0.5, deterministic=False)
    with scale_rates(jnp.float32(5)):
        assert_same(apply(layer), jnp.zeros_like(X))
    with scale_rates(jnp.float32(-1)):
        assert_same(apply(layer), X)
    message = (
        "rate is the probability to drop and must be in [0, 1]: got rate=1.5, since scale_rates "
        "multiplies it by 3.0"
    )
    with scale_rates(3), pytest.raises(ValueError, match=exactly(message)):
        apply(layer)


def test_a_rate_at_the_call_and_sample_mask_are_scaled():
    layer = linen.Dropout(None, deterministic=False)
    with scale_rates(0.5):
        mask = apply(layer, method="sample_mask", rate=0.5, rng=clone(KEY))
        y = apply(layer, rate=0.5, rng=clone(KEY))
        assert_same(y, dropout(clone(KEY), X, 0.25))
        assert_same(apply(layer, rate=0.5, mask=mask), y)
        assert apply(layer, rate=0.0) is X


def test_a_rate_that_determines_a_shape():
    layer = linen.PatchDropout(0.5, num_prefix_tokens=0, deterministic=False)
    with scale_rates(0.5):
        assert apply(layer, jnp.ones((2, 8, 3)))[0].shape == (2, 6, 3)
    message = (
        "the rate of patch dropout determines the shape of the output and must be a number, known "
        "when tracing: got an array of dtype float32, since scale_rates multiplies it by an array "
        "of shape () and dtype float32"
    )
    with scale_rates(HALF):
        with pytest.raises(TypeError, match=exactly(message)):
            apply(layer, jnp.ones((2, 8, 3)))
        layer = linen.PatchDropout(num_keep=3, num_prefix_tokens=0, deterministic=False)
        assert apply(layer, jnp.ones((2, 8, 3)))[0].shape == (2, 3, 3)


def test_a_subset_of_rows_needs_a_known_rate():
    layer = linen.ResidualDropPath(jnp.tanh, 0.5, mode="subset", deterministic=False)
    message = (
        "with mode='subset' the rate determines the shape of the branch's input and must be a "
        "number, known when tracing: got an array of dtype float32, since scale_rates multiplies "
        "it by an array of shape () and dtype float32"
    )
    with scale_rates(0.5):
        moved = (apply(layer) != X).any(axis=(1, 2))
    assert moved.sum() == 3  # of 4
    with scale_rates(HALF), pytest.raises(TypeError, match=exactly(message)):
        apply(layer)


def test_rates_of_whole_inputs():
    x = jnp.ones((64, 2))
    inputs = {"a": x, "b": 2 * x}
    condition = linen.ConditionDropout(0.5, null=0.0, deterministic=False)
    modality = linen.ModalityDropout({"a": 0.5, "b": HALF}, deterministic=False)
    with scale_rates(0.5):
        one, several = apply(condition, x), apply(modality, inputs)
    assert (one != apply(condition, x)).any()
    assert (several[0]["a"] != apply(modality, inputs)[0]["a"]).any()
    quarter = {"a": jnp.float32(0.25), "b": HALF / 2}
    assert_same(one, apply(condition, x, rate=0.25))
    assert_same(several, apply(modality, inputs, rate=quarter))


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (
            -1,
            ValueError,
            "scale multiplies rates and must be a finite number of at least 0: got scale=-1",
        ),
        (
            float("inf"),
            ValueError,
            "scale multiplies rates and must be a finite number of at least 0: got scale=inf",
        ),
        (
            float("nan"),
            ValueError,
            "scale multiplies rates and must be a finite number of at least 0: got scale=nan",
        ),
        (
            True,
            TypeError,
            "scale multiplies rates and must be a number or a scalar array: got True",
        ),
        (
            schedules.late(1),
            TypeError,
            "scale must be a number or a scalar array: got the function scale_at; pass the value "
            "of a schedule, schedule(step)",
        ),
        (
            jnp.ones(2),
            ValueError,
            "scale must be one number or a scalar array, the same for all of x: got an array of "
            "shape (2,)",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("enter", [scale_rates, lambda scale: linen.drop_in(scale=scale)])
def test_bad_scales(enter, scale, error, message):
    with pytest.raises(error, match=exactly(message)):
        enter(scale)


class Theirs(nn.Module):
    """A model that does not use this package."""

    @nn.compact
    def __call__(self, x):
        options = {"dropout_rate": 0.5, "broadcast_dropout": False, "deterministic": False}
        x = nn.MultiHeadDotProductAttention(2, **options)(x)
        return nn.Dropout(0.5, deterministic=False)(x)


def test_drop_in_scales_the_layers_of_flax():
    model = Theirs()
    variables = model.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, X)
    context, traces = linen.drop_in(scale=0.5), []

    @jax.jit
    def run(key, step):
        traces.append(None)
        with linen.drop_in(scale=schedules.early(4, decay=False)(step)) as report:
            y = model.apply(variables, X, rngs={"dropout": key})
        assert len(report.reached) == 2
        return y

    off = linen.drop_in(scale=0)
    with off:
        nothing = apply(model, variables=variables)
    found = [run(clone(KEY), step) for step in (0, 4)]
    np.testing.assert_allclose(found[0], apply(model, variables=variables), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], nothing, rtol=2e-5, atol=1e-6)
    assert len(traces) == 1
    for _ in range(2):
        with context:
            summary = linen.summarize(model, X, rngs={"dropout": clone(KEY)})
        assert [site.rates for site in summary.sites] == [(0.25,)] * 2
    with linen.drop_in():
        summary = linen.summarize(model, X, rngs={"dropout": clone(KEY)})
    assert [site.rates for site in summary.sites] == [(0.5,)] * 2


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(
            2, 8, dropout_rate=0.5, broadcast_dropout=False, decode=False, rngs=rngs
        )
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.lstm = flax_spatialdrop.nnx.LSTM(8, 8, recurrent_dropout=0.5, rngs=rngs)

    def __call__(self, x):
        return nnx.remat(lambda self, x: self.lstm(self.drop(self.attend(x))))(self, x)


def test_nnx_with_jit_remat_and_scan():
    @nnx.vmap
    def blocks(key):
        return Block(nnx.Rngs(params=key, dropout=key))

    def run(model, x):
        scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(x, model)

    model = blocks(jax.random.split(jax.random.key(0), 2))
    flax_spatialdrop.nnx.drop_in(model)
    model.train()
    states, traces = nnx.state(model), []

    def again():
        """The model with its streams where they were."""
        return nnx.merge(nnx.graphdef(model), jax.tree.map(jnp.copy, states))

    @nnx.jit
    def step(model, x, step):
        traces.append(None)
        with scale_rates(schedules.early(2)(step)):
            return value_and_grad(lambda model: (run(model, x) ** 2).mean())(model)

    ours = again()
    losses = [step(again(), X, i)[0] for i in range(3)]
    assert len(traces) == 1
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(step(again(), X, 1)[1]))
    np.testing.assert_allclose(losses[0], (run(again(), X) ** 2).mean(), rtol=1e-5)
    with scale_rates(0.5):
        np.testing.assert_allclose(losses[1], (run(again(), X) ** 2).mean(), rtol=1e-5)
    ours.eval()
    np.testing.assert_allclose(losses[2], (run(ours, X) ** 2).mean(), rtol=1e-5)
