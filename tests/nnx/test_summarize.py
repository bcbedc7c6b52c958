"""Summaries of forward passes of NNX models."""

import gc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.configurations import config

import flax_spatialdrop.nnx
from flax_spatialdrop import linear_rates
from flax_spatialdrop._summary import Recorder
from flax_spatialdrop.nnx import Dropout, FeatureDropout, SpatialDropout1D, summarize

from ..errors import exactly

X = jnp.ones((4, 6, 8))


def by_path(model, *args, **kwargs):
    summary = summarize(model, *args, **kwargs)
    return {site.path: site for site in summary.sites}, summary.remarks


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.spatial = SpatialDropout1D(0.2, rngs=rngs)
        self.flax = nnx.Dropout(0.2, broadcast_dims=(-1,), rngs=rngs)
        self.rest = nnx.List([Dropout(0.3, rngs=rngs), Dropout(0.0), FeatureDropout(1.0)])
        self.unused = Dropout(0.9)

    def __call__(self, x):
        x = self.flax(self.spatial(self.norm(self.dense(x))))
        for layer in self.rest:
            x = layer(x)
        return x


def model():
    return Plain(nnx.Rngs(params=0, dropout=1))


def test_every_column():
    sites, remarks = by_path(model(), X)
    assert list(sites) == ["spatial", "flax", "rest/0", "rest/1", "rest/2"]
    assert [s.module for s in sites.values()] == [
        "SpatialDropout1D",
        "flax.nnx.Dropout",
        "Dropout",
        "Dropout",
        "FeatureDropout",
    ]
    assert all(s.shape == (4, 6, 8) and s.runs == 1 for s in sites.values())
    assert [s.noise_shape for s in sites.values()][:3] == [(4, 1, 8), (4, 6, 1), (4, 6, 8)]
    assert [s.rates for s in sites.values()] == [(0.2,), (0.2,), (0.3,), (0.0,), (1.0,)]
    assert [s.stream for s in sites.values()] == ["dropout"] * 3 + [""] * 2
    assert [s.active for s in sites.values()] == [True, True, True, False, True]
    assert [s.coin_flips for s in sites.values()] == [32, 24, 192, 0, 0]
    assert [s.kept_bytes for s in sites.values()] == [32, 192, 8, 0, 0]
    assert remarks == (
        "never drops, at a rate of 0: rest/1",
        "drops everything, at a rate of 1: rest/2",
    )


def test_the_model_stays_as_it_is():
    watched, untouched = model(), model()
    summarize(watched, X)
    assert type(watched.spatial) is SpatialDropout1D
    assert type(watched.flax) is nnx.Dropout
    assert watched.spatial.rngs.count[...] == 0
    np.testing.assert_array_equal(watched(X), untouched(X))


def test_evaluation():
    sites, remarks = by_path(nnx.view(model(), deterministic=True, use_running_average=True), X)
    assert not any(site.active for site in sites.values())
    assert remarks == (
        "never drops, at a rate of 0: rest/1",
        "never drops, being deterministic: spatial, flax, rest/0, rest/2",
    )


def test_shapes_in_place_of_arrays():
    struct = jax.ShapeDtypeStruct(X.shape, X.dtype)
    assert summarize(model(), struct) == summarize(model(), X)


class Keys(nnx.Module):
    def __init__(self):
        self.drops = nnx.List([Dropout(0.5) for _ in range(4)])
        self.spatial = SpatialDropout1D(0.5)

    def __call__(self, x, key, rngs):
        a, b, c, d = self.drops
        mask = a.sample_mask(x, rngs=rngs)
        x = b(a(x, mask=mask), mask=mask)
        x = d(c(x, rngs=key), rngs=jax.random.clone(key))
        x = self.spatial(x, rngs=jax.random.clone(key))
        return c(c(x, rngs=rngs), rngs=rngs.dropout)


def test_masks_and_keys_that_are_shared():
    rngs = nnx.Rngs(dropout=1)
    sites, remarks = by_path(Keys(), X, jax.random.key(0), rngs=rngs)
    assert remarks == (
        "drops/1 shares its mask with drops/0",
        "drops/3 shares its mask with drops/2",
        "spatial shares its key with drops/2",
    )
    assert [s.stream for s in sites.values()] == [
        "a mask",
        "a mask",
        "a key",
        "a key",
        "a key",
        "dropout",
        "dropout",
    ]
    assert list(sites)[-2:] == ["drops/2 (call 2)", "drops/2 (call 3)"]
    assert rngs.dropout.count[...] == 0


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop = Dropout(0.1, rngs=rngs)

    def __call__(self, x, rate=None):
        return self.drop(self.dense(x), rate=rate)


class Scanned(nnx.Module):
    def __init__(self, rngs, split):
        self.split = split
        make = nnx.split_rngs(splits=3)(nnx.vmap(Block))
        self.blocks = make(rngs) if split else Block(rngs)

    def __call__(self, x):
        blocks = 0 if self.split else None

        @nnx.scan(in_axes=(blocks, nnx.Carry, 0), out_axes=nnx.Carry)
        def run(block, x, rate):
            return block(x, rate)

        return run(self.blocks, x, jnp.asarray(linear_rates(0.3, 3)))


