"""The bases of the modules: their calls, and the options that most of them have."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, InitVar
from functools import partial
from typing import Any, ClassVar, dataclass_transform

import jax
import numpy as np
from flax import nnx
from flax.core import FrozenDict

from .._apply import Recipe
from .._checks import check_key, check_name, check_switch, shown
from .._docs import completed_by, document
from .._host import along_axes, check_options, draw_mask, parameters_of, regularize
from .._summary import Call, Where
from .._typing import Array, AxisNames, DataFormat, Key, NoiseShape, Rate

PATH = "path_in_summary"
"""The attribute that holds the path of a module while `summarize` runs it."""

_ADVICE_IF_TRACED = (
    "name it in nnx.jit(..., static_argnames='deterministic'), or pass a model in its mode, "
    "nnx.view(model, deterministic=...)"
)


def call_of(module: Any, deterministic: Any, rngs: Any) -> Call:
    """Returns the call of a module with these arguments."""
    return Call(
        _is_deterministic(module, deterministic),
        lambda: along_axes(_find_key(module, rngs), module),
        partial(_where, module, rngs),
    )


def forked(module: Any, rngs: Any) -> Any:
    """Returns a stream forked from what the constructor was given, or None if nothing was given."""
    if isinstance(rngs, nnx.Rngs):
        rngs = _stream_of(rngs, module)
    if not isinstance(rngs, nnx.RngStream | None):
        raise TypeError(
            f"{type(module).__name__} takes nnx.Rngs, an nnx.RngStream or None as "
            f"{getattr(module, 'RNGS', 'rngs')}: got {shown(rngs)}; "
            "a key is given at the call, rngs=key"
        )
    return nnx.data(None if rngs is None else rngs.fork())


def _find_key(module: Any, rngs: Any) -> Key:
    """Returns a key of `rngs`, or else of the module's stream."""
    if rngs is None:
        rngs = module.rngs
    if isinstance(rngs, nnx.Rngs):
        return _stream_of(rngs, module)()
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if isinstance(rngs, jax.Array | np.ndarray):
        return check_key(rngs, "rngs")
    if rngs is None:
        raise ValueError(
            f"{type(module).__name__} draws a mask and needs a key: got no rngs; pass "
            f"{getattr(module, 'RNGS', 'rngs')}=nnx.Rngs(...) to the constructor, or nnx.Rngs or a "
            "key as rngs= at the call, or set deterministic=True"
        )
    raise TypeError(
        f"{type(module).__name__} takes nnx.Rngs, an nnx.RngStream or a JAX PRNG key as rngs: "
        f"got {shown(rngs)}"
    )


def _stream_of(rngs: nnx.Rngs, module: Any) -> nnx.RngStream:
    stream = check_name(module.rng_collection, "rng_collection")
    try:
        found: nnx.RngStream = rngs[stream]
    except KeyError:
        got = f"those of {shown(tuple(rngs))}" if len(rngs) else "none at all"
        raise KeyError(
            f"{type(module).__name__} draws a mask with a key of the stream {shown(stream)} of "
            f"rngs: got {got}; pass nnx.Rngs of that stream"
        ) from None
    return found


def _where(module: Any, rngs: Any) -> Where:
    """Describes the module to a summary."""
    rngs = module.rngs if rngs is None else rngs
    if isinstance(rngs, nnx.Rngs):
        stream = module.rng_collection
    elif isinstance(rngs, jax.Array | np.ndarray):
        stream = "a key"
    else:
        stream = getattr(rngs, "tag", "")
    return Where(getattr(module, PATH, None), type(module).__name__, stream)


def _is_deterministic(module: Any, deterministic: Any) -> bool:
    """Returns the call's `deterministic`, or else the module's."""
    chosen = module.deterministic if deterministic is None else deterministic
    if chosen is None:
        raise ValueError(
            f"{type(module).__name__} needs to know whether to drop: got deterministic=None; give "
            "a bool to the constructor or the call, or use nnx.view(model, deterministic=...)"
        )
    return check_switch(chosen, "deterministic", _ADVICE_IF_TRACED)


