"""What a forward pass of a Linen model really uses."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_spatialdrop import linear_rates
from flax_spatialdrop.linen import Dropout, FeatureDropout, SpatialDropout1D, drop_in, summarize

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
    # Flax spreads its mask over x; a mask in noise shape, or a key, is kept here.
    assert [s.kept_bytes for s in sites.values()] == [32, 192, 8, 0, 0, 0]
    assert remarks == (
        "zero never drops: its rate is 0",
        "off never drops: it is deterministic",
        "all drops everything: its rate is 1",
    )


def test_evaluation():
    sites, remarks = by_path(Plain(), X, train=False)
    assert not any(site.active for site in sites.values())
    assert "drop never drops: it is deterministic" in remarks
    assert "zero never drops: its rate is 0" in remarks


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


@pytest.mark.parametrize(("split", "masks"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("wrap", [lambda body: body, nn.remat])
def test_layers_of_a_scan(split, masks, wrap):
    rngs = {"dropout": split, "params": True}
    scan = nn.scan(wrap(Body), variable_axes={"params": 0}, split_rngs=rngs, length=3)
    sites, remarks = by_path(scan(), X, jnp.asarray(linear_rates(0.3, 3)))
    (site,) = sites.values()
    assert (site.path, site.runs, site.masks) == ("Dropout_0", 3, masks)
    np.testing.assert_allclose(site.rates, [0.1, 0.2, 0.3], rtol=1e-6)
    assert site.coin_flips == masks * X.size
    assert site.kept_bytes == 3 * (8 + 8)  # a key, and the threshold and scale of a traced rate
    told = "Dropout_0 has 1 mask for its 3 runs"
    assert remarks == (() if split else (told,))


@pytest.mark.parametrize("lift", ["vmap", "jit"])
def test_other_lifts(lift):
    if lift == "jit":
        cls = nn.jit(Dropout)
    else:
        cls = nn.vmap(Dropout, variable_axes={}, split_rngs={"dropout": True})
    sites, remarks = by_path(cls(0.5, deterministic=False), X)
    (site,) = sites.values()
    assert (site.runs, site.masks) == ((4, 4) if lift == "vmap" else (1, 1))
    assert site.coin_flips == X.size
    assert remarks == ()


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
    """The mask of Flax's layer is kept in its noise shape inside, spread over x outside."""
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


def test_a_class_derived_from_a_regularizer_is_noted_once():
    class Louder(Dropout):
        def __call__(self, inputs, **kwargs):
            return 2 * super().__call__(inputs, **kwargs)

    (site,) = summarize(Louder(0.5, deterministic=False), X, rngs=RNGS).sites
    assert site.module == "Louder"


def test_the_model_s_errors_pass_through():
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        summarize(Dropout(0.5, deterministic=False), X, rngs={})
    with pytest.raises(ValueError, match="1D spatial dropout takes x with 3 axes"):
        summarize(SpatialDropout1D(0.5, deterministic=False), X[0], rngs=RNGS)
