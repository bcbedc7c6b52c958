"""Small versions of two Flax examples, lm1b's transformer and imagenet's ResNet, and a ResNet-50.

The class of the dropout layers is an argument, so that models with Flax's and our layers differ in
nothing else.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

RATE = 0.1
Dropout = Callable[..., nn.Module]


class TransformerLM(nn.Module):
    """A causal language model on bytes: maps [batch, time] to [batch, time, 256]."""

    dropout: Dropout
    layers: int = 4
    features: int = 128
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of the next bytes, with dropout on."""
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
    """A classifier of images: maps [batch, height, width, channel] to [batch, 10]."""

    dropout: Dropout
    stages: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits, with dropout on and batch norm in training mode."""
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


class ResNet50(nn.Module):
    """ResNet-50 (He et al.) in bfloat16: maps [batch, height, width, 3] to [batch, classes]."""

    after: Callable[[], nn.Module] | None
    """Makes a layer after each block of the last two stages. None adds no layer."""
    branch: Callable[[float], nn.Module] | None = None
    """Makes a layer on the branch of each block, from the block's depth in (0, 1]."""
    classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    features: int = 64

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits in float32, with batch norm in training mode."""
        x = nn.relu(self._norm(self._conv(self.features, 7, 2)(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        depth = 0
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                depth += 1
                features, stride = self.features * 2**stage, 2 if stage and not block else 1
                x = self._block(x, features, stride, depth / sum(self.blocks))
                if self.after is not None and stage >= len(self.blocks) - 2:
                    x = self.after()(x)
        return nn.Dense(self.classes, dtype=jnp.float32)(jnp.mean(x, (1, 2), jnp.float32))

    def _block(self, x, features, stride, depth):
        y = nn.relu(self._norm(self._conv(features, 1)(x)))
        y = nn.relu(self._norm(self._conv(features, 3, stride)(y)))
        y = self._norm(self._conv(4 * features, 1)(y))
        if x.shape != y.shape:
            x = self._norm(self._conv(4 * features, 1, stride)(x))
        if self.branch is not None:
            y = self.branch(depth)(y)
        return nn.relu(x + y)

    def _conv(self, features, size, stride=1):
        strides = (stride, stride)
        return nn.Conv(features, (size, size), strides, use_bias=False, dtype=jnp.bfloat16)

    def _norm(self, x):
        return nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)(x)