def _hashable(value: Any) -> Any:
    """Returns a value that JAX can hash: a switch as a bool, a list as a tuple, a dict frozen."""
    is_known = isinstance(value, jax.Array | np.ndarray) and not isinstance(value, jax.core.Tracer)
    if is_known and value.shape == () and value.dtype == np.bool_:
        return bool(value)
    if isinstance(value, dict | FrozenDict):  # not nnx.StateAxes, which is hashable
        return FrozenDict({key: _hashable(entry) for key, entry in value.items()})
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _known(value: Any) -> Any:
    """Returns an array of axes or sizes as a tuple, so that it is known when JAX traces."""
    is_known = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"
    return tuple(value.tolist()) if is_known else value


class _Signature:
    """The signature of a class for `help`, in place of that of Flax's metaclass.

    The arguments that all classes have come last.
    """

    def __get__(self, instance: Any, cls: Any) -> inspect.Signature:
        if instance is not None:  # which has the signature of its __call__
            raise AttributeError("__signature__")
        # InitVar[T] is shown as T.
        shown = [(p, getattr(p.annotation, "type", p.annotation)) for p in _parameters(cls)]
        return inspect.Signature([p.replace(annotation=annotation) for p, annotation in shown])


def _parameters(cls: Any) -> list[inspect.Parameter]:
    """Returns the parameters of the constructor, those that all classes have last."""
    _, *found = inspect.signature(cls.__init__).parameters.values()
    return sorted(found, key=lambda p: (p.kind, p.name in _COMMON))


_COMMON = ("deterministic", "rng_collection", "axis_name", "rngs")
"""The arguments of `Stochastic`, which stand last."""


