"""A replacement for flax.nnx.Dropout, and modules that drop whole steps, channels or samples."""

from collections.abc import Sequence
from functools import partial

from flax import nnx

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


# Flax's class is a base, so that filters by that class, as in nnx.view, find this one too. None of
# its code runs; a test checks that this class has its attributes.
class Dropout(Regularizer, nnx.Dropout, of=dropout):
    """The module of `flax_spatialdrop.dropout`, a replacement for `flax.nnx.Dropout`.

    It takes every argument of Flax's class with the same meaning. It draws the same mask from the
    same stream, and in float32 the outputs are the same too. New are `noise_shape`, and `rate` and
    `mask` at the call. Bad arguments, such as integer inputs or a rate outside [0, 1], raise an
    error even if nothing would be dropped.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import Dropout
      >>> layer = Dropout(0.5, noise_shape=(None, 1, None), rngs=nnx.Rngs(dropout=0))
      >>> y = layer(jnp.ones((2, 3, 4)))
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
        self.broadcast_dims = broadcast_dims
        self.noise_shape = noise_shape
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _recipe(self, inputs):
        shape = check_input(inputs).shape
        return Recipe(resolve_noise_shape(shape, self.noise_shape, self.broadcast_dims))


class TimestepDropout(LayoutDropout, of=timestep_dropout):
    """The module of `flax_spatialdrop.timestep_dropout`."""

    _noise_shape_of = staticmethod(timestep_noise_shape)


class FeatureDropout(LayoutDropout, of=feature_dropout):
    """The module of `flax_spatialdrop.feature_dropout`."""

    _noise_shape_of = staticmethod(feature_noise_shape)


class SampleDropout(LayoutDropout, of=sample_dropout):
    """The module of `flax_spatialdrop.sample_dropout`."""

    _noise_shape_of = staticmethod(sample_noise_shape)


class SpatialDropout(LayoutDropout, of=spatial_dropout):
    """The module of `flax_spatialdrop.spatial_dropout`."""

    _noise_shape_of = staticmethod(spatial_noise_shape)


class SpatialDropout1D(LayoutDropout, of=spatial_dropout_1d):
    """The module of `flax_spatialdrop.spatial_dropout_1d`."""

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=1))


class SpatialDropout2D(LayoutDropout, of=spatial_dropout_2d):
    """The module of `flax_spatialdrop.spatial_dropout_2d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout2D
      >>> layer = SpatialDropout2D(0.5)
      >>> y = layer(jnp.ones((2, 5, 5, 4)), rngs=jax.random.key(0))
    """

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=2))


class SpatialDropout3D(LayoutDropout, of=spatial_dropout_3d):
    """The module of `flax_spatialdrop.spatial_dropout_3d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout3D
      >>> layer = SpatialDropout3D(0.5)
      >>> y = layer(jnp.ones((2, 3, 5, 5, 4)), rngs=jax.random.key(0))
    """

    _noise_shape_of = staticmethod(partial(spatial_noise_shape, num_space=3))


class AlphaDropout(NoiseShapeDropout, of=alpha_dropout):
    """The module of `flax_spatialdrop.alpha_dropout`."""

    _recipe_of = staticmethod(alpha_recipe)


class FeatureAlphaDropout(LayoutDropout, of=feature_alpha_dropout):
    """The module of `flax_spatialdrop.feature_alpha_dropout`."""

    _noise_shape_of = staticmethod(spatial_noise_shape)
    _recipe_of = staticmethod(alpha_recipe)


class GaussianDropout(NoiseShapeDropout, of=gaussian_dropout):
    """The module of `flax_spatialdrop.gaussian_dropout`.

    Its mask is the noise n: `mask=` takes and `sample_mask` returns float32 noise, which is 1
    everywhere if nothing would change.
    """

    _recipe_of = staticmethod(gaussian_recipe)
