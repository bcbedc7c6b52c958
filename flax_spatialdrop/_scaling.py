"""The context that scales the rates of modules.

JAX caches traced functions, and a cached trace must never use the tracer of another trace. So the
scale is part of the keys of these caches: a number by its value, and a traced scale by a token that
is new each time the context is entered.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_scalar, is_static, shown
from ._typing import Array, Rate

_Value = TypeVar("_Value")

_Key: TypeAlias = Any
"""A hashable value for a scale: None for 1, a float for a number, (np.float32,) for an array whose
value is known, or a token for a traced array."""

_SCALE = jax.make_user_context(None)
"""The key of the scale of the calls inside."""

_TRACED: dict[_Key, Array] = {}
"""The traced scale of each token."""


def scale_rates(scale: Rate) -> contextlib.AbstractContextManager[None]:
    """Multiplies the rates of all modules that are called inside.

        rate -> scale * rate

    Use it to change the rates of a whole model during training, without passing a rate through its
    layers; `flax_spatialdrop.schedules` has schedules for the scale. It affects

      - the modules of this package, in Linen and NNX, with the rate that they were made with or
        that the call gives, and their method `sample_mask`;
      - `dot_product_attention` and `blockwise_attention` of `flax_spatialdrop.linen` and
        `flax_spatialdrop.nnx`, also as the `attention_fn` of Flax's layers;
      - Flax's own layers if `drop_in` reaches them.

    Functions such as `dropout`, whose rate is an argument of your own code, are not affected.
    `PatchDropout`, and `ResidualDropPath` with mode="subset", have a rate that determines a shape:
    they follow a number, and raise an error for an array. A number of patches, `num_keep`, is not
    scaled, and `SpecAugment` has no rate. The alpha of `EmbeddingNoise` is scaled like a rate.

    A number is known when a function is traced, and is compiled into the program. Numbers of 1
    change nothing, and numbers of 0 drop nothing and draw nothing. With an array, the rates are
    arrays too, and products above 1 count as 1: enter the context inside `jax.jit`, and one program
    serves all values. A function that was jitted outside compiles once for each known value of the
    scale. A rate of the number 0 stays 0. Nested scales are multiplied.

    Args:
      scale: at least 0: a number or a scalar array, traced or not.

    Returns:
      A context manager. It may be entered again, even inside itself, and decorates functions. It
      affects the current thread.

    Raises:
      ValueError: if scale is a number below 0 or not finite, or an array that is not scalar. In
        calls inside: if a rate and the scale are numbers whose product is above 1.
      TypeError: if scale has the wrong type. In calls inside: if a rate that determines a shape is
        scaled by an array.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import scale_rates, schedules
      >>> from flax_spatialdrop.linen import SpatialDropout1D
      >>> layer, scale_at = SpatialDropout1D(0.5, deterministic=False), schedules.late(100)
      >>> @jax.jit
      ... def forward(x, key, step):
      ...     with scale_rates(scale_at(step)):
      ...         return layer.apply({}, x, rngs={"dropout": key})
      >>> x = jnp.ones((2, 3, 4))
      >>> bool((forward(x, jax.random.key(0), 99) == x).all())
      True
      >>> bool((forward(x, jax.random.key(0), 100) == x).all())
      False

    Reference: Liu et al., Dropout Reduces Underfitting, 2023, https://arxiv.org/abs/2303.01500
    """
    scale = check_scale(scale)
    return Reentrant(lambda: _scaling(scale))


def check_scale(scale: Any, name: str = "scale") -> Rate:
    """Returns a number as a float and a scalar array as it is."""
    rule, limits = "multiplies rates and must be", "a finite number of at least 0"
    return check_scalar(scale, name, rule, sys.float_info.max, limits)


class Reentrant(contextlib.ContextDecorator, threading.local, Generic[_Value]):
    """A context that may be entered again, even inside itself: `make` makes one each time."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[_Value]]) -> None:
        self._make = make
        self._entered: list[contextlib.AbstractContextManager[_Value]] = []

    def __enter__(self) -> _Value:
        context = self._make()
        value = context.__enter__()
        self._entered.append(context)
        return value

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


@contextlib.contextmanager
def _scaling(scale: Rate) -> Iterator[None]:
    scale = _product(_current(), scale)
    if isinstance(scale, float):
        with _SCALE(None if scale == 1 else scale):
            yield
    elif not isinstance(scale, jax.core.Tracer):
        with _SCALE((np.float32(scale),)):
            yield
    else:
        token = object()  # caches keep the token alive, but not the tracer
        _TRACED[token] = scale
        try:
            with _SCALE(token):
                yield
        finally:
            del _TRACED[token]


def _current() -> Rate:
    """Returns the scale of this call."""
    key = _SCALE.value
    if key is None:
        return 1.0
    if isinstance(key, float):
        return key
    return jnp.asarray(key[0]) if isinstance(key, tuple) else _TRACED[key]


def scaled(check: Callable[[Any], Rate], rate: Any) -> Rate:
    """Returns check(rate), multiplied by the scale of this call and checked again.

    None, for a module that has no rate, is not scaled.
    """
    if rate is None:
        return check(rate)
    rate, scale = check(rate), _current()
    product = _product(rate, scale)
    if product is rate:
        return rate
    with explained():
        product = check(product)
    return product


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Says in errors about a scaled rate that it is scaled."""
    try:
        yield
    except (ValueError, TypeError) as error:
        scale = _current()
        if is_static(scale, 1.0):
            raise
        raise type(error)(f"{error}, since scale_rates multiplies it by {shown(scale)}") from None


def _product(x: Rate, y: Rate) -> Rate:
    """Returns x * y: a number if both are numbers or one is the number 0, else float32."""
    if is_static(y, 1.0):
        return x
    if is_static(x, 0.0) or is_static(y, 0.0):
        return 0.0
    if isinstance(x, float) and isinstance(y, float):
        return x * y
    return jnp.asarray(x, jnp.float32) * jnp.asarray(y, jnp.float32)
