"""The drop-in for flax.linen.Dropout, and those that drop whole steps, features or samples."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn

from .._apply import Recipe
from .._checks import check_input
from .._noise_shape import (
    feature_noise_shape,
    resolve_noise_shape,
    sample_noise_shape,
    spatial_noise_shape,
    timestep_noise_shape,
)
from .._ops.alpha import alpha_dropout, alpha_recipe, feature_alpha_dropout
from .._ops.dropout import (
    dropout,
    feature_dropout,
    sample_dropout,
    spatial_dropout,
    spatial_dropout_1d,
    spatial_dropout_2d,
    spatial_dropout_3d,
    timestep_dropout,
)
from .._ops.gaussian import gaussian_dropout, gaussian_recipe
from .._typing import NoiseShape, Rate
from ._base import LayoutDropout, NoiseShapeDropout, Regularizer


class Dropout(Regularizer, of=dropout):
    """The module of `flax_spatialdrop.dropout`, in place of `flax.linen.Dropout`.

    Every argument of Flax's own has its place and its meaning: the mask for a stream is the same,
    and in float32 so are the values. (A Linen stream depends on the path of the module, which has
    the name of its class: this class is called Dropout too.) `noise_shape` is new, and so are
    `rate` and `mask` at the call. Bad arguments, such as integer inputs or a rate outside [0, 1],
    are refused even where nothing would be dropped.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import Dropout
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         x = nn.Dense(4)(x)
      ...         return Dropout(0.5, noise_shape=(None, 1, None), deterministic=not train)(x)
      >>> x = jnp.ones((2, 3, 4))
      >>> variables = Model().init(jax.random.key(0), x, train=False)
      >>> y = Model().apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    """

    rate: Rate | None
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    noise_shape: NoiseShape | None = None

    @nn.nowrap
    def _recipe(self, inputs):
        shape = check_input(inputs).shape
        return Recipe(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))


class TimestepDropout(LayoutDropout, of=timestep_dropout):
    """The module of `flax_spatialdrop.timestep_dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import TimestepDropout
      >>> layer = TimestepDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[..., :1]).all())
      True
    """

    _noise_shape_of = staticmethod(timestep_noise_shape)


class FeatureDropout(LayoutDropout, of=feature_dropout):
    """The module of `flax_spatialdrop.feature_dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import FeatureDropout
      >>> layer = FeatureDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:1, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(feature_noise_shape)


class SampleDropout(LayoutDropout, of=sample_dropout):
    """The module of `flax_spatialdrop.sample_dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SampleDropout
      >>> layer = SampleDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(sample_noise_shape)


class SpatialDropout(LayoutDropout, of=spatial_dropout):
    """The module of `flax_spatialdrop.spatial_dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout
      >>> layer = SpatialDropout(0.5, batch_dims=0, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:1]).all())
      True
    """

    _noise_shape_of = staticmethod(spatial_noise_shape)


class SpatialDropout1D(LayoutDropout, of=spatial_dropout_1d):
    """The module of `flax_spatialdrop.spatial_dropout_1d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout1D
      >>> layer = SpatialDropout1D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=1))


class SpatialDropout2D(LayoutDropout, of=spatial_dropout_2d):
    """The module of `flax_spatialdrop.spatial_dropout_2d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout2D
      >>> layer = SpatialDropout2D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=2))


class SpatialDropout3D(LayoutDropout, of=spatial_dropout_3d):
    """The module of `flax_spatialdrop.spatial_dropout_3d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout3D
      >>> layer = SpatialDropout3D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=3))


class AlphaDropout(NoiseShapeDropout, of=alpha_dropout):
    """The module of `flax_spatialdrop.alpha_dropout`, where a, alpha' and b are said.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import AlphaDropout
      >>> layer = AlphaDropout(0.5, noise_shape=(None, 1, None), deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1]).all())
      True
    """

    _recipe_of = staticmethod(alpha_recipe)


class FeatureAlphaDropout(LayoutDropout, of=feature_alpha_dropout):
    """The module of `flax_spatialdrop.feature_alpha_dropout`.

    It is `AlphaDropout` with the mask of `SpatialDropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import FeatureAlphaDropout
      >>> layer = FeatureAlphaDropout(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1, :1]).all())
      True
    """

    _noise_shape_of = staticmethod(spatial_noise_shape)
    _recipe_of = staticmethod(alpha_recipe)


class GaussianDropout(NoiseShapeDropout, of=gaussian_dropout):
    """The module of `flax_spatialdrop.gaussian_dropout`.

    Its mask is the noise n: `mask=` takes and `sample_mask` returns float32, all 1 where nothing
    would change.

    Attributes:
      rate: sets the noise's variance, as if it were the probability to drop, in [0, 1); a number
        or a scalar array; None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GaussianDropout
      >>> layer = GaussianDropout(0.5, noise_shape=(None, 1, None), deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
      >>> bool((y == y[:, :1]).all())  # all steps of a channel share their noise
      True
    """

    _recipe_of = staticmethod(gaussian_recipe)
