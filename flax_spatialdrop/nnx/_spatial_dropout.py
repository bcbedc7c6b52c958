"""Spatial dropout modules: whole channels, for all of space."""

from .._checks import check_input
from .._choices import Choices
from .._noise_shape import spatial_noise_shape
from ._base import LayoutDropout


class SpatialDropout(LayoutDropout):
    """Drops whole channels: one draw per sample and channel, for all of space, at any rank.

        y[b, s, c] = x[b, s, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.spatial_dropout`.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout
      >>> layer = SpatialDropout(0.5, batch_dims=0)
      >>> y = layer(jnp.ones((3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:1]).all())
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(spatial_noise_shape(shape, self.data_format, self.batch_dims))


class SpatialDropout1D(LayoutDropout):
    """Drops whole channels of a sequence: one draw per sample and channel, for all time steps.

        y[b, t, c] = x[b, t, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.spatial_dropout_1d`.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout1D
      >>> layer = SpatialDropout1D(0.5)
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1]).all())
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(spatial_noise_shape(shape, self.data_format, self.batch_dims, 1))


class SpatialDropout2D(LayoutDropout):
    """Drops whole channels of an image: one draw per sample and channel, for all pixels.

        y[b, h, w, c] = x[b, h, w, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.spatial_dropout_2d`.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout2D
      >>> layer = SpatialDropout2D(0.5)
      >>> y = layer(jnp.ones((2, 5, 5, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(spatial_noise_shape(shape, self.data_format, self.batch_dims, 2))


class SpatialDropout3D(LayoutDropout):
    """Drops whole channels of a volume or a video: one draw per sample and channel.

        y[b, d, h, w, c] = x[b, d, h, w, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.spatial_dropout_3d`.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout3D
      >>> layer = SpatialDropout3D(0.5)
      >>> y = layer(jnp.ones((2, 3, 5, 5, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1, :1, :1]).all())
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(spatial_noise_shape(shape, self.data_format, self.batch_dims, 3))
