"""The network: characters in, scores of what may come next out."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_spatialdrop import linen


class Form(NamedTuple):
    """How attention weights [batch, heads, queries, keys] share the draws of their mask."""

    noise_shape: tuple[int | None, ...]
    span: int = 1


FORMS: dict[str, Form | None] = {
    "none": None,
    "weights": Form((None, None, None, None)),
    "heads": Form((None, None, 1, 1)),
    "keys": Form((None, None, 1, None)),
    "spans": Form((None, None, 1, None), span=4),
}
"""Dropout of single weights, of whole heads, of keys for all queries, of keys in a row."""
ATTENTIONS = ("blockwise", "fused", "flax")


class CausalAttention(nn.Module):
    """Flax's attention layer, in which no query sees a later key and weights are dropped.

    Attributes:
      heads: how many there are.
      attention: what computes it: this library's attention in blocks, its drop-in for Flax's own,
        or Flax's own, which knows no form but "weights", and for that a rate that is a number.
      form: of the dropout of its weights.
    """

    heads: int
    attention: str = "blockwise"
    form: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, rate: Any, deterministic: bool) -> jax.Array:
        """Maps [batch, time, features] to the same shape."""
        deterministic = deterministic or FORMS[self.form] is None
        # Bound here, since the layer compares a dropout_rate of its own with 0: none could be
        # traced. Of what it passes it then leaves out all that this signature does not name.
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
        return nn.MultiHeadDotProductAttention(self.heads, attention_fn=attention_fn)(x, mask=mask)

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
    """LayerNorm -> attention, LayerNorm -> two dense layers, each beside its input."""

    heads: int
    attention: str
    form: str

    @nn.compact
    def __call__(self, x: jax.Array, rate: Any, deterministic: bool) -> jax.Array:
        """Maps [batch, time, features] to the same shape."""
        attention = CausalAttention(self.heads, self.attention, self.form)
        x = x + attention(nn.LayerNorm()(x), rate, deterministic)
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(hidden)


class LanguageModel(nn.Module):
    """A decoder-only transformer, whose attention weights are all that is dropped.

    Attributes:
      vocabulary_size: how many characters there are.
      layers, features, heads: of the transformer; its dense layers are four times as wide.
      attention, form: of every layer, as CausalAttention has them.
    """

    vocabulary_size: int
    layers: int
    features: int
    heads: int
    attention: str = "blockwise"
    form: str = "none"

    @nn.compact
    def __call__(self, characters: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps characters [batch, time] to scores of the next ones [batch, time, vocabulary]."""
        x = nn.Embed(self.vocabulary_size, self.features)(characters)
        x = self.features**0.5 * x + positions(characters.shape[1], self.features)[None]
        for _ in range(self.layers):
            x = Block(self.heads, self.attention, self.form)(x, rate, deterministic)
        return nn.Dense(self.vocabulary_size)(nn.LayerNorm()(x))


def positions(time: int, features: int) -> jax.Array:
    """Sines and cosines [time, features], after Vaswani et al., 2017.

    Learned positions take most of a training as short as this to find a character's neighbours.
    """
    frequencies = 1e3 ** (-jnp.arange(0, features, 2) / features)
    angles = jnp.arange(time)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
