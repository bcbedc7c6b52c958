"""segment_ids, window and soft_cap of both attention functions, against dense references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from .test_blockwise_attention import (
    BATCH,
    BIAS,
    FUSED,
    KEYS,
    MASK,
    OURS,
    QKV,
    QUERIES,
    check,
    run,
)

OF_QUERIES = jnp.array([[3] * 4 + [7] * 6 + [0] * 3, [1] * 13])
OF_KEYS = jnp.array([[3] * 5 + [7] * 5 + [0] * 9, [1] * 11 + [2] * 8])
IDS = (OF_QUERIES, OF_KEYS)
FUNCTIONS = {
    "blockwise": functools.partial(OURS["nnx"], query_block_size=5, key_block_size=4),
    "blockwise in linen": functools.partial(OURS["linen"], query_block_size=4, key_block_size=8),
    "whole": FUSED["nnx"],
    "whole in linen": FUSED["linen"],
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))


def reference(query, key, value, *, bias, dropout_rng, dropout_rate, hidden, soft_cap=None):
    """Attention written out, in float32: `hidden` is True where a query must not see a key."""
    query, key, value = (a.astype(jnp.float32) for a in (query, key, value))
    key, value = (jnp.repeat(a, query.shape[2] // a.shape[2], 2) for a in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + bias
    largest = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.where(hidden, 0, jnp.exp(scores - largest))
    weights = weights / weights.sum(-1, keepdims=True)
    kept = jax.random.bernoulli(dropout_rng, 1 - np.float32(dropout_rate), weights.shape)
    weights = jnp.where(kept, weights / (1 - np.float32(dropout_rate)), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def hidden_by(segment_ids=None, window=None, is_causal=False, mask=None, sizes=(QUERIES, KEYS)):
    """What the options hide, from loops over positions."""
    hidden = np.zeros((BATCH, 1, *sizes), bool)
    left, right = window if isinstance(window, tuple) else (window, window)
    for q, k in np.ndindex(*sizes):
        hidden[..., q, k] |= left is not None and q - k > left
        hidden[..., q, k] |= right is not None and k - q > right
        hidden[..., q, k] |= is_causal and k > q
        if segment_ids is not None:
            hidden[:, 0, q, k] |= np.asarray(segment_ids[0][:, q] != segment_ids[1][:, k])
    return hidden if mask is None else hidden | ~np.asarray(mask)


NEAR = jnp.eye(QUERIES, KEYS, dtype=bool) | jnp.eye(QUERIES, KEYS, 1, dtype=bool)
OPTIONS = {
    "segments": {"segment_ids": IDS},
    "window": {"window": 2},
    "left alone": {"window": (3, None)},
    "right alone": {"window": (None, 1)},
    "a sliding window": {"window": (2, 0)},
    "soft cap": {"soft_cap": 0.7},
    "all": {"window": (7, 2), "segment_ids": IDS, "soft_cap": 0.7, "mask": True, "bias": True},
}


def both(function, qkv=QKV, **options):
    """Returns the output and gradients of a function, and those of the reference."""
    bias = BIAS if options.pop("bias", False) else None
    if options.pop("mask", False):
        options["mask"] = MASK | NEAR[None, None]  # so each query sees a key
    seen = {name: options[name] for name in options if name not in ("soft_cap", "rate")}
    ours = run(function, qkv, bias, broadcast_dropout=False, **options)
    sizes = qkv[0].shape[1], qkv[1].shape[1]
    shown = {"hidden": hidden_by(**seen, sizes=sizes), "soft_cap": options.get("soft_cap")}
    return ours, run(reference, qkv, bias, options.get("rate", 0.3), **shown)


@each_function
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_values_and_gradients_are_those_of_attention_written_out(function, options):
    ours, expected = both(function, **options)
    check(ours, expected)
    without = {name: options[name] for name in ("mask", "bias") if name in options}
    assert not np.allclose(ours[0], both(function, **without)[0][0], atol=1e-2)
