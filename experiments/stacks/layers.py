"""What stacks share: the rule for keys, and a run of equal layers, of functions or of Linen."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Layer = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""layer(params, key, x) -> y"""


def key_of(key: jax.Array, *numbers: Any) -> jax.Array:
    """Folds numbers into a key one by one, in the order step, micro-batch, stage, layer."""
    return functools.reduce(jax.random.fold_in, numbers, key)


def repeat(
    layer: Layer,
    params: Any,
    key: jax.Array,
    x: jax.Array,
    *,
    scan: bool = True,
    remat: bool = False,
) -> jax.Array:
    """Runs equal layers, whose parameters are stacked along a first axis.

    With `scan`, one layer is compiled for all. With `remat`, the backward pass computes each layer
    again. Neither changes the masks, since the key of a layer comes from its number.
    """

    def step(x: jax.Array, numbered: tuple[Any, Any]) -> tuple[jax.Array, None]:
        number, own = numbered
        return layer(own, key_of(key, number), x), None

    if remat:
        step = jax.checkpoint(step, prevent_cse=not scan)
    depth = len(jax.tree.leaves(params)[0])
    if scan:
        return jax.lax.scan(step, x, (jnp.arange(depth), params))[0]
    for number in range(depth):
        x, _ = step(x, (number, jax.tree.map(lambda leaf, i=number: leaf[i], params)))
    return x


def scanned(block: Any, layers: int) -> Any:
    """Returns equal layers of Linen as a scan: each has its own parameters and its own key."""
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=layers,
    )
