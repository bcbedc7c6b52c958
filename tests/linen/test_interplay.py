"""All Linen modules under lifted transforms: which layers share a mask, and which must not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop.linen import Dropout, SpatialDropout1D

from ..catalogue import FIRST_OF_EACH

KEY = jax.random.key(21)
X = jnp.ones((16, 4, 32))
LENGTH = 3
CLASSES = (Dropout, SpatialDropout1D)  # one draws its mask again, one keeps it
each_class = pytest.mark.parametrize("cls", CLASSES)


def masks_of(model, *args, x=X):
    """Returns the mask of each layer in a forward pass, in x's shape."""
    _, state = model.apply({}, x, *args, rngs={"dropout": clone(KEY)}, mutable="masks")
    return [np.asarray(mask) for mask in jax.tree.leaves(state["masks"])]


class Layer(nn.Module):
    """A regularizer that sows its mask."""

    cls: type

    @nn.compact
    def __call__(self, x, _=None):
        y = self.cls(0.5, deterministic=False)(jnp.ones_like(x))
        self.sow("masks", "kept", y != 0, init_fn=lambda: None, reduce_fn=lambda _, kept: kept)
        return x, None


@each_class
@pytest.mark.parametrize("wrap", [lambda cls: cls, nn.remat, nn.jit])
def test_scan_with_a_split_stream_draws_anew_in_each_step(cls, wrap):
    def scan(split):
        return nn.scan(
            wrap(Layer), variable_axes={"masks": 0}, split_rngs={"dropout": split}, length=LENGTH
        )(cls)

    (split,) = masks_of(scan(True))
    assert split.shape == (LENGTH, *X.shape)
    assert len(np.unique(split, axis=0)) == LENGTH
    (unsplit,) = masks_of(scan(False))
    assert len(np.unique(unsplit, axis=0)) == 1


@each_class
@pytest.mark.parametrize("wrap", [lambda cls: cls, nn.remat, nn.jit])
def test_vmap_with_a_split_stream_draws_anew_for_each_example(cls, wrap):
    def vmap(split):
        return nn.vmap(
            wrap(Layer),
            variable_axes={"masks": 0},
            split_rngs={"dropout": split},
            axis_size=LENGTH,
            in_axes=0,
        )(cls)

    examples = jnp.ones((LENGTH, *X.shape))
    (split,) = masks_of(vmap(True), x=examples)
    assert len(np.unique(split, axis=0)) == LENGTH
    (unsplit,) = masks_of(vmap(False), x=examples)
    assert len(np.unique(unsplit, axis=0)) == 1


@each_class
@pytest.mark.parametrize("wrap", [lambda cls: cls, nn.remat, nn.jit])
def test_two_layers_of_a_model_never_share_a_mask(cls, wrap):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(LENGTH):
                x, _ = wrap(Layer)(cls)(x)
            return x

    masks = masks_of(Model())
    assert len(masks) == LENGTH
    assert len(np.unique(np.stack(masks), axis=0)) == LENGTH


@each_class
def test_remat_draws_the_same_mask_again_for_the_gradient(cls):
    class Model(nn.Module):
        wrap: bool

        @nn.compact
        def __call__(self, x):
            layer = (nn.remat(cls) if self.wrap else cls)(0.5, deterministic=False, name="drop")
            return jnp.sin(layer(jnp.sin(x)))

    def gradient(wrap):
        model = Model(wrap)
        return jax.grad(lambda x: model.apply({}, x, rngs={"dropout": clone(KEY)}).sum())(X)

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-6)
    assert (gradient(True) == 0).any()


@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=lambda case: case.id)
def test_sample_mask_is_the_mask_of_the_call(case):
    layer = case.module("linen")(0.5, **case.options, deterministic=False)
    x = jax.random.normal(jax.random.key(0), case.shape)

    def rngs():
        return {"dropout": clone(KEY)}

    mask = layer.apply({}, x, rngs=rngs(), method="sample_mask")
    assert mask.shape == case.noise_shape
    np.testing.assert_array_equal(layer.apply({}, x, mask=mask), layer.apply({}, x, rngs=rngs()))


def test_sample_mask_takes_from_the_stream_what_the_call_takes():
    class Model(nn.Module):
        first: str

        @nn.compact
        def __call__(self, x):
            drop = SpatialDropout1D(0.5, deterministic=False)
            getattr(drop, self.first)(x)
            return drop(x)

    after_call, after_mask = (
        Model(first).apply({}, X, rngs={"dropout": clone(KEY)})
        for first in ("__call__", "sample_mask")
    )
    np.testing.assert_array_equal(after_mask, after_call)


def test_sample_mask_where_nothing_is_drawn():
    layer = SpatialDropout1D(0.5, deterministic=False)

    def mask(**options):
        return layer.apply({}, X, method="sample_mask", **options)

    assert mask(rate=0.0).all()
    assert not mask(rate=1.0).any()
    off = SpatialDropout1D(0.5).apply({}, X, True, method="sample_mask")
    np.testing.assert_array_equal(off, np.ones((16, 1, 32), bool))
