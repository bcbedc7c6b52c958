"""What does dropout of attention weights cost, compared to no dropout and to Flax's own?

The rows are the gradient for query, key and value, [batch, length, heads, depth], and a training
step of the language model of the experiments. Each weight has its own draw, unless the name of a
contender says otherwise.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_spatialdrop.linen as fsl

from ..language.models import LanguageModel
from . import timing
from .cases import NO_DROPOUT, Case, describe
from .here import SCRATCH, TIME
from .libraries import FLAX, FLAX_AGAIN, OURS, RATE
from .results import Record, timed
from .training import ADAM, adam_step

SECTION = "attention"
SHAPE = (2, 2048, 8, 64)
LENGTHS = (1024, 2048, 4096, 8192)
ON_TPU = (1, 4096, 8, 128)
ON_GPU = ((4, 2048, 16, 64), (4, 4096, 16, 64))
BLOCKWISE, KEYS, HEADS = "in blocks", "in blocks, whole keys", "in blocks, whole heads"
FLAX_SHARED = "Flax, shared by batch and heads"
JAX = "jax.nn, no dropout"
TOKENS, VOCABULARY = (4, 1024), 128
MODEL: dict[str, Any] = {"layers": 2, "features": 128, "heads": 4}

Attention = Callable[..., jax.Array]
"""f(query, key, value, dropout_rng=)."""


def cases() -> Iterator[Case]:
    """Yields the gradient on this machine, without a mask and with a causal mask.

    GPUs have larger rows in bfloat16 as well.
    """
    yield _case(SHAPE, "float32", contenders())
    yield _case(SHAPE, "float32", causal_contenders(SHAPE[1]), "causal ")
    if jax.default_backend() == "gpu":
        for shape in ON_GPU:
            yield _case(shape, "bfloat16", contenders())
            yield _case(shape, "bfloat16", causal_contenders(shape[1]), "causal ")


def cases_for_tpu() -> Iterator[Case]:
    """Yields the gradient in bfloat16, without a causal mask, whose loops have no fixed length."""
    found = contenders()
    yield _case(ON_TPU, "bfloat16", {n: found[n] for n in (NO_DROPOUT, OURS, BLOCKWISE, FLAX)})


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields the memory of compiled programs by length, and a training step."""
    for length in LENGTHS:
        case = _case((SHAPE[0], length, *SHAPE[2:]), "float32", contenders())
        if length != SHAPE[1] and only.search(case.id):
            named = {n: case.programs[n] for n in (NO_DROPOUT, OURS, BLOCKWISE, FLAX)}
            programs = timing.compiled(named, jax.random.key(0), *case.shapes)
            scratch = {n: timing.scratch_bytes(program) / 2**20 for n, program in programs.items()}
            yield Record(SECTION, case.row, SCRATCH, scratch)
    row = f"training step of a language model of {list(TOKENS)} characters"
    if only.search(f"{SECTION}: {row}"):
        yield from _training(row, seconds)


def contenders() -> dict[str, Attention]:
    """Returns the contenders without a mask."""
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


def _training(row: str, seconds: float) -> Iterator[Record]:
    """Adam's step, from the same parameters and characters for all."""
    contenders = {
        NO_DROPOUT: ("flax", "none"),
        OURS: ("fused", "weights"),
        BLOCKWISE: ("blockwise", "weights"),
        KEYS: ("blockwise", "keys"),
        HEADS: ("blockwise", "heads"),
        FLAX: ("flax", "weights"),
        FLAX_AGAIN: ("flax", "weights"),
    }
    characters = np.random.default_rng(0).integers(VOCABULARY, size=TOKENS)
    models = {
        name: LanguageModel(VOCABULARY, **MODEL, attention=attention, form=form)
        for name, (attention, form) in contenders.items()
    }
    params = models[NO_DROPOUT].init(jax.random.key(0), characters, RATE, deterministic=True)
    arguments = jax.random.key(1), (params, ADAM.init(params)), characters
    steps = {name: adam_step(partial(_loss_of, model)) for name, model in models.items()}
    programs = timing.compiled(steps, *arguments)
    calls: dict[str, timing.Call] = {n: partial(f, *arguments) for n, f in programs.items()}
    yield timed(SECTION, row, TIME, timing.times(calls, seconds), baseline=NO_DROPOUT)
    scratch = {name: timing.scratch_bytes(program) / 2**20 for name, program in programs.items()}
    yield Record(SECTION, row, SCRATCH, scratch)


def _loss_of(model: nn.Module, params: Any, key: jax.Array, characters: jax.Array) -> jax.Array:
    rngs = {"dropout": key}
    logits: Any = model.apply(params, characters, RATE, deterministic=False, rngs=rngs)
    following = jnp.roll(characters, -1, axis=1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()


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
