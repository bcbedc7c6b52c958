"""What a forward pass of an NNX model really uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_spatialdrop import linear_rates
from flax_spatialdrop.nnx import Dropout, FeatureDropout, SpatialDropout1D, summarize

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
        "rest/1 never drops: its rate is 0",
        "rest/2 drops everything: its rate is 1",
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
    assert "rest/0 never drops: it is deterministic" in remarks


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
        blocks = 0 if self.split else nnx.StateAxes({...: None})

        @nnx.scan(in_axes=(blocks, nnx.Carry, 0), out_axes=nnx.Carry)
        def run(block, x, rate):
            return block(x, rate)

        return run(self.blocks, x, jnp.asarray(linear_rates(0.3, 3)))


@pytest.mark.parametrize(("split", "masks"), [(True, 3), (False, 1)])
def test_layers_of_a_scan(split, masks):
    sites, remarks = by_path(Scanned(nnx.Rngs(0), split), X)
    site = sites["blocks/drop"]
    assert (site.runs, site.masks) == (3, masks)
    np.testing.assert_allclose(site.rates, [0.1, 0.2, 0.3], rtol=1e-6)
    assert site.kept_bytes == 3 * (8 + 8)
    told = "blocks/drop has 1 mask for its 3 runs"
    assert remarks == (() if split else (told,))


def test_inside_nnx_jit():
    run = nnx.jit(lambda layer, x: layer(x))

    class Model(nnx.Module):
        def __init__(self):
            self.drop = Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return run(self.drop, x)

    model = Model()
    model(X)  # so that a trace of the unwatched class is at hand
    (site,) = summarize(model, X).sites
    assert (site.path, site.stream) == ("drop", "default")


def test_a_class_derived_from_a_regularizer_is_noted_once():
    class Louder(Dropout):
        def __call__(self, inputs, **kwargs):
            return 2 * super().__call__(inputs, **kwargs)

    (site,) = summarize(Louder(0.5, rngs=nnx.Rngs(0)), X).sites
    assert site.module == "Louder"
    assert site.path == ""


def test_the_model_s_errors_pass_through():
    with pytest.raises(ValueError, match="Dropout draws a mask and needs a key: got no rngs"):
        summarize(Dropout(0.5), X)
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        summarize(SpatialDropout1D(0.5), X[0])
