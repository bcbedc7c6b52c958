"""A replacement for flax.linen.Dropout, and modules that drop whole steps, channels or samples."""

from collections.abc import Sequence

from .._ops import alpha, gaussian
from .._ops import dropout as ops
from .._typing import AxisNames, NoiseShape, Rate
from ._base import LayoutDropout, NoiseShapeDropout, Regularizer


class Dropout(Regularizer, of=ops.dropout, recipe=ops.dropout_recipe):
    """The module of `flax_spatialdrop.dropout`, a replacement for `flax.linen.Dropout`.

    It takes every argument of Flax's class at the same place and with the same meaning. It draws
    the same mask from the same stream, and in float32 the outputs are the same too. (The keys of a
    Linen stream depend on the names of modules, so this class is also called Dropout.) New are
    `noise_shape`, and `rate` and `mask` at the call. Bad arguments, such as integer inputs or a
    rate outside [0, 1], raise an error even if nothing would be dropped.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import Dropout
      >>> layer = Dropout(0.5, noise_shape=(None, 1, None))
      >>> x, rngs = jnp.ones((2, 3, 4)), {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, x, deterministic=False, rngs=rngs)
    """

    rate: Rate | None
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    noise_shape: NoiseShape | None = None
    axis_name: AxisNames | None = None


class TimestepDropout(LayoutDropout, of=ops.timestep_dropout, recipe=ops.timestep_recipe):
    """The module of `flax_spatialdrop.timestep_dropout`."""


class FeatureDropout(LayoutDropout, of=ops.feature_dropout, recipe=ops.feature_recipe):
    """The module of `flax_spatialdrop.feature_dropout`."""


class SampleDropout(LayoutDropout, of=ops.sample_dropout, recipe=ops.sample_recipe):
    """The module of `flax_spatialdrop.sample_dropout`."""


class SpatialDropout(LayoutDropout, of=ops.spatial_dropout, recipe=ops.spatial_recipe):
    """The module of `flax_spatialdrop.spatial_dropout`."""


class SpatialDropout1D(LayoutDropout, of=ops.spatial_dropout_1d, recipe=ops.spatial_1d_recipe):
    """The module of `flax_spatialdrop.spatial_dropout_1d`."""


class SpatialDropout2D(LayoutDropout, of=ops.spatial_dropout_2d, recipe=ops.spatial_2d_recipe):
    """The module of `flax_spatialdrop.spatial_dropout_2d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout2D
      >>> layer = SpatialDropout2D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
    """


class SpatialDropout3D(LayoutDropout, of=ops.spatial_dropout_3d, recipe=ops.spatial_3d_recipe):
    """The module of `flax_spatialdrop.spatial_dropout_3d`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout3D
      >>> layer = SpatialDropout3D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 5, 5, 4)), rngs={"dropout": jax.random.key(0)})
    """


class AlphaDropout(NoiseShapeDropout, of=alpha.alpha_dropout, recipe=alpha.alpha_recipe):
    """The module of `flax_spatialdrop.alpha_dropout`."""


class FeatureAlphaDropout(
    LayoutDropout, of=alpha.feature_alpha_dropout, recipe=alpha.feature_alpha_recipe
):
    """The module of `flax_spatialdrop.feature_alpha_dropout`."""


class GaussianDropout(
    NoiseShapeDropout, of=gaussian.gaussian_dropout, recipe=gaussian.gaussian_recipe
):
    """The module of `flax_spatialdrop.gaussian_dropout`.

    Its mask is the noise n: `mask=` takes and `sample_mask` returns float32 noise, which is 1
    everywhere if nothing would change.
    """
