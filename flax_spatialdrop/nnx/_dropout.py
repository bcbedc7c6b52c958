"""The drop-in for flax.nnx.Dropout, and those that drop whole steps, features or samples."""

from collections.abc import Sequence

from flax import nnx

from .._apply import Choices
from .._checks import check_input
from .._noise_shape import (
    feature_noise_shape,
    resolve_noise_shape,
    sample_noise_shape,
    spatial_noise_shape,
    timestep_noise_shape,
)
from .._ops.alpha import alpha_choices
from .._ops.gaussian import gaussian_choices
from .._typing import NoiseShape, Rate
from ._base import LayoutDropout, NoiseShapeDropout, Regularizer, hashable


# Flax's own is a base so that filters by its class, as of nnx.view, find this one too; nothing of
# it runs, and a test holds that its attributes are here.
class Dropout(Regularizer, nnx.Dropout):
    """Drops values at random, each on its own or in groups that share one draw.

        y = x * m / (1 - rate),   m[noise_shape] ~ Bernoulli(1 - rate), spread over x

    In place of `flax.nnx.Dropout`: every argument of Flax's own, with the same meaning, the same
    mask for the same stream and in float32 the same values. Added are `noise_shape` and, at the
    call, `rate` and `mask`. Bad arguments are refused, integer inputs and a rate outside [0, 1]
    among them, even where nothing would be dropped.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      broadcast_dims: the axes of x that share a draw; negative axes count from the end.
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.
      noise_shape: in place of broadcast_dims, one entry per axis of x: None for a draw per index,
        1 for a shared one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import Dropout
      >>> class Model(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.dense = nnx.Linear(4, 4, rngs=rngs)
      ...         self.drop = Dropout(0.5, noise_shape=(None, 1, None), rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.drop(self.dense(x))
      >>> model = Model(nnx.Rngs(params=0, dropout=1))
      >>> model.train()
      >>> y = model(jnp.ones((2, 3, 4)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        noise_shape: NoiseShape | None = None,
    ):
        self.broadcast_dims = hashable(broadcast_dims)
        self.noise_shape = hashable(noise_shape)
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))


class TimestepDropout(LayoutDropout):
    """Drops whole steps of a sequence: one draw per sample and step, for all channels.

        y[b, t, c] = x[b, t, c] * m[b, t] / (1 - rate),   m[b, t] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.timestep_dropout`.

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
      >>> from flax_spatialdrop.nnx import TimestepDropout
      >>> layer = TimestepDropout(0.5)
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[..., :1]).all())
      True

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287 (which drops words of a sequence)
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(timestep_noise_shape(shape, self.data_format, self.batch_dims))


class FeatureDropout(LayoutDropout):
    """Drops channels for the whole batch: one draw per channel, for all samples and all of space.

        y[b, s, c] = x[b, s, c] * m[c] / (1 - rate),   m[c] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.feature_dropout`.

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
      >>> from flax_spatialdrop.nnx import FeatureDropout
      >>> layer = FeatureDropout(0.5)
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:1, :1]).all())
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html (with the draw shared)
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(feature_noise_shape(shape, self.data_format, self.batch_dims))


class SampleDropout(LayoutDropout):
    """Drops whole samples: one draw per sample, for all of it.

        y[b, s, c] = x[b, s, c] * m[b] / (1 - rate),   m[b] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.sample_dropout`.

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
      >>> from flax_spatialdrop.nnx import SampleDropout
      >>> layer = SampleDropout(0.5)
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return Choices(sample_noise_shape(shape, self.data_format, self.batch_dims))


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


class AlphaDropout(NoiseShapeDropout):
    """Drops values to the limit of a SELU, and keeps mean 0 and variance 1 of its activations.

        y = a * (x * m + alpha' * (1 - m)) + b,   m[noise_shape] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.alpha_dropout`, where a, alpha' and b are said.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      noise_shape: the shape of the mask, one entry per axis of x: None for a draw per index, 1 for
        a shared one (default None: a draw per element).
      broadcast_dims: the same, said with the axes that share a draw; negative axes count from the
        end.
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import AlphaDropout
      >>> layer = AlphaDropout(0.5, noise_shape=(None, 1, None))
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1]).all())
      True

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return alpha_choices(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))


class FeatureAlphaDropout(LayoutDropout):
    """Drops whole channels to the limit of a SELU: one draw per sample and channel, at any rank.

        y[b, s, c] = a * (x[b, s, c] * m[b, c] + alpha' * (1 - m[b, c])) + b'

    The module of `flax_spatialdrop.feature_alpha_dropout`: `AlphaDropout` with the mask of
    `SpatialDropout`.

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
      >>> from flax_spatialdrop.nnx import FeatureAlphaDropout
      >>> layer = FeatureAlphaDropout(0.5)
      >>> y = layer(jnp.ones((2, 5, 5, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return alpha_choices(spatial_noise_shape(shape, self.data_format, self.batch_dims))


class GaussianDropout(NoiseShapeDropout):
    """Multiplies values by normal noise of mean 1, with the variance of dropout's own noise.

        y = x * n,   n[noise_shape] ~ Normal(1, variance rate / (1 - rate)), spread over x

    The module of `flax_spatialdrop.gaussian_dropout`. Its mask is the noise n: `mask=` takes and
    `sample_mask` returns float32, all 1 where nothing would change.

    Args:
      rate: sets the noise's variance, as if it were the probability to drop, in [0, 1); a number
        or a scalar array; None if each call gives one.
      noise_shape: the shape of the noise, one entry per axis of x: None for a draw per index, 1 for
        a shared one (default None: a draw per element).
      broadcast_dims: the same, said with the axes that share a draw; negative axes count from the
        end.
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import GaussianDropout
      >>> layer = GaussianDropout(0.5, noise_shape=(None, 1, None))
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
      >>> bool((y == y[:, :1]).all())  # all steps of a channel share their noise
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, section 10, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return gaussian_choices(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))
