"""A decoder as MaxText builds it: bfloat16, layers in a scan, each computed again (remat)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flax_spatialdrop import linen

from ..devices import EXAMPLES
from ..stacks.layers import scanned
from ..transformer import positions

NAMES = ("none", "residual", "attention", "embedding", "all")
BATCH = PartitionSpec(EXAMPLES)
"""The axes of the mesh that the batch is divided over."""


class Layer(nn.Module):
    """Attention, then a gated MLP, each after a norm and with a residual.

    Attributes:
      heads: the number of heads.
      regularizer: where to drop.
      flax: whether to use Flax's own attention and layer of dropout.
      rate, deterministic: as in `dropout_layer`.
    """

    heads: int
    regularizer: str
    flax: bool
    rate: Any
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, None]:
        """Returns the output [batch, time, features], and nothing for each layer of a scan."""
        features = x.shape[-1]
        dense = partial(nn.Dense, use_bias=False, dtype=x.dtype)
        attention = nn.MultiHeadDotProductAttention(
            self.heads, dtype=x.dtype, use_bias=False, attention_fn=self._attention_fn()
        )
        y = attention(nn.RMSNorm(dtype=x.dtype)(x), mask=mask)
        x = sharded(x + self._drop(y))
        y = nn.RMSNorm(dtype=x.dtype)(x)
        y = dense(features)(nn.silu(dense(4 * features)(y)) * dense(4 * features)(y))
        return sharded(x + self._drop(y)), None

    @nn.nowrap
    def _drop(self, y: jax.Array) -> jax.Array:
        if self.regularizer not in ("residual", "all"):
            return y
        return dropout_layer(self.flax, self.rate, self.deterministic)(y)

    @nn.nowrap
    def _attention_fn(self) -> Callable[..., jax.Array]:
        # Bound here because the layer compares its own dropout_rate with 0, which fails for a
        # traced rate. The layer passes only the arguments that attention_fn names.
        off = self.deterministic or self.regularizer not in ("attention", "all")
        options = {
            "broadcast_dropout": False,
            "dropout_rng": None if off else self.make_rng("dropout"),
            "dropout_rate": self.rate,
            "deterministic": off,
        }
        if self.flax:
            attend: Any = partial(nn.dot_product_attention, **options)
        else:
            attend = partial(linen.blockwise_attention, is_causal=True, **options)

        def attention_fn(query, key, value, mask=None):
            return attend(query, key, value, mask=mask)

        return attention_fn


class Decoder(nn.Module):
    """A causal language model with residual, attention and embedding dropout.

    Attributes:
      vocabulary, layers, features, heads: the sizes of the network.
      regularizer: where to drop: one of NAMES.
      flax: whether to use Flax's own attention and layer of dropout.
    """

    vocabulary: int
    layers: int
    features: int
    heads: int
    regularizer: str
    flax: bool

    @nn.compact
    def __call__(self, tokens: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps tokens [batch, time] to scores of the next ones [batch, time, vocabulary]."""
        embed = nn.Embed(self.vocabulary, self.features, dtype=jnp.bfloat16)
        places = positions(tokens.shape[1], self.features)[None].astype(jnp.bfloat16)
        x = sharded(embed(tokens) + places)
        if self.regularizer in ("embedding", "all"):
            x = dropout_layer(self.flax, rate, deterministic)(x)
        # Flax's attention needs the mask of all queries and keys, and ours computes it.
        mask = nn.make_causal_mask(tokens[:1], dtype=bool) if self.flax else None
        layers = scanned(nn.remat(Layer, prevent_cse=False), self.layers)
        x, _ = layers(self.heads, self.regularizer, self.flax, rate, deterministic)(x, mask)
        x = nn.RMSNorm(dtype=x.dtype)(x)
        return jnp.asarray(embed.attend(x), jnp.float32)


def dropout_layer(flax: bool, rate: Any, deterministic: bool) -> nn.Module:
    """Returns Flax's layer, which needs a number as rate, or this library's."""
    layer: Any = nn.Dropout if flax else linen.Dropout
    return layer(rate, deterministic=deterministic)


def sharded(x: jax.Array) -> jax.Array:
    """Divides the batch over the mesh, if there is one."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)
