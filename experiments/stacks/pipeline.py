"""A pipeline in the way of praxis and MaxText: micro-batches pass through stages, tick by tick.

In tick t, stage s works on micro-batch t - s; in the first and last ticks, some stages have no
micro-batch, and their results are not used. A stage is a function

    stage(weights, micro_batch, stage, x) -> y

in which both numbers are traced. `own_keys` and `rows_of_whole` make such functions: they are the
two ways to draw masks for micro-batches.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.stacks import Example
from experiments.stacks.layers import key_of, repeat
from flax_spatialdrop import apply_mask, dropout, mask_block

RATE = 0.1
Drop = Callable[[jax.Array, jax.Array], jax.Array]
Stage = Callable[[jax.Array, Any, Any, jax.Array], jax.Array]


def THEIRS(key: jax.Array, x: jax.Array) -> jax.Array:
    """Flax's layer."""
    y: Any = nn.Dropout(RATE, deterministic=False).apply({}, x, rng=key)
    return y


def OURS(key: jax.Array, x: jax.Array) -> jax.Array:
    """Dropout of this library."""
    return dropout(key, x, RATE)


def run_layers(weights: jax.Array, key: jax.Array, x: jax.Array, drop: Drop | None) -> jax.Array:
    """Runs the layers of one stage; the weights are [layers, features, features]."""

    def layer(weights: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        y = jnp.tanh(x @ weights)
        return x + (y if drop is None else drop(key, y))

    return repeat(layer, weights, key, x)


def own_keys(key: jax.Array, drop: Drop | None) -> Stage:
    """Each micro-batch has its own keys. `key` is the key of the step."""

    def run(weights: jax.Array, micro_batch: Any, stage: Any, x: jax.Array) -> jax.Array:
        return run_layers(weights, key_of(key, micro_batch, stage), x, drop)

    return run


def rows_of_whole(key: jax.Array, rate: float, batch_size: int) -> Stage:
    """Each micro-batch has its rows of the mask of the whole batch."""

    def run(weights: jax.Array, micro_batch: Any, stage: Any, x: jax.Array) -> jax.Array:
        def drop(key: jax.Array, y: jax.Array) -> jax.Array:
            start = (micro_batch * len(y), *[0] * (y.ndim - 1))
            mask = mask_block(key, rate, (batch_size, *y.shape[1:]), start, y.shape)
            return apply_mask(y, mask, rate)

        return run_layers(weights, key_of(key, stage), x, drop)

    return run


def one_by_one(stage: Stage, weights: jax.Array, batch: jax.Array) -> jax.Array:
    """Runs all stages on one micro-batch, then on the next: the result to compare with."""
    outputs = []
    for micro_batch, x in enumerate(batch):
        for number, own in enumerate(weights):
            x = stage(own, micro_batch, number, x)
        outputs.append(x)
    return jnp.stack(outputs)


def pipelined(stage: Stage, weights: jax.Array, batch: jax.Array) -> jax.Array:
    """Runs a scan over ticks, in which all stages work at once; batch is [micro_batch, rows, ...].

    If the first axis of the weights is sharded, each device runs its stages.
    """
    stages, last = len(weights), len(batch) - 1
    numbers = jnp.arange(stages)

    def tick(outputs: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = batch[jnp.minimum(t, last)]
        inputs = jnp.concatenate([first[None], outputs[:-1]])
        outputs = jax.vmap(stage)(weights, t - numbers, numbers, inputs)
        return outputs, outputs[-1]

    start = jnp.zeros((stages, *batch.shape[1:]), batch.dtype)
    _, results = jax.lax.scan(tick, start, jnp.arange(last + stages))
    return results[stages - 1 :]


def pipelined_by_hand(stage: Stage, weights: jax.Array, batch: jax.Array, mesh: Mesh) -> jax.Array:
    """The same in `jax.shard_map`: each device of the axis "stage" runs one stage."""
    stages, last = len(weights), len(batch) - 1
    onward = [(i, i + 1) for i in range(stages - 1)]

    def device(weights: jax.Array, batch: jax.Array, received: jax.Array) -> jax.Array:
        number = jax.lax.axis_index("stage")

        def tick(received: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = jnp.where(number == 0, batch[jnp.minimum(t, last)], received)
            y = stage(weights[0], t - number, number, x)
            return jax.lax.ppermute(y, "stage", onward), y

        _, results = jax.lax.scan(tick, received[0], jnp.arange(last + stages))
        return results[None, stages - 1 :]

    start = jnp.zeros((stages, *batch.shape[1:]), batch.dtype)
    in_specs = P("stage"), P(), P("stage")
    run = jax.shard_map(device, mesh=mesh, in_specs=in_specs, out_specs=P("stage"))
    return run(weights, batch, start)[-1]


def example(dropout: Drop | None) -> Example:
    """Returns two stages of two layers, and four micro-batches."""

    def loss(weights: jax.Array, key: jax.Array, batch: jax.Array) -> jax.Array:
        return (pipelined(own_keys(key, dropout), weights, batch) ** 2).mean()

    keys = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(keys[0], (2, 2, 256, 256)) / 16
    return Example(loss, weights, jax.random.normal(keys[1], (4, 4, 128, 256)))
