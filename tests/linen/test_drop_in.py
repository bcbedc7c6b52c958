"""Inside the context, Flax's own layers run the code of this package; outside they do not."""

import asyncio
import concurrent.futures
import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import DropInReport, linen

from ..errors import exactly
from ..last_bit import assert_same_eagerly
from .test_dropout import model as block

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (4, 6, 8))


class Setup(nn.Module):
    def setup(self):
        self.drop = nn.Dropout(0.3, broadcast_dims=(1,), deterministic=False)
        self.rest = nn.Sequential([nn.Dense(8), nn.Dropout(0.2, deterministic=False)])

    def __call__(self, x):
        return self.drop(self.rest(self.drop(x)))


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return block(nn.Dropout)()(x), None


def lifted(lift):
    """Returns a model that does not use this package, and further arguments for it."""
    if lift == "setup":
        return Setup(), ()
    if lift == "scan":
        split = {"dropout": True, "params": True}
        return nn.scan(Body, split_rngs=split, length=3)(), (None,)
    cls = block(nn.Dropout)
    if lift == "remat":
        cls = nn.remat(cls, static_argnums=(2,))
    elif lift == "jit":
        cls = nn.jit(cls, static_argnums=(2,))
    elif lift == "vmap":
        cls = nn.vmap(cls, in_axes=(0, None), split_rngs={"dropout": True})
    return cls(), (True,)


def kept_bytes(f, x):
    return sum(r.size * r.dtype.itemsize for r in jax.tree.leaves(jax.vjp(f, x)[1]))


@pytest.mark.parametrize("lift", ["plain", "setup", "remat", "jit", "vmap", "scan"])
@pytest.mark.parametrize("compiled", [False, True])
def test_same_values_in_every_lift(lift, compiled):
    model, rest = lifted(lift)
    variables = model.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, X, *rest)

    def run(x, key):
        return model.apply(variables, x, *rest, rngs={"dropout": key})

    if compiled:
        run = jax.jit(run)
    theirs = run(X, clone(KEY))
    with linen.drop_in():
        ours = run(X, clone(KEY))
    if compiled:
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    else:
        jax.tree.map(functools.partial(assert_same_eagerly, is_model=True), ours, theirs)


def test_it_is_this_package_that_runs():
    """The backward pass keeps the key; that of Flax keeps a mask of x's shape."""
    layer = nn.Dropout(0.5, deterministic=False)

    def run(x):
        return layer.apply({}, x, rngs={"dropout": clone(KEY)})

    assert kept_bytes(run, X) >= X.size
    with linen.drop_in():
        assert kept_bytes(run, X) == 8
    assert kept_bytes(run, X) >= X.size


class Jitted:
    """A jitted call of Flax's layer. It counts traces, and can tell whether it runs our code."""

    def __init__(self, inner=lambda f: f):
        self.traces = 0
        self._run = jax.jit(inner(self._pass))

    def _pass(self, x):
        self.traces += 1
        layer = nn.Dropout(0.5, deterministic=False)
        return layer.apply({}, x, rngs={"dropout": jax.random.key(0)})

    def is_ours(self):
        self._run(X)
        return "name=flax_spatialdrop" in str(jax.make_jaxpr(self._run)(X))


@pytest.mark.parametrize("inner", [lambda f: f, jax.jit, jax.checkpoint])
def test_what_was_jitted_outside_is_traced_again_inside_and_back(inner):
    jitted = Jitted(inner)
    assert not jitted.is_ours()
    with linen.drop_in():
        assert jitted.is_ours()
    assert not jitted.is_ours()


def test_what_was_jitted_inside_is_traced_again_outside():
    jitted = Jitted()
    with linen.drop_in():
        assert jitted.is_ours()
    assert not jitted.is_ours()


def test_entering_again_costs_no_trace():
    jitted = Jitted()
    for _ in range(3):
        with linen.drop_in():
            assert jitted.is_ours()
        assert not jitted.is_ours()
    assert jitted.traces == 2


def test_nested_contexts_change_nothing_and_cost_no_trace():
    jitted = Jitted()
    with linen.drop_in():
        assert jitted.is_ours()
        with linen.drop_in():
            assert jitted.is_ours()
        assert jitted.is_ours()
    assert jitted.traces == 1
    assert not jitted.is_ours()


def test_other_threads_are_not_reached():
    jitted = Jitted()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, linen.drop_in():
        assert not pool.submit(jitted.is_ours).result()
        assert jitted.is_ours()
        assert not pool.submit(asyncio.run, asyncio.to_thread(jitted.is_ours)).result()