@dataclasses.dataclass(eq=False, repr=False)
class Stochastic(nnx.Module):
    """A module of this package, with a mode and a stream.

    Write `class X(Base, of=f)` for the module of a function f: the docstring of f completes that
    of X. The annotations of X are the arguments of its constructor, as in a dataclass, unless X or
    a base has an `__init__`. Classes of users keep Python's own rules.

    Args:
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is taken from (default
        "dropout").
      axis_name: the mapped axes, of an enclosing `jax.shard_map`, `jax.pmap` or `jax.vmap`, along
        which masks differ: a name or a tuple of names, folded into the key by `fold_in_axes`.
        With None (default), one key draws the same mask for each index of the axis. A call that
        draws raises a ValueError if an axis is not bound.
      rngs: a stream is forked from it. Without it, the module holds no state and takes `rngs=`
        (nnx.Rngs, a stream or a key) at the call.
    """

    _: KW_ONLY
    deterministic: bool | None = False
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None
    rngs: InitVar[nnx.Rngs | nnx.RngStream | None] = None

    __signature__: ClassVar[Any] = _Signature()

    _arguments: ClassVar[Collection[str]] = ()
    """The arguments of the constructor, without those that a user's class adds."""

    _is_dataclass: ClassVar[bool] = True
    """Whether the constructor is made from the annotations."""

    def __init_subclass__(cls, of: Any = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(f"{__package__}."):
            cls._is_dataclass &= "__init__" not in vars(cls)
            if cls._is_dataclass and inspect.get_annotations(cls):
                dataclasses.dataclass(eq=False, repr=False)(cls)
            elif "__init__" not in vars(cls):
                setattr(cls, "__init__", _named_after(cls))  # noqa: B010
            names = [parameter.name for parameter in _parameters(cls)]
            cls._arguments = tuple(dict.fromkeys((*names, *cls._arguments)))
            document(cls, names, "Args", of, reversed(cls.__mro__[1:]))

    def __post_init__(self, rngs: Any) -> None:
        check_options(self, [n for n in self._arguments if n in vars(self)], _ADVICE_IF_TRACED)
        self.rngs = forked(self, rngs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._arguments:
            value = _hashable(value if name == "null" else _known(value))  # null has any values
        try:
            super().__setattr__(name, value)
        except ValueError:  # Flax's message is long and does not name the argument
            if name not in self._arguments:  # an attribute of a derived class
                raise
            raise TypeError(
                f"{name} must not be arrays in a container: got {shown(value)}"
            ) from None

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode; `nnx.view` calls this.

        Args:
          deterministic: if True, disables dropping.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def _named_after(cls: type[nnx.Module]) -> Any:
    """Returns the inherited constructor under the name of the class, for Python's errors."""
    ours: Any = cls.__init__
    copy = types.FunctionType(
        ours.__code__, ours.__globals__, ours.__name__, ours.__defaults__, ours.__closure__
    )
    copy.__kwdefaults__, copy.__annotations__ = ours.__kwdefaults__, ours.__annotations__
    copy.__qualname__ = f"{cls.__name__}.__init__"
    return copy


@dataclass_transform(eq_default=False)
class Declared(Stochastic):
    """A module whose annotations are the arguments of its constructor, for type checkers too."""


class Regularizer(Declared):
    """A module that needs its inputs only.

    Write `class X(Regularizer, of=f, recipe=r)` for a function f that drops by the recipe
    `r(x, *options)`. The arguments of X are the options, by their names.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array; None if each call gives one.
    """

    rate: Rate | None

    _recipe_of: ClassVar[Callable[..., Recipe]]
    _options: ClassVar[Sequence[str]]

    def __init_subclass__(cls, recipe: Any = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if recipe is not None:
            cls._recipe_of = staticmethod(recipe)
            cls._options = [name for name in parameters_of(recipe) if name in cls._arguments]

    def _recipe(self, inputs: Array) -> Recipe:
        return self._recipe_of(inputs, *(getattr(self, name) for name in self._options))

    @completed_by(regularize)
    def __call__(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Applies the regularizer.

        Args:
          deterministic: used in place of the attribute.
          rngs: nnx.Rngs, a stream of it, or a key to draw with, in place of the module's stream.
            Layers that are given the same key draw the same mask; pass nnx.Rngs instead.
        """
        recipe = self._recipe(inputs)
        call = call_of(self, deterministic, rngs)
        return regularize(call, inputs, recipe, self.rate if rate is None else rate, mask)

    @completed_by(draw_mask)
    def sample_mask(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: Rate | None = None,
    ) -> jax.Array:
        """Draws the mask that a call with the same arguments would draw.

        Use it as `mask=`, here or in other modules, wherever the same values are to be dropped. It
        takes the same key from the stream as the call would.

        Args:
          deterministic, rngs: as at the call.
        """
        recipe = self._recipe(inputs)
        call = call_of(self, deterministic, rngs)
        return draw_mask(call, recipe, self.rate if rate is None else rate)


class LayoutDropout(Regularizer):
    """The arguments of modules that know the layout of x: batch, space and channel axes.

    Args:
      data_format: "channels_last" (default) for [*batch, *space, channel], or "channels_first" for
        [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes (default 1); 0 for one example.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpatialDropout1D
      >>> layer = SpatialDropout1D(0.5)
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
    """

    _: KW_ONLY
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1


class NoiseShapeDropout(Regularizer):
    """The arguments of modules that are told which axes of x share a draw.

    Args:
      noise_shape: one entry per axis of x: None for a draw per index, 1 for a shared one.
      broadcast_dims: the axes of x that share a draw, in place of noise_shape; negative axes count
        from the end.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import AlphaDropout
      >>> layer = AlphaDropout(0.5, noise_shape=(None, 1, None))
      >>> y = layer(jnp.ones((2, 3, 4)), rngs=jax.random.key(0))
    """

    _: KW_ONLY
    noise_shape: NoiseShape | None = None
    broadcast_dims: Sequence[int] = ()
