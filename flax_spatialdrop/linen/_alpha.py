"""Alpha dropout modules, for networks of SELUs."""

import flax.linen as nn

from .._checks import check_input
from .._noise_shape import resolve_noise_shape, spatial_noise_shape
from .._ops.alpha import alpha_choices
from ._base import LayoutDropout, NoiseShapeDropout


class AlphaDropout(NoiseShapeDropout):
    """Drops values to the limit of a SELU, and keeps mean 0 and variance 1 of its activations.

        y = a * (x * m + alpha' * (1 - m)) + b,   m[noise_shape] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.alpha_dropout`, where a, alpha' and b are said.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      noise_shape: the shape of the mask, one entry per axis of x: None for a draw per index, 1 for
        a shared one (default None: a draw per element).
      broadcast_dims: the same, said with the axes that share a draw; negative axes count from the
        end.
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import AlphaDropout
      >>> layer = AlphaDropout(0.5, noise_shape=(None, 1, None), deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1]).all())
      True

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """

    @nn.nowrap
    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return alpha_choices(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))


class FeatureAlphaDropout(LayoutDropout):
    """Drops whole channels to the limit of a SELU: one draw per sample and channel, at any rank.

        y[b, s, c] = a * (x[b, s, c] * m[b, c] + alpha' * (1 - m[b, c])) + b'

    The module of `flax_spatialdrop.feature_alpha_dropout`: `AlphaDropout` with the mask of
    `SpatialDropout`.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import FeatureAlphaDropout
      >>> layer = FeatureAlphaDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """

    @nn.nowrap
    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return alpha_choices(spatial_noise_shape(shape, self.data_format, self.batch_dims))
