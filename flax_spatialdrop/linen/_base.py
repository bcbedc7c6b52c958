"""The bases of the modules: their calls, and the options that most of them have."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from .._apply import Recipe
from .._checks import check_key, check_name, check_switch, shown
from .._docs import completed_by, document
from .._host import along_axes, check_options, draw_mask, parameters_of, regularize
from .._summary import Call, Where
from .._typing import Array, AxisNames, DataFormat, Key, NoiseShape, Rate

_ADVICE_IF_TRACED = (
    "name it in jax.jit(..., static_argnames='deterministic'), or give its position in "
    "nn.remat(..., static_argnums=...), which counts the module itself as 0"
)


class Stochastic(nn.Module):
    """A module of this package, which checks its options when it is made.

    Write `class X(Base, of=f)` for the module of a function f: the docstring of f completes that
    of X.

    Attributes:
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is taken from (default "dropout").
      axis_name: the mapped axes, of an enclosing `jax.shard_map`, `jax.pmap` or `jax.vmap`, along
        which masks differ: a name or a tuple of names, folded into the key by `fold_in_axes`.
        With None (default), one key draws the same mask for each index of the axis. A call that
        draws raises a ValueError if an axis is not bound. In `init` no axis is folded in.
    """

    _arguments: ClassVar[Collection[str]] = ()
    """The arguments of the constructor, without those that a user's class adds."""

    def __init_subclass__(cls, of: Any = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(f"{__package__}."):
            cls._arguments = [field.name for field in dataclasses.fields(cls)]
            document(cls, cls._arguments, "Attributes", of, reversed(cls.__mro__[1:]))

    def __post_init__(self) -> None:
        check_options(self, self._arguments, _ADVICE_IF_TRACED)
        super().__post_init__()


def call_of(module: nn.Module, deterministic: Any, rng: Key) -> Call:
    """Returns the call of a module with these arguments."""
    return Call(
        _is_deterministic(module, deterministic),
        partial(_find_key_along_axes, module, rng),
        partial(_where, module, rng),
    )


def _find_key_along_axes(module: nn.Module, rng: Key) -> Key:
    key = _find_key(module, rng)
    # As in Flax's BatchNorm: models are initialized outside of the function that binds the axes.
    return key if module.is_initializing() else along_axes(key, module)


def _find_key(module: nn.Module, rng: Key) -> Key:
    """Returns the key given, or else one of the module's stream."""
    if rng is not None:
        return check_key(rng, "rng")
    stream = check_name(module.rng_collection, "rng_collection")
    try:
        return module.make_rng(stream)
    except InvalidRngError:
        name = shown(stream)
        raise InvalidRngError(
            f"{type(module).__name__} draws a mask and needs a key of the stream {name}: "
            f"got none; pass rngs={{{name}: key}} to apply, or rng=key at the call, or set "
            "deterministic=True"
        ) from None


def _where(module: nn.Module, rng: Key) -> Where:
    """Describes the module to a summary."""
    cls = type(module)
    name = "flax.linen.Dropout" if cls is nn.Dropout else cls.__name__
    return Where(module.path, name, module.rng_collection if rng is None else "a key")


def _is_deterministic(module: nn.Module, deterministic: Any) -> bool:
    """Returns the module's `deterministic` or that of the call: exactly one must be given."""
    given = [value for value in (module.deterministic, deterministic) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"deterministic must be given either to the constructor or to the call of "
            f"{type(module).__name__}: got {'both' if given else 'neither'}"
        )
    return check_switch(given[0], "deterministic", _ADVICE_IF_TRACED)


class Regularizer(Stochastic):
    """A module that needs its inputs only.

    Write `class X(Regularizer, of=f, recipe=r)` for a function f that drops by the recipe
    `r(x, *options)`. The attributes of X are the options, by their names.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array; None if each call gives one.
    """

    _recipe_of: ClassVar[Callable[..., Recipe]]
    _options: ClassVar[Sequence[str]]

    def __init_subclass__(cls, recipe: Any = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if recipe is not None:
            cls._recipe_of = staticmethod(recipe)
            cls._options = [name for name in parameters_of(recipe) if name in cls._arguments]

    @nn.nowrap  # Flax would list it as a call of the module
    def _recipe(self, inputs: Array) -> Recipe:
        return self._recipe_of(inputs, *(getattr(self, name) for name in self._options))

    @nn.compact
    @completed_by(regularize)
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
          deterministic: as the attribute; exactly one of the two must be given.
          rng: a key to draw with, in place of one from the stream.
        """
        recipe = self._recipe(inputs)
        call = call_of(self, deterministic, rng)
        return regularize(call, inputs, recipe, self.rate if rate is None else rate, mask)

    @completed_by(draw_mask)
    def sample_mask(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rate | None = None,
    ) -> jax.Array:
        """Draws the mask that a call with the same arguments would draw.

        Use it as `mask=`, here or in other modules, wherever the same values are to be dropped. It
        takes the same key from the stream as the call would.

        Args:
          deterministic, rng: as at the call.
        """
        recipe = self._recipe(inputs)
        call = call_of(self, deterministic, rng)
        return draw_mask(call, recipe, self.rate if rate is None else rate)


class LayoutDropout(Regularizer):
    """The attributes of modules that know the layout of x: batch, space and channel axes.

    Attributes:
      data_format: "channels_last" (default) for [*batch, *space, channel], or "channels_first" for
        [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes (default 1); 0 for one example.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout1D
      >>> layer = SpatialDropout1D(0.5, deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
    """

    rate: Rate | None
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None


class NoiseShapeDropout(Regularizer):
    """The attributes of modules that are told which axes of x share a draw.

    Attributes:
      noise_shape: one entry per axis of x: None for a draw per index, 1 for a shared one.
      broadcast_dims: the axes of x that share a draw, in place of noise_shape; negative axes count
        from the end.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import AlphaDropout
      >>> layer = AlphaDropout(0.5, noise_shape=(None, 1, None), deterministic=False)
      >>> y = layer.apply({}, jnp.ones((2, 3, 4)), rngs={"dropout": jax.random.key(0)})
    """

    rate: Rate | None
    noise_shape: NoiseShape | None = None
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None
