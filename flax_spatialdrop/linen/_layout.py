"""Modules that know the layout of x: batch axes, space axes and a channel axis."""

import abc

import flax.linen as nn
import jax

from .._apply import check_input
from .._noise_shape import (
    feature_noise_shape,
    sample_noise_shape,
    timestep_noise_shape,
)
from .._typing import Array, DataFormat, Key, Rate
from ._call import drop


class LayoutDropout(nn.Module, abc.ABC):
    """The attributes and the call that all share; a subclass says the noise shape.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      data_format: "channels_last" for [*batch, *space, channel], or "channels_first" for
        [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes; 0 for one example.
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of, when a mask is drawn.
    """

    rate: Rate
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @abc.abstractmethod
    def _noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The mask's shape for inputs of `shape`."""

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Applies the regularizer.

        Args:
          inputs: floating or complex, in the layout that the attributes say.
          deterministic: as the attribute; just one of the two must be given.
          rng: the key to draw with, in place of the stream's.
          rate: in place of the attribute, such as a schedule's value; may be traced.
          mask: bool, in noise shape or in the shape of inputs, used in place of a draw; ignored
            when deterministic or at a rate of exactly 0.

        Returns:
          An array of the shape and dtype of inputs.

        Raises:
          ValueError: for inputs of the wrong rank, a mask or rate that does not fit;
            `deterministic` given twice or never.
          TypeError: for integer or bool inputs, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when a mask is to be drawn and the stream is missing.
        """
        return drop(
            self,
            inputs,
            self._noise_shape(check_input(inputs).shape),
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rng=rng,
            mask=mask,
        )


class TimestepDropout(LayoutDropout):
    """Drops whole steps of a sequence: one draw per sample and step, for all channels.

        y[b, t, c] = x[b, t, c] * m[b, t] / (1 - rate),   m[b, t] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.timestep_dropout`.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import TimestepDropout
      >>> layer = TimestepDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[..., :1]).all())
      True

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287 (which drops words of a sequence)
    """

    def _noise_shape(self, shape):
        return timestep_noise_shape(shape, self.data_format, self.batch_dims)


class FeatureDropout(LayoutDropout):
    """Drops channels for the whole batch: one draw per channel, for all samples and all of space.

        y[b, s, c] = x[b, s, c] * m[c] / (1 - rate),   m[c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.feature_dropout`.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import FeatureDropout
      >>> layer = FeatureDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:1, :1]).all())
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html (with the draw shared)
    """

    def _noise_shape(self, shape):
        return feature_noise_shape(shape, self.data_format, self.batch_dims)


class SampleDropout(LayoutDropout):
    """Drops whole samples: one draw per sample, for all of it.

        y[b, s, c] = x[b, s, c] * m[b] / (1 - rate),   m[b] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.sample_dropout`.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SampleDropout
      >>> layer = SampleDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    def _noise_shape(self, shape):
        return sample_noise_shape(shape, self.data_format, self.batch_dims)
