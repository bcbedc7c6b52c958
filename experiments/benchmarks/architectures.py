"""Two models after Flax's own examples, lm1b's transformer and imagenet's ResNet, kept small.

The class of every dropout layer is an argument, so that a model can be built with Flax's or ours
and nothing else differs.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

RATE = 0.1
Dropout = Callable[..., nn.Module]


class TransformerLM(nn.Module):
    """A causal language model on bytes: [batch, time] whole numbers to [batch, time, 256]."""

    dropout: Dropout
    layers: int = 4
    features: int = 128
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of every next byte, with dropout on."""
        time = tokens.shape[1]
        places = self.param("places", nn.initializers.normal(0.02), (time, self.features))
        x = nn.Embed(256, self.features)(tokens) + places[None]
        x = self.dropout(RATE, deterministic=False)(x)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = self._block(x, mask)
        return nn.Dense(256)(nn.LayerNorm()(x))

    def _block(self, x, mask):
        y = nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        x = x + self.dropout(RATE, deterministic=False)(y)
        y = nn.gelu(nn.Dense(4 * self.features)(nn.LayerNorm()(x)))
        y = nn.Dense(self.features)(self.dropout(RATE, deterministic=False)(y))
        return x + self.dropout(RATE, deterministic=False)(y)


class ResNet(nn.Module):
    """A classifier of images, [batch, height, width, channel] to [batch, 10]."""

    dropout: Dropout
    stages: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits, with dropout on and batch norm's statistics of the batch."""
        x = nn.relu(self._norm(nn.Conv(self.stages[0], (3, 3), use_bias=False)(images)))
        for stage, features in enumerate(self.stages):
            strides = (2, 2) if stage else (1, 1)
            y = nn.Conv(features, (3, 3), strides, use_bias=False)(x)
            y = self.dropout(RATE, deterministic=False)(nn.relu(self._norm(y)))
            y = self._norm(nn.Conv(features, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = self._norm(nn.Conv(features, (1, 1), strides, use_bias=False)(x))
            x = self.dropout(RATE, deterministic=False)(nn.relu(x + y))
        return nn.Dense(10)(jnp.mean(x, (1, 2)))

    def _norm(self, x):
        return nn.BatchNorm(use_running_average=False)(x)
