"""Functions in the way of Haliax: axes have names, and dropout shares draws along some."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.stacks import Example
from experiments.stacks.layers import repeat
from flax_spatialdrop import dropout

RATE = 0.1
SHARED = ("position",)


class Named(NamedTuple):
    """An array and the names of its axes."""

    array: jax.Array
    axes: tuple[str, ...]


Drop = Callable[[jax.Array, Named], Named]


def THEIRS(key: jax.Array, x: Named) -> Named:
    """Dropout written by hand: the mask has the axes that do not share."""
    sizes = dict(zip(x.axes, x.array.shape, strict=True))
    drawn = [size for name, size in sizes.items() if name not in SHARED]
    mask = jax.random.bernoulli(key, 1 - RATE, drawn)
    mask = jnp.expand_dims(mask, [x.axes.index(name) for name in SHARED])
    return Named(jnp.where(mask, x.array / (1 - RATE), 0), x.axes)


def OURS(key: jax.Array, x: Named) -> Named:
    """Dropout of this library: names become `broadcast_dims`."""
    shared = tuple(x.axes.index(name) for name in SHARED)
    return Named(dropout(key, x.array, RATE, broadcast_dims=shared), x.axes)


def example(dropout: Drop | None, *, scan: bool = True, remat: bool = False) -> Example:
    """Returns four layers."""

    def layer(weights: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        y = Named(jnp.tanh(x @ weights), ("batch", "position", "embed"))
        return x + (y if dropout is None else dropout(key, y)).array

    def loss(params: jax.Array, key: jax.Array, batch: jax.Array) -> jax.Array:
        return (repeat(layer, params, key, batch, scan=scan, remat=remat) ** 2).mean()

    keys = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(keys[0], (4, 256, 256)) / 16
    return Example(loss, weights, jax.random.normal(keys[1], (8, 256, 256)))
