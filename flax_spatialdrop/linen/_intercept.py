"""Calls of Flax's layers, intercepted."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from .._checks import check_input
from .._noise_shape import resolve_noise_shape
from .._typing import Array, Shape

CALL_OF_FLAX = inspect.unwrap(nn.Dropout.__call__)
"""The call of Flax's `Dropout`, which derived classes may leave as it is."""

_INTERCEPTORS = jax.make_user_context(())


@contextlib.contextmanager
def intercept(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods`, with the interceptor as part of the keys of JAX's caches.

    A function that was jitted outside is traced again inside, and the other way round. Entered
    twice, it changes nothing.
    """
    entered = _INTERCEPTORS.value
    if interceptor in entered:
        yield
    else:
        with _INTERCEPTORS((*entered, interceptor)), nn.intercept_methods(interceptor):
            yield


def noise_shape_of(module: nn.Dropout, inputs: Array) -> Shape:
    """The shape of the mask that Flax's layer draws."""
    return resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)
