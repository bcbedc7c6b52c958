"""The module of Gaussian dropout, which multiplies by noise."""

import flax.linen as nn

from .._checks import check_input
from .._noise_shape import resolve_noise_shape
from .._ops.gaussian import gaussian_choices
from ._base import NoiseShapeDropout


class GaussianDropout(NoiseShapeDropout):
    """Multiplies values by normal noise of mean 1, with the variance of dropout's own noise.

        y = x * n,   n[noise_shape] ~ Normal(1, variance rate / (1 - rate)), spread over x

    The module of `flax_spatialdrop.gaussian_dropout`. Its mask is the noise n: `mask=` takes and
    `sample_mask` returns float32, all 1 where nothing would change.

    Attributes:
      rate: sets the noise's variance, as if it were the probability to drop, in [0, 1); a number
        or a scalar array; None if each call gives one.
      noise_shape: the shape of the noise, one entry per axis of x: None for a draw per index, 1 for
        a shared one (default None: a draw per element).
      broadcast_dims: the same, said with the axes that share a draw; negative axes count from the
        end.
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GaussianDropout
      >>> layer = GaussianDropout(0.5, noise_shape=(None, 1, None), deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1]).all())  # all steps of a channel share their noise
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, section 10, https://jmlr.org/papers/v15/srivastava14a.html
    """

    @nn.nowrap
    def _choices(self, inputs):
        shape = check_input(inputs).shape
        return gaussian_choices(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))
