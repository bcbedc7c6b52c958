"""What does dropout cost inside the kernel for TPUs that `blockwise_attention` runs?

Beside it are the blocks that XLA compiles for a mesh, and JAX's own kernel, which has no dropout.
The rows are for query, key and value in bfloat16, [batch, length, heads, depth]. All contenders get
these arrays, so what they transpose counts. A gradient has both passes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flax_spatialdrop import fast_key
from flax_spatialdrop.linen import blockwise_attention

from .cases import NO_DROPOUT, Case, describe
from .libraries import OURS_FAST, RATE

SECTION = "attention kernel"
SHAPE = (1, 4096, 8, 128)
PASSES = ("forward", "gradient")
DEFAULT_KEY = "with default key"
JAX = f"JAX's kernel, {NO_DROPOUT}"
JAX_BLOCK = 1024
"""The size of JAX's blocks. The default, 128, is for any length."""

Attention = Callable[..., jax.Array]
"""f(rng, query, key, value)."""


def cases() -> Iterator[Case]:
    """Yields the rows, all of them for TPUs.

    A schedule does not say which blocks XLA's loops and JAX's kernel skip where a causal mask hides
    them. So these two have no causal rows.
    """
    for is_causal, direction in itertools.product((False, True), PASSES):
        ours = {name: _in(direction, f) for name, f in contenders(is_causal).items()}
        kernels = {_kernel(name): f for name, f in ours.items()}
        blocks = {}
        if not is_causal:
            kernels[JAX] = _in(direction, jax_attention)
            blocks = {f"in blocks, {name}": f for name, f in ours.items()}
        yield Case(
            section=SECTION,
            row=f"{'causal ' * is_causal}{describe('bfloat16', SHAPE)} {direction}",
            baseline=_kernel(NO_DROPOUT),
            programs=blocks,
            shapes=(jax.ShapeDtypeStruct(SHAPE, "bfloat16"),) * 3,
            kernels=kernels,
        )


def contenders(is_causal: bool) -> dict[str, Attention]:
    """Returns attention of this library, by how it drops."""

    def dropping(rate: float) -> Attention:
        attention: Attention = partial(
            blockwise_attention, dropout_rate=rate, broadcast_dropout=False, is_causal=is_causal
        )
        return lambda rng, *qkv: attention(*qkv, dropout_rng=rng)

    drops = dropping(RATE)
    return {
        NO_DROPOUT: dropping(0.0),
        OURS_FAST: lambda rng, *qkv: drops(fast_key(rng), *qkv),
        DEFAULT_KEY: drops,
    }


def jax_attention(rng: jax.Array, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """JAX's own flash attention for TPUs."""
    from jax.experimental.pallas.ops.tpu import flash_attention

    names = (field.name for field in dataclasses.fields(flash_attention.BlockSizes))
    sizes: dict[str, int] = dict.fromkeys(names, min(JAX_BLOCK, query.shape[1]))
    y = flash_attention.flash_attention(
        *(jnp.swapaxes(array, 1, 2) for array in (query, key, value)),
        sm_scale=query.shape[-1] ** -0.5,
        block_sizes=flash_attention.BlockSizes(**sizes | {"block_b": 1}),
    )
    return jnp.swapaxes(y, 1, 2)


def _kernel(name: str) -> str:
    return f"kernel, {name}"


def _in(direction: str, attention: Attention) -> Callable[..., Any]:
    if direction == "forward":
        return attention

    def loss(rng: jax.Array, *qkv: jax.Array) -> jax.Array:
        return (attention(rng, *qkv).astype(jnp.float32) ** 2).sum()

    return jax.grad(loss, argnums=(1, 2, 3))
