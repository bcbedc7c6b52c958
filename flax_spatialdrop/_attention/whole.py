"""Attention with whole weights: the mask and the cap that Flax's functions do not have."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from .arguments import Inputs
from .scores import capped, in_window


def with_whole_mask(x: Inputs) -> Inputs:
    """Returns inputs whose mask alone says which keys a query attends to.

    Inputs without segments, a window or a cap do not change: Flax's functions know is_causal.
    """
    if (x.segment_ids, x.window, x.soft_cap) == (None, (None, None), None):
        return x
    *before, queries, keys = x.weights_shape
    axes = [*range(len(before))]
    query = jnp.expand_dims(jnp.arange(queries, dtype=np.int32), [*axes, -1])
    key = jnp.expand_dims(jnp.arange(keys, dtype=np.int32), [*axes, -2])
    visible = in_window(x.causal_window, query, key)
    if x.segment_ids is not None:
        of_queries, of_keys = x.segment_ids
        visible.append(of_queries == of_keys)
    if x.mask is not None:
        visible.append(x.mask.astype(bool))
    mask = reduce(jnp.logical_and, visible) if visible else None
    return x._replace(mask=mask, is_causal=False)


def capped_weights(x: Inputs) -> jax.Array:
    """The weights as Flax computes them, from scores that are capped by `soft_cap`.

    Several heads of query may share a head of key.
    """
    dtype, heads, own = x.query.dtype, x.query.shape[-2], x.key.shape[-2]
    query = x.query / jnp.sqrt(jnp.asarray(x.query.shape[-1], dtype))
    if heads == own:
        scores = jnp.einsum("...qhd,...khd->...hqk", query, x.key, precision=x.precision)
    else:
        query = query.reshape(*query.shape[:-2], own, heads // own, query.shape[-1])
        scores = jnp.einsum("...qhgd,...khd->...hgqk", query, x.key, precision=x.precision)
    scores = capped(scores.reshape(x.weights_shape), x.soft_cap)
    if x.bias is not None:
        scores = scores + x.bias
    if x.mask is not None:
        scores = jnp.where(x.mask, scores, jnp.finfo(dtype).min)
    return jax.nn.softmax(scores).astype(dtype)
