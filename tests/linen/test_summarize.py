"""Summaries of forward passes of Linen models."""

import contextlib
from functools import partial

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.nnx
from flax_spatialdrop import linear_rates
from flax_spatialdrop.linen import (
    Dropout,
    FeatureDropout,
    SpatialDropout1D,
    blockwise_attention,
    dot_product_attention,
    drop_in,
    summarize,
)

from ..errors import exactly

X = jnp.ones((4, 6, 8))
RNGS = {"dropout": jax.random.key(0)}


def by_path(model, *args, **kwargs):
    summary = summarize(model, *args, rngs=RNGS, **kwargs)
    return {site.path: site for site in summary.sites}, summary.remarks


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        x = SpatialDropout1D(0.2, deterministic=not train, name="spatial")(x)
        x = nn.Dropout(0.2, broadcast_dims=(-1,), deterministic=not train, name="flax")(x)
        x = Dropout(0.3, deterministic=not train, name="drop")(x)
        x = Dropout(0.0, deterministic=not train, name="zero")(x)
        x = Dropout(0.5, deterministic=True, name="off")(x)
        return FeatureDropout(1.0, deterministic=not train, name="all")(x)


def test_every_column():
    sites, remarks = by_path(Plain(), X, train=True)
    assert list(sites) == ["spatial", "flax", "drop", "zero", "off", "all"]
    assert [s.module for s in sites.values()] == [
        "SpatialDropout1D",
        "flax.linen.Dropout",
        "Dropout",
        "Dropout",
        "Dropout",
        "FeatureDropout",
    ]
    assert all(s.shape == (4, 6, 8) and s.runs == 1 for s in sites.values())
    assert [s.noise_shape for s in sites.values()][:3] == [(4, 1, 8), (4, 6, 1), (4, 6, 8)]
    assert sites["all"].noise_shape == (1, 1, 8)
    assert [s.rates for s in sites.values()] == [(0.2,), (0.2,), (0.3,), (0.0,), (0.5,), (1.0,)]
    assert [s.stream for s in sites.values()] == ["dropout"] * 3 + [""] * 3
    assert [s.active for s in sites.values()] == [True, True, True, False, False, True]
    assert [s.coin_flips for s in sites.values()] == [32, 24, 192, 0, 0, 0]
    # Flax keeps a mask in the shape of x. This package keeps it in noise shape, or keeps a key.
    assert [s.kept_bytes for s in sites.values()] == [32, 192, 8, 0, 0, 0]
    assert remarks == (
        "never drops, at a rate of 0: zero",
        "never drops, being deterministic: off",
        "drops everything, at a rate of 1: all",
    )


def test_evaluation():
    sites, remarks = by_path(Plain(), X, train=False)
    assert not any(site.active for site in sites.values())
    assert remarks == (
        "never drops, at a rate of 0: zero",
        "never drops, being deterministic: spatial, flax, drop, off, all",
    )


def test_shapes_in_place_of_arrays():
    struct = jax.ShapeDtypeStruct(X.shape, X.dtype)
    assert summarize(Plain(), struct, True, rngs=RNGS) == summarize(Plain(), X, True, rngs=RNGS)


def test_the_model_itself_may_be_a_regularizer():
    (site,) = summarize(Dropout(0.5, deterministic=False), X, rngs=RNGS).sites
    assert site.path == ""


def test_one_key_for_all_streams_as_flax_takes_it():
    (site,) = summarize(Dropout(0.5, deterministic=False), X, rngs=jax.random.key(0)).sites
    assert site.active


def test_no_regularizer():
    assert summarize(nn.Dense(3), X, rngs={}).sites == ()


def test_another_method():
    class Model(nn.Module):
        def setup(self):
            self.drop = Dropout(0.5)

        def encode(self, x):
            return self.drop(x, deterministic=False)

    sites, _ = by_path(Model(), X, method="encode")
    assert sites["drop"].active


class Sharing(nn.Module):
    @nn.compact
    def __call__(self, x):
        twice = Dropout(0.5, deterministic=False, name="twice")
        x = twice(twice(x))
        mask = twice.sample_mask(x)
        x = Dropout(0.5, deterministic=False, name="mask_a")(x, mask=mask)
        x = Dropout(0.5, deterministic=False, name="mask_b")(x, mask=mask)
        key = self.make_rng("dropout")
        x = Dropout(0.5, deterministic=False, name="key_a")(x, rng=key)
        x = Dropout(0.5, deterministic=False, name="key_b")(x, rng=jax.random.clone(key))
        return SpatialDropout1D(0.5, deterministic=False, name="key_c")(
            x, rng=jax.random.clone(key)
        )


