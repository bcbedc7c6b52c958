"""Layers in the way of AXLearn: a context passes parameters and a key down, by the names of layers.

The key of a child is that of its parent with a number made from the child's name folded in. In a
`Repeat`, which stacks equal layers, the number of the layer is folded in.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.stacks import Example
from experiments.stacks.layers import repeat
from flax_spatialdrop import dropout

RATE = 0.1
Drop = Callable[[jax.Array, jax.Array], jax.Array]


def THEIRS(key: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout written by hand; the mask is True where a value is dropped."""
    mask = jax.random.bernoulli(key, RATE, x.shape)
    return jnp.where(mask, 0, x) / (1 - RATE)


def OURS(key: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout of this library."""
    return dropout(key, x, RATE)


class Context(NamedTuple):
    """What a layer gets besides its input."""

    params: Any
    key: jax.Array

    def child(self, name: str) -> "Context":
        """Returns the context of a layer inside. A layer without parameters gets None."""
        number = zlib.crc32(name.encode())
        return Context(self.params.get(name), jax.random.fold_in(self.key, number))


@dataclasses.dataclass(frozen=True)
class Dropout:
    """The layer to replace. `drop` is None in evaluation."""

    drop: Drop | None

    def forward(self, context: Context, x: jax.Array) -> jax.Array:
        """Drops values of x."""
        return x if self.drop is None else self.drop(context.key, x)


@dataclasses.dataclass(frozen=True)
class FeedForward:
    """Two linear layers, each followed by dropout, in a residual branch."""

    dropout: Dropout

    def forward(self, context: Context, x: jax.Array) -> jax.Array:
        """Maps [batch, time, features] to the same shape."""
        hidden = jax.nn.gelu(x @ context.params["linear1"])
        hidden = self.dropout.forward(context.child("dropout1"), hidden)
        y = hidden @ context.params["linear2"]
        return x + self.dropout.forward(context.child("dropout2"), y)


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Equal layers one after the other, with stacked parameters."""

    layer: FeedForward
    scan: bool = True
    remat: bool = False

    def forward(self, context: Context, x: jax.Array) -> jax.Array:
        """Runs all layers."""

        def run(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
            return self.layer.forward(Context(params, key), x)

        return repeat(run, *context, x, scan=self.scan, remat=self.remat)


def example(dropout: Drop | None, *, scan: bool = True, remat: bool = False) -> Example:
    """Returns four feed-forward layers."""
    model = Repeat(FeedForward(Dropout(dropout)), scan, remat)

    def loss(params: Any, key: jax.Array, batch: jax.Array) -> jax.Array:
        return (model.forward(Context(params, key), batch) ** 2).mean()

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "linear1": jax.random.normal(keys[0], (4, 256, 512)) / 16,
        "linear2": jax.random.normal(keys[1], (4, 512, 256)) / 32,
    }
    return Example(loss, params, jax.random.normal(keys[2], (8, 256, 256)))
