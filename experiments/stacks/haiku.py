"""Layers in the way of Haiku: functions of parameters, a source of keys, and inputs.

Haiku itself is not needed: `Keys` is what `hk.next_rng_key()` reads inside `hk.transform`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.stacks import Example
from experiments.stacks.layers import repeat
from flax_spatialdrop import dropout

RATE = 0.1
Drop = Callable[[jax.Array, float, jax.Array], jax.Array]


def THEIRS(key: jax.Array, rate: float, x: jax.Array) -> jax.Array:
    """Dropout written by hand, with the order of arguments of `hk.dropout`."""
    mask = jax.random.bernoulli(key, 1 - rate, x.shape)
    return x * mask.astype(x.dtype) / (1 - rate)


def OURS(key: jax.Array, rate: float, x: jax.Array) -> jax.Array:
    """Dropout of this library."""
    return dropout(key, x, rate)


class Keys(Iterator[jax.Array]):
    """Each key is split off what is left of the first, so the order of calls decides the keys."""

    def __init__(self, key: jax.Array):
        self.key = key

    def __next__(self) -> jax.Array:
        self.key, key = jax.random.split(self.key)
        return key


def block(params: Any, keys: Keys, x: jax.Array, drop: Drop | None) -> jax.Array:
    """Two linear layers, each followed by dropout, in a residual branch."""
    hidden = jax.nn.gelu(x @ params["linear1"])
    if drop is not None:
        hidden = drop(next(keys), RATE, hidden)
    y = hidden @ params["linear2"]
    return x + (y if drop is None else drop(next(keys), RATE, y))


def example(dropout: Drop | None, *, scan: bool = True, remat: bool = False) -> Example:
    """Returns four blocks. Each has keys of its own, from the number of the block."""

    def run(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return block(params, Keys(key), x, dropout)

    def loss(params: Any, key: jax.Array, batch: jax.Array) -> jax.Array:
        y = repeat(run, params, key, batch, scan=scan, remat=remat)
        return (y**2).mean()

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "linear1": jax.random.normal(keys[0], (4, 256, 512)) / 16,
        "linear2": jax.random.normal(keys[1], (4, 512, 256)) / 32,
    }
    return Example(loss, params, jax.random.normal(keys[2], (8, 256, 256)))
