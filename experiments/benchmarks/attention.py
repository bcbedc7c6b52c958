"""What does dropout of attention weights cost, beside attention without any and Flax's own?

Asked of the gradient to query, key and value, [batch, length, heads, depth], with a draw for each
weight unless a contender's name says otherwise.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import flax_spatialdrop.linen as fsl

from . import timing
from .cases import NO_DROPOUT, Case, describe
from .here import SCRATCH
from .libraries import FLAX, FLAX_AGAIN, OURS, RATE
from .results import Record

SECTION = "attention"
SHAPE = (2, 2048, 8, 64)
LENGTHS = (1024, 2048, 4096, 8192)
ON_TPU = (1, 4096, 8, 128)
BLOCKWISE, KEYS = "in blocks", "in blocks, whole keys"
FLAX_SHARED = "Flax, shared by batch and heads"
JAX = "jax.nn, no dropout"

Attention = Callable[..., jax.Array]
"""f(query, key, value, dropout_rng=)."""


def cases() -> Iterator[Case]:
    """The gradient on this machine, where queries attend to all keys and where to none later."""
    yield _case(SHAPE, "float32", contenders())
    yield _case(SHAPE, "float32", causal_contenders(SHAPE[1]), "causal ")


def cases_for_tpu() -> Iterator[Case]:
    """The same in bfloat16; a causal loop's length is no constant, so its cycles are unknown."""
    found = contenders()
    yield _case(ON_TPU, "bfloat16", {n: found[n] for n in (NO_DROPOUT, OURS, BLOCKWISE, FLAX)})


def measure(only: re.Pattern[str]) -> Iterator[Record]:
    """How memory grows with the length, by compiling and not running."""
    for length in LENGTHS:
        case = _case((SHAPE[0], length, *SHAPE[2:]), "float32", contenders())
        if length != SHAPE[1] and only.search(case.id):
            key = jax.random.key(0)
            scratch = {
                name: timing.scratch_bytes(jax.jit(f).lower(key, *case.shapes).compile()) / 2**20
                for name, f in case.programs.items()
                if name in (NO_DROPOUT, OURS, BLOCKWISE, FLAX)
            }
            yield Record(SECTION, case.row, SCRATCH, scratch)


def contenders() -> dict[str, Attention]:
    """What is measured where all keys are attended to."""
    per_weight: dict[str, Any] = {"dropout_rate": RATE, "broadcast_dropout": False}
    flax = partial(nn.dot_product_attention, **per_weight)
    return {
        NO_DROPOUT: _without_key(nn.dot_product_attention),
        JAX: _without_key(jax.nn.dot_product_attention),
        OURS: partial(fsl.dot_product_attention, **per_weight),
        BLOCKWISE: partial(fsl.blockwise_attention, **per_weight),
        KEYS: partial(fsl.blockwise_attention, dropout_rate=RATE, broadcast_dims=(-2,)),
        FLAX: flax,
        FLAX_AGAIN: flax,
        FLAX_SHARED: partial(nn.dot_product_attention, dropout_rate=RATE),
    }


def causal_contenders(length: int) -> dict[str, Attention]:
    """What is measured where no later key is attended to: by a mask, or by leaving blocks out."""
    found = contenders()
    mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
    masked: dict[str, Attention] = {
        n: partial(found[n], mask=mask) for n in (NO_DROPOUT, OURS, FLAX, FLAX_AGAIN)
    }
    skipped = (JAX, BLOCKWISE, KEYS)
    return masked | {n: partial(found[n], is_causal=True) for n in skipped}


def _without_key(attention: Attention) -> Attention:
    return lambda *qkv, dropout_rng, **options: attention(*qkv, **options)


def _case(shape: Any, dtype: str, found: dict[str, Attention], kind: str = "") -> Case:
    losses = {name: partial(_loss, attention) for name, attention in found.items()}
    return Case(
        section=SECTION,
        row=f"{kind}{describe(dtype, shape)} gradient",
        baseline=NO_DROPOUT,
        programs={name: jax.grad(loss, argnums=(1, 2, 3)) for name, loss in losses.items()},
        shapes=(jax.ShapeDtypeStruct(shape, dtype),) * 3,
        backward=losses.__getitem__,
    )


def _loss(attention: Attention, rng: jax.Array, *qkv: jax.Array) -> jax.Array:
    return (attention(*qkv, dropout_rng=rng).astype(jnp.float32) ** 2).sum()