@pytest.mark.parametrize("split", [True, False])
def test_layers_of_a_scan(split):
    draws = 1 if config.nnx_graph_mode and not split else 3  # tree mode carries the count
    sites, remarks = by_path(Scanned(nnx.Rngs(0), split), X)
    site = sites["blocks/drop"]
    assert (site.runs, site.draws) == (3, draws)
    np.testing.assert_allclose(site.rates, [0.1, 0.2, 0.3], rtol=1e-6)
    assert site.kept_bytes == draws * (8 + 8)
    told = "blocks/drop has 1 key for its 3 runs"
    assert remarks == (() if draws == 3 else (told,))


def test_inside_nnx_jit():
    run = nnx.jit(lambda layer, x: layer(x))

    class Model(nnx.Module):
        def __init__(self):
            self.drop = Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return run(self.drop, x)

    model = Model()
    model(X)  # so that JAX has cached a trace without a recorder
    (site,) = summarize(model, X).sites
    assert (site.path, site.stream) == ("drop", "default")


@pytest.mark.parametrize("split", [True, False])
def test_examples_of_a_vmap(split):
    make = nnx.split_rngs(splits=4)(nnx.vmap(Block))

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.block = make(rngs) if split else Block(rngs)

        def __call__(self, x):
            axes = 0 if split else None
            return nnx.vmap(lambda block, x: block(x), in_axes=(axes, 0))(self.block, x)

    summary = summarize(Model(nnx.Rngs(0)), X)
    (site,) = summary.sites
    assert (site.runs, site.draws) == (4, 4 if split else 1)
    assert len(summary.remarks) == (0 if split else 1)


def test_a_layer_that_is_no_part_of_the_model_is_listed_all_the_same():
    class Model(nnx.Module):
        def __call__(self, x):
            return Dropout(0.5)(x, rngs=jax.random.key(0))

    (site,) = summarize(Model(), X).sites
    assert site.path == "(not in the model)"


def test_nothing_is_left_of_a_summary():
    """Afterwards its classes and recorders are freed, although JAX keeps its caches."""
    kept = model()

    def alive():
        gc.collect()
        return sum(type(thing) is Recorder for thing in gc.get_objects()), len(
            Dropout.__subclasses__()
        )

    before = alive()
    for _ in range(3):
        summarize(kept, X)
    assert alive() == before


def test_a_derived_class_is_noted_once_whatever_it_takes():
    class Louder(Dropout):
        def __call__(self, inputs, factor):
            return factor * super().__call__(inputs)

    (site,) = summarize(Louder(0.5, rngs=nnx.Rngs(0)), X, 2.0).sites
    assert site.module == "Louder"
    assert site.path == ""


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"model must be an instance of nnx.Module: got the class"):
        summarize(Dropout, X)


def test_the_model_s_errors_pass_through():
    with pytest.raises(ValueError, match="Dropout draws a mask and needs a key: got no rngs"):
        summarize(Dropout(0.5), X)
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        summarize(SpatialDropout1D(0.5), X[0])


def test_classes_derived_from_flax_s_own_are_noted_once():
    class Louder(nnx.Dropout):
        def __call__(self, inputs, factor):
            return factor * super().__call__(inputs)

    class Plain(nnx.Dropout):
        pass

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.louder, self.plain = Louder(0.5, rngs=rngs), Plain(0.25, rngs=rngs)

        def __call__(self, x):
            return self.plain(self.louder(x, 2.0))

    kept = Model(nnx.Rngs(0))
    for _ in range(2):
        sites = summarize(kept, X).sites
        assert [(site.path, site.module, site.rates) for site in sites] == [
            ("louder", "Louder", (0.5,)),
            ("plain", "Plain", (0.25,)),
        ]
    assert (type(kept.louder), type(kept.plain)) == (Louder, Plain)


@pytest.mark.parametrize("attention_fn", ["dot_product_attention", "blockwise_attention"])
def test_attention_weights_are_listed(attention_fn):
    class Attention(nnx.MultiHeadAttention):
        pass

    for cls in (nnx.MultiHeadAttention, Attention):
        layer = cls(
            2,
            X.shape[-1],
            dropout_rate=0.2,
            broadcast_dropout=False,
            decode=False,
            attention_fn=getattr(flax_spatialdrop.nnx, attention_fn),
            rngs=nnx.Rngs(0),
        )
        layer.train()
        (site,) = summarize(nnx.Sequential(layer), X).sites
        assert (site.path, site.module) == ("layers/0", "attention weights")
        assert (site.rates, site.stream, site.kept_bytes) == ((0.2,), "a key", 8)
        layer.eval()
        (site,) = summarize(nnx.Sequential(layer), X).sites
        assert (site.active, site.stream, site.kept_bytes) == (False, "", 0)


def test_linen_inside_nnx_is_named():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.bridge.ToNNX(nn.Dropout(0.5, deterministic=False), rngs=rngs)

        def __call__(self, x):
            return self.inner(x)

    summary = summarize(Model(nnx.Rngs(0)), X)
    assert summary.remarks == ("not seen, in Linen inside NNX: flax.linen.Dropout in inner",)


def test_what_cannot_be_called():
    message = "model must be a module with a __call__: got a value of type Model"
    model = type("Model", (nnx.Module,), {})()
    with pytest.raises(TypeError, match=exactly(message)):
        summarize(model, X)