def test_masks_and_keys_that_are_shared():
    sites, remarks = by_path(Sharing(), X)
    assert remarks == (
        "mask_b shares its mask with mask_a",
        "key_b shares its mask with key_a",
        "key_c shares its key with key_a",
    )
    assert list(sites)[:2] == ["twice", "twice (call 2)"]
    assert (sites["mask_a"].stream, sites["key_a"].stream) == ("a mask", "a key")
    assert sites["mask_a"].coin_flips == 0
    assert sites["mask_a"].kept_bytes == X.size


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, rate):
        return Dropout(0.1, deterministic=False)(nn.Dense(8)(x), rate=rate), None


@pytest.mark.parametrize(("split", "draws"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("wrap", [lambda body: body, nn.remat, nn.jit])
def test_layers_of_a_scan(split, draws, wrap):
    rngs = {"dropout": split, "params": True}
    scan = nn.scan(wrap(Body), variable_axes={"params": 0}, split_rngs=rngs, length=3)
    sites, remarks = by_path(scan(), X, jnp.asarray(linear_rates(0.3, 3)))
    (site,) = sites.values()
    assert (site.path, site.runs, site.draws) == ("Dropout_0", 3, draws)
    np.testing.assert_allclose(site.rates, [0.1, 0.2, 0.3], rtol=1e-6)
    assert site.coin_flips == draws * X.size
    # a key, and the threshold and scale of a traced rate
    assert site.kept_bytes == draws * (8 + 8)
    told = "Dropout_0 has 1 key for its 3 runs"
    assert remarks == (() if split else (told,))


@pytest.mark.parametrize(("split", "draws"), [(True, 4), (False, 1)])
def test_examples_of_a_vmap(split, draws):
    cls = nn.vmap(Dropout, variable_axes={}, split_rngs={"dropout": split})
    sites, remarks = by_path(cls(0.5, deterministic=False), X)
    (site,) = sites.values()
    assert (site.runs, site.draws, site.coin_flips) == (4, draws, draws * 6 * 8)
    assert remarks == (() if split else ("the model has 1 key for its 4 runs",))


def test_inside_nn_jit():
    (site,) = summarize(nn.jit(Dropout)(0.5, deterministic=False), X, rngs=RNGS).sites
    assert (site.runs, site.draws, site.coin_flips) == (1, 1, X.size)


def test_without_jit():
    with jax.disable_jit():
        sites, _ = by_path(Plain(), X, train=True)
    assert sites["drop"].coin_flips == X.size


def test_inside_jit_it_is_refused():
    message = (
        "summarize runs the model, which it cannot do inside jax.jit or another transformation: "
        "got a traced array; call it outside"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        jax.jit(lambda x: summarize(Plain(), x, True, rngs=RNGS) and x)(X)


def test_traced_rates_of_0_and_1():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for rate in (0.0, 1.0, 7.0, -1.0, jnp.nan):
                x = Dropout(0.5, deterministic=False)(x, rate=jnp.float32(rate))
            return x

    summary = summarize(Model(), X, rngs=RNGS)
    assert [site.rates for site in summary.sites] == [(0.0,), (1.0,), (1.0,), (0.0,), (1.0,)]
    assert [site.active for site in summary.sites] == [False, True, True, False, True]
    assert summary.sites[0].coin_flips == 0


def test_inside_shard_map():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = Dropout(0.5, deterministic=False)
            key = self.make_rng("dropout")

            def run(x):
                return drop(x, rng=key)

            return jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
    (site,) = summarize(Model(), x, rngs=RNGS).sites
    assert (site.shape, site.runs, site.draws) == ((1, 6, 8), 4, 1)


def test_what_is_not_run_is_not_listed():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = Dropout(0.5, deterministic=False)
            never = nn.cond(x.sum() < -1e9, lambda m, x: m(x), lambda m, x: x, drop, x)
            return drop(never)

    summary = summarize(Model(), X, rngs=RNGS)
    assert [site.runs for site in summary.sites] == [1]


def test_inside_drop_in_and_after():
    """Inside drop_in, the mask of Flax's layer is kept in noise shape; outside, in x's shape."""
    kept = []
    for context in (drop_in(), contextlib.nullcontext(), drop_in()):
        with context:
            kept.append(by_path(Plain(), X, train=True)[0]["flax"].kept_bytes)
    assert kept == [24, 192, 24]


def test_a_function_jitted_before_is_seen():
    layer = Dropout(0.5, deterministic=False)

    @jax.jit
    def inner(x, key):
        return layer.apply({}, x, rng=key)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return inner(x, self.make_rng("dropout"))

    Model().apply({}, X, rngs=RNGS)
    (site,) = summarize(Model(), X, rngs=RNGS).sites
    assert site.stream == "a key"


@pytest.mark.parametrize("base", [Dropout, nn.Dropout])
def test_a_derived_class_is_noted_once_whatever_it_takes(base):
    class Louder(base):
        @nn.compact
        def __call__(self, inputs, factor, train):
            factor = factor + self.param("more", nn.initializers.ones, ())
            return factor * super().__call__(inputs, deterministic=not train)

    (site,) = summarize(Louder(0.5), X, 2.0, train=True, rngs=RNGS).sites
    assert site.module == "Louder"
    assert site.kept_bytes == (8 if base is Dropout else X.size)


def test_what_is_no_model():
    with pytest.raises(
        TypeError, match=r"model must be an instance of flax.linen.Module: got the class"
    ):
        summarize(Dropout, X, rngs=RNGS)


def test_mutable_is_not_needed():
    assert summarize(Plain(), X, True, rngs=RNGS, mutable=["batch_stats"]).sites


def test_the_model_s_errors_pass_through():
    with pytest.raises(flax.errors.InvalidRngError, match="needs a key of the stream 'dropout'"):
        summarize(Dropout(0.5, deterministic=False), X, rngs={})
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        summarize(SpatialDropout1D(0.5, deterministic=False), X[0], rngs=RNGS)


def test_no_keys_and_what_is_no_key():
    (site,) = summarize(Dropout(0.5, deterministic=True), X).sites
    assert summarize(Dropout(0.5, deterministic=True), X, rngs=None).sites == (site,)
    with pytest.raises(TypeError, match=exactly(NO_KEY.format("rngs['dropout']", 3))):
        summarize(Dropout(0.5), X, rngs={"dropout": 3})
    with pytest.raises(TypeError, match=exactly(NO_KEY.format("rngs", "[1]"))):
        summarize(Dropout(0.5), X, rngs=[1])


NO_KEY = "{} must be a JAX PRNG key, such as jax.random.key(0): got {}"


def test_what_cannot_be_called_or_is_bound():
    class Model(nn.Module):
        def encode(self, x):
            return x

    message = "model must be a module with a __call__, or be given a method=: got a value of type "
    with pytest.raises(TypeError, match=exactly(f"{message}Model")):
        summarize(Model(), X)
    assert summarize(Model(), X, method="encode").sites == ()
    message = "model must not be bound to variables: got a bound Dense; pass model.unbind()[0]"
    with pytest.raises(ValueError, match=exactly(message)):
        summarize(nn.Dense(3).bind({}), X)


def attention(**options):
    return nn.MultiHeadDotProductAttention(2, deterministic=False, **options)


@pytest.mark.parametrize(
    ("attention_fn", "options", "noise_shape", "kept"),
    [
        (dot_product_attention, {"broadcast_dropout": False}, (4, 2, 6, 6), 8),
        (dot_product_attention, {}, (1, 1, 6, 6), 36),
        (partial(dot_product_attention, broadcast_dims=(-2,)), {}, (4, 2, 1, 6), 4 * 2 * 6),
        (partial(dot_product_attention, broadcast_dims=(-1,)), {}, (4, 2, 6, 1), 4 * 2 * 6),
        (blockwise_attention, {"broadcast_dropout": False}, (4, 2, 6, 6), 8),
        (blockwise_attention, {}, (1, 1, 6, 6), 8),
    ],
)
def test_attention_weights_are_listed(attention_fn, options, noise_shape, kept):
    layer = attention(attention_fn=attention_fn, dropout_rate=0.2, **options)
    sites, remarks = by_path(nn.Sequential([nn.Dense(8), layer]), X)
    site = sites["layers_1"]
    assert (site.module, site.shape, site.noise_shape) == (
        "attention weights",
        (4, 2, 6, 6),
        noise_shape,
    )
    assert (site.rates, site.stream, site.active) == ((0.2,), "a key", True)
    assert (site.kept_bytes, remarks) == (kept, ())


def test_attention_that_drops_nothing_or_everything():
    for rate, active in ((0.0, False), (1.0, True)):
        layer = attention(attention_fn=blockwise_attention, dropout_rate=rate)
        (site,) = summarize(layer, X, rngs=RNGS).sites
        assert (site.path, site.active, site.kept_bytes) == ("", active, 0)


def test_which_layers_drop_in_runs():
    model = nn.Sequential([attention(dropout_rate=0.2), nn.Dropout(0.5, deterministic=False)])
    with drop_in():
        sites, _ = by_path(model, X)
    assert [(path, site.module) for path, site in sites.items()] == [
        ("layers_0", "attention weights"),
        ("layers_1", "flax.linen.Dropout, run here"),
    ]
    sites, _ = by_path(model, X)
    assert [site.module for site in sites.values()] == ["flax.linen.Dropout"]


def test_nnx_inside_linen_is_named_and_our_modules_in_it_are_listed():
    class Inner(nnx.Module):
        def __init__(self, rngs):
            self.ours = flax_spatialdrop.nnx.Dropout(0.5)
            self.theirs = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.theirs(self.ours(x, rngs=jax.random.key(0)))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nnx.bridge.to_linen(Inner, name="inner")(x)

    sites, remarks = by_path(Model(), X)
    assert [(path, site.module) for path, site in sites.items()] == [("inner", "Dropout")]
    assert remarks == ("not seen, in NNX inside Linen: flax.nnx.Dropout in inner",)
