"""The parts of transformers: causal attention with dropout of its weights, blocks, positions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linen


class Form(NamedTuple):
    """How attention weights [batch, heads, queries, keys] share draws of their mask."""

    noise_shape: tuple[int | None, ...]
    span: int = 1


FORMS: dict[str, Form | None] = {
    "none": None,
    "weights": Form((None, None, None, None)),
    "heads": Form((None, None, 1, 1)),
    "keys": Form((None, None, 1, None)),
    "spans": Form((None, None, 1, None), span=4),
}
"""Dropout of single weights, whole heads, keys for all queries, and spans of keys."""
ATTENTIONS = ("blockwise", "fused", "flax")


class CausalAttention(nn.Module):
    """Flax's attention layer with a causal mask and dropout of weights.

    Attributes:
      heads: the number of heads.
      attention: the function that computes attention. "blockwise" and "fused" are this library's
        `blockwise_attention` and `dot_product_attention`. "flax" is Flax's own, which supports only
        the form "weights", with a Python number as rate.
      form: the form of dropout of the weights.
      dtype: the type to compute in. Parameters are float32.
    """

    heads: int
    attention: str = "blockwise"
    form: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rate: Any, deterministic: bool) -> jax.Array:
        """Maps [batch, time, features] to the same shape."""
        deterministic = deterministic or FORMS[self.form] is None
        # Bound here because the layer compares its own dropout_rate with 0, which fails for a
        # traced rate. The layer passes only the arguments that attention_fn names.
        attend = partial(
            self._attend(),
            broadcast_dropout=False,
            dropout_rng=None if deterministic else self.make_rng("dropout"),
            dropout_rate=rate,
            deterministic=deterministic,
        )

        def attention_fn(query, key, value, mask=None):
            return attend(query, key, value, mask=mask)

        mask = None if self.attention == "blockwise" else nn.make_causal_mask(x[..., 0])
        layer = nn.MultiHeadDotProductAttention(
            self.heads, dtype=self.dtype, attention_fn=attention_fn
        )
        return layer(x, mask=mask)

    @nn.nowrap
    def _attend(self) -> Callable[..., jax.Array]:
        form = FORMS[self.form]
        if self.attention == "flax":
            if self.form not in ("none", "weights"):
                raise ValueError(f"Flax's own attention drops weights alone: got {self.form!r}")
            return nn.dot_product_attention
        shared = form._asdict() if form else {}
        if self.attention == "fused":
            return partial(linen.dot_product_attention, **shared)
        return partial(linen.blockwise_attention, is_causal=True, **shared)


class Block(nn.Module):
    """LayerNorm -> attention, then LayerNorm -> two dense layers, each with a residual."""

    heads: int
    attention: str = "blockwise"
    form: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rate: Any,
        deterministic: bool,
        drop: Callable[[jax.Array], jax.Array] = lambda branch: branch,
    ) -> jax.Array:
        """Maps [batch, time, features] to the same shape. `drop` drops values of each branch."""
        norm, dense = partial(nn.LayerNorm, dtype=self.dtype), partial(nn.Dense, dtype=self.dtype)
        attention = CausalAttention(self.heads, self.attention, self.form, self.dtype)
        x = x + drop(attention(norm()(x), rate, deterministic))
        hidden = nn.gelu(dense(4 * x.shape[-1])(norm()(x)))
        return x + drop(dense(x.shape[-1])(hidden))


def positions(time: int, features: int) -> jax.Array:
    """Returns sines and cosines [time, features], as in Vaswani et al., 2017.

    Learned positions are too slow here: they need most of such a short training to learn which
    characters are neighbors.
    """
    frequencies = 1e3 ** (-jnp.arange(0, features, 2) / features)
    angles = jnp.arange(time)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