def test_an_interceptor_of_the_user_s_own():
    """An interceptor outside of drop_in sees the calls; one inside does not."""
    seen = []

    def watch(call, args, kwargs, context):
        seen.append(type(context.module))
        return call(*args, **kwargs)

    def run():
        nn.Dropout(0.5, deterministic=False).apply({}, X, rngs={"dropout": clone(KEY)})

    with nn.intercept_methods(watch), linen.drop_in():
        run()
    assert seen == [nn.Dropout]
    with linen.drop_in(), nn.intercept_methods(watch):
        run()
    assert seen == [nn.Dropout]


def test_an_error_leaves_nothing_replaced():
    with pytest.raises(RuntimeError), linen.drop_in():
        raise RuntimeError
    test_it_is_this_package_that_runs()


def test_arguments_at_the_call():
    layer = nn.Dropout(0.3, (1,), rng_collection="noise")

    def run():
        return (
            layer.apply({}, X, False, rngs={"noise": clone(KEY)}),
            layer.apply({}, X, deterministic=False, rng=clone(KEY)),
            layer.apply({}, X, True),
        )

    theirs = run()
    with linen.drop_in():
        ours = run()
    jax.tree.map(assert_same_eagerly, ours, theirs)
    assert ours[2] is X


class Plain(nn.Dropout):
    pass


class Louder(nn.Dropout):
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Own(nn.Dropout):
    def __call__(self, inputs):
        return inputs


class Bridged(nn.Module):
    attention_fn: Any = nn.dot_product_attention

    @nn.compact
    def __call__(self, x):
        for layer in (Plain, Louder, Own):
            x = layer(0.5, deterministic=False)(x)
        options = {"dropout_rate": 0.5, "deterministic": False, "attention_fn": self.attention_fn}
        return nnx.bridge.to_linen(nnx.Linear, 8, 8)(nn.SelfAttention(2, **options)(x))


@pytest.mark.filterwarnings("ignore:SelfAttention:DeprecationWarning")
def test_what_is_reached_and_what_is_left_alone_and_why():
    partial = functools.partial(nn.dot_product_attention, bias=None)
    model = Bridged(partial)
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    run = jax.jit(
        lambda model, key: model.apply(variables, X, rngs={"dropout": key}), static_argnums=0
    )
    theirs = run(model, clone(KEY))
    with linen.drop_in() as outer, linen.drop_in() as report:
        np.testing.assert_array_equal(run(model, clone(KEY)), theirs)
        run(Bridged(), clone(KEY))
    name = "a functools.partial of the function dot_product_attention"
    advice = "call flax_spatialdrop.nnx.drop_in in the constructor of the wrapped module"
    drops = {("Plain_0",): "Plain", ("Louder_0",): "Louder"}
    assert outer == report
    assert report.reached == {**drops, ("SelfAttention_0",): "flax.linen.SelfAttention"}
    assert report.left == {
        ("Own_0",): "Own has a __call__ of its own",
        ("ToLinen_0",): f"NNX inside Linen: {advice}",
    }
    with linen.drop_in() as report:
        run(model, clone(KEY))
        assert report == DropInReport()  # traced before
        run.clear_cache()
        run(model, clone(KEY))
    assert report.reached == drops
    assert report.left["SelfAttention_0",] == f"its attention_fn is {name}"
    with linen.drop_in() as report:
        run(model, clone(KEY))
        ours = linen.Dropout(0.5, deterministic=False)
        ours.apply({}, X, rngs={"dropout": clone(KEY)})
    assert report == DropInReport()


def test_bad_arguments_are_refused_inside():
    with linen.drop_in(), pytest.raises(TypeError, match="got dtype int32"):
        nn.Dropout(0.5, deterministic=True).apply({}, X.astype(int))
    message = "rate is the probability to drop and must be in [0, 1]: got rate=-0.5"
    with linen.drop_in(), pytest.raises(ValueError, match=exactly(message)):
        nn.Dropout(-0.5, deterministic=True).apply({}, X)


def test_one_object_entered_again_in_itself_and_as_a_decorator():
    context, layer = linen.drop_in(), nn.Dropout(0.5, deterministic=False)

    def is_run_here():
        with pytest.raises((TypeError, flax.errors.InvalidRngError)) as caught:
            layer.apply({}, np.ones((2, 3), np.float32))
        return "draws a mask" in str(caught.value)

    for _ in range(2):
        with context:
            assert is_run_here()
            with context:
                assert is_run_here()
            assert is_run_here()
        assert not is_run_here()
    assert context(is_run_here)()
    assert not is_run_here()
